"""The log of a run: the progress bar, metrics.jsonl, and the tracker if there is one."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.steps import StreamedSteps, TrainingSteps
from ..system.writing import explain, write_text
from .checkpoints import (
    last_checkpoint,
    run_folder,
)
from .recipes import TrainingRecipe

logger = logging.getLogger(__name__)


class MetricsLog:
    """What is seen of a run while it goes on: the progress bar, metrics.jsonl, and the tracker if there is one.

    The loop adds each micro-batch's loss to `loss`, a tensor that stays on the device between two lines of the log, and
    its tokens to `tokens`; both are of this process until a line is written.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        accelerator: Accelerator,
        steps: TrainingSteps | StreamedSteps,
        max_steps: int,
    ):
        self.recipe, self.accelerator, self.steps, self.max_steps = recipe, accelerator, steps, max_steps
        self.path = run_folder(recipe) / "metrics.jsonl"
        self.loss = torch.zeros((), device=accelerator.device)
        self.progress = tqdm(total=max_steps, unit="step", disable=not accelerator.is_main_process)
        self.started = time.perf_counter()
        self.step, self.tokens, self.seconds = 0, 0, 0.0  # at, since and at the last line

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs in order that the lines after it are what they would have been."""
        losses = self.accelerator.gather(self.loss[None]).tolist()
        seconds = time.perf_counter() - self.started
        return {"losses": losses, "log": [self.step, self.count_all_tokens(), self.seconds], "elapsed": seconds}

    def count_all_tokens(self) -> int:
        """The tokens since the last line, of all processes."""
        return int(self.accelerator.reduce(torch.tensor(self.tokens, device=self.accelerator.device)).item())

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from the `state` of a checkpoint, and takes back the lines that were written after it."""
        losses, rank = state["losses"], self.accelerator.process_index
        if len(losses) == self.accelerator.num_processes:
            self.loss.fill_(losses[rank])
        elif rank == 0:
            self.loss.fill_(sum(losses))
        self.step, tokens, self.seconds = state["log"]
        self.tokens = tokens if rank == 0 else 0
        self.started = time.perf_counter() - state["elapsed"]
        self.progress.update(state["step"])
        if self.accelerator.is_main_process and self.path.exists():
            kept = []
            with suppress(ValueError):  # a log that a power cut has damaged is no reason not to go on
                for record in read_log(self.path):
                    kept += [record] * (record["step"] <= state["step"])
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def end_step(self, step: int, learning_rate: float) -> None:
        """Counts a step, and writes a line where one is due.

        Raises:
            FloatingPointError: if the loss is not finite; on a GPU, which is not asked in between, where a line is due.
        """
        self.progress.update()
        due = step % self.recipe.logging_steps == 0 or step == self.max_steps
        if (due or self.loss.device.type == "cpu") and not math.isfinite(self.loss.item()):
            raise FloatingPointError(self.describe_failure(step))
        if not due:
            return
        seconds = time.perf_counter() - self.started
        steps_per_epoch = self.steps.steps_per_epoch
        record = {
            "step": step,
            "epoch": round(step / steps_per_epoch, 3) if steps_per_epoch else None,
            "loss": self.accelerator.reduce(self.loss).item() / (step - self.step),
            "learning_rate": learning_rate,
            "tokens_per_second": round(self.count_all_tokens() / (seconds - self.seconds), 1),
            "seconds": round(seconds, 2),
        }
        self.loss.zero_()
        self.step, self.tokens, self.seconds = step, 0, seconds
        if self.accelerator.is_main_process:
            self._append(json.dumps(record) + "\n")
        values = {name: value for name, value in record.items() if value is not None and name != "step"}
        try:
            self.accelerator.log(values, step=step)
        except Exception as error:  # each tracker has errors of its own, and none of them shall end a run
            logger.warning(f"{self.recipe.report_to} failed and gets no more metrics ({error}); {self.path} has all.")
            self.accelerator.trackers.clear()
        self.progress.set_postfix(loss=f"{record['loss']:.3f}", tok_s=f"{record['tokens_per_second']:.0f}")
        if step == self.max_steps:
            self.progress.close()

    def _append(self, line: str) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            why = explain(error, self.path.parent)
            with suppress(OSError):
                os.truncate(self.path, size)
            raise OSError(
                f"{self.path} could not be written ({why}); the last checkpoint is {last_checkpoint(self.recipe)}. "
                "Go on with --resume_from_checkpoint latest when it can."
            ) from error

    def describe_failure(self, step: int) -> str:
        """What to know of a loss that is not finite: since when, on which documents, and where to go on."""
        since = "" if self.loss.device.type == "cpu" else f", or between step {self.step} and it"
        documents = ""
        if isinstance(self.steps, TrainingSteps):
            index = self.steps.index(step - 1)  # steps are counted from 0 there
            documents = f" Its documents, counted from 0: {', '.join(map(str, np.sort(index)))}."
        return (
            f"The loss is {self.loss.item()} at step {step}{since}; the last checkpoint is "
            f"{last_checkpoint(self.recipe)}. Lower the learning rate, {self.recipe.learning_rate}.{documents}"
        )


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a metrics.jsonl, without a last one that its writer did not finish.

    Raises:
        ValueError: if it is no such file.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f"{path}, line {number}: this is no line of a run's metrics.")
        yield record
