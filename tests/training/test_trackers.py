"""Trackers: the names of accelerate, several at once, and none that ends a run or silences another."""

import importlib.machinery
import sys

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.hub.run_folders import start_run
from hf_mingpt.training.loop import train
from hf_mingpt.training.setup import build_accelerator
from hf_mingpt.training.trackers import check_trackers, close_trackers, tracker_names

from ..conftest import ROOT, script_environment, small_model
from ..processes import run_ranks
from .small_runs import read_metrics, small_recipe, small_steps


class Paper(GeneralTracker):
    name, requires_logging_directory, failing = "paper", False, ""
    tracker = None

    def __init__(self, project, **_):
        super().__init__()
        self.lines, self.project, self.config, self.closed = [], project, None, False
        self.made.append(self)

    def fail_at(self, moment):
        if moment == self.failing:
            raise ConnectionError(f"no {self.name} {moment}")

    def start(self):
        self.fail_at("start")

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **_):
        self.fail_at("log")
        self.lines.append((step, values))

    def finish(self):
        self.fail_at("finish")
        self.closed = True


@pytest.fixture
def papers(monkeypatch):
    """Two trackers that are registered with accelerate, and those that were made of them."""
    made = []
    kinds = {name: type(name, (Paper,), {"name": name, "made": made}) for name in ("paper", "slate")}
    for name, kind in kinds.items():
        monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, name, kind)  # what register_tracker_class does
    return made, kinds


def run(folder, **changes):
    recipe = small_recipe(folder, max_steps=4, **changes)
    accelerator = build_accelerator(recipe)
    start_run(recipe, accelerator)
    train(small_model("rope"), small_steps(BatchShape(8)), recipe, accelerator)
    close_trackers(accelerator)
    return [(record["step"], record["loss"]) for record in read_metrics(folder)]


def test_tensorboard_gets_the_metrics(tmp_path):
    losses = run(tmp_path, report_to="tensorboard")
    seen = {}
    for file in tmp_path.rglob("events.out.*"):
        events = EventAccumulator(str(file)).Reload()
        seen |= {e.step: e.value for e in events.Scalars("loss")} if "loss" in events.Tags()["scalars"] else {}
    assert seen == pytest.approx(dict(losses))


def test_several_trackers_get_metrics_and_flags(tmp_path, papers):
    made, _ = papers
    losses = run(tmp_path, report_to="paper, slate,paper")
    assert [tracker.name for tracker in made] == ["paper", "slate"]
    for tracker in made:
        assert [(step, values["loss"]) for step, values in tracker.lines] == losses
        assert tracker.project == "hf_mingpt"
        assert tracker.config["max_steps"] == 4
        assert tracker.config["learning_rate"] == 6e-4
        assert tracker.config["ema_decay"] == "None"
        assert tracker.closed


@pytest.mark.parametrize("moment", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_neither_the_run_nor_the_others(tmp_path, papers, caplog, moment):
    made, kinds = papers
    kinds["paper"].failing = moment
    losses = run(tmp_path, report_to="paper,slate")
    assert caplog.text.count(f"no paper {moment}") == 1
    paper, slate = made
    assert [step for step, _ in slate.lines] == [step for step, _ in losses] == [1, 2, 3, 4]
    assert slate.closed
    assert not paper.closed
    assert len(paper.lines) == (4 if moment == "finish" else 0)


@pytest.mark.parametrize(
    ("report_to", "names"),
    [(None, []), ("none", []), ("", []), ("wandb", ["wandb"]), ("mlflow , wandb", ["mlflow", "wandb"])],
)
def test_names(report_to, names):
    assert tracker_names(report_to) == names


def test_all_is_what_is_installed(monkeypatch):
    monkeypatch.setattr("hf_mingpt.training.trackers.get_available_trackers", lambda: ["tensorboard", "mlflow"])
    assert tracker_names("all") == ["tensorboard", "mlflow"]
    monkeypatch.setattr("hf_mingpt.training.trackers.get_available_trackers", list)
    with pytest.raises(ValueError, match="no tracker is installed: pip install tensorboard"):
        check_trackers("all")


@pytest.mark.parametrize("report_to", ["wandb,papyrus", "none,wandb", "tensorboard wandb"])
def test_an_unknown_name_is_refused_with_the_list(tmp_path, report_to):
    with pytest.raises(ValueError, match=r"is unknown: choose one or several of aim, .*mlflow, .*wandb"):
        small_recipe(tmp_path, report_to=report_to)


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mingpt.training.trackers.find_spec", lambda name: None if name == "mlflow" else True)
    with pytest.raises(ValueError, match="report_to 'mlflow' is not installed: pip install mlflow"):
        build_accelerator(small_recipe(tmp_path, report_to="tensorboard,mlflow"))


def test_a_version_that_accelerate_does_not_support_is_an_error(monkeypatch):
    """Accelerate drops it without a word."""
    monkeypatch.setitem(sys.modules, "aim", sys)
    monkeypatch.setattr(
        "hf_mingpt.training.trackers.find_spec", lambda name: importlib.machinery.ModuleSpec(name, None)
    )
    with pytest.raises(ValueError, match="'aim' is installed in a version that accelerate does not support"):
        check_trackers("aim")


RANKS = """
import sys
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, register_tracker_class
from hf_mingpt.training.trackers import close_trackers, log_to_trackers, start_trackers

class Everywhere(GeneralTracker):  # as that of wandb
    name, requires_logging_directory, main_process_only, tracker = "everywhere", False, False, None

    def __init__(self, project):
        super().__init__()

    def log(self, values, step=None):
        print(f"logged by {accelerator.process_index}", flush=True)

register_tracker_class(Everywhere)
accelerator = Accelerator(cpu=True, log_with="everywhere")
start_trackers(accelerator, "project", {}, sys.argv[1])
log_to_trackers(accelerator, {"loss": 1.0}, 1)
close_trackers(accelerator)
"""


def test_only_the_main_process_logs(tmp_path):
    (tmp_path / "code.py").write_text(RANKS)
    done = run_ranks(2, tmp_path / "code.py", tmp_path, env=script_environment(), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["logged by 0", ""]
