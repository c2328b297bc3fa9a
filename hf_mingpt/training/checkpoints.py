"""Checkpoints: where a run stands, written so that it may die at any moment and go on as if it had not.

After recipes in the flow. A checkpoint is the folder `checkpoint-N` of a run, N its step: weights, optimizers and
schedules, the sums of the log in state.json, and SHA256SUMS, as of the command sha256sum. It is written under another
name and renamed when it is whole; what is damaged later is found by the sums.

No random state is in it: a step's batches and dropout are functions of the seed and the number of the step.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ..system.fields import with_present_names
from ..system.files import hash_folder, sha256_of
from ..system.writing import UNFINISHED, explain, flush
from .recipes import TrainingRecipe
from .sharding import gather, spread_optimizer_state

IGNORE_PATTERNS = ("checkpoint-*", "checkpoints/*")  # the names of all checkpoints, for a push
SUMS = "SHA256SUMS"
# What may change when a run goes on: none of it changes what is learnt. The batch may be cut up in another way.
_MAY_CHANGE = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
_MAY_CHANGE |= {"logging_steps", "report_to", "push_to_hub", "hub_model_id", "hub_private_repo"}
_MAY_CHANGE |= {"use_cpu", "dataloader_num_workers", "per_device_train_batch_size", "gradient_accumulation_steps"}
_MAY_CHANGE |= {"num_train_epochs", "max_steps", "decay_ratio"}  # training.checkpoint_to_resume looks at them

# The flags that name data, and which files of a folder are read.
_DATA: dict[str, tuple[str, ...]] = {"train_file": ("**/*",), "questions_file": ("**/*",), "vocabulary_file": ("**/*",)}
_DATA |= {"tokenizer_name": ("tokenizer*.json",)}
_DATA |= {"model_name_or_path": ("config.json", "*.safetensors", "tokenizer*.json")}


def training_state(
    optimizers: Sequence[torch.optim.Optimizer], schedulers: Sequence[Any], averaged: AveragedModel | None
) -> dict[str, Any]:
    """What a checkpoint keeps of what trains the model. Every process must call it: it gathers what is sharded."""
    return {
        "optimizers": [gather(optimizer.state_dict()) for optimizer in optimizers],
        "schedulers": [scheduler.state_dict() for scheduler in schedulers],
        "averaged": averaged.state_dict() if averaged else None,
    }


def place_beside(output_dir: str | Path) -> Path:
    """Where a run is written that is to take the place of another one in `output_dir`."""
    folder = Path(os.path.realpath(output_dir))
    return folder.with_name(f"{folder.name}.unfinished")


def run_folder(recipe: TrainingRecipe) -> Path:
    """Where a run is written until it is finished: its output folder, or the one beside it (`hub.start_run`)."""
    beside = place_beside(recipe.output_dir)
    return beside if (beside / "recipe.json").is_file() else Path(recipe.output_dir)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, whole or not, from the oldest to the newest."""
    before = folder.glob("checkpoints/step-*")  # what they were called at first
    candidates = [path for path in (*before, *folder.glob("checkpoint-*")) if (path / "state.json").is_file()]
    return sorted((path for path in candidates if re.search(r"-\d+$", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which it was written, by its name."""
    return int(checkpoint.name.split("-")[-1])


def save_checkpoint(
    recipe: TrainingRecipe,
    step: int,
    model: nn.Module,
    training: dict[str, Any],
    examples_per_step: int,
    keep: Collection[Path] = (),
    **state: Any,
) -> Path:
    """Writes the checkpoint of a step, then removes the oldest ones over `save_total_limit`. For the main process.

    Args:
        model: with whole weights.
        training: from `training_state`.
        examples_per_step: over all processes and micro-batches.
        keep: checkpoints that are neither counted nor removed: those of another branch of the run.
        state: what else `load_checkpoint` shall give back; values that JSON can hold.

    Raises:
        FloatingPointError: if a weight is not finite, so that no checkpoint ever holds such a one.
        OSError: if it cannot be written; the checkpoints that are there are left as they are.
    """
    if bad := [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]:
        raise FloatingPointError(
            f"{bad[0]} is not finite after step {step}; the last checkpoint is {last_checkpoint(recipe)}. Lower the "
            f"learning rate, {recipe.learning_rate}."
        )
    folder = run_folder(recipe)
    target = folder / f"checkpoint-{step}"
    unfinished = target.with_name(UNFINISHED + target.name)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_model(model, str(unfinished / "model.safetensors"))
        torch.save(training, unfinished / "training.pt")
        content = {
            **state,
            "step": step,
            "examples_per_step": examples_per_step,
            "recipe": dataclasses.asdict(recipe),
        }
        (unfinished / "state.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (unfinished / SUMS).write_text(sums_of(unfinished), encoding="utf-8")
        for path in (*unfinished.iterdir(), unfinished):
            flush(path)
        _remove(target)
        unfinished.rename(target)
        flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # as torch and safetensors call a full disk
        why = explain(error, folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(
            f"The checkpoint of step {step} could not be written ({why}); the last one is {last_checkpoint(recipe)}. "
            "Go on with --resume_from_checkpoint latest when it can."
        ) from error
    for old in [path for path in list_checkpoints(folder) if path not in keep][: -recipe.save_total_limit]:
        _remove(old)
    return target


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint, of which no part ever has its name."""
    if checkpoint.exists():
        gone = checkpoint.with_name(f"{UNFINISHED}removal-of-{checkpoint.name}")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(checkpoint.rename(gone))


def last_checkpoint(recipe: TrainingRecipe) -> Path | None:
    """The newest checkpoint of the run, whole or not; None if it has none."""
    return next(reversed(list_checkpoints(run_folder(recipe))), None)


def find_checkpoint(recipe: TrainingRecipe, examples_per_step: int) -> Path:
    """The checkpoint that `resume_from_checkpoint` means: a folder, or with "latest" the newest whole one of the run.

    Args:
        examples_per_step: over all processes and micro-batches: these may be others than before, but not their product.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the named one is damaged, or was made with another recipe.
    """
    if recipe.resume_from_checkpoint == "latest":
        run = run_folder(recipe)
        checkpoint = next((c for c in reversed(list_checkpoints(run)) if _is_whole(c)), None)
        if checkpoint is None:
            raise FileNotFoundError(
                f"{run} has no whole checkpoint to resume: start anew (--overwrite_output_dir), and with --save_steps."
            )
    else:
        checkpoint = Path(str(recipe.resume_from_checkpoint))
        if not (checkpoint / "state.json").is_file():
            raise FileNotFoundError(f"No checkpoint at {checkpoint}: name a folder checkpoint-N, or latest.")
        if not _is_whole(checkpoint):
            raise ValueError(f"The checkpoint {checkpoint} is damaged: resume from another, or from latest.")
    state = read_state(checkpoint)
    state |= {name: with_present_names(type(recipe), state.get(name, {})) for name in ("recipe", "data")}
    moved = moved_data(recipe, state, checkpoint)
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}  # of fields that are newer than it
    saved = {**defaults, **state["recipe"], "examples of a step": state["examples_per_step"]}
    present = {**json.loads(json.dumps(dataclasses.asdict(recipe))), "examples of a step": examples_per_step}
    may_change = _MAY_CHANGE | moved
    if changed := [name for name in present if name not in may_change and saved.get(name) != present[name]]:
        changes = ", ".join(f"{name} {saved.get(name)!r}, now {present[name]!r}" for name in changed)
        raise ValueError(f"The checkpoint {checkpoint} was made with another recipe: {changes}. Resume with the same.")
    return checkpoint


def hash_data(recipe: TrainingRecipe) -> dict[str, str]:
    """The sha256 of what each data flag of a recipe names: of a file, or of the files of a folder that are read.

    What is on the Hub, or not there, has none.
    """
    hashes = {}
    for name, patterns in _DATA.items():
        path = Path(getattr(recipe, name, None) or os.devnull)
        if path.is_file():
            hashes[name] = sha256_of(path)
        elif path.is_dir():
            hashes[name] = hash_folder(path, *patterns)
    return hashes


def moved_data(recipe: TrainingRecipe, state: dict[str, Any], checkpoint: Path) -> set[str]:
    """The flags that name what they named when a checkpoint was made, perhaps at another path.

    Raises:
        ValueError: if what one of them names has changed. An older checkpoint has nothing to compare: then paths count.
    """
    before, now = state.get("data", {}), hash_data(recipe)
    same = set()
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise ValueError(
                f"{name} {getattr(recipe, name)} holds something else than when {checkpoint} was made: resume with the "
                "same data, or start a new run."
            )
        # the ending of a file says how it is read
        if Path(str(state["recipe"].get(name))).suffix == Path(getattr(recipe, name)).suffix:
            same.add(name)
    return same


def load_checkpoint(
    checkpoint: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    schedulers: Sequence[Any],
    averaged: AveragedModel | None = None,
) -> dict[str, Any]:
    """Puts a checkpoint into a model with whole weights and what trains it, and gives its `state` back, with `step`.

    Raises:
        ValueError: if a file of it holds more than tensors and numbers: nothing of it is run.
    """
    load_model(model, str(checkpoint / "model.safetensors"))
    try:
        training = torch.load(checkpoint / "training.pt", map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint / 'training.pt'} holds more than tensors and numbers: it is not ours."
        ) from error
    for optimizer, saved in zip(optimizers, training["optimizers"], strict=True):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        optimizer.load_state_dict(spread_optimizer_state(saved, parameters))
    for scheduler, saved in zip(schedulers, training["schedulers"], strict=True):
        scheduler.load_state_dict(saved)
    if averaged:
        averaged.load_state_dict(training["averaged"])
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What state.json of a checkpoint says.

    Raises:
        OSError, ValueError: if it cannot be read, or is none.
    """
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is no state of a checkpoint.") from error
    types = {"step": int, "examples_per_step": int, "recipe": dict}
    if not isinstance(state, dict) or not all(isinstance(state.get(key), type_) for key, type_ in types.items()):
        raise ValueError(f"{path} is no state of a checkpoint.")
    if not isinstance(state.get("data", {}), dict):
        raise ValueError(f"{path} is no state of a checkpoint.")
    return state


def sums_of(folder: Path) -> str:
    """The sha256 of every file in a checkpoint, as the command sha256sum writes it."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def _is_whole(checkpoint: Path) -> bool:
    try:
        read_state(checkpoint)
        return (checkpoint / SUMS).read_text(encoding="utf-8") == sums_of(checkpoint)
    except (OSError, ValueError):
        return False
