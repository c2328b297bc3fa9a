"""Setup of a run: the accelerator, the shape of a batch, the attention implementation, and a trial step.

What torch, accelerate or transformers might refuse is tried here, before anything is written to the run folder.
"""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel

from ..data.batching import BatchShape
from ..data.steps import StreamedSteps, TrainingSteps, step_loader
from ..system.launching import PRECISIONS, join_processes, launcher_settings
from ..system.precision import autocast, has_native_bf16
from .folders import last_checkpoint
from .optimization import build_optimizers, build_scheduler, count_steps
from .recipes import MIXED_PRECISIONS, TrainingRecipe
from .sharding import check_sharding
from .trackers import check_trackers

logger = logging.getLogger(__name__)

MICRO_BATCH_OVERHEAD = 300  # tokens; 100 for the assignment's model on two cores, more for smaller models


def build_accelerator(recipe: TrainingRecipe) -> Accelerator:
    """Builds the `Accelerator` of a recipe. What the recipe leaves open, the settings of the launcher decide.

    If neither sets `mixed_precision`, it is bf16 on hardware with native bf16, fp16 on other GPUs, and "no" elsewhere.

    Raises:
        ValueError: If a tracker cannot be used, if the device does not support the precision, or if a setting of
            the launcher is not supported.
    """
    trackers = check_trackers(recipe.report_to)
    precision = recipe.mixed_precision or launcher_settings().get("mixed_precision")
    if precision not in MIXED_PRECISIONS:
        raise ValueError(f"mixed_precision {precision!r} is not supported: launch with {' or '.join(PRECISIONS)}.")
    state = join_processes(use_cpu=recipe.use_cpu)
    device, cores = state.device, psutil.cpu_count(logical=False) or 1
    if device.type == "cpu" and state.num_processes == 1 and torch.get_num_threads() < cores:
        logger.warning(
            f"Training uses {torch.get_num_threads()} of {cores} cores, the default of accelerate launch on a CPU: "
            f"pass --num_cpu_threads_per_process {cores} to accelerate launch."
        )
    if precision is None:
        precision = "bf16" if has_native_bf16(device) else "fp16" if device.type == "cuda" else "no"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision 'fp16' needs a GPU: on this CPU, give --mixed_precision bf16 or no.")
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with=trackers or None,
        project_dir=recipe.output_dir,
        dynamo_backend="no",  # train compiles the model if torch_compile is set
    )
    check_sharding(recipe, accelerator)
    return accelerator


def batch_shape(recipe: TrainingRecipe, accelerator: Accelerator, block_size: int) -> BatchShape:
    """How the examples of a step are sharded over the processes, for a model with a context length of `block_size`.

    Sequences are padded to a multiple of 8 tokens, because oneDNN compiles and keeps a kernel for every shape, a
    gigabyte for all lengths of a corpus. On a GPU the multiple is 16, because each shape is recorded as a CUDA graph.
    """
    return BatchShape(
        recipe.per_device_train_batch_size,
        recipe.gradient_accumulation_steps,
        accelerator.num_processes,
        accelerator.process_index,
        # padding must not exceed the context length
        pad_to_multiple_of=math.gcd(16 if accelerator.device.type == "cuda" else 8, block_size),
        padding_free=recipe.padding_free,
        overhead=MICRO_BATCH_OVERHEAD if accelerator.device.type == "cpu" else None,
    )


def attention_for(device: torch.device, block_size: int) -> str:
    """The fastest attention implementation for training with a context length of `block_size`.

    On a CPU, the backward pass of sdpa is several times slower than eager attention for short sequences, equally fast
    at 512 tokens, and twice as fast at 1,024 (docs/scaling.md).
    """
    return "eager" if device.type == "cpu" and block_size <= 512 else "sdpa"


def choose_attention(model: PreTrainedModel, recipe: TrainingRecipe, accelerator: Accelerator) -> str:
    """The attention implementation of the recipe, or the fastest one."""
    return recipe.attn_implementation or attention_for(accelerator.device, model.config.max_position_embeddings)


def check_training(
    model: PreTrainedModel, steps: TrainingSteps | StreamedSteps, recipe: TrainingRecipe, accelerator: Accelerator
) -> None:
    """Takes one step with a one-layer copy of the model, so that errors of the libraries appear before the run.

    Every process must call it. It fails on all of them if it fails on one: only the main process prints the mistake.

    Raises:
        ValueError: If the step fails, or there are no examples.
    """
    mistake = None
    try:
        _take_small_step(model, steps, recipe, accelerator)
    except ValueError as error:
        mistake = error
    mistakes = gather_object([mistake and str(mistake)])
    if first := next(filter(None, mistakes), None):
        raise ValueError(first) from mistake


def _take_small_step(
    model: PreTrainedModel, steps: TrainingSteps | StreamedSteps, recipe: TrainingRecipe, accelerator: Accelerator
) -> None:
    try:
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = 1
        small = type(model)(config).to(accelerator.device)
        try:
            small.set_attn_implementation(choose_attention(small, recipe, accelerator))
        except (ImportError, ValueError) as error:  # their messages are long
            raise ValueError(
                f"attn_implementation {recipe.attn_implementation!r} cannot be used here: give eager or sdpa."
            ) from error
        optimizers = build_optimizers(small, recipe)
        for optimizer in optimizers:
            build_scheduler(optimizer, recipe, *count_steps(recipe, steps.steps_per_epoch))
        batches = next(step_loader(steps, 1), None)
        if batches is None:
            raise ValueError("There are no training examples: check the data.")
        with autocast(accelerator):
            loss = small(**{name: tensor.to(accelerator.device) for name, tensor in batches[0].items()}).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    except (ImportError, RuntimeError) as error:  # a ValueError already has a clear message
        if not is_out_of_memory(error):
            raise ValueError(f"A training step fails on this machine: {error}") from error
        if not recipe.auto_find_batch_size:  # which tries smaller micro-batches next
            raise ValueError(
                f"A micro-batch with per_device_train_batch_size {recipe.per_device_train_batch_size} does not fit the "
                f"memory of {accelerator.device}: give --auto_find_batch_size."
            ) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error says that memory ran out, or followed such an error, as when a CUDA graph is recorded."""
    if error is None:
        return False
    is_one = isinstance(error, torch.OutOfMemoryError)
    return is_one or should_reduce_batch_size(error) or is_out_of_memory(error.__context__)


@contextmanager
def memory_errors(recipe: TrainingRecipe) -> Iterator[None]:
    """Raises an OSError with the remedy if memory runs out while the block trains."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OSError(
            f"Memory ran out with per_device_train_batch_size {recipe.per_device_train_batch_size}; the last "
            f"checkpoint is {last_checkpoint(recipe)}. Start or resume with --auto_find_batch_size."
        ) from error
