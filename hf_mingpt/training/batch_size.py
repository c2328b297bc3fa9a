"""The largest micro-batch that fits the memory: `--auto_find_batch_size`.

Before the run begins, each process tries three steps with a copy of the model, on a micro-batch of the longest
sequences that the data can have. If one process runs out of memory, all halve the micro-batch and double the gradient
accumulation, so a step keeps its examples and its gradient. Nothing is communicated while the steps are tried: a
process that runs out of memory in the middle of a collective operation would leave the others waiting for it.

Reference: `auto_find_batch_size` of transformers' TrainingArguments, which changes the global batch size instead.
"""

import copy
import dataclasses
import logging
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, release_memory
from transformers import PreTrainedModel

from ..data.batching import BatchShape, MicroBatch, make_micro_batches
from ..data.sequences import SegmentedSequences
from ..data.steps import StreamedSteps, TrainingSteps, max_sequence_length
from ..system.precision import autocast
from ..tokenization_mingpt import MASK_ID
from .checkpoints import read_state
from .optimization import build_optimizers
from .recipes import TrainingRecipe
from .resuming import checkpoint_to_resume
from .setup import choose_attention, is_out_of_memory
from .stepping import build_stepper

logger = logging.getLogger(__name__)

Recipe = TypeVar("Recipe", bound=TrainingRecipe)


def find_batch_size(
    model: PreTrainedModel,
    steps: TrainingSteps | StreamedSteps,
    recipe: Recipe,
    accelerator: Accelerator,
    *,
    block_size: int,
) -> Recipe:
    """Finds the largest micro-batch that fits the memory of every process, without changing the examples of a step.

    A run that resumes begins with the micro-batch of its checkpoint, so that it resumes bit-exactly.

    Args:
        model: The model of the run. It is copied, and stays as it is.
        steps: Steps of the run. Their shape becomes that of the recipe that is returned.
        recipe: The run configuration. Without `auto_find_batch_size` it is returned as it is.
        accelerator: From `build_accelerator`.
        block_size: Context length: the longest sequence.

    Returns:
        The recipe with the `per_device_train_batch_size` and `gradient_accumulation_steps` that fit.

    Raises:
        ValueError: If not even one sequence fits.
    """
    if not recipe.auto_find_batch_size:
        return recipe
    length = max_sequence_length(steps, block_size)
    size = recipe.per_device_train_batch_size
    product = size * recipe.gradient_accumulation_steps
    if recipe.resume_from_checkpoint:
        saved = read_state(checkpoint_to_resume(recipe, steps))["recipe"]["per_device_train_batch_size"]
        size = saved if product % saved == 0 else size  # with another number of processes it may not divide
    release_memory()  # of the steps of check_training
    while True:
        shape = steps.shape._replace(per_device_batch_size=size, gradient_accumulation_steps=product // size)
        if fits_everywhere(model, longest_batch(shape, length), recipe, accelerator):
            break
        if size == 1:
            raise ValueError(
                f"A micro-batch of one sequence of {length} tokens does not fit the memory of {accelerator.device}: "
                "use a smaller model or a shorter context length."
            )
        size = max(divisor for divisor in range(1, size // 2 + 1) if product % divisor == 0)
    steps.shape = shape
    if size != recipe.per_device_train_batch_size and accelerator.is_main_process:
        logger.warning(
            f"auto_find_batch_size: per_device_train_batch_size is {size} and gradient_accumulation_steps "
            f"{product // size}, because micro-batches of {recipe.per_device_train_batch_size} do not fit the memory."
        )
    return dataclasses.replace(recipe, per_device_train_batch_size=size, gradient_accumulation_steps=product // size)


def longest_batch(shape: BatchShape, length: int) -> MicroBatch:
    """A micro-batch of sequences of `length` tokens that all have labels: no other one of this shape is larger."""
    number = shape.per_device_batch_size * shape.num_processes
    starts = np.zeros((number, 1), dtype=np.int64)
    token_ids = np.full(length, MASK_ID, dtype=np.int64)
    return make_micro_batches(SegmentedSequences(token_ids, starts, starts + length, starts[:, 0]), shape)[0]


def fits_everywhere(
    model: PreTrainedModel, batch: MicroBatch, recipe: TrainingRecipe, accelerator: Accelerator
) -> bool:
    """Whether steps with this micro-batch fit the memory of every process. All processes must call it."""
    fits = True
    try:
        try_steps(model, batch, recipe, accelerator)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    release_memory()  # after the error, whose traceback holds the tensors
    number = accelerator.reduce(torch.tensor(int(fits), device=accelerator.device))
    return int(number) == accelerator.num_processes


def try_steps(model: PreTrainedModel, batch: MicroBatch, recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Takes three training steps of one micro-batch with a copy of the model, on this process alone.

    The second step has the optimizer states of the first one; on a GPU it is recorded as a CUDA graph, and the third
    one replays it. More copies of the weights take the place of what these steps do not have: one each for DDP, for
    averaged weights (EMA) and for evaluation, and two for the optimizer states of fp16, whose loss scale the steps must
    not change. With FSDP2 there are no optimizer states: whole weights and gradients are at least as large as the
    shards of all four.

    Raises:
        RuntimeError: If the memory does not suffice.
    """
    trial = copy.deepcopy(model).float().to(accelerator.device).train()
    trial.set_attn_implementation(choose_attention(trial, recipe, accelerator))
    trial.config.use_cache = False
    trial.forward = autocast(accelerator)(trial.forward)  # type: ignore[method-assign]
    updates = not accelerator.is_fsdp2 and accelerator.scaler is None
    is_ddp = accelerator.distributed_type != DistributedType.NO and not accelerator.is_fsdp2
    number = is_ddp + (recipe.ema_decay is not None) + bool(recipe.metrics) + 2 * (accelerator.scaler is not None)
    copies = [torch.empty_like(parameter) for parameter in trial.parameters() for _ in range(number)]
    optimizers = build_optimizers(trial, recipe) if updates else []
    prepared = [AcceleratedOptimizer(optimizer, device_placement=False) for optimizer in optimizers]
    loss = torch.zeros((), device=accelerator.device)
    stepper = build_stepper(recipe, trial, prepared, loss, accelerator)
    with stepper.running():
        for _ in range(3):
            stepper.accumulate(batch, last=True)
            if updates:
                stepper.update()
    del copies  # they had to live until here
