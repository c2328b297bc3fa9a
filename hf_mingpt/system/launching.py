"""The launcher, `accelerate launch` or `torchrun`: its settings, processes and device.

A launcher passes its settings on as environment variables. accelerate follows some of them and silently ignores others;
here each one becomes the value of a flag or is refused. A variable in none of the tables below either does not change
the result (a port, a log level) or is left to accelerate (how FSDP2 wraps and reshards).

Reference: accelerate 1.15; `utils/launch.py` writes these variables, `state.py` and `utils/dataclasses.py` read them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from accelerate import PartialState

PRECISIONS = ("no", "bf16", "fp16")
_OFF = ("", "no", "none", "false", "0")


def _is_true(value: str) -> bool:
    from accelerate.utils import str_to_bool

    return bool(str_to_bool(value))


_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {  # the flag with the same meaning, and its type
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", int),
    "ACCELERATE_GRADIENT_CLIPPING": ("max_grad_norm", float),
    "ACCELERATE_USE_CPU": ("use_cpu", _is_true),
}
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",  # docs/scaling.md says why
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
    "ACCELERATE_FP8_BACKEND": "fp8",
}
_INSTEAD = {
    "ACCELERATE_USE_DEEPSPEED": "with scripts/accelerate/zero2.yaml or fsdp2.yaml, in which FSDP2 shards what ZeRO-2 "
    "and ZeRO-3 shard"
}
_REFUSED_OF_FSDP = {
    "FSDP_OFFLOAD_PARAMS": "CPU offloading",
    "FSDP_ACTIVATION_CHECKPOINTING": "activation checkpointing",
    "FSDP_IGNORED_MODULES": "ignoring modules",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "loading the weights on one process",
}
_REFUSED_OF_DYNAMO = {
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "fullgraph compilation",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "regional compilation",
}
_LAUNCHERS = {"accelerate", "accelerate-launch", "accelerate.commands.launch", "accelerate.commands.accelerate_cli"}
_LAUNCHERS |= {"torchrun", "torch.distributed.run", "torch.distributed.launch"}


def is_set(variable: str) -> bool:
    """Whether an environment variable is set to a value other than off."""
    return os.environ.get(variable, "").lower() not in _OFF


def launcher_settings() -> dict[str, Any]:
    """The settings of the launcher, by the names of the fields of a recipe.

    Raises:
        ValueError: If a setting is not supported.
    """
    check_launch()
    settings: dict[str, Any] = {}
    for variable, (name, of_type) in _SETTINGS.items():
        if (value := os.environ.get(variable, "").lower()) not in ("", "auto"):
            try:
                settings[name] = of_type(value)
            except ValueError as error:
                raise ValueError(f"{variable} is {value!r}, not a valid --{name}: unset it.") from error
    if is_set("ACCELERATE_DYNAMO_BACKEND"):
        settings["torch_compile"] = True
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if precision and (precision != "no" or _precision_is_set()):
        settings["mixed_precision"] = precision
    return settings


def join_processes(*, use_cpu: bool) -> PartialState:
    """Joins the launched processes, and returns their number, the rank of this one, and its device.

    Args:
        use_cpu: Use the CPU even if there is an accelerator.

    Raises:
        ValueError: If a setting of the launcher is not supported, if it has started fewer processes than it was asked
            for, or if the device cannot be used.
    """
    import torch
    from accelerate import PartialState

    check_launch()
    if use_cpu:
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)  # it would take precedence in accelerate
    device = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if device:
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"ACCELERATE_TORCH_DEVICE is {device!r}, which cannot be used here: unset it, or name another device."
            ) from error
    # without an accelerator, accelerate joins the processes only with cpu=True; otherwise each would train alone
    use_cpu = use_cpu or device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=use_cpu)
    if state.num_processes == 1 and (number := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"WORLD_SIZE is {number}, but RANK is not set: launch the processes with torchrun.")
    # accelerate sets the first when it starts one process, and the second when it is asked for several
    asked_for_several = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ) and "RANK" not in os.environ
    if state.num_processes == 1 and asked_for_several:
        raise ValueError(
            "accelerate launch was asked for several processes and has started one: give it --multi_gpu, which also "
            "works on CPUs, or --num_processes 1."
        )
    return state


def check_launch() -> None:
    """Raises a ValueError if a setting of the launcher is not supported, or if the launcher has ended."""
    is_launched = {"ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    if is_launched and os.getppid() == 1 and find_launcher() is None:  # killed while this script was starting
        raise ValueError("The launcher of this script has ended: launch it again.")
    refused = dict(_REFUSED)
    if os.environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "").upper() == "NO":
        del refused["ACCELERATE_USE_SAGEMAKER"]
    if is_set("ACCELERATE_USE_FSDP"):
        refused |= _REFUSED_OF_FSDP
        if (fsdp := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ValueError(f"FSDP version {fsdp} is not supported: launch with --fsdp_version 2.")
    if is_set("ACCELERATE_DYNAMO_BACKEND"):
        refused |= _REFUSED_OF_DYNAMO
        backend, mode = (os.environ.get(f"ACCELERATE_DYNAMO_{name}", "").lower() for name in ("BACKEND", "MODE"))
        if backend != "inductor" or mode not in ("", "default"):
            raise ValueError(
                f"The dynamo backend {backend!r}, mode {mode or 'default'!r}, is not supported: launch with "
                "--dynamo_backend inductor, or with none."
            )
    for variable, meaning in refused.items():
        if is_set(variable):
            instead = _INSTEAD.get(variable, "without it, with DDP or, to shard the weights, with FSDP2")
            raise ValueError(
                f"{variable} is {os.environ[variable]!r}, but {meaning} is not supported: launch {instead}."
            )


@cache
def find_launcher() -> psutil.Process | None:
    """The process of `accelerate launch` or `torchrun` that started this one, or None."""
    for process in psutil.Process().parents():
        if _launcher_arguments(process) is not None:
            return process
    return None


def _launcher_arguments(process: psutil.Process) -> list[str] | None:
    """The arguments of a launcher process; None for any other process."""
    try:
        command = process.cmdline()
    except psutil.Error:  # a process of another user
        return None
    for place, word in enumerate(command[:5]):  # python, its options, the launcher
        if Path(word).name in _LAUNCHERS:
            return command[place + 1 :]
    return None


def _precision_is_set() -> bool:
    """Whether the user has set the mixed precision "no", which `accelerate launch` also passes on by default.

    Its command line and its configuration file tell. If neither can be read, the value counts as the user's.
    """
    launcher = find_launcher()
    arguments = _launcher_arguments(launcher) if launcher else None
    if not arguments or "ACCELERATE_DYNAMO_MODE" not in os.environ:  # torchrun, or exported by the user
        return True
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given, _ = launch_command_parser().parse_known_args([word for word in arguments if word != "launch"])
    if given.mixed_precision is None and (given.config_file or (Path(default_config_file).is_file() and not given.cpu)):
        return load_config_from_file(given.config_file).mixed_precision is not None
    return given.mixed_precision is not None
