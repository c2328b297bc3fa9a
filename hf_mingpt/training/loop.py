"""The training loop, the same for pretraining and finetuning.

A *step* is one optimizer update, over all its micro-batches and all processes. The loss of a step is the sum of the
cross entropies divided by the number of label tokens of the whole step, so neither gradient accumulation nor the number
of processes changes the gradient.
"""

import copy

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ..data.batching import MicroBatch
from ..data.steps import StreamedSteps, TrainingSteps, step_loader
from ..system.stopping import StopSignal
from .checkpoints import Checkpointer
from .evaluation_schedule import Evaluate, EvaluationSchedule
from .metrics_log import MetricsLog
from .optimization import build_optimizers, build_scheduler, count_steps, keep_average
from .recipes import TrainingRecipe
from .resuming import checkpoint_to_resume
from .setup import choose_attention, memory_errors
from .sharding import gather_weights
from .stepping import build_stepper


def train(
    model: PreTrainedModel,
    steps: TrainingSteps | StreamedSteps,
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    evaluate: Evaluate | None = None,
) -> PreTrainedModel:
    """Trains a model on one process or many.

    Every `logging_steps` it appends a line of JSON to `metrics.jsonl` in the run folder (`MetricsLog.end_step`). Every
    `save_steps` it writes a checkpoint. It also writes one, and ends, when a process receives SIGTERM or SIGINT or when
    the launcher has ended.

    Args:
        model: Trained in place. Its weights become float32; only autocast computes in a lower precision.
        steps: The micro-batches of this process for each step.
        recipe: The run configuration.
        accelerator: From `build_accelerator`.
        evaluate: Evaluates a model on held-out data, every `eval_steps` and at the end. It gets a copy of the model,
            with averaged weights if `ema_decay` is set, and changes nothing that is trained.

    Returns:
        The trained model in evaluation mode, with averaged weights if `ema_decay` is set, or with the weights of the
        best evaluation if `load_best_model_at_end` is.

    Raises:
        FloatingPointError: If the loss or a weight is not finite.
        OSError: If the log or a checkpoint cannot be written, or memory runs out.
        SystemExit: With code 143 after SIGTERM or the end of the launcher, with code 130 after SIGINT.
    """
    model.float()  # master weights: in a lower precision most updates would round to zero
    evaluation = EvaluationSchedule(recipe, accelerator, evaluate, model)  # copies the model before it is prepared
    model.set_attn_implementation(choose_attention(model, recipe, accelerator))
    model.config.use_cache = False
    max_steps, decay_steps = count_steps(recipe, steps.steps_per_epoch)
    optimizers = build_optimizers(model, recipe)
    schedulers = [build_scheduler(optimizer, recipe, max_steps, decay_steps) for optimizer in optimizers]
    averaged = keep_average(model, optimizers[-1], recipe.ema_decay, accelerator.device)
    whole = copy.deepcopy(model).cpu() if accelerator.is_fsdp2 else model  # unsharded: saved, loaded and returned
    if recipe.torch_compile:
        model.compile(dynamic=True)
    wrapped, *optimizers = accelerator.prepare(model, *optimizers)
    wrapped.train()

    log = MetricsLog(recipe, accelerator, steps, max_steps)
    checkpointer = Checkpointer(
        recipe, accelerator, steps, log, evaluation, model, whole, optimizers, schedulers, averaged
    )
    start = checkpointer.load(checkpoint_to_resume(recipe, steps)) if recipe.resume_from_checkpoint else 0
    on_gpu = accelerator.device.type == "cuda"
    loader = step_loader(steps, max_steps, recipe.dataloader_num_workers, start=start, ahead=on_gpu)
    stepper = build_stepper(recipe, wrapped, optimizers, log.loss, accelerator)
    weights = averaged.module if averaged else model  # to evaluate and to return
    asking_waits = accelerator.num_processes > 1 and accelerator.device.type != "cpu"  # for the GPU

    with memory_errors(recipe), StopSignal() as stop, stepper.running(), log.progress:
        evaluation.run_if_due(start, max_steps, weights, log)  # if a signal came before it
        for step, batches in enumerate(loader, start=start + 1):
            if evaluation.stops:
                log.stop_early(step - 1, float(schedulers[0].get_last_lr()[0]))
                break
            # dropout is a function of seed, step and process
            torch.manual_seed((recipe.seed * 1_000_003 + step) * accelerator.num_processes + accelerator.process_index)
            for i, batch in enumerate(batches, start=1):
                log.tokens += count_tokens(batch, steps.shape.special_tokens.pad_id)
                stepper.accumulate(batch, last=i == len(batches))
            stepper.update()
            for scheduler in schedulers:
                scheduler.step()  # even if fp16 skipped the update: the learning rate is a function of the step
            log.end_step(step, float(schedulers[0].get_last_lr()[0]))

            asks = not asking_waits or step % recipe.logging_steps == 0
            stop_signal = stop.received_by_any(accelerator) if asks else 0
            if not stop_signal or step == max_steps:
                evaluation.run_if_due(step, max_steps, weights, log)
            if stop_signal or (recipe.save_steps and step % recipe.save_steps == 0):
                checkpointer.save(step)
            if stop_signal and step < max_steps:
                log.say(f"Stopped after step {step}: continue with --resume_from_checkpoint latest.")
                raise SystemExit(128 + stop_signal)
    gather_weights(weights, whole)
    evaluation.load_best(whole)
    return unwrap(whole)


def count_tokens(batch: MicroBatch, pad_id: int) -> int:
    """The number of tokens that are not padding."""
    return int((batch["input_ids"] != pad_id).sum())


def unwrap(model: PreTrainedModel) -> PreTrainedModel:
    """Removes accelerate's autocast and the compiled forward pass, and switches to evaluation mode."""
    for name in ("forward", "_original_forward", "_compiled_call_impl"):
        model.__dict__.pop(name, None)
    model.config.use_cache = True
    return model.eval()
