"""Scripts that are killed resume bit-exactly: one process or two, by any signal, even while a checkpoint is written."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ..conftest import ROOT, SCRIPTS
from ..processes import Python, run_python, run_ranks, start_python, start_ranks
from .small_runs import read_metrics

CORPUS = ROOT / "data" / "generated" / "biographies.txt"
QUESTIONS = CORPUS.parent / "birth_places_train.tsv"
# without Muon, whose bf16 products magnify the last digit
EXACT = ["--optim", "adamw", "--mixed_precision", "no", "--save_total_limit", 9]


def pretrain(folder, *flags, processes: int = 1) -> list:
    """The command of a run of 24 steps with a checkpoint every 4."""
    fixed = ["--preset", "demo", "--train_file", CORPUS, "--max_steps", 24, "--save_steps", 4, "--logging_steps", 6]
    fixed += ["--model_preset", "gpt-nano"]
    fixed += ["--per_device_train_batch_size", 4 // processes, "--use_cpu", "--output_dir", folder]
    return [SCRIPTS / "pretrain.py", *fixed, "--vocabulary_file", QUESTIONS, *flags]


def run(command: list, processes: int = 1) -> None:
    done = run_ranks(processes, *command) if processes > 1 else run_python(*command)
    assert done.returncode == 0, done.stderr


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(record["step"], record.get("loss", record.get("eval_loss"))) for record in read_metrics(folder)]


def assert_same(folder: Path, expected: Path) -> None:
    """Asserts that two runs have the same losses and the same bits in their weights."""
    assert losses(folder) == losses(expected)
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(pretrain(folder))
    return folder


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run(pretrain(folder, *EXACT, processes=2), processes=2)
    assert json.loads((folder / "run.json").read_text())["num_processes"] == 2
    return folder


# After the checkpoint of a step, waits for a file, so that a signal arrives while the script trains.
WAITS = """
import os, runpy, sys, time
from pathlib import Path
from hf_mingpt.training.checkpoints import Checkpointer
real = Checkpointer._write
def write(checkpointer, step, *arguments):
    real(checkpointer, step, *arguments)
    if step == {step}:
        Path({folder!r}, "waits").touch()
        while not Path({folder!r}, "continues").exists():
            time.sleep(0.01)
Checkpointer._write = write
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_and_wait(command: list, tmp_path: Path, step: int, processes: int = 1) -> list[Python]:
    """Starts a training script, and returns when it waits after the checkpoint of a step."""
    waits = tmp_path / "waits.py"
    waits.write_text(WAITS.format(folder=str(tmp_path), step=step))
    command = [waits, *command]
    started = start_ranks(processes, *command) if processes > 1 else [start_python(*command)]
    while not (tmp_path / "waits").exists():
        assert all(process.poll() is None for process in started)
        time.sleep(0.01)
    return started


def test_another_length_is_refused_before_anything_is_written(tmp_path):
    run(pretrain(tmp_path))
    (tmp_path / "report.json").write_text("{}")
    longer = pretrain(tmp_path, "--resume_from_checkpoint", "latest", "--max_steps", 30)  # with a linear decay
    refused = run_python(*longer)
    assert (refused.returncode, "the learning rate is" in refused.stderr) == (2, True), refused.stderr
    assert (tmp_path / "report.json").exists()


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_script_resumes(tmp_path, whole, signal_number, code):
    folder = tmp_path / "run"
    (process,) = start_and_wait(pretrain(folder), tmp_path, step=8)
    process.send_signal(signal_number)
    (tmp_path / "continues").touch()
    process.communicate()
    assert process.returncode == code
    saved = {int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")}
    assert max(saved) == (9 if signal_number == signal.SIGTERM else 8)  # SIGTERM saves the step in which it arrives
    assert not (folder / "run.json").exists()
    if signal_number == signal.SIGTERM:
        refused = run_python(*pretrain(folder))
        assert (refused.returncode, "--resume_from_checkpoint latest" in refused.stderr) == (2, True)
    run(pretrain(folder, "--resume_from_checkpoint", "latest"))
    assert_same(folder, whole)


def test_a_killed_finetuning_resumes(tmp_path, whole):
    """Also one that is evaluated, and ends with the best weights."""
    flags = ["--preset", "demo", "--model_name_or_path", whole, "--questions_file", QUESTIONS, "--use_cpu"]
    flags += ["--max_steps", 24, "--save_steps", 4, "--logging_steps", 6, "--dropout", 0.1]
    flags += ["--gradient_accumulation_steps", 2, "--dataloader_num_workers", 2, "--output_dir"]
    flags = ["--validation_ratio", 0.2, "--eval_steps", 3, "--load_best_model_at_end", *flags]
    command = [SCRIPTS / "finetune.py", *flags]
    expected, folder = tmp_path / "expected", tmp_path / "killed"
    run([*command, expected])
    (process,) = start_and_wait([*command, folder], tmp_path, step=8)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "run.json").exists()
    run([*command, folder, "--resume_from_checkpoint", "latest"])
    assert_same(folder, expected)


def test_a_signal_to_the_process_group_lets_the_main_process_save(tmp_path, whole):
    """Clusters signal all processes, the data loader's workers included."""
    workers = ["--dataloader_num_workers", 2]
    folder = tmp_path / "run"
    (process,) = start_and_wait(pretrain(folder, *workers), tmp_path, step=4)
    os.killpg(process.pid, signal.SIGTERM)
    (tmp_path / "continues").touch()
    _, error = process.communicate()
    assert process.returncode == 143, error
    run(pretrain(folder, *workers, "--resume_from_checkpoint", "latest"))
    assert_same(folder, whole)


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


def test_a_script_that_is_killed_while_it_writes_a_checkpoint_resumes(tmp_path, whole):
    killed = run_python("-c", DIES_WHILE_WRITING, *pretrain(tmp_path))
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.glob("*checkpoint*"))
    assert left == ["checkpoint-4", "checkpoint-8", "unfinished-checkpoint-12"]
    run(pretrain(tmp_path, "--resume_from_checkpoint", "latest"))
    assert_same(tmp_path, whole)
    assert not list(tmp_path.glob("unfinished-*"))


def test_two_killed_processes_resume(tmp_path, of_two_processes):
    folder = tmp_path / "run"
    for process in start_and_wait(pretrain(folder, *EXACT, processes=2), tmp_path, step=8, processes=2):
        process.kill()
        process.communicate()
    run(pretrain(folder, *EXACT, "--resume_from_checkpoint", "latest", processes=2), processes=2)
    assert_same(folder, of_two_processes)


@pytest.mark.parametrize("processes", [1, 4])
def test_a_checkpoint_resumes_on_another_number_of_processes(tmp_path, of_two_processes, processes):
    """With the same examples in each step, so with the same losses up to rounding."""
    checkpoint = of_two_processes / "checkpoint-12"
    run(pretrain(tmp_path, *EXACT, "--resume_from_checkpoint", checkpoint, processes=processes), processes)
    assert json.loads((tmp_path / "run.json").read_text())["num_processes"] == processes
    assert [step for step, _ in losses(tmp_path)] == [18, 24]
    for (_, loss), (_, expected) in zip(losses(tmp_path), losses(of_two_processes)[-2:], strict=True):
        assert loss == pytest.approx(expected, rel=1e-5)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, of_two_processes))
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours) < 1e-5
