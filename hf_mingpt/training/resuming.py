"""Resuming: which checkpoint a run continues from, and whether it is a checkpoint of this run.

A run resumes bit-exactly with the same recipe, the same data, and the same number of examples per step. What does not
change the result may change (`_MAY_CHANGE`), and the length of the run may change as long as the learning rate up to
the checkpoint does not. So runs of different lengths can branch off one checkpoint.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.masking_policy import LEARNED_POLICY
from ..data.steps import StreamedSteps, TrainingSteps
from ..system.fields import with_present_names, without_constants
from .checkpoints import hash_data, is_whole, read_state, uses_learned_policy
from .folders import list_checkpoints, run_folder
from .optimization import build_scheduler, count_steps
from .recipes import TrainingRecipe

# Fields that do not change what is learned. A step's examples may be divided into micro-batches differently.
_MAY_CHANGE = {"output_dir", "overwrite_output_dir", "resume_from_checkpoint", "save_steps", "save_total_limit"}
_MAY_CHANGE |= {"logging_steps", "report_to", "push_to_hub", "hub_model_id", "hub_private_repo"}
_MAY_CHANGE |= {"use_cpu", "dataloader_num_workers", "per_device_train_batch_size", "gradient_accumulation_steps"}
_MAY_CHANGE |= {"auto_find_batch_size", "eval_steps", "early_stopping_patience"}
_MAY_CHANGE |= {"num_train_epochs", "max_steps", "decay_ratio"}  # checkpoint_to_resume compares the learning rate


def checkpoint_to_resume(recipe: TrainingRecipe, steps: TrainingSteps | StreamedSteps) -> Path:
    """The checkpoint that `resume_from_checkpoint` names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, was made with another recipe or other data, has another learning rate than this
            run has at that step, or is past the end of this run.
    """
    checkpoint = find_checkpoint(recipe, steps.shape.total)
    state = read_state(checkpoint)
    step, learning_rate = state["step"], state["learning_rate"]
    max_steps, decay_steps = count_steps(recipe, steps.steps_per_epoch)
    if step > max_steps:
        raise ValueError(f"{checkpoint} is past step {max_steps}, the last of this run: resume from an earlier one.")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    (factor,) = build_scheduler(optimizer, recipe, max_steps, decay_steps).lr_lambdas
    if (planned := recipe.learning_rate * factor(step)) != learning_rate:
        raise ValueError(
            f"At step {step} the learning rate is {planned:.3g}, but {learning_rate:.3g} in {checkpoint}: resume with "
            "the same length and decay, or, with lr_scheduler_type warmup_stable_decay, from before the decay of both "
            "runs."
        )
    return checkpoint


def find_checkpoint(recipe: TrainingRecipe, examples_per_step: int) -> Path:
    """The checkpoint that `resume_from_checkpoint` names, a folder or, with "latest", the newest undamaged one.

    Args:
        recipe: Recipe of the run that resumes.
        examples_per_step: Examples of one optimizer step, over all processes and micro-batches.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the named one is damaged, or was made with another recipe or other data.
    """
    if recipe.resume_from_checkpoint == "latest":
        folder = run_folder(recipe)
        checkpoint = next((c for c in reversed(list_checkpoints(folder)) if is_whole(c)), None)
        if checkpoint is None:
            raise FileNotFoundError(
                f"{folder} has no undamaged checkpoint: start again with --overwrite_output_dir instead, and with "
                "--save_steps."
            )
    else:
        checkpoint = Path(str(recipe.resume_from_checkpoint))
        if not (checkpoint / "state.json").is_file():
            raise FileNotFoundError(f"No checkpoint at {checkpoint}: name a folder checkpoint-N, or latest.")
        if not is_whole(checkpoint):
            raise ValueError(f"The checkpoint {checkpoint} is damaged: resume from another, or from latest.")
    _check_recipe(recipe, examples_per_step, checkpoint)
    return checkpoint


def _check_recipe(recipe: TrainingRecipe, examples_per_step: int, checkpoint: Path) -> None:
    state = read_state(checkpoint)
    if uses_learned_policy(recipe) and (policy := state.get("learned_masking_policy")) != LEARNED_POLICY:
        raise ValueError(
            f"The checkpoint {checkpoint} was made with another learned masking policy, {policy or 'logistic'!r}, now "
            f"{LEARNED_POLICY!r}, which masks other names: start a new run, or resume with the version that made it."
        )
    state |= {name: with_present_names(type(recipe), state.get(name, {})) for name in ("recipe", "data")}
    state["recipe"] = without_constants(type(recipe), state["recipe"])
    may_change = _MAY_CHANGE | _unchanged_data(recipe, state, checkpoint)
    defaults = {field.name: field.default for field in dataclasses.fields(recipe)}  # of newer fields
    saved = {**defaults, **state["recipe"], "examples per step": state["examples_per_step"]}
    present = {**json.loads(json.dumps(dataclasses.asdict(recipe))), "examples per step": examples_per_step}
    if changed := [name for name in present if name not in may_change and saved.get(name) != present[name]]:
        changes = ", ".join(f"{name} {saved.get(name)!r}, now {present[name]!r}" for name in changed)
        raise ValueError(f"The checkpoint {checkpoint} was made with another recipe: {changes}. Resume with the same.")


def _unchanged_data(recipe: TrainingRecipe, state: dict[str, Any], checkpoint: Path) -> set[str]:
    """The data flags whose content has not changed since the checkpoint, even if the path has.

    A checkpoint of an earlier version has no hashes; then the paths are compared.

    Raises:
        ValueError: If the content has changed.
    """
    before, now = state.get("data", {}), hash_data(recipe)
    same = set()
    for name in before.keys() & now.keys():
        if before[name] != now[name]:
            raise ValueError(
                f"{name} {getattr(recipe, name)} has changed since {checkpoint} was made: resume with the same data, "
                "or start a new run."
            )
        # the suffix decides how a file is read
        if Path(str(state["recipe"].get(name))).suffix == Path(getattr(recipe, name)).suffix:
            same.add(name)
    return same
