"""Runs that continue from a checkpoint: of their own folder, of another one, of an earlier version."""

import json

import pytest

from hf_mingpt.training.folders import list_checkpoints

from .runs import losses, script, snapshot

LONGER = ["--lr_scheduler_type", "constant", "--max_steps"]


def test_a_longer_run_replaces_the_finished_run_that_it_resumes(tmp_path, pretrain, pretrain_until):
    """With its checkpoints and its best weights."""
    flags = ["--validation_ratio", 0.1, "--eval_steps", 2, "--load_best_model_at_end", *LONGER]
    pretrain(tmp_path / "whole", *flags, 8)
    folder = tmp_path / "run"
    pretrain(folder, *flags, 4)
    (folder / "report.json").write_text("{}")
    before = snapshot(folder)
    pretrain_until(7, folder, *flags, 8, "--resume_from_checkpoint", "latest")
    assert snapshot(folder) == before
    pretrain(folder, *flags, 8, "--resume_from_checkpoint", "latest")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert losses(folder) == losses(tmp_path / "whole")
    assert not (folder / "report.json").exists()
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-6", "checkpoint-8"]
    assert not list(folder.glob("checkpoint-best-4"))  # of the shorter run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "whole"]


def test_resuming_another_runs_checkpoint_replaces_nothing_unasked(tmp_path, finished, pretrain, refused):
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
    refused("would remove the checkpoint of resume_from_checkpoint", pretrain, finished, *own)


def test_an_unfinished_run_beside_is_resumed_or_replaced_but_never_ignored(finished, pretrain, pretrain_until, refused):
    pretrain_until(3, finished, "--overwrite_output_dir", "--seed", 1)
    said = "run.unfinished holds an unfinished run that is to replace"
    refused(said, pretrain, finished)
    refused(said, pretrain, finished, "--resume_from_checkpoint", finished / "checkpoint-2")
    beside = finished.with_name("run.unfinished")
    (beside / "unfinished-checkpoint-9").mkdir()  # of a kill
    pretrain(finished, "--resume_from_checkpoint", beside / "checkpoint-2", "--seed", 1)
    assert not beside.exists()
    assert not list(finished.glob("unfinished-*"))
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 1


@pytest.mark.parametrize("limit", [1, 2])
def test_resuming_an_older_checkpoint_keeps_the_newer_ones(tmp_path, pretrain_until, limit):
    """save_total_limit neither counts nor removes the newer ones, until the run writes them again."""
    folder = tmp_path / "run"
    pretrain_until(10, folder, *LONGER, 12, "--save_total_limit", 9)
    assert [path.name for path in list_checkpoints(folder)] == [f"checkpoint-{step}" for step in (2, 4, 6, 8)]
    branch = ["--resume_from_checkpoint", folder / "checkpoint-4", "--save_steps", 1, "--save_total_limit", limit]
    pretrain_until(7, folder, *LONGER, 12, *branch)
    kept = {1: (6, 8), 2: (5, 6, 8)}[limit]
    assert [path.name for path in list_checkpoints(folder)] == [f"checkpoint-{step}" for step in kept]


@pytest.mark.parametrize("word", ["latest", "true", "True"])
def test_checkpoints_of_earlier_versions_are_found(tmp_path, pretrain, pretrain_until, word):
    """In `checkpoints`, under their former names."""
    pretrain(tmp_path / "whole")
    folder = tmp_path / "run"
    pretrain_until(4, folder)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoint-2").rename(folder / "checkpoints" / "step-00000002")
    pretrain(folder, "--resume_from_checkpoint", word, "--save_total_limit", 1)
    assert snapshot(folder)["model.safetensors"] == snapshot(tmp_path / "whole")["model.safetensors"]
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-4"]


def test_checkpoints_of_other_programs_are_left_alone(tmp_path, pretrain, pretrain_until):
    """For example those of the Trainer."""
    pretrain_until(4, tmp_path / "run")
    foreign = tmp_path / "run" / "checkpoint-900"
    foreign.mkdir()
    (foreign / "trainer_state.json").write_text("{}")
    pretrain(tmp_path / "run", "--resume_from_checkpoint", "latest", "--save_total_limit", 1)
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-4"]
    assert foreign.exists()


def test_a_run_resumes_with_an_incomplete_last_line_in_its_log(tmp_path, pretrain, pretrain_until):
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
