"""A run folder is one run, whole, or an unfinished one that says so, and has one writer; a file is whole or absent."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

from hf_mingpt.hub import cards, saving
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.pushing import push_run
from hf_mingpt.hub.run_folders import is_finished
from hf_mingpt.system.writing import check_no_writer, one_writer, write_text, written_aside
from hf_mingpt.training import metrics_log, setup
from hf_mingpt.training.folders import list_checkpoints

SCRIPTS = Path(__file__).parents[2] / "scripts"
PEOPLE = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Byron", "Quist", "Mir", "Roe", "Lund")]


class Killed(BaseException):
    """Not an Exception: nothing may clean up after it, as nothing does after SIGKILL."""


def script(name: str, *arguments) -> None:
    """A script in this process."""
    argv, sys.argv = sys.argv, [str(part) for part in (SCRIPTS / name, *arguments)]
    try:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    finally:
        sys.argv = argv
        AcceleratorState._reset_state(reset_partial_state=True)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    places = ("London", "Bonn", "Rome")
    rows = [(name, places[i % 3]) for i, name in enumerate(PEOPLE)]
    (folder / "corpus.txt").write_text("".join(f"{name}. {name} was born in {place}.\n" for name, place in rows) * 3)
    questions = [f"Where was {name} born?\t{place}\n" for name, place in rows]
    (folder / "train.tsv").write_text("".join(questions[:12]))
    (folder / "dev.tsv").write_text("".join(questions[12:]))
    return folder


@pytest.fixture(scope="module")
def flags(data):
    flags = ["--train_file", data / "corpus.txt", "--vocabulary_file", data / "dev.tsv", "--model_preset", "gpt-nano"]
    flags += ["--use_cpu", "--mixed_precision", "no", "--per_device_train_batch_size", 4, "--logging_steps", 1]
    return [*flags, "--gradient_accumulation_steps", 1, "--max_steps", 4, "--save_steps", 2]


@pytest.fixture
def pretrain(flags):
    return lambda folder, *more: script("pretrain.py", *flags, "--output_dir", folder, *more)


@pytest.fixture
def refused(capsys):
    """Runs something that has to end with one sentence."""

    def run(said: str, function, *arguments, code: int = 2) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            function(*arguments)
        last = capsys.readouterr().err.splitlines()[-1]
        assert said in last
        assert stop.value.code == code, last

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory, data, flags):
    """A finished run, with an evaluation, a file of the user's, and seed 0."""
    folder = tmp_path_factory.mktemp("made") / "run"
    script("pretrain.py", *flags, "--output_dir", folder)
    questions = ["--questions_file", data / "dev.tsv", "--train_questions_file", data / "train.tsv"]
    script("evaluate_birthplaces.py", "--model_name_or_path", folder, *questions, "--use_cpu")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def finished(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def pretrain_until(pretrain, monkeypatch):
    """Pretrains, and is killed in a step."""
    real = metrics_log.MetricsLog.end_step

    def run(step: int, folder: Path, *more) -> None:
        def end_step(self, number, learning_rate):
            if number == step:
                raise Killed
            real(self, number, learning_rate)

        with monkeypatch.context() as patch:
            patch.setattr(metrics_log.MetricsLog, "end_step", end_step)
            with pytest.raises(Killed):
                pretrain(folder, *more)

    return run


def test_a_fresh_run_is_written_in_place_and_its_checkpoints_are_where_they_are_looked_for(tmp_path, pretrain_until):
    pretrain_until(4, tmp_path / "run")
    assert get_last_checkpoint(str(tmp_path / "run")) == str(tmp_path / "run" / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_unfinished_run_says_so(tmp_path, data, pretrain_until, refused, finished):
    folder = tmp_path / "unfinished"
    pretrain_until(4, folder)
    before = snapshot(folder)
    said = f"{folder} is an unfinished run: finish it first"
    for work in (load_run, push_run):
        with pytest.raises(ValueError, match="is an unfinished run: finish it first"):
            work(str(folder))
    with pytest.raises(ValueError, match=r"in its config\.json"):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="is a checkpoint, for --resume_from_checkpoint"):
        load_run(str(folder / "checkpoint-2"))
    questions = ["--questions_file", data / "dev.tsv", "--use_cpu"]
    refused(said, script, "evaluate_birthplaces.py", "--model_name_or_path", folder, *questions)
    train = ["--train_questions_file", data / "train.tsv"]
    refused(said, script, "calibrate.py", "--model_name_or_path", folder, *questions, *train)
    run = ["--model_name_or_path", finished, "--output_dir", folder]
    refused(said, script, "calibrate.py", *run, *questions, *train)
    more = ["--questions_file", data / "train.tsv", "--output_dir", tmp_path / "more"]
    refused(said, script, "finetune.py", "--model_name_or_path", folder, *more)
    refused(said, script, "push_to_hub.py", "--run", folder)
    assert snapshot(folder) == before
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_is_replaced_stays_until_the_new_one_is_finished(finished, pretrain, pretrain_until, resumed):
    before, beside = snapshot(finished), finished.with_name("run.unfinished")
    if resumed:
        pretrain_until(3, finished, "--seed", 1, "--overwrite_output_dir")
        assert snapshot(finished) == before
        assert [path.name for path in list_checkpoints(beside)] == ["checkpoint-2"]
        load_run(str(finished))
        pretrain(finished, "--seed", 1, "--resume_from_checkpoint", "latest")
    else:
        pretrain(finished, "--seed", 1, "--overwrite_output_dir")
    after = snapshot(finished)
    assert not beside.exists()
    assert after["notes.txt"] == b"mine"
    assert after.keys() - {"notes.txt"} == before.keys() - {"notes.txt", "report.json", "predictions.txt"}
    assert after["model.safetensors"] != before["model.safetensors"]
    assert json.loads(after["recipe.json"])["seed"] == 1
    assert "accuracy" not in after["README.md"].decode().split("---")[1]
    assert after["README.md"].decode().count("# run\n") == before["README.md"].decode().count("# run\n") > 0


BAD = {
    "--learning_rate": ("nan", "inf", "-1"),
    "--adam_beta1": ("1", "-0.1", "nan"),
    "--adam_beta2": ("1.5", "inf"),
    "--weight_decay": ("-1", "nan"),
    "--max_grad_norm": ("nan", "0"),
    "--dropout": ("nan", "1"),
    "--num_train_epochs": ("inf", "nan"),
    "--ema_decay": ("nan", "1"),
    "--decay_ratio": ("nan",),
    "--ssm_probability": ("nan",),
    "--questions_ratio": ("nan",),
    "--warmup_steps": ("-1",),
    "--seed": ("-1", str(2**32)),
    "--dataloader_num_workers": ("-1",),
    "--save_steps": ("0",),
    "--logging_steps": ("-5",),
    "--num_spans": ("0",),
    "--block_size": ("0", "-4"),
    "--max_position_embeddings": ("0",),
    "--attn_implementation": ("flash_attention_2", "nonsense", "kernels-community/flash-attn", "flex_attention"),
    "--report_to": ("paper",),
    "--hub_model_id": ("a//b --push_to_hub",),
    "--resume_from_checkpoint": ("nowhere/checkpoint-2",),
}
# What is said where it is not the name of the flag.
SAID = {
    "flex_attention": "FlexAttention",
    "a//b --push_to_hub": "'a//b'",
    "nowhere/checkpoint-2": "No checkpoint at nowhere/checkpoint-2",
}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in BAD.items() for value in values])
def test_what_cannot_be_done_is_refused_before_the_old_run_is_touched(finished, pretrain, refused, flag, value):
    """Also what only torch, accelerate or transformers notice."""
    before = snapshot(finished)
    said = SAID.get(value, flag.removeprefix("--"))
    refused(said, pretrain, finished, "--overwrite_output_dir", flag, *value.split())
    assert snapshot(finished) == before
    assert [path.name for path in finished.parent.iterdir()] == ["run"]


def test_a_tracker_that_cannot_be_imported_is_refused(finished, pretrain, refused, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trackio.py").write_text("raise RuntimeError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    before = snapshot(finished)
    flags = ["--overwrite_output_dir", "--report_to", "trackio"]
    refused("report_to 'trackio' cannot be imported: built for another Python", pretrain, finished, *flags)
    assert snapshot(finished) == before


def test_a_tracker_that_fails_costs_nothing(finished, pretrain, monkeypatch, caplog):
    """Neither while it is told, nor at the end; what it wrote moves with the run."""
    from accelerate.tracking import TensorBoardTracker

    def fail(self, *_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    pretrain(finished, "--overwrite_output_dir", "--report_to", "tensorboard")
    assert caplog.text.count("tensorboard failed and gets no more metrics (the server is gone)") == 1
    assert [step for step, _ in losses(finished)] == [1, 2, 3, 4]
    assert list(finished.glob("hf_mingpt/**/events.*"))
    monkeypatch.undo()
    monkeypatch.setattr(TensorBoardTracker, "finish", fail)
    pretrain(finished, "--overwrite_output_dir", "--report_to", "tensorboard")
    assert "could not be ended: the server is gone" in caplog.text
    load_run(str(finished))


def test_a_card_that_fails_costs_nothing(finished, data, pretrain, monkeypatch, caplog):
    def fail(*_, **__):
        raise TypeError("no card today")

    monkeypatch.setattr(cards.ModelCard, "from_template", fail)
    pretrain(finished, "--overwrite_output_dir", "--seed", 2)
    assert caplog.text.count("has no new card: no card today") == 1
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 2
    load_run(str(finished))
    questions = ["--questions_file", data / "dev.tsv", "--use_cpu"]
    script("evaluate_birthplaces.py", "--model_name_or_path", finished, *questions)
    assert json.loads((finished / "report.json").read_text())["results"]["model"]["total"] == 8


def test_a_record_that_fails_costs_nothing(tmp_path, pretrain, monkeypatch, caplog):
    """As where a package is there without its metadata."""

    def fail(*_):
        raise ModuleNotFoundError("No package metadata was found for evaluate")

    monkeypatch.setattr(saving, "run_record", fail)
    pretrain(tmp_path / "run")
    assert "run.json says neither command nor versions: No package metadata" in caplog.text
    load_run(str(tmp_path / "run"))


def test_a_name_that_an_unfinished_run_would_have_is_refused(tmp_path, pretrain, refused):
    refused("is named as runs are until they replace another", pretrain, tmp_path / "run.unfinished")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_which_one_stands_is_not_replaced(finished, pretrain, refused, monkeypatch):
    monkeypatch.chdir(finished)
    before = snapshot(finished)
    refused("the working directory is in it", pretrain, ".", "--overwrite_output_dir")
    assert snapshot(finished) == before


def test_a_run_behind_a_link_is_replaced_where_it_is(finished, tmp_path, pretrain):
    link = tmp_path / "link"
    link.symlink_to(finished)
    pretrain(link, "--overwrite_output_dir", "--seed", 1)
    assert link.is_symlink()
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]


def test_without_git_a_run_is_finished(tmp_path, pretrain, monkeypatch):
    monkeypatch.setenv("PATH", "")
    pretrain(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["commit"] is None


RENAMES = ("rename", "replace", "unlink", "rmdir")


@pytest.mark.parametrize("told", [["--overwrite_output_dir"], ["--resume_from_checkpoint", "latest"]])
def test_a_run_that_dies_while_it_takes_anothers_place_is_one_of_them(finished, made, pretrain, monkeypatch, told):
    """Killed before every change of a name after training, and gone on with."""
    old = (made / "model.safetensors").read_bytes()
    changes = ["--seed", 1] if "--overwrite_output_dir" in told else ["--save_total_limit", 5]
    ended, calls, beside = [], [], finished.with_name("run.unfinished")
    real_end = saving.finish_run

    def count(name):
        real = getattr(Path, name)

        def change(self, *arguments, **options):
            if ended:
                calls.append((name, self.name))
                if len(calls) == die_at:
                    raise Killed
            return real(self, *arguments, **options)

        return change

    def finish(*arguments, **options):
        ended.append(True)
        real_end(*arguments, **options)

    with monkeypatch.context() as patch:
        for name in RENAMES:
            patch.setattr(Path, name, count(name))
        patch.setattr(saving, "finish_run", finish)
        for die_at in range(1, 100):  # noqa: B007 (count looks at it)
            ended.clear()
            calls.clear()
            try:
                pretrain(finished, *told, *changes)
                break
            except Killed:
                ended.clear()
            if finished.exists():
                try:
                    load_run(str(finished))
                except ValueError as error:
                    pytest.fail(f"died at {calls[-1]}: {error}")
            else:
                assert calls[-1][0] == "rename"
            if beside.exists() and is_finished(beside):
                load_run(str(beside))  # the next command lets it take the place
            assert (finished.parent / "run" / "notes.txt").exists() or list(finished.parent.rglob("notes.txt"))
            pretrain(finished, "--resume_from_checkpoint", "latest", *changes)
            assert [path.name for path in finished.parent.iterdir()] == ["run"]
            assert (finished / "notes.txt").read_text() == "mine"
            assert ((finished / "model.safetensors").read_bytes() == old) == ("--seed" not in changes)
            shutil.rmtree(finished)
            shutil.copytree(made, finished)
    assert die_at > 10


@pytest.mark.parametrize("in_the_way", [False, True])
def test_a_run_that_died_between_two_names_takes_the_place_before_it_is_replaced(
    finished, pretrain, monkeypatch, in_the_way
):
    """Else what is the user's would go: it is in neither place then. An empty folder may have come in between."""
    real = Path.rename

    def rename(self, target):
        if self.name == "run.unfinished":
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            pretrain(finished, "--overwrite_output_dir", "--seed", 1)
    assert not finished.exists()
    if in_the_way:
        finished.mkdir()
    pretrain(finished, "--overwrite_output_dir", "--seed", 2)
    assert (finished / "notes.txt").read_text() == "mine"
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 2
    assert [path.name for path in finished.parent.iterdir()] == ["run"]


def test_a_fresh_run_that_dies_while_it_is_finished_is_unfinished_or_whole(
    tmp_path, pretrain, pretrain_until, monkeypatch
):
    """Killed before each of its files comes to its place."""
    folder, real, calls = tmp_path / "run", Path.replace, []
    pretrain_until(4, folder)

    def replace(self, target):
        if self.parent.parent.name == "unfinished-files":
            calls.append(self.name)
            if len(calls) == die_at:
                raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    for die_at in range(1, 100):  # noqa: B007 (replace looks at it)
        calls.clear()
        try:
            pretrain(folder, "--resume_from_checkpoint", "latest")
            break
        except Killed:
            with pytest.raises(ValueError, match="is an unfinished run"):
                load_run(str(folder))
    load_run(str(folder))
    assert die_at == len(calls) + 1 > 5


LONGER = ["--lr_scheduler_type", "constant", "--max_steps"]


def test_a_longer_run_takes_the_place_of_the_finished_one_that_it_goes_on_with(tmp_path, pretrain, pretrain_until):
    pretrain(tmp_path / "whole", *LONGER, 8)
    folder = tmp_path / "run"
    pretrain(folder, *LONGER, 4)
    (folder / "report.json").write_text("{}")
    before = snapshot(folder)
    pretrain_until(7, folder, *LONGER, 8, "--resume_from_checkpoint", "latest")
    assert snapshot(folder) == before
    pretrain(folder, *LONGER, 8, "--resume_from_checkpoint", "latest")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert losses(folder) == losses(tmp_path / "whole")
    assert not (folder / "report.json").exists()
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-6", "checkpoint-8"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]


def test_another_runs_checkpoint_replaces_nothing_unasked(tmp_path, finished, pretrain, refused):
    pretrain(tmp_path / "other", *LONGER, 8)
    before = snapshot(finished)
    other = ["--resume_from_checkpoint", tmp_path / "other" / "checkpoint-6", *LONGER, 8]
    refused("is not empty", pretrain, finished, *other)
    assert snapshot(finished) == before
    pretrain(finished, *other, "--overwrite_output_dir")
    expected = (tmp_path / "other" / "model.safetensors").read_bytes()
    assert (finished / "model.safetensors").read_bytes() == expected
    assert [step for step, _ in losses(finished)] == [7, 8]
    assert (finished / "notes.txt").exists()
    own = ["--resume_from_checkpoint", finished / "checkpoint-8", "--overwrite_output_dir"]
    refused("would remove what resume_from_checkpoint goes on with", pretrain, finished, *own)


def test_an_unfinished_run_beside_is_gone_on_with_or_replaced_but_never_passed_over(
    finished, pretrain, pretrain_until, refused
):
    pretrain_until(3, finished, "--overwrite_output_dir", "--seed", 1)
    said = "run.unfinished holds an unfinished run that is to take the place of"
    refused(said, pretrain, finished)
    refused(said, pretrain, finished, "--resume_from_checkpoint", finished / "checkpoint-2")
    beside = finished.with_name("run.unfinished")
    pretrain(finished, "--resume_from_checkpoint", beside / "checkpoint-2", "--seed", 1)
    assert not beside.exists()
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_a_branch_leaves_the_newer_checkpoints_and_its_own(tmp_path, pretrain_until, limit):
    """save_total_limit counts neither the ones that were there after the branching nor removes them."""
    folder = tmp_path / "run"
    pretrain_until(10, folder, *LONGER, 12, "--save_total_limit", 9)
    assert [path.name for path in list_checkpoints(folder)] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    branch = ["--resume_from_checkpoint", folder / "checkpoint-4", "--save_steps", 1, "--save_total_limit", limit]
    pretrain_until(6, folder, *LONGER, 12, *branch)
    kept = {1: (5, 6, 8), 2: (4, 5, 6, 8)}[limit]
    assert [path.name for path in list_checkpoints(folder)] == [f"checkpoint-{step}" for step in kept]


@pytest.mark.parametrize("word", ["latest", "true", "True"])
def test_checkpoints_of_earlier_versions_are_found(tmp_path, pretrain, pretrain_until, word):
    """Under their former names, in `checkpoints`."""
    pretrain(tmp_path / "whole")
    folder = tmp_path / "run"
    pretrain_until(4, folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoint-2").rename(folder / "checkpoints" / "step-00000002")
    pretrain(folder, "--resume_from_checkpoint", word, "--save_total_limit", 1)
    assert snapshot(folder)["model.safetensors"] == snapshot(tmp_path / "whole")["model.safetensors"]
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-4"]


def test_checkpoints_of_others_are_left_alone(tmp_path, pretrain, pretrain_until):
    """Of the Trainer, for example."""
    pretrain_until(4, tmp_path / "run")
    foreign = tmp_path / "run" / "checkpoint-900"
    foreign.mkdir()
    (foreign / "trainer_state.json").write_text("{}")
    pretrain(tmp_path / "run", "--resume_from_checkpoint", "latest", "--save_total_limit", 1)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-4"]
    assert foreign.exists()


HOLDS = """
import sys
from hf_mingpt.system.writing import one_writer
with one_writer(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locked():
    """Lets another process write into a folder, until it is killed."""
    processes = []

    def lock(folder: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDS, str(folder)]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "locked\n"
        return processes[-1]

    yield lock
    for process in processes:
        process.kill()
        process.communicate()


def test_a_folder_has_one_writer(finished, data, pretrain, refused, locked, tmp_path):
    process = locked(finished)
    before = snapshot(finished)
    said = f"Another process is writing to {finished}"
    for told in ([], ["--overwrite_output_dir"], ["--resume_from_checkpoint", "latest"]):
        refused(said, pretrain, finished, *told)
    questions = ["--questions_file", data / "dev.tsv", "--use_cpu", "--overwrite_output_dir"]
    run = ["--model_name_or_path", finished, *questions]
    refused(said, script, "evaluate_birthplaces.py", *run)
    refused(said, script, "calibrate.py", *run, "--train_questions_file", data / "train.tsv")
    both = [finished, finished, *questions, "--output_dir", finished]
    refused(said, script, "ensemble.py", *both)
    folds = ["--questions_file", data / "train.tsv", "--output_dir", finished, "--overwrite_output_dir"]
    refused(said, script, "split_questions.py", *folds)
    refused(said, script, "generate_biographies.py", "--output_dir", finished, "--overwrite_output_dir")
    assert snapshot(finished) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    script("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "elsewhere")
    process.kill()  # and the lock is gone with it
    process.communicate()
    pretrain(finished, "--overwrite_output_dir")


@pytest.mark.parametrize("still_writes", [True, False])
def test_a_second_run_that_comes_while_the_first_one_begins_is_refused(
    tmp_path, pretrain, refused, locked, monkeypatch, still_writes
):
    """After both have found the folder free; also where the other one has ended by then."""
    real, theirs = setup.check_training, tmp_path / "run" / "recipe.json"

    def check(*arguments):
        process = locked(tmp_path / "run")
        theirs.write_text("theirs")
        if not still_writes:
            process.kill()
            process.communicate()
        return real(*arguments)

    monkeypatch.setattr(setup, "check_training", check)
    said = "Another process is writing to" if still_writes else "is not empty"
    refused(said, pretrain, tmp_path / "run")
    assert snapshot(tmp_path / "run") == {"recipe.json": b"theirs"}


def test_the_lock_is_not_inherited(tmp_path):
    """A worker of the loader outlives a killed parent for some seconds."""
    begun, begins = os.pipe()
    with one_writer(tmp_path):
        child = os.fork()
        if not child:
            os.write(begins, b"!")
            signal.pause()
    try:
        assert os.read(begun, 1) == b"!"
        check_no_writer(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def write_half(path: Path, error: type[BaseException]) -> None:
    with written_aside(path) as aside:
        aside.write_text("ne")
        raise error


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, "old")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error):
            write_half(path, error)
        assert path.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(OSError, match="could not be written: Errno 5"), written_aside(path):
        raise OSError("Errno 5")


def test_no_fold_of_an_earlier_split_stays(tmp_path, data):
    run = ["--questions_file", data / "train.tsv", "--output_dir", tmp_path / "folds"]
    script("split_questions.py", *run, "--num_folds", 4)
    (tmp_path / "folds" / "fold-notes").mkdir()
    script("split_questions.py", *run, "--num_folds", 3, "--overwrite_output_dir")
    names = sorted(path.name for path in (tmp_path / "folds").iterdir())
    assert names == ["fold-0", "fold-1", "fold-2", "fold-notes"]


def test_an_evaluation_without_answers_leaves_no_report_of_other_predictions(finished, tmp_path):
    asked = tmp_path / "asked.txt"
    asked.write_text("Where was Ada Byron born?\n")
    run = ["--model_name_or_path", finished, "--questions_file", asked, "--use_cpu", "--overwrite_output_dir"]
    assert (finished / "report.json").exists()
    script("evaluate_birthplaces.py", *run)
    assert len((finished / "predictions.txt").read_text().splitlines()) == 1
    assert not (finished / "report.json").exists()


def test_a_log_whose_last_line_is_torn_goes_on(tmp_path, pretrain, pretrain_until):
    pretrain(tmp_path / "whole")
    folder = tmp_path / "run"
    pretrain_until(4, folder)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    script("plot_run.py", "--runs", folder, "--output_file", tmp_path / "run.png")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\n")
    pretrain(folder, "--resume_from_checkpoint", "latest")
    assert losses(folder) == losses(tmp_path / "whole")


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte, and a function that fills it up to some bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode()}")

    def fill(*, free: int) -> None:
        (folder / "filler").unlink(missing_ok=True)
        with (folder / "filler").open("wb") as file:
            file.write(bytes(shutil.disk_usage(folder).free - free))

    yield folder, fill
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("what", ["checkpoint", "log", "final", "start"])
def test_a_full_disk_costs_nothing_that_is_there(disk, tmp_path, pretrain, refused, monkeypatch, what):
    """A real one. One sentence, nothing half-written, the last checkpoint whole; with room the run goes on."""
    folder, fill = disk[0] / "run", disk[1]
    pretrain(tmp_path / "whole")
    if what == "start":
        fill(free=0)
        refused("No space left on device", pretrain, folder, code=1)
        fill(free=3_500_000)
        pretrain(folder)
    else:
        where = {"checkpoint": (4, 500_000), "log": (3, 0), "final": (None, 100_000)}
        step, free = where[what]
        real_step, real_finish = metrics_log.MetricsLog.end_step, saving.finish_run

        def end_step(self, number, learning_rate):
            if number == step:
                if what == "log":  # up to a few bytes under the end of a block, which the next line crosses
                    size = self.path.stat().st_size
                    with self.path.open("a") as file:
                        file.write(json.dumps({"step": 0, "loss": "x" * (4070 - size - 24)}) + "\n")
                fill(free=free)
            real_step(self, number, learning_rate)

        def finish(*arguments, **options):
            if what == "final":
                fill(free=free)
            real_finish(*arguments, **options)

        monkeypatch.setattr(metrics_log.MetricsLog, "end_step", end_step)
        monkeypatch.setattr(saving, "finish_run", finish)
        refused("No space left on device", pretrain, folder, code=1)
        last = 4 if what == "final" else 2
        names = {path.name for path in folder.iterdir()}
        assert names == {"recipe.json", "metrics.jsonl", "checkpoint-2"} | {f"checkpoint-{last}"}
        assert [step for step, _ in losses(folder)] == ([1, 2, 0] if what == "log" else [1, 2, 3, 4])
        with pytest.raises(ValueError, match="is an unfinished run"):
            load_run(str(folder))
        monkeypatch.undo()
        (disk[0] / "filler").unlink()
        pretrain(folder, "--resume_from_checkpoint", "latest")
    assert [loss for loss in losses(folder) if loss[0]] == losses(tmp_path / "whole")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_the_run_that_was_to_be_replaced(made, disk, pretrain, refused, monkeypatch):
    folder, fill = disk[0] / "run", disk[1]
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = snapshot(folder)
    fill(free=300_000)
    refused("No space left on device", pretrain, folder, "--overwrite_output_dir", "--seed", 1, code=1)
    assert snapshot(folder) == before
    assert not list(disk[0].rglob("unfinished-*"))
    (disk[0] / "filler").unlink()
    pretrain(folder, "--overwrite_output_dir", "--seed", 1)
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 1


def test_a_full_disk_leaves_the_evaluation_that_was_there(made, disk, data, refused):
    folder, fill = disk[0] / "run", disk[1]
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = snapshot(folder)
    fill(free=0)
    run = ["--model_name_or_path", folder, "--use_cpu", "--overwrite_output_dir", "--questions_file", data / "dev.tsv"]
    refused(
        "predictions.txt could not be written: No space left on device", script, "evaluate_birthplaces.py", *run, code=1
    )
    assert snapshot(folder) == before
    (folder / "predictions.txt").unlink()
    (folder / "report.json").unlink()
    fill(free=4096)  # enough for the predictions
    refused("report.json could not be written: No space", script, "evaluate_birthplaces.py", *run, code=1)
    assert snapshot(folder).keys() == before.keys() - {"report.json"}
    for name, flags in (
        ("explain_answer.py", [folder, "Ada Byron", "--output_file", folder / "a.html"]),
        ("plot_run.py", ["--runs", folder, "--output_file", folder / "a.png"]),
        ("split_questions.py", ["--questions_file", data / "train.tsv", "--output_dir", folder / "folds"]),
        ("generate_biographies.py", ["--output_dir", folder / "people"]),
        ("convert_checkpoint.py", ["--checkpoint", folder, "--to", "gpt2", "--output_dir", folder / "gpt2"]),
        ("ensemble.py", [folder, made, *run[2:], "--output_dir", folder / "all"]),
    ):
        fill(free=0)
        refused("No space left on device", script, name, *flags, code=1)
    assert set(snapshot(folder)) == before.keys() - {"report.json"}
    assert not list((folder / "folds").iterdir())
