"""Checkpoints on disk: what is damaged, malicious or does not fit in them is found; a full disk costs nothing."""

import errno
import os
from pathlib import Path

import pytest
import torch

from hf_mingpt.training import checkpoints
from hf_mingpt.training.folders import list_checkpoints
from hf_mingpt.training.resuming import find_checkpoint

from .small_runs import PowerCut, edit_state, small_recipe, small_steps, train_small

EXAMPLES_PER_STEP = 4
FLAGS = {"max_steps": 10, "save_steps": 3}


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a run that has ended in step 4, after the checkpoint of step 3."""
    with pytest.raises(PowerCut):
        train_small(tmp_path, small_steps(), cut_at=4, **FLAGS)
    return tmp_path


def find(folder: Path, **changes) -> Path:
    recipe = small_recipe(folder, **{"resume_from_checkpoint": "latest", **FLAGS, **changes})
    return find_checkpoint(recipe, EXAMPLES_PER_STEP)


def test_the_newest_undamaged_checkpoint_is_found(tmp_path):
    with pytest.raises(PowerCut):
        train_small(tmp_path, small_steps(), cut_at=9, **FLAGS)
    older, newer = list_checkpoints(tmp_path)
    assert (older.name, newer.name) == ("checkpoint-3", "checkpoint-6")
    assert find(tmp_path) == newer
    weights = newer / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert find(tmp_path) == older
    with pytest.raises(ValueError, match="damaged"):
        find(tmp_path, resume_from_checkpoint=str(newer))
    state = older / "state.json"
    state.write_text(state.read_text().replace('"step": 3', '"step": 2'))
    with pytest.raises(FileNotFoundError, match="no undamaged checkpoint"):
        find(tmp_path)


class Attack:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_code_in_a_checkpoint_is_not_run(interrupted):
    checkpoint = interrupted / "checkpoint-3"
    torch.save({"optimizers": [Attack(interrupted / "trace")], "schedulers": []}, checkpoint / "training.pt")
    (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
    with pytest.raises(ValueError, match=r"training\.pt contains more than tensors"):
        train_small(interrupted, small_steps(), resume_from_checkpoint="latest", **FLAGS)
    assert not (interrupted / "trace").exists()


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"step": "1"}', "nan", "[" * 100_000])
def test_a_damaged_state_is_not_a_checkpoint(tmp_path, state):
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(state)
    (checkpoint / "SHA256SUMS").write_text(checkpoints.sums_of(checkpoint))
    with pytest.raises(FileNotFoundError, match="no undamaged checkpoint"):
        find(tmp_path)


def test_another_recipe_is_refused(interrupted):
    with pytest.raises(ValueError, match=r"learning_rate 0\.0006, now 0\.1"):
        find(interrupted, learning_rate=0.1)
    find(interrupted, logging_steps=1, save_steps=None)


def test_a_field_that_the_checkpoint_does_not_have_has_its_default(interrupted):
    checkpoint = interrupted / "checkpoint-3"
    edit_state(checkpoint, lambda state: state["recipe"].pop("adam_beta1"))
    assert find(interrupted) == checkpoint
    with pytest.raises(ValueError, match=r"adam_beta1 0\.9, now 0\.8"):
        find(interrupted, adam_beta1=0.8)


def test_former_names_of_fields_are_understood(interrupted):
    checkpoint = interrupted / "checkpoint-3"
    edit_state(checkpoint, lambda state: state["recipe"].update(average_decay=0.5) or state["recipe"].pop("ema_decay"))
    assert find(interrupted, ema_decay=0.5) == checkpoint
    with pytest.raises(ValueError, match=r"ema_decay 0\.5, now None"):
        find(interrupted)


def test_a_full_disk_keeps_the_last_checkpoint(interrupted, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(
        OSError,
        match=r"checkpoint-6 could not be written: .*No space left.* last checkpoint is .*checkpoint-3: fix this",
    ):
        train_small(interrupted, small_steps(), resume_from_checkpoint="latest", **FLAGS)
    monkeypatch.undo()
    assert [folder.name for folder in interrupted.glob("*checkpoint*")] == ["checkpoint-3"]
    train_small(interrupted, small_steps(), resume_from_checkpoint="latest", **FLAGS)
