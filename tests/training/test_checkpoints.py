import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.steps import StreamedSteps, TrainingSteps
from hf_mingpt.training import checkpoints
from hf_mingpt.training.checkpoints import find_checkpoint
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe

from ..conftest import small_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
CORPUS = Path(__file__).parents[2] / "data" / "generated" / "biographies.txt"
QUESTIONS = CORPUS.parent / "birth_places_train.tsv"


class PowerCut(Exception):
    pass


def recipe(folder, **changes) -> PretrainRecipe:
    values = {"train_file": "x", "use_cpu": True, "mixed_precision": "no", "dropout": 0.1, "optim": "muon"}
    values |= {"ema_decay": 0.5}
    values |= {"max_steps": 10, "save_steps": 3, "logging_steps": 4, "lr_scheduler_type": "cosine"}
    return PretrainRecipe(output_dir=str(folder), **{**values, **changes})


def build_steps(stream: bool = False, shape: BatchShape = BatchShape(2, 2)):  # noqa: B008
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 30, (18,), generator=generator).tolist()
    rows = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in lengths]
    dataset = Dataset.from_dict({"input_ids": rows})
    if stream:
        return StreamedSteps(dataset.to_iterable_dataset(), NextTokenPrediction(), shape)
    return TrainingSteps(dataset, NextTokenPrediction(), shape, seed=0)


def run(folder, steps, *, cut_at: int | None = None, **changes):
    """Trains; with `cut_at` the power goes in that step, before its update."""
    folder.mkdir(exist_ok=True)
    accelerator = Accelerator(cpu=True)
    if cut_at:
        real = accelerator.clip_grad_norm_
        calls = iter(range(1, 1000))

        def clip(*args):
            if next(calls) == cut_at:
                raise PowerCut
            return real(*args)

        accelerator.clip_grad_norm_ = clip
    model = train(small_model("rope"), steps, recipe(folder, **changes), accelerator)
    return model, losses(folder)


def losses(folder) -> list[tuple[int, float]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut_at", [4, 9, 10])
def test_a_resumed_run_is_a_run_that_was_never_cut(tmp_path, stream, workers, cut_at):
    changes = {"dataloader_num_workers": workers}
    whole, expected = run(tmp_path / "whole", build_steps(stream))  # the workers change nothing
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", build_steps(stream), cut_at=cut_at, **changes)
    resumed, seen = run(tmp_path / "cut", build_steps(stream), resume_from_checkpoint="latest", **changes)
    assert seen == expected
    assert [step for step, _ in seen] == [4, 8, 10]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_another_cut_of_the_batch_goes_on_with_the_same_examples(tmp_path):
    changes = {"dropout": 0.0, "optim": "adamw"}
    _, expected = run(tmp_path / "whole", build_steps(), **changes)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", build_steps(), cut_at=8, **changes)
    again = {**changes, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    _, seen = run(tmp_path / "cut", build_steps(shape=BatchShape(4)), resume_from_checkpoint="latest", **again)
    assert [loss for _, loss in seen] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    with pytest.raises(ValueError, match="examples of a step 4, now 8"):
        run(tmp_path / "cut", build_steps(shape=BatchShape(4, 2)), resume_from_checkpoint="latest", **changes)


def test_runs_of_other_lengths_branch_off(tmp_path):
    """From before the decay a shorter and a longer run go on as if they had always been so long."""
    changes = {"lr_scheduler_type": "warmup_stable_decay", "save_steps": 4, "warmup_steps": 2}
    _, trunk = run(tmp_path / "trunk", build_steps(), **changes)
    checkpoint = str(tmp_path / "trunk" / "checkpoint-4")
    for max_steps, decay_ratio in ((8, 0.25), (14, 0.5)):
        flags = {**changes, "max_steps": max_steps, "decay_ratio": decay_ratio}
        whole, expected = run(tmp_path / f"whole-{max_steps}", build_steps(), **flags)
        branch = tmp_path / f"branch-{max_steps}"
        branched, seen = run(branch, build_steps(), resume_from_checkpoint=checkpoint, **flags)
        assert seen == expected[1:]
        assert seen != trunk[1:]
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), branched.parameters(), strict=True))
    flags = {**changes, "max_steps": 6, "decay_ratio": 0.5}
    with pytest.raises(ValueError, match=r"At step 4 the learning rate is .* before the decay of both runs"):
        run(tmp_path / "late", build_steps(), resume_from_checkpoint=checkpoint, **flags)
    with pytest.raises(ValueError, match="past the 3 steps"):
        run(tmp_path / "over", build_steps(), resume_from_checkpoint=checkpoint, **{**changes, "max_steps": 3})


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    with pytest.raises(PowerCut):
        run(tmp_path, build_steps(), cut_at=9)
    folders = sorted(tmp_path.glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-3", "checkpoint-6"]
    latest = recipe(tmp_path, resume_from_checkpoint="latest")
    assert find_checkpoint(latest, 4) == folders[1]
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find_checkpoint(latest, 4) == folders[0]
    with pytest.raises(ValueError, match="damaged"):
        find_checkpoint(recipe(tmp_path, resume_from_checkpoint=str(folders[1])), 4)
    state = folders[0] / "state.json"
    state.write_text(state.read_text().replace('"step": 3', '"step": 2'))
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        find_checkpoint(latest, 4)


class Attack:
    """What runs code when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    with pytest.raises(PowerCut):
        run(tmp_path, build_steps(), cut_at=4)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    torch.save({"optimizers": [Attack(tmp_path / "trace")], "schedulers": []}, checkpoint / "training.pt")
    (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
    with pytest.raises(ValueError, match=r"training\.pt holds more than tensors"):
        run(tmp_path, build_steps(), resume_from_checkpoint="latest")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"step": "1"}', "nan", "[" * 100_000])
def test_what_is_no_state_is_no_checkpoint(tmp_path, state):
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(state)
    (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
    with pytest.raises(FileNotFoundError, match="no whole checkpoint"):
        find_checkpoint(recipe(tmp_path, resume_from_checkpoint="latest"), 4)


def test_another_recipe_is_refused(tmp_path):
    with pytest.raises(PowerCut):
        run(tmp_path, build_steps(), cut_at=5)
    with pytest.raises(ValueError, match=r"learning_rate 0\.0006, now 0\.1"):
        find_checkpoint(recipe(tmp_path, resume_from_checkpoint="latest", learning_rate=0.1), 4)
    find_checkpoint(recipe(tmp_path, resume_from_checkpoint="latest", logging_steps=1, save_steps=None), 4)


def test_a_field_that_is_newer_than_the_checkpoint_counts_as_its_default(tmp_path):
    with pytest.raises(PowerCut):
        run(tmp_path, build_steps(), cut_at=4)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    state = json.loads((checkpoint / "state.json").read_text())
    del state["recipe"]["adam_beta1"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
    assert find_checkpoint(recipe(tmp_path, resume_from_checkpoint="latest"), 4) == checkpoint
    with pytest.raises(ValueError, match=r"adam_beta1 0\.9, now 0\.8"):
        find_checkpoint(recipe(tmp_path, resume_from_checkpoint="latest", adam_beta1=0.8), 4)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(PowerCut):
        run(tmp_path, build_steps(), cut_at=5)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match=r"step 6 could not be written .*No space left.* last one is .*checkpoint-3"):
        run(tmp_path, build_steps(), resume_from_checkpoint="latest")
    monkeypatch.undo()
    assert [folder.name for folder in tmp_path.glob("*checkpoint*")] == ["checkpoint-3"]
    run(tmp_path, build_steps(), resume_from_checkpoint="latest")


def pretrain(folder, *flags, processes: int = 1) -> list[str]:
    fixed = ["--preset", "demo", "--train_file", CORPUS, "--max_steps", 24, "--save_steps", 4, "--logging_steps", 6]
    fixed += ["--per_device_train_batch_size", 4 // processes, "--use_cpu", "--output_dir", folder]
    fixed += ["--vocabulary_file", QUESTIONS]
    launcher = []
    if processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes]
        launcher += ["--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--main_process_port", 0]
    return list(map(str, [sys.executable, *launcher, SCRIPTS / "pretrain.py", *fixed, *flags]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    subprocess.run(pretrain(folder), check=True, capture_output=True)
    return folder


def test_a_length_that_does_not_fit_is_refused_before_anything_is_touched(tmp_path):
    subprocess.run(pretrain(tmp_path), check=True, capture_output=True)
    (tmp_path / "report.json").write_text("{}")
    longer = pretrain(tmp_path, "--resume_from_checkpoint", "latest", "--max_steps", 30)  # with a linear decay
    refused = subprocess.run(longer, capture_output=True, text=True, check=False)
    assert (refused.returncode, "the learning rate is" in refused.stderr) == (2, True), refused.stderr
    assert (tmp_path / "report.json").exists()


# Goes no further than the checkpoint of that step until it is told, so that a signal comes while it trains.
WAITS = """
import os, runpy, sys, time
from pathlib import Path
from hf_mingpt.training import loop, setup
real = loop.save_checkpoint
def save_checkpoint(recipe, step, *arguments, **options):
    saved = real(recipe, step, *arguments, **options)
    if step == {step}:
        Path({folder!r}, "waits").touch()
        while not Path({folder!r}, "goes-on").exists():
            time.sleep(0.01)
    return saved
loop.save_checkpoint = save_checkpoint
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_and_wait(command: list[str], tmp_path: Path, step: int) -> subprocess.Popen:
    """Starts a training script, and comes back when it waits after the checkpoint of that step."""
    waits = tmp_path / "waits.py"
    waits.write_text(WAITS.format(folder=str(tmp_path), step=step))
    script = next(i for i, part in enumerate(command) if part.endswith(("pretrain.py", "finetune.py")))
    command = [*command[:script], str(waits), *command[script:]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    while not (tmp_path / "waits").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_script_goes_on(tmp_path, whole, signal_number, code):
    home, tmp_path = tmp_path, tmp_path / "run"
    process = start_and_wait(pretrain(tmp_path), home, step=8)
    process.send_signal(signal_number)
    (home / "goes-on").touch()
    process.communicate()
    assert process.returncode == code
    saved = {int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")}
    assert max(saved) == (9 if signal_number == signal.SIGTERM else 8)  # the step at which it was told to stop
    assert not (tmp_path / "run.json").exists()
    if signal_number == signal.SIGTERM:
        refused = subprocess.run(pretrain(tmp_path), capture_output=True, text=True, check=False)
        assert (refused.returncode, "--resume_from_checkpoint latest" in refused.stderr) == (2, True)
    subprocess.run(pretrain(tmp_path, "--resume_from_checkpoint", "latest"), check=True, capture_output=True)
    assert losses(tmp_path) == losses(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_killed_finetuning_goes_on(tmp_path, whole):
    flags = ["--preset", "demo", "--model_name_or_path", whole, "--questions_file", QUESTIONS, "--use_cpu"]
    flags += ["--max_steps", 24, "--save_steps", 4, "--logging_steps", 6, "--dropout", 0.1]
    flags += ["--gradient_accumulation_steps", 2, "--dataloader_num_workers", 2, "--output_dir"]
    command = list(map(str, [sys.executable, SCRIPTS / "finetune.py", *flags]))
    expected, folder = tmp_path / "expected", tmp_path / "killed"
    subprocess.run([*command, str(expected)], check=True, capture_output=True)
    process = start_and_wait([*command, str(folder)], tmp_path, step=8)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "run.json").exists()
    subprocess.run([*command, str(folder), "--resume_from_checkpoint", "latest"], check=True, capture_output=True)
    assert losses(folder) == losses(expected)
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_a_signal_to_all_processes_lets_the_main_one_save(tmp_path, whole):
    """As a cluster sends it; the workers of the loader get it too."""
    workers = ["--dataloader_num_workers", 2]
    home, tmp_path = tmp_path, tmp_path / "run"
    process = start_and_wait(pretrain(tmp_path, *workers), home, step=4)
    os.killpg(process.pid, signal.SIGTERM)
    (home / "goes-on").touch()
    _, error = process.communicate()
    assert process.returncode == 143, error
    again = pretrain(tmp_path, *workers, "--resume_from_checkpoint", "latest")
    subprocess.run(again, check=True, capture_output=True)
    assert losses(tmp_path) == losses(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


DIES_WHILE_WRITING = """
import os, runpy, signal, sys
import torch
real, calls = torch.save, []
def save(content, path):
    real(content, path)
    calls.append(path)
    if len(calls) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = save
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_script_that_dies_while_it_writes_a_checkpoint_goes_on(tmp_path, whole):
    python, *arguments = pretrain(tmp_path)
    killed = subprocess.run([python, "-c", DIES_WHILE_WRITING, *arguments], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.glob("*checkpoint*"))
    assert left == ["checkpoint-4", "checkpoint-8", "unfinished-checkpoint-12"]
    subprocess.run(pretrain(tmp_path, "--resume_from_checkpoint", "latest"), check=True, capture_output=True)
    assert losses(tmp_path) == losses(whole)
    assert (tmp_path / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(tmp_path.glob("unfinished-*"))


EXACT = [
    "--optim",
    "adamw",
    "--mixed_precision",
    "no",
    "--save_total_limit",
    9,
]  # Muon's own bf16 arithmetic magnifies the last digit


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    subprocess.run(pretrain(folder, *EXACT, processes=2), check=True, capture_output=True)
    assert json.loads((folder / "run.json").read_text())["num_processes"] == 2
    return folder


def test_two_killed_processes_go_on(tmp_path, of_two_processes):
    home, tmp_path = tmp_path, tmp_path / "run"
    process = start_and_wait(pretrain(tmp_path, *EXACT, processes=2), home, step=8)
    for one in (process, *psutil.Process(process.pid).children(recursive=True)):  # each a session of its own
        one.kill()
    process.communicate()
    again = pretrain(tmp_path, *EXACT, "--resume_from_checkpoint", "latest", processes=2)
    subprocess.run(again, check=True, capture_output=True)
    assert losses(tmp_path) == losses(of_two_processes)
    assert (tmp_path / "model.safetensors").read_bytes() == (of_two_processes / "model.safetensors").read_bytes()


@pytest.mark.parametrize("processes", [1, 4])
def test_a_checkpoint_of_two_processes_goes_on_with_others(tmp_path, of_two_processes, processes):
    """With the same examples in each step, so with the losses that two would have had."""
    checkpoint = of_two_processes / "checkpoint-12"
    again = pretrain(tmp_path, *EXACT, "--resume_from_checkpoint", checkpoint, processes=processes)
    subprocess.run(again, check=True, capture_output=True)
    assert json.loads((tmp_path / "run.json").read_text())["num_processes"] == processes
    assert [step for step, _ in losses(tmp_path)] == [18, 24]
    for (_, loss), (_, expected) in zip(losses(tmp_path), losses(of_two_processes)[-2:], strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, of_two_processes))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5


class TestData:
    """A run goes on with the data that it had, wherever that is now."""

    @pytest.fixture
    def cut(self, tmp_path):
        """A run that was cut after its checkpoint of step 3, with its files."""
        (tmp_path / "model").mkdir()
        files = {"text.txt": "a\n", "words.txt": "b\n", "model/tokenizer.json": "{}", "model/README.md": "x"}
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        data = {"train_file": "text.txt", "vocabulary_file": "words.txt", "tokenizer_name": "model"}
        data = {name: str(tmp_path / path) for name, path in data.items()}
        with pytest.raises(PowerCut):
            run(tmp_path / "run", build_steps(), cut_at=4, **data)
        return tmp_path, data

    def find(self, folder, data):
        return find_checkpoint(recipe(folder / "run", resume_from_checkpoint="latest", **data), 4)

    def test_the_checkpoint_says_what_they_held(self, cut):
        folder, data = cut
        state = json.loads((self.find(folder, data) / "state.json").read_text())
        assert state["data"].keys() == data.keys()
        assert state["data"]["train_file"] == hashlib.sha256(b"a\n").hexdigest()

    def test_moved_ones_are_the_same(self, cut):
        folder, data = cut
        (folder / "elsewhere").mkdir()
        moved = {name: str(folder / "elsewhere" / Path(path).name) for name, path in data.items()}
        for name, path in data.items():
            Path(path).rename(moved[name])
        assert self.find(folder, moved).name == "checkpoint-3"
        (folder / "elsewhere/model/README.md").write_text("not read")
        assert self.find(folder, moved).name == "checkpoint-3"

    @pytest.mark.parametrize(
        ("name", "file"),
        [("train_file", "text.txt"), ("vocabulary_file", "words.txt"), ("tokenizer_name", "model/tokenizer.json")],
    )
    def test_a_changed_one_is_refused_by_name(self, cut, name, file):
        folder, data = cut
        times = (folder / file).stat()
        (folder / file).write_text("c\n")
        os.utime(folder / file, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(ValueError, match=rf"{name} .* holds something else than when .*checkpoint-3 was made"):
            self.find(folder, data)

    def test_what_changes_during_the_run_is_seen(self, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("a\n")
        steps = build_steps()
        steps.objective = lambda *rows: text.write_text("b\n") and NextTokenPrediction()(*rows)
        with pytest.raises(PowerCut):
            run(tmp_path / "run", steps, cut_at=4, train_file=str(text))
        with pytest.raises(ValueError, match=r"train_file .* holds something else"):
            self.find(tmp_path, {"train_file": str(text)})

    def test_of_a_model_only_what_is_loaded_counts(self, tmp_path):
        model = tmp_path / "model"
        for name in ("config.json", "checkpoints/step-1/model.safetensors", "checkpoints/step-1/config.json"):
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_text("{}")
        finetune = FinetuneRecipe(model_name_or_path=str(model), questions_file="x", output_dir="y")
        before = checkpoints.hash_data(finetune)
        assert before.keys() == {"model_name_or_path"}
        (model / "checkpoints/step-1/model.safetensors").unlink()
        assert checkpoints.hash_data(finetune) == before
        (model / "config.json").write_text("[]")
        assert checkpoints.hash_data(finetune) != before

    def test_another_way_to_read_it_is_another_recipe(self, cut):
        folder, data = cut
        other = (folder / "text.txt").rename(folder / "text.tsv")
        with pytest.raises(ValueError, match=r"another recipe: train_file .*text\.txt', now .*text\.tsv'"):
            self.find(folder, {**data, "train_file": str(other)})

    def test_an_older_checkpoint_compares_paths(self, cut):
        folder, data = cut
        checkpoint = self.find(folder, data)
        state = json.loads((checkpoint / "state.json").read_text())
        del state["data"]
        (checkpoint / "state.json").write_text(json.dumps(state))
        (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
        (folder / "text.txt").write_text("c\n")
        assert self.find(folder, data) == checkpoint
        moved = (folder / "text.txt").rename(folder / "moved.txt")
        with pytest.raises(ValueError, match=r"another recipe: train_file .*text\.txt', now .*moved\.txt'"):
            self.find(folder, {**data, "train_file": str(moved)})
