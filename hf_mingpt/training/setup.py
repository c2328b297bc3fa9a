"""What a run needs before its first step: the device, the shape of a batch, the attention implementation, and checks.

Everything that torch, accelerate and transformers could refuse is tried here, before the run folder is touched.
"""

import copy
import logging
import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ..data.batching import BatchShape
from ..data.steps import StreamedSteps, TrainingSteps, step_loader
from ..system.launching import PRECISIONS, join_processes, launcher_settings
from .checkpoints import (
    find_checkpoint,
    read_state,
)
from .optimization import build_optimizers, build_scheduler, count_steps
from .recipes import MIXED_PRECISIONS, TrainingRecipe
from .sharding import check_sharding

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
