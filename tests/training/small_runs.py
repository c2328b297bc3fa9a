"""Runs of a few steps with a small model, in the test's own process."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.training.checkpoints import sums_of
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import PretrainRecipe

from ..conftest import small_model


def small_recipe(folder: Path, **changes) -> PretrainRecipe:
    values = {"train_file": "x", "use_cpu": True, "mixed_precision": "no", "logging_steps": 1, "dropout": 0.0}
    return PretrainRecipe(output_dir=str(folder), **{**values, **changes})


def small_dataset() -> Dataset:
    """18 documents of 6 to 23 tokens."""
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in range(6, 24)]
    return Dataset.from_dict({"input_ids": documents})


def small_steps(shape: BatchShape = BatchShape(4), dataset: Dataset | None = None) -> TrainingSteps:  # noqa: B008
    return TrainingSteps(dataset or small_dataset(), NextTokenPrediction(), shape, seed=0)


class PowerCut(Exception):
    pass


def train_small(
    folder: Path,
    steps,
    *,
    variant="rope",
    accelerator=None,
    num_hidden_layers=2,
    cut_at: int | None = None,
    evaluate=None,
    **changes,
):
    """Trains a small model; returns it, and the records of its metrics.jsonl.

    With `cut_at`, a PowerCut is raised in that step, before the update.
    """
    folder.mkdir(exist_ok=True)
    model = small_model(variant, num_hidden_layers=num_hidden_layers)
    accelerator = accelerator or Accelerator(cpu=True)
    if cut_at:
        real, calls = accelerator.clip_grad_norm_, iter(range(1, 1000))

        def clip(*args):
            if next(calls) == cut_at:
                raise PowerCut
            return real(*args)

        accelerator.clip_grad_norm_ = clip
    model = train(model, steps, small_recipe(folder, **changes), accelerator, evaluate)
    return model, read_metrics(folder)


def read_metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved_steps(folder: Path) -> set[int]:
    """The steps of the checkpoints in a run folder."""
    return {json.loads(path.read_text())["step"] for path in folder.rglob("checkpoint-*/state.json")}


def have_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def edit_state(checkpoint: Path, edit) -> None:
    """Changes state.json of a checkpoint, and its checksum with it."""
    state = json.loads((checkpoint / "state.json").read_text())
    edit(state)
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / "SHA256SUMS").write_text(sums_of(checkpoint))
