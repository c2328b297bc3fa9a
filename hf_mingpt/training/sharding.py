"""Sharded training (FSDP2): each process holds a shard of the weights; they are gathered to save and sharded to load.

Without FSDP2 the trained model is the one with whole weights, and these functions change nothing.

Reference: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..system.launching import is_set
from .recipes import TrainingRecipe


def check_sharding(recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Raises a ValueError if accelerate shards the weights in a way that is not supported, or not with this recipe."""
    kind = accelerator.distributed_type
    refused = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)
    if kind in refused or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):  # FSDP version 1
        raise ValueError(f"{kind.value} is not supported: launch with DDP or, to shard the weights, with FSDP2.")
    if is_set("ACCELERATE_USE_FSDP") and not accelerator.is_fsdp2:
        raise ValueError(
            f"FSDP shards weights over the GPUs of several processes, but the number of processes on "
            f"{accelerator.device.type} is {accelerator.num_processes}: launch with DDP."
        )
    if accelerator.is_fsdp2 and recipe.ema_decay:
        raise ValueError("ema_decay is not supported with FSDP: launch with DDP, or leave out ema_decay.")
    if accelerator.is_fsdp2 and recipe.optim == "muon":
        raise ValueError("optim 'muon' needs whole matrices, but FSDP shards them: give --optim adamw, or use DDP.")


@torch.no_grad()
def gather_weights(model: nn.Module, whole: nn.Module) -> None:
    """Copies the gathered weights of a sharded model into `whole`. Every process must call it."""
    if whole is model:
        return
    for target, parameter in zip(whole.parameters(), model.parameters(), strict=True):
        target.copy_(gather(parameter))


@torch.no_grad()
def shard_weights(whole: nn.Module, model: nn.Module) -> None:
    """Copies each process's shard of the weights of `whole` into a sharded model."""
    if whole is model:
        return
    for parameter, source in zip(model.parameters(), whole.parameters(), strict=True):
        parameter.copy_(shard(source.detach(), parameter))


def gather(tensors: Any) -> Any:
    """Gathers sharded tensors to the CPU, also in nested lists and dictionaries. Other values stay as they are."""
    if isinstance(tensors, dict):
        return {name: gather(value) for name, value in tensors.items()}
    if isinstance(tensors, list):
        return [gather(value) for value in tensors]
    return tensors.full_tensor().cpu() if isinstance(tensors, DTensor) else tensors


def shard(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shards a tensor like another one of the same shape."""
    if isinstance(like, DTensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor


def shard_optimizer_state(saved: dict[str, Any], parameters: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Shards the gathered state_dict of an optimizer like its parameters, which are in the order of their groups."""
    state = {
        i: {name: shard(value, parameters[i]) if torch.is_tensor(value) else value for name, value in values.items()}
        for i, values in saved["state"].items()
    }
    return {**saved, "state": state}
