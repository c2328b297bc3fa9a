"""Optimizers, learning-rate schedules, the number of steps, and averaged weights (EMA)."""

import math
from collections import defaultdict
from functools import partial

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import get_scheduler

from .recipes import TrainingRecipe


def build_optimizers(model: nn.Module, recipe: TrainingRecipe) -> list[torch.optim.Optimizer]:
    """Builds AdamW for all weights or, with `optim="muon"`, AdamW and Muon for the matrices of the Transformer blocks.

    Weight decay applies to the weights of linear layers and, with `decay_all_weights`, as in the assignment's code, to
    those of norms and embeddings. Biases are never decayed.

    Reference for Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/
    """
    matrices, decayed, undecayed = [], [], []
    for name, parameter in model.named_parameters():
        is_linear = parameter.ndim == 2 and "embed" not in name
        if recipe.optim == "muon" and is_linear and ".layers." in name:
            matrices.append(parameter)
        elif is_linear or (recipe.decay_all_weights and not name.endswith("bias")):
            decayed.append(parameter)
        else:
            undecayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": undecayed, "weight_decay": 0.0},
    ]
    betas = (recipe.adam_beta1, recipe.adam_beta2)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=True)
    ]
    if matrices:
        optimizers.append(StackedMuon(matrices, lr=recipe.muon_learning_rate, weight_decay=recipe.weight_decay))
    return optimizers


class StackedMuon(torch.optim.Muon):
    """torch's Muon with batched Newton-Schulz iterations, over all matrices of the same shape.

    The state is compatible with that of `torch.optim.Muon`, in both directions. Results differ only by the rounding of
    bf16 products. The learning rate may be a tensor, which a CUDA graph needs.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = [parameter.grad for parameter in parameters]
                momenta = [self._momentum(parameter) for parameter in parameters]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov momentum
                stacked = orthogonalize(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_sub_(parameters, list((stacked.float() * (group["lr"] * scale)).unbind()))
        return loss

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonalize(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> torch.Tensor:
    """Approximates the nearest semi-orthogonal matrices by Newton-Schulz iterations in bf16.

    Args:
        matrices: (N, rows, columns).
        coefficients: Coefficients of the quintic polynomial of an iteration.
        num_steps: Number of iterations.
        eps: Lower bound of the norm by which a matrix is divided.

    Returns:
        (N, rows, columns) bf16, with singular values between about 0.7 and 1.2.

    Reference: https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = coefficients
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def keep_average(
    model: nn.Module, optimizer: torch.optim.Optimizer, decay: float | None, device: torch.device
) -> AveragedModel | None:
    """Keeps an exponential moving average of the weights, updated after each step of the optimizer.

    After the first step the average is the weight; then it is `decay * average + (1 - decay) * weight`.

    Args:
        model: Model whose weights are averaged.
        optimizer: The optimizer that steps last.
        decay: Decay of the average; None keeps none.
        device: Device of the average.

    Returns:
        The averaged model, or None.
    """
    if decay is None:
        return None
    averaged = AveragedModel(model, device, multi_avg_fn=get_ema_multi_avg_fn(decay))
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
    return averaged


def assignment_learning_rate(step: int, *, warmup_steps: int, decay_steps: int) -> float:
    """The assignment's factor on the peak learning rate: linear warm-up, then a cosine with a floor of 0.1.

    After `decay_steps` the cosine rises again, as in the assignment's editions of 2021 to 2023, which train for longer
    than they decay.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / max(1, decay_steps - warmup_steps)
    return max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))


def build_scheduler(
    optimizer: torch.optim.Optimizer, recipe: TrainingRecipe, max_steps: int, decay_steps: int
) -> LambdaLR:
    """Builds the learning-rate schedule: `"assignment"`, or one of transformers' schedules.

    Args:
        optimizer: Optimizer whose learning rate it sets.
        recipe: Recipe of the run.
        max_steps: Steps of the run.
        decay_steps: For "assignment", steps until the cosine first reaches its minimum. For "warmup_stable_decay",
            steps of the decay at the end of the run.
    """
    if recipe.lr_scheduler_type == "assignment":
        factor = partial(assignment_learning_rate, warmup_steps=recipe.warmup_steps, decay_steps=decay_steps)
        return LambdaLR(optimizer, factor)
    specific = {"num_decay_steps": decay_steps, "decay_type": "1-sqrt"}  # Haegele et al. 2024, arXiv:2405.18392
    return get_scheduler(
        recipe.lr_scheduler_type,
        optimizer,
        num_warmup_steps=recipe.warmup_steps,
        num_training_steps=max_steps,
        scheduler_specific_kwargs=specific if recipe.lr_scheduler_type == "warmup_stable_decay" else None,
    )


def count_steps(recipe: TrainingRecipe, steps_per_epoch: int | None) -> tuple[int, int]:
    """The steps of the run, and of the learning-rate decay. For a stream (None) the recipe must set `max_steps`."""
    max_steps = recipe.max_steps or math.ceil(recipe.num_train_epochs * (steps_per_epoch or 0))
    if recipe.decay_epochs:
        return max_steps, math.ceil(recipe.decay_epochs * (steps_per_epoch or 0))
    return max_steps, math.ceil(recipe.decay_ratio * max_steps)
