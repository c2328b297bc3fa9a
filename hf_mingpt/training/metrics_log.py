"""The metrics of a run while it trains: the progress bar, metrics.jsonl, and the trackers."""

import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..data.steps import StreamedSteps, TrainingSteps
from ..system.writing import explain, write_text
from .folders import last_checkpoint, resumable, run_folder
from .recipes import TrainingRecipe
from .trackers import log_to_trackers

SAMPLES = "samples.jsonl"


class MetricsLog:
    """Logs a run to the progress bar, to metrics.jsonl, and to the trackers.

    The loop adds the loss of each micro-batch to `loss`, a scalar tensor that stays on the device between log lines,
    and its tokens to `tokens`. Both belong to this process; they are reduced over all processes for a log line.
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
        self.step, self.seconds = 0, 0.0  # of the last line
        self.tokens = 0  # since the last line
        self.shown: dict[str, str] = {}  # in the progress bar

    def end_step(self, step: int, learning_rate: float) -> None:
        """Counts a step, and every `logging_steps` writes a line.

        A line has `step`, `epoch`, `loss` (cross entropy per label token, mean over the steps since the last line),
        `learning_rate`, `tokens_per_second` (of all processes, without padding) and `seconds` (since the run began).

        Raises:
            FloatingPointError: If the loss is not finite. An accelerator checks it only where a line is due, because
                reading the loss would make the host wait.
            OSError: If metrics.jsonl cannot be written.
        """
        self.progress.update()
        due = step % self.recipe.logging_steps == 0 or step == self.max_steps
        if (due or self.loss.device.type == "cpu") and not math.isfinite(self.loss.item()):
            raise FloatingPointError(self._describe_failure(step))
        if due:
            self._write_line(step, learning_rate)

    def add_evaluation(
        self, step: int, metrics: dict[str, float], samples: Sequence[dict[str, str]], *, seconds: float
    ) -> None:
        """Writes a line with the metrics of an evaluation, whose names begin with `eval_`, and prints its samples.

        The samples go to samples.jsonl, which is not published: they are texts of the user's.

        Args:
            step: After which the model was evaluated.
            metrics: Of all processes.
            samples: With `prompt`, `prediction` and `reference`.
            seconds: That it took. They do not count for `tokens_per_second`.
        """
        self.seconds += seconds
        record = {"step": step, "epoch": self._epoch(step), **metrics}
        if self.accelerator.is_main_process:
            self._append(self.path, json.dumps(record) + "\n")
            lines = (json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n" for sample in samples)
            self._append(self.path.with_name(SAMPLES), "".join(lines))
        self._track(record)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        texts = (f"\n  {s['prompt']!r} → {s['prediction']!r} (reference: {s['reference']!r})" for s in samples)
        self.say(f"Step {step}: {shown}{''.join(texts)}")
        names = ("eval_loss", "eval_accuracy")
        self.shown |= {name: f"{metrics[name]:.3f}" for name in names if name in metrics}
        self.progress.set_postfix(self.shown)

    def stop_early(self, step: int, learning_rate: float) -> None:
        """Writes the last line of a run that ends before `max_steps`."""
        if step > self.step:
            self._write_line(step, learning_rate)
        self.say(f"Stopped early after step {step}: the evaluations no longer get better.")

    def say(self, sentence: str) -> None:
        """Prints above the progress bar, on the main process only."""
        if self.accelerator.is_main_process:
            self.progress.write(sentence)

    def _epoch(self, step: int) -> float | None:
        steps_per_epoch = self.steps.steps_per_epoch
        return round(step / steps_per_epoch, 3) if steps_per_epoch else None

    def _write_line(self, step: int, learning_rate: float) -> None:
        seconds = time.perf_counter() - self.started
        record = {
            "step": step,
            "epoch": self._epoch(step),
            "loss": self.accelerator.reduce(self.loss).item() / (step - self.step),
            "learning_rate": learning_rate,
            "tokens_per_second": round(self._count_all_tokens() / (seconds - self.seconds), 1),
            "seconds": round(seconds, 2),
        }
        self.loss.zero_()
        self.step, self.tokens, self.seconds = step, 0, seconds
        if self.accelerator.is_main_process:
            self._append(self.path, json.dumps(record) + "\n")
        self._track(record)
        self.shown |= {"loss": f"{record['loss']:.3f}", "tok_s": f"{record['tokens_per_second']:.0f}"}
        self.progress.set_postfix(self.shown)

    def _track(self, record: dict[str, Any]) -> None:
        step = record["step"]
        values = {name: value for name, value in record.items() if value is not None and name != "step"}
        log_to_trackers(self.accelerator, values, step)

    def state(self) -> dict[str, Any]:
        """The sums since the last line, for a checkpoint. Every process must call it."""
        losses = self.accelerator.gather(self.loss[None]).tolist()
        seconds = time.perf_counter() - self.started
        return {"losses": losses, "log": [self.step, self._count_all_tokens(), self.seconds], "elapsed": seconds}

    def resume(self, state: dict[str, Any]) -> None:
        """Restores the sums in the state of a checkpoint, and drops the lines that will be written again."""
        losses, rank = state["losses"], self.accelerator.process_index
        if len(losses) == self.accelerator.num_processes:
            self.loss.fill_(losses[rank])
        elif rank == 0:
            self.loss.fill_(sum(losses))
        self.step, tokens, self.seconds = state["log"]
        self.tokens = tokens if rank == 0 else 0
        self.started = time.perf_counter() - state["elapsed"]
        self.progress.update(state["step"])
        last_evaluation = (state.get("evaluation") or {}).get("last_step", 0)  # earlier versions had none
        for path in (self.path, self.path.with_name(SAMPLES)) if self.accelerator.is_main_process else ():
            if path.exists():
                kept = []
                with suppress(ValueError):  # a log that a power cut has damaged should not keep the run from resuming
                    for record in read_log(path):
                        last_step = self.step if "loss" in record else last_evaluation
                        kept += [record] * (record["step"] <= last_step)
                write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def _count_all_tokens(self) -> int:
        return int(self.accelerator.reduce(torch.tensor(self.tokens, device=self.accelerator.device)).item())

    def _append(self, path: Path, lines: str) -> None:
        size = path.stat().st_size if path.exists() else 0
        with resumable(self.recipe):
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(lines)
            except OSError as error:
                why = explain(error, path.parent)
                with suppress(OSError):
                    os.truncate(path, size)
                raise OSError(f"{path} could not be written: {why}.") from error

    def _describe_failure(self, step: int) -> str:
        since = "" if self.loss.device.type == "cpu" else f", or at an earlier step after {self.step}"
        documents = ""
        if isinstance(self.steps, TrainingSteps):
            index = self.steps.index(step - 1)  # TrainingSteps counts from 0
            documents = f" Documents of this step, counted from 0: {', '.join(map(str, np.sort(index)))}."
        return (
            f"The loss is {self.loss.item()} at step {step}{since}; the last checkpoint is "
            f"{last_checkpoint(self.recipe)}. Lower the learning rate, {self.recipe.learning_rate}.{documents}"
        )


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a metrics.jsonl. An incomplete last line, of a run that was killed, is left out.

    Raises:
        ValueError: If a line is not a record of metrics.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise ValueError(f"{path}, line {number}: this is not a record of metrics.")
        yield record


def summarize_log(recipe: TrainingRecipe) -> dict[str, Any]:
    """Summarizes metrics.jsonl of a finished run for run.json.

    Returns:
        `training_seconds`, without interruptions. After evaluations also `validation`, the metrics of the weights that
        the run ends with and their step, and `best_step`.
    """
    records: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):  # a damaged log must not cost the weights
        records = list(read_log(run_folder(recipe) / "metrics.jsonl"))
    seconds = [0.0, *(record["seconds"] for record in records if "seconds" in record)]
    summary: dict[str, Any] = {"training_seconds": round(seconds[-1], 1)}
    metric = recipe.best_metric
    if evaluations := [record for record in records if metric in record]:
        numbers = [record for record in evaluations if not math.isnan(record[metric])]
        choose = max if recipe.greater_is_best else min  # the first of equal ones
        best = choose(numbers or evaluations[-1:], key=itemgetter(metric))
        final = best if recipe.load_best_model_at_end else evaluations[-1]
        summary["best_step"] = best["step"]
        summary["validation"] = {name: value for name, value in final.items() if name in ("step", *recipe.metrics)}
    return summary
