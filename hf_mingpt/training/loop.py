"""Training: device, log, and the one loop of pretraining and finetuning.

After optimization and checkpoints in the flow. A *step* is one optimizer update, over all its micro-batches and
processes. The loss is the sum of the cross entropies divided by the number of label tokens of the whole step, so that
neither accumulation nor the number of processes changes the gradient.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ..data.batching import MicroBatch
from ..data.steps import StreamedSteps, TrainingSteps, step_loader
from ..system.launching import StopSignal
from ..tokenization_mingpt import PAD_ID
from .checkpoints import (
    hash_data,
    list_checkpoints,
    load_checkpoint,
    run_folder,
    save_checkpoint,
    step_of,
    training_state,
)
from .metrics_log import MetricsLog
from .optimization import build_optimizers, build_scheduler, count_steps, keep_average
from .recipes import TrainingRecipe
from .setup import checkpoint_to_resume, choose_attention
from .sharding import gather_weights, spread_weights
from .stepping import build_stepper


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


def count_tokens(batch: MicroBatch) -> int:
    """Tokens that are not padding."""
    return int((batch["input_ids"] != PAD_ID).sum())


def unwrap(model: PreTrainedModel) -> PreTrainedModel:
    """The model after training: without accelerate's autocast around its forward, not compiled, and evaluating."""
    for name in ("forward", "_original_forward", "_compiled_call_impl"):
        model.__dict__.pop(name, None)
    model.config.use_cache = True
    return model.eval()


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
    averaged = keep_average(model, optimizers[-1], recipe.ema_decay, accelerator.device)
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
