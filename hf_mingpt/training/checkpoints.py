"""Checkpoints: everything that training changes, written so that a run can be killed at any moment and resumed.

A checkpoint is the folder `checkpoint-N` of a run, N its step. It has four files:

- model.safetensors: the weights, in the layout of `MinGPTForCausalLM`.
- training.pt: states of the optimizers, the schedulers, and the averaged weights (EMA).
- state.json: step, recipe, hashes of the data, the loss scale of fp16, the sums of the metrics log, and which
  evaluation was best.
- SHA256SUMS: checksums of the other files, in the format of the command `sha256sum`.

The folder is written under another name and renamed when it is complete. Damage after that shows in the checksums.
There is no random state: the examples and the dropout of a step are functions of the seed and the step.
"""

import dataclasses
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..data.masking_policy import LEARNED_POLICY
from ..data.steps import StreamedSteps, TrainingSteps
from ..system.files import hash_folder, sha256_of
from ..system.writing import folder_written_aside, remove_folder
from .evaluation_schedule import EvaluationSchedule
from .folders import last_checkpoint, list_checkpoints, resumable, run_folder, step_of
from .metrics_log import MetricsLog
from .recipes import TrainingRecipe
from .sharding import gather, gather_weights, shard_optimizer_state, shard_weights

SUMS = "SHA256SUMS"
# Flags that name data, and the files of a folder that are read.
_DATA: dict[str, tuple[str, ...]] = {"train_file": ("**/*",), "questions_file": ("**/*",), "vocabulary_file": ("**/*",)}
_DATA |= {"validation_file": ("**/*",), "validation_questions_file": ("**/*",)}
_DATA |= {"tokenizer_name": ("tokenizer*.json",)}
_DATA |= {"model_name_or_path": ("config.json", "*.safetensors", "tokenizer*.json")}


class Checkpointer:
    """Saves and restores everything that training changes. All processes must make the same calls.

    Args:
        recipe: Recipe of the run.
        accelerator: Its `Accelerator`.
        steps: Steps of the run.
        log: The metrics log, whose sums are part of a checkpoint.
        evaluation: The evaluations, whose best result is part of a checkpoint.
        model: The model that is trained; under FSDP2 each process has a shard of it.
        whole: A model with unsharded weights. Without FSDP2 it is `model` itself.
        optimizers: In the order of `build_optimizers`.
        schedulers: One for each optimizer.
        averaged: Averaged weights, or None.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        accelerator: Accelerator,
        steps: TrainingSteps | StreamedSteps,
        log: MetricsLog,
        evaluation: EvaluationSchedule,
        model: nn.Module,
        whole: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        averaged: AveragedModel | None,
    ):
        self.recipe, self.accelerator, self.steps, self.log = recipe, accelerator, steps, log
        self.evaluation, self.model, self.whole = evaluation, model, whole
        self.optimizers, self.schedulers, self.averaged = optimizers, schedulers, averaged
        self.data = hash_data(recipe)  # hashed at the start: the files may change while the run trains
        self.other_branch = list_checkpoints(run_folder(recipe))  # later than the start: neither counted nor removed

    def load(self, checkpoint: Path) -> int:
        """Restores a checkpoint and returns its step.

        Raises:
            ValueError: If training.pt contains anything but tensors and numbers. No code in it is run.
        """
        load_model(self.whole, str(checkpoint / "model.safetensors"))
        try:
            training = torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{checkpoint / 'training.pt'} contains more than tensors and numbers: resume from another checkpoint."
            ) from error
        for optimizer, saved in zip(self.optimizers, training["optimizers"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            optimizer.load_state_dict(shard_optimizer_state(saved, parameters))
        for scheduler, saved in zip(self.schedulers, training["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if self.averaged:
            self.averaged.load_state_dict(training["averaged"])
        state = read_state(checkpoint)
        shard_weights(self.whole, self.model)
        self.log.resume(state)
        self.evaluation.resume(state.get("evaluation"), checkpoint.parent)
        if self.accelerator.scaler and state.get("scaler"):  # the loss scale of fp16
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.accelerator.wait_for_everyone()
        self.other_branch = [path for path in self.other_branch if step_of(path) > state["step"]]
        return state["step"]

    def save(self, step: int) -> None:
        """Writes the checkpoint of a step, then removes the oldest checkpoints over `save_total_limit`.

        Raises:
            FloatingPointError: If a weight is not finite. Such weights are never saved.
            OSError: If the checkpoint cannot be written. Earlier checkpoints are kept.
        """
        state = {**self.log.state(), "learning_rate": self.schedulers[0].get_last_lr()[0], "data": self.data}
        state["scaler"] = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        state |= {"evaluation": self.evaluation.state(), "step": step, "examples_per_step": self.steps.shape.total}
        state["learned_masking_policy"] = LEARNED_POLICY if uses_learned_policy(self.recipe) else None
        state["recipe"] = dataclasses.asdict(self.recipe)
        training = {
            "optimizers": [gather(optimizer.state_dict()) for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "averaged": self.averaged.state_dict() if self.averaged else None,
        }
        gather_weights(self.model, self.whole)
        if self.accelerator.is_main_process:
            self._write(step, training, state)
            self.other_branch = [path for path in self.other_branch if step_of(path) != step]  # replaced just now
            mine = [path for path in list_checkpoints(run_folder(self.recipe)) if path not in self.other_branch]
            for old in mine[: -self.recipe.save_total_limit]:
                remove_folder(old)
            self.evaluation.remove_unused()
        self.accelerator.wait_for_everyone()

    def _write(self, step: int, training: dict[str, Any], state: dict[str, Any]) -> None:
        if bad := [name for name, weight in self.whole.named_parameters() if not torch.isfinite(weight).all()]:
            raise FloatingPointError(
                f"{bad[0]} is not finite after step {step}; the last checkpoint is {last_checkpoint(self.recipe)}. "
                f"Lower the learning rate, {self.recipe.learning_rate}."
            )
        with resumable(self.recipe), folder_written_aside(run_folder(self.recipe) / f"checkpoint-{step}") as aside:
            save_model(self.whole, str(aside / "model.safetensors"))
            torch.save(training, aside / "training.pt")
            (aside / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
            (aside / SUMS).write_text(sums_of(aside), encoding="utf-8")


def hash_data(recipe: TrainingRecipe) -> dict[str, str]:
    """The SHA-256 of the file or folder that each data flag names. Hub names and missing files have none."""
    hashes = {}
    for name, patterns in _DATA.items():
        path = Path(getattr(recipe, name, None) or os.devnull)
        if path.is_file():
            hashes[name] = sha256_of(path)
        elif path.is_dir():
            hashes[name] = hash_folder(path, *patterns)
    return hashes


def uses_learned_policy(recipe: TrainingRecipe) -> bool:
    """Whether a recipe is one of pretraining with the learned masking policy."""
    return getattr(recipe, "learned_masking_policy", False)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Reads state.json of a checkpoint.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not the state of a checkpoint.
    """
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        state = None
    types = {"step": int, "examples_per_step": int, "recipe": dict}
    if (
        not isinstance(state, dict)
        or not all(isinstance(state.get(key), type_) for key, type_ in types.items())
        or not isinstance(state.get("data", {}), dict)
    ):
        raise ValueError(f"{path} is not the state of a checkpoint.")
    return state


def sums_of(checkpoint: Path) -> str:
    """The checksums of a checkpoint's files, in the format of the command `sha256sum`."""
    files = sorted(path for path in checkpoint.iterdir() if path.name != SUMS)
    return "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is complete and undamaged."""
    try:
        read_state(checkpoint)
        return (checkpoint / SUMS).read_text(encoding="utf-8") == sums_of(checkpoint)
    except (OSError, ValueError):
        return False
