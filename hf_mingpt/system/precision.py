"""Mixed precision: what a device computes natively, and autocast."""

import torch
from accelerate import Accelerator


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 matrix products natively. Emulated, they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(accelerator: Accelerator) -> torch.autocast:
    """Autocast in the mixed precision of a run, for a model that its accelerator has not prepared.

    `accelerator.autocast()` would change the state of an FSDP2 run on CPUs.
    """
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    return torch.autocast(accelerator.device.type, precision, enabled=precision is not None)
