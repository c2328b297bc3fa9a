"""A folder has one writer, and a file is whole or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_mingpt.system.writing import check_no_writer, one_writer, write_text, written_aside
from hf_mingpt.training import setup

from .runs import script, snapshot

HOLDS = """
import sys
from hf_mingpt.system.writing import one_writer
with one_writer(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locked():
    """Lets another process lock a folder until it is killed."""
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
def test_a_second_run_during_the_start_of_the_first_is_refused(
    tmp_path, pretrain, refused, locked, monkeypatch, still_writes
):
    """After both have found the folder free, even if the other one has ended by then."""
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
    """A worker of the data loader outlives its killed parent for some seconds."""
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
