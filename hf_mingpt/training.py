"""Training: device, log, and the one loop of pretraining and finetuning.

After optimization and checkpoints in the flow. A *step* is one optimizer update, over all its micro-batches and
processes. The loss is the sum of the cross entropies divided by the number of label tokens of the whole step, so that
neither accumulation nor the number of processes changes the gradient.
"""

import copy
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from .batching import BatchShape, MicroBatch
from .checkpoints import (
    find_checkpoint,
    hash_data,
    last_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_state,
    run_folder,
    save_checkpoint,
    step_of,
    training_state,
)
from .data import StreamedSteps, TrainingSteps, step_loader
from .launching import PRECISIONS, find_launcher, has_ended, join_processes, launcher_settings
from .optimization import build_optimizers, build_scheduler, count_steps, keep_average
from .recipes import MIXED_PRECISIONS, TrainingRecipe
from .sharding import check_sharding, gather_weights, spread_weights
from .stepping import build_stepper
from .tokenization_mingpt import PAD_ID
from .writing import explain, write_text

logger = logging.getLogger(__name__)

MICRO_BATCH_OVERHEAD = 300  # tokens: 100 for the assignment's model on two cores, more for smaller and faster ones


def hardware_gains_from_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are native there, and not emulated slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def build_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """An Accelerator as the recipe asks for, and where that is silent, the launcher.

    Where both are silent about `mixed_precision`, it is bf16 where the hardware gains from it, and fp16 on other GPUs.

    Raises:
        ValueError: if the package of the tracker is not installed, if the device cannot do that precision, or if the
            way in which accelerate launches is not supported.
    """
    if recipe.report_to and find_spec(recipe.report_to) is None:
        raise ValueError(f"report_to {recipe.report_to!r} is not installed: pip install {recipe.report_to}.")
    precision = recipe.mixed_precision or launcher_settings().get("mixed_precision")
    if precision not in MIXED_PRECISIONS:
        raise ValueError(f"mixed_precision {precision!r} is not supported: launch with {' or '.join(PRECISIONS)}.")
    state = join_processes(use_cpu=recipe.use_cpu)
    device, cores = state.device, psutil.cpu_count(logical=False) or 1
    if device.type == "cpu" and state.num_processes == 1 and torch.get_num_threads() < cores:
        logger.warning(
            f"Training with {torch.get_num_threads()} of {cores} cores, as accelerate launch does on a CPU: give it "
            f"--num_cpu_threads_per_process {cores}."
        )
    if precision is None:
        precision = "bf16" if hardware_gains_from_bf16(device) else "fp16" if device.type == "cuda" else "no"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision 'fp16' needs a GPU, and this is a CPU: give --mixed_precision bf16 or no.")
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with=recipe.report_to,
        project_dir=recipe.output_dir,
        dynamo_backend="no",  # train compiles what torch_compile says
    )
    check_sharding(recipe, accelerator)
    return accelerator


def batch_shape(recipe: TrainingRecipe, accelerator: Accelerator, block_size: int) -> BatchShape:
    """How the recipe's batches are dealt out to the processes that there are, for a model of that block.

    Widths are multiples of 8: oneDNN compiles and keeps a kernel for every shape, which for all the widths of a corpus
    takes a gigabyte, and tensor cores want it so too. On a GPU they are multiples of 16, as each shape is recorded.
    """
    return BatchShape(
        recipe.per_device_train_batch_size,
        recipe.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
        # no row gets longer than the block
        pad_to_multiple_of=math.gcd(16 if accelerator.device.type == "cuda" else 8, block_size),
        padding_free=recipe.padding_free,
        overhead=MICRO_BATCH_OVERHEAD if accelerator.device.type == "cpu" else None,
    )


def attention_for(device: torch.device, block_size: int) -> str:
    """The attention implementation to train with rows of up to that many tokens.

    On a CPU sdpa's backward pass is several times slower than eager attention for short rows, as fast at 512 tokens,
    and twice as fast at 1,024 (docs/scaling.md).
    """
    return "eager" if device.type == "cpu" and block_size <= 512 else "sdpa"


@contextmanager
def bf16_residual_stream(model: PreTrainedModel) -> Iterator[None]:
    """Within it, the residual stream of a model under autocast is bf16, where it would be promoted to float32.

    Autocast makes the matrix products bf16, but adds them to a float32 stream, which each projection then casts anew.
    If the stream is bf16, nothing is cast: the norms read and write bf16 (with float32 weights).
    """
    embeddings = model.base_model.get_submodule("dropout")  # what comes out of it is the stream
    handle = embeddings.register_forward_hook(lambda module, args, output: output.bfloat16())
    try:
        yield
    finally:
        handle.remove()


def checkpoint_to_resume(recipe: TrainingRecipe, steps: TrainingSteps | StreamedSteps) -> Path:
    """The checkpoint that `resume_from_checkpoint` means.

    The run may have become longer or shorter, as long as its learning rate has not come to where that matters: so runs
    of several lengths can branch off one.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or made with another recipe, if its learning rate is not the recipe's at that
            step, or if it is past the end of the run.
    """
    checkpoint = find_checkpoint(recipe, steps.shape.total)
    state = read_state(checkpoint)
    step, rate = state["step"], state["learning_rate"]
    max_steps, decay_steps = count_steps(recipe, steps.steps_per_epoch)
    if step > max_steps:
        raise ValueError(f"{checkpoint} is past the {max_steps} steps of this run: resume from an earlier one.")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    (factor,) = build_scheduler(optimizer, recipe, max_steps, decay_steps).lr_lambdas
    if (planned := recipe.learning_rate * factor(step)) != rate:
        raise ValueError(
            f"At step {step} the learning rate is {planned:.3g}, in {checkpoint} it was {rate:.3g}: resume with the "
            "same length and decay, or, with lr_scheduler_type warmup_stable_decay, from before the decay of both runs."
        )
    return checkpoint


def check_training(
    model: PreTrainedModel, steps: TrainingSteps | StreamedSteps, recipe: TrainingRecipe, accelerator: Accelerator
) -> None:
    """Takes a step with one layer of the model's kind, so that what only the libraries refuse shows before the run.

    Raises:
        ValueError: if a step cannot be taken, or the tracker cannot be imported.
    """
    if recipe.report_to:
        try:
            import_module({"tensorboard": "torch.utils.tensorboard"}.get(recipe.report_to, recipe.report_to))
        except Exception as error:  # whatever a broken package raises
            raise ValueError(f"report_to {recipe.report_to!r} cannot be imported: {error}.") from error
    try:
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = 1
        small = type(model)(config).to(accelerator.device)
        try:
            small.set_attn_implementation(choose_attention(small, recipe, accelerator))
        except (ImportError, ValueError) as error:  # pages of advice
            raise ValueError(
                f"attn_implementation {recipe.attn_implementation!r} cannot be used here: give eager or sdpa."
            ) from error
        optimizers = build_optimizers(small, recipe)
        for optimizer in optimizers:
            build_scheduler(optimizer, recipe, *count_steps(recipe, steps.steps_per_epoch))
        batches = next(step_loader(steps, 1), None)
        if batches is None:
            raise ValueError("There are no examples to learn from.")
        # not accelerator.autocast(): after it, a job that was told on a CPU that it shards (test_processes.py) does not
        types = {"bf16": torch.bfloat16, "fp16": torch.float16}
        precision = types.get(accelerator.mixed_precision)
        with torch.autocast(accelerator.device.type, precision, enabled=precision is not None):
            loss = small(**{name: tensor.to(accelerator.device) for name, tensor in batches[0].items()}).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    except (ImportError, RuntimeError) as error:  # a ValueError speaks for itself
        raise ValueError(f"This run cannot be trained here: {error}") from error


def choose_attention(model: PreTrainedModel, recipe: TrainingRecipe, accelerator: Accelerator) -> str:
    """The attention implementation that the recipe asks for, or the fastest."""
    return recipe.attn_implementation or attention_for(accelerator.device, model.config.max_position_embeddings)


def count_tokens(batch: MicroBatch) -> int:
    """Tokens that are not padding."""
    return int((batch["input_ids"] != PAD_ID).sum())


def unwrap(model: PreTrainedModel) -> PreTrainedModel:
    """The model after training: without accelerate's autocast around its forward, not compiled, and evaluating."""
    for name in ("forward", "_original_forward", "_compiled_call_impl"):
        model.__dict__.pop(name, None)
    model.config.use_cache = True
    return model.eval()


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


class StopSignal:
    """Whether this process has been told to stop, while in the `with` block, so that it saves before it ends.

    SIGTERM tells it, SIGINT (Ctrl-C), and the end of the process that launched it: a launcher that is killed passes no
    signal on. A second Ctrl-C ends it at once.
    """

    def __enter__(self) -> "StopSignal":
        self.received, self.received_at = 0, 0.0  # the number of the signal, and when it came
        self.launcher = find_launcher()
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, _: Any) -> None:
        if number == self.received == signal.SIGINT and time.monotonic() - self.received_at > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received:  # one that is sent to a process and to its group comes twice
            self.received, self.received_at = number, time.monotonic()

    def received_by_any(self, accelerator: Accelerator) -> int:
        """The signal by which any of the processes has been told to stop; 0 if none has. Every process must call it."""
        if not self.received and self.launcher and has_ended(self.launcher):
            self.received = signal.SIGTERM
        received = torch.tensor([self.received], device=accelerator.device)
        return int(accelerator.gather(received).max().item())

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def train(
    model: PreTrainedModel, steps: TrainingSteps | StreamedSteps, recipe: TrainingRecipe, accelerator: Accelerator
) -> PreTrainedModel:
    """Trains the model as the recipe says and returns it, on one process or many.

    Args:
        model: changed in place. Its weights become float32, whatever they were; autocast alone computes in less.
        steps: gives this process's micro-batches of each step.

    Writes a line of JSON every `logging_steps` to `metrics.jsonl` of the output folder: step, epoch, loss (mean over
    those steps, per label token), learning_rate, tokens_per_second (without padding, all processes), seconds.

    Writes a checkpoint every `save_steps`, and when a process gets SIGTERM or SIGINT, or its launcher has ended: then
    the run ends there.

    Raises:
        FloatingPointError: if the loss is not finite.
        SystemExit: with code 143 after SIGTERM or the launcher's end, with code 130 after SIGINT.
    """
    model.float()  # the master weights: in a smaller type most steps would be rounded away
    max_steps, decay_steps = count_steps(recipe, steps.steps_per_epoch)
    model.set_attn_implementation(choose_attention(model, recipe, accelerator))
    model.config.use_cache = False
    optimizers = build_optimizers(model, recipe)
    schedulers = [build_scheduler(optimizer, recipe, max_steps, decay_steps) for optimizer in optimizers]
    averaged = keep_average(model, optimizers[-1], recipe.average_decay, accelerator.device)
    whole = copy.deepcopy(model).cpu() if accelerator.is_fsdp2 else model  # what is saved, loaded and given back
    if recipe.torch_compile:
        model.compile(dynamic=True)
    wrapped, *optimizers = accelerator.prepare(model, *optimizers)
    wrapped.train()

    log = MetricsLog(recipe, accelerator, steps, max_steps)
    start, data = 0, hash_data(recipe)  # as it is now: when a checkpoint is written it may be another
    if recipe.resume_from_checkpoint:
        state = load_checkpoint(checkpoint_to_resume(recipe, steps), whole, optimizers, schedulers, averaged)
        start = state["step"]
        spread_weights(whole, model)
        log.resume(state)
        if accelerator.scaler and state.get("scaler"):  # of fp16's losses
            accelerator.scaler.load_state_dict(state["scaler"])
        accelerator.wait_for_everyone()
    of_another_branch = [path for path in list_checkpoints(run_folder(recipe)) if step_of(path) > start]
    on_gpu = accelerator.device.type == "cuda"
    loader = step_loader(steps, max_steps, recipe.dataloader_num_workers, start=start, ahead=on_gpu)
    stepper = build_stepper(recipe, wrapped, optimizers, log.loss, accelerator)
    stream = bf16_residual_stream(model) if accelerator.mixed_precision == "bf16" else nullcontext()
    with StopSignal() as stop, stream, stepper.running(), log.progress:
        for step, batches in enumerate(loader, start=start + 1):
            # Dropout too is a function of its address: seed, step, process.
            torch.manual_seed((recipe.seed * 1_000_003 + step) * accelerator.num_processes + accelerator.process_index)
            for i, batch in enumerate(batches, start=1):
                log.tokens += count_tokens(batch)
                stepper.accumulate(batch, last=i == len(batches))
            stepper.update()
            for scheduler in schedulers:
                scheduler.step()  # also where fp16 has moved nothing: the rate is a function of the step
            log.end_step(step, float(schedulers[0].get_last_lr()[0]))

            asks = accelerator.device.type == "cpu" or step % recipe.logging_steps == 0  # elsewhere a GPU would wait
            stopping = stop.received_by_any(accelerator) if asks else 0
            if stopping or (recipe.save_steps and step % recipe.save_steps == 0):
                state = {**log.state(), "learning_rate": schedulers[0].get_last_lr()[0], "data": data}
                state["scaler"] = accelerator.scaler.state_dict() if accelerator.scaler else None
                state["training"] = training_state(optimizers, schedulers, averaged)
                gather_weights(model, whole)
                if accelerator.is_main_process:
                    save_checkpoint(
                        recipe, step, whole, examples_per_step=steps.shape.total, keep=of_another_branch, **state
                    )
                accelerator.wait_for_everyone()
            if stopping and step < max_steps:
                log.progress.write(f"Told to stop at step {step}: go on with --resume_from_checkpoint latest.")
                raise SystemExit(128 + stopping)
    gather_weights(averaged.module if averaged else model, whole)
    return unwrap(whole)
