"""Held-out evaluation while a model trains: when it is due, which one is best, and when to stop early.

The model that is evaluated is a copy of the one that trains, with averaged weights if the run keeps them: what would be
saved. So an evaluation touches neither the trained weights nor anything else that training reads, and the trained
weights are the same bits with and without it.

With `load_best_model_at_end`, the best weights lie in `checkpoint-best-N` of the run folder, N their step, written
aside and renamed. Those that a checkpoint refers to are kept, so that a run that resumes has its best weights.

References: transformers' `Trainer` and `EarlyStoppingCallback`.
"""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

from ..system.writing import folder_written_aside
from .folders import list_checkpoints, resumable, run_folder, step_of
from .metrics_log import MetricsLog
from .recipes import TrainingRecipe
from .sharding import gather_weights

# Returns metrics and samples. Every process must call it, and gets the same metrics.
Evaluate = Callable[[Any], tuple[dict[str, float], list[dict[str, str]]]]
BEST = "checkpoint-best-"


class EvaluationSchedule:
    """Evaluates the model every `eval_steps` and at the end, and keeps the best weights.

    Args:
        recipe: Recipe of the run.
        accelerator: Its `Accelerator`.
        evaluate: A function of a model in evaluation mode, which stays as it is. None: there are no evaluations.
        model: The model before `accelerator.prepare`.
    """

    def __init__(
        self, recipe: TrainingRecipe, accelerator: Accelerator, evaluate: Evaluate | None, model: PreTrainedModel
    ):
        self.recipe, self.accelerator, self.evaluate = recipe, accelerator, evaluate
        self.copy: nn.Module = copy.deepcopy(model).to(accelerator.device).eval() if evaluate else nn.Identity()
        self.last_step = 0  # that was evaluated
        self.best: float | None = None
        self.best_step: int | None = None
        self.number_not_better = 0  # evaluations since the best one

    @property
    def stops(self) -> bool:
        """Whether early stopping ends the run."""
        patience = self.recipe.early_stopping_patience
        return patience is not None and self.number_not_better >= patience

    def run_if_due(self, step: int, max_steps: int, weights: nn.Module, log: MetricsLog) -> None:
        """Evaluates after a step where an evaluation is due. Every process must call it.

        Args:
            step: Steps so far.
            max_steps: Of the run.
            weights: The model that holds the weights to evaluate: the trained or the averaged ones.
            log: Gets the metrics.

        Raises:
            OSError: If the best weights cannot be written.
        """
        is_due = step == max_steps or (self.recipe.eval_steps and step % self.recipe.eval_steps == 0)
        if self.evaluate is None or not is_due or step <= self.last_step:
            return
        started = time.perf_counter()
        gather_weights(weights, self.copy)
        metrics, samples = self.evaluate(self.copy)
        self.last_step = step
        self.number_not_better += 1
        value = metrics[self.recipe.best_metric]
        if is_better(value, self.best, greater=self.recipe.greater_is_best):
            self.best, self.best_step, self.number_not_better = value, step, 0
            if self.recipe.load_best_model_at_end:
                self._save_best()
        log.add_evaluation(step, metrics, samples, seconds=time.perf_counter() - started)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("last_step", "best", "best_step", "number_not_better")}

    def resume(self, state: dict[str, Any] | None, folder: Path) -> None:
        """Restores the `state` of a checkpoint, and brings the best weights from its run folder.

        Raises:
            ValueError: If the best weights are not there.
        """
        for name, value in (state or {}).items():
            setattr(self, name, value)
        if not (self.recipe.load_best_model_at_end and self.best_step):
            return
        source, target = (parent / f"{BEST}{self.best_step}" for parent in (folder, run_folder(self.recipe)))
        if not (source / "model.safetensors").is_file():
            raise ValueError(f"{source}, the best weights so far, does not exist: resume from another checkpoint.")
        if self.accelerator.is_main_process and source.resolve() != target.resolve():
            with folder_written_aside(target) as aside:
                shutil.copytree(source, aside, dirs_exist_ok=True)
        self.accelerator.wait_for_everyone()

    def load_best(self, whole: nn.Module) -> None:
        """Loads the best weights if the recipe asks for them. Without them, the weights stay as they are."""
        if self.recipe.load_best_model_at_end and self.best_step:
            load_model(whole, str(run_folder(self.recipe) / f"{BEST}{self.best_step}" / "model.safetensors"))

    def remove_unused(self) -> None:
        """Removes best weights that are neither the present ones nor those of a checkpoint."""
        folder = run_folder(self.recipe)
        used = {self.best_step}
        for checkpoint in list_checkpoints(folder):
            with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one uses nothing
                used.add(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["evaluation"]["best_step"])
        for path in folder.glob(f"{BEST}[0-9]*"):
            if step_of(path) not in used:
                shutil.rmtree(path)

    def _save_best(self) -> None:
        if self.accelerator.is_main_process:
            target = run_folder(self.recipe) / f"{BEST}{self.best_step}"
            with resumable(self.recipe), folder_written_aside(target) as aside:
                save_model(self.copy, str(aside / "model.safetensors"))
            self.remove_unused()
        self.accelerator.wait_for_everyone()


def is_better(value: float, best: float | None, *, greater: bool) -> bool:
    """Whether a metric is better than the best one so far. An equal one is not, and neither is NaN."""
    if best is None:
        return not math.isnan(value)
    return value > best if greater else value < best
