"""Sharded training (FSDP2): weights of which every process holds a part, gathered to be saved and spread to be loaded.

Before checkpoints in the flow. Without FSDP the model with whole weights is the one that is trained, and nothing here
changes anything.

Reference: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..system.launching import asks
from .recipes import TrainingRecipe


def check_sharding(recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Raises a ValueError if the recipe cannot be followed in the way that accelerate was told to launch it."""
    kind = accelerator.distributed_type
    refused = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
    if kind in refused or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):  # FSDP in its version 1
        raise ValueError(f"{kind.value} is not supported: launch with DDP or, to shard the weights, with FSDP2.")
    if asks("ACCELERATE_USE_FSDP") and not accelerator.is_fsdp2:
        raise ValueError(
            f"FSDP shards weights on the GPUs of several processes, and this is {accelerator.num_processes} on "
            f"{accelerator.device.type}: launch with DDP."
        )
    if accelerator.is_fsdp2 and recipe.ema_decay:
        raise ValueError("ema_decay is not supported with FSDP: launch with DDP, or leave it out.")
    if accelerator.is_fsdp2 and recipe.optim == "muon":
        raise ValueError("optim 'muon' needs whole matrices, and FSDP gives each process a part: give --optim adamw.")


@torch.no_grad()
def gather_weights(model: nn.Module, whole: nn.Module) -> None:
    """Fills another model with the whole weights of one that is sharded. Every process must call it."""
    if whole is model:
        return
    for target, parameter in zip(whole.parameters(), model.parameters(), strict=True):
        target.copy_(gather(parameter))


@torch.no_grad()
def spread_weights(whole: nn.Module, model: nn.Module) -> None:
    """The way back: each process takes its part of another model's whole weights."""
    if whole is model:
        return
    for parameter, source in zip(model.parameters(), whole.parameters(), strict=True):
        parameter.copy_(spread(source.detach(), parameter))


def gather(tensors: Any) -> Any:
    """A tensor, or lists and dictionaries of such, with whole tensors on the CPU where they were sharded."""
    if isinstance(tensors, dict):
        return {name: gather(value) for name, value in tensors.items()}
    if isinstance(tensors, list):
        return [gather(value) for value in tensors]
    return tensors.full_tensor().cpu() if isinstance(tensors, DTensor) else tensors


def spread(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, sharded as another one of the same shape is."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor


def spread_optimizer_state(saved: dict[str, Any], parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What `gather` made of an optimizer's state_dict, sharded as its parameters are, in their groups' order."""
    state = {
        i: {name: spread(value, parameters[i]) if torch.is_tensor(value) else value for name, value in values.items()}
        for i, values in saved["state"].items()
    }
    return {**saved, "state": state}
