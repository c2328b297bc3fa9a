"""What launched this process, and what it asks for: processes, device, and the settings of `accelerate launch`.

Before recipes in the flow. The launcher hands its settings on by environment, where accelerate obeys some of them and
drops others in silence. Here each one becomes the value of a flag, or is refused; what is in no table changes nothing
(the size of a log, the name of a port), or is handed on as it is (how FSDP2 wraps and reshards).

Reference: accelerate 1.15, `utils/launch.py` writes these variables, `state.py` and `utils/dataclasses.py` read them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import str_to_bool

PRECISIONS = ("no", "bf16", "fp16")
_NOTHING = ("", "no", "none", "false", "0")  # values that ask for nothing
_SETTINGS: dict[str, tuple[str, Callable[[str], Any]]] = {  # the flag that means the same, and the type of its value
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", int),
    "ACCELERATE_GRADIENT_CLIPPING": ("max_grad_norm", float),
    "ACCELERATE_USE_CPU": ("use_cpu", lambda value: bool(str_to_bool(value))),
}
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
    "ACCELERATE_FP8_BACKEND": "fp8",
}
_REFUSED_OF_FSDP = {
    "FSDP_OFFLOAD_PARAMS": "weights that are kept on the CPU",
    "FSDP_ACTIVATION_CHECKPOINTING": "activations that are computed twice",
    "FSDP_IGNORED_MODULES": "weights whose gradients are not summed up",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "weights that only one process has loaded",
}
_REFUSED_OF_DYNAMO = {
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "one graph",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "regional compilation",
}
_LAUNCHERS = {"accelerate", "accelerate-launch", "accelerate.commands.launch", "accelerate.commands.accelerate_cli"}
_LAUNCHERS |= {"torchrun", "torch.distributed.run", "torch.distributed.launch"}


def asks(variable: str) -> bool:
    """Whether that variable of the environment asks for anything."""
    return os.environ.get(variable, "").lower() not in _NOTHING


def launcher_settings() -> dict[str, Any]:
    """What the launcher asks for, by the names of the fields of a recipe.

    Raises:
        ValueError: if a setting cannot be followed.
    """
    check_launch()
    settings: dict[str, Any] = {}
    for variable, (name, of_type) in _SETTINGS.items():
        if (value := os.environ.get(variable, "").lower()) not in ("", "auto"):
            try:
                settings[name] = of_type(value)
            except ValueError as error:
                raise ValueError(f"{variable} is {value!r}, which is no value of --{name}: unset it.") from error
    if asks("ACCELERATE_DYNAMO_BACKEND"):
        settings["torch_compile"] = True
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if precision and (precision != "no" or _precision_was_asked_for()):
        settings["mixed_precision"] = precision
    return settings


def join_processes(*, use_cpu: bool) -> PartialState:
    """The processes that were launched, of which this is one, and its device.

    Args:
        use_cpu: whatever else there is.

    Raises:
        ValueError: if the launcher asks for what is not supported, has started other processes than it was told, or
            names a device that cannot be used.
    """
    check_launch()
    if use_cpu:
        os.environ.pop("ACCELERATE_TORCH_DEVICE", None)  # else accelerate would obey it
    device = os.environ.get("ACCELERATE_TORCH_DEVICE")
    if device:
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"ACCELERATE_TORCH_DEVICE is {device!r}, which cannot be used here: unset it, or name another."
            ) from error
    # without a GPU accelerate joins several processes only if it is told so; else each would train alone
    use_cpu = use_cpu or device == "cpu" or not torch.accelerator.is_available()
    state = PartialState(cpu=use_cpu)
    if state.num_processes == 1 and (number := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"This is one of {number} processes, but which is not said: launch them with torchrun.")
    # its launcher of one process writes the first, and the second for several
    told_of_several = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= set(os.environ) and "RANK" not in os.environ
    if state.num_processes == 1 and told_of_several:
        raise ValueError(
            "accelerate launch was told of several processes and has started one: give it --multi_gpu, which on a CPU "
            "starts several too, or --num_processes 1."
        )
    return state


def check_launch() -> None:
    """Raises a ValueError if the launcher asks for what is not supported, or is no more."""
    is_launched = {"ACCELERATE_DYNAMO_MODE", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    if is_launched and os.getppid() == 1 and find_launcher() is None:  # killed while this script was being loaded
        raise ValueError("What launched this script has ended: launch it again.")
    refused = dict(_REFUSED)
    if os.environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "").upper() == "NO":
        del refused["ACCELERATE_USE_SAGEMAKER"]
    if asks("ACCELERATE_USE_FSDP"):
        refused |= _REFUSED_OF_FSDP
        if (fsdp := os.environ.get("FSDP_VERSION", "1")) != "2":
            raise ValueError(f"FSDP is not supported in version {fsdp}: launch with --fsdp_version 2.")
    if asks("ACCELERATE_DYNAMO_BACKEND"):
        refused |= _REFUSED_OF_DYNAMO
        backend, mode = (os.environ.get(f"ACCELERATE_DYNAMO_{name}", "").lower() for name in ("BACKEND", "MODE"))
        if backend != "inductor" or mode not in ("", "default"):
            raise ValueError(
                f"The dynamo backend {backend!r}, mode {mode or 'default'!r}, is not supported: launch with "
                "--dynamo_backend inductor, or with none."
            )
    for variable, meaning in refused.items():
        if asks(variable):
            raise ValueError(
                f"{variable} is {os.environ[variable]!r}, and {meaning} is not supported: launch without it, with DDP "
                "or, to shard the weights, with FSDP2."
            )


@cache
def find_launcher() -> psutil.Process | None:
    """The process of `accelerate launch` or `torchrun` that this one comes from; None if there is none."""
    for process in psutil.Process().parents():
        if _launcher_arguments(process) is not None:
            return process
    return None


def has_ended(process: psutil.Process) -> bool:
    """Whether a process is no more."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _launcher_arguments(process: psutil.Process) -> list[str] | None:
    """The arguments of a launcher; None of another process."""
    try:
        command = process.cmdline()
    except psutil.Error:  # another user's
        return None
    for place, word in enumerate(command[:5]):  # python, its options, and the launcher
        if Path(word).name in _LAUNCHERS:
            return command[place + 1 :]
    return None


def _precision_was_asked_for() -> bool:
    """Whether the "no" of ACCELERATE_MIXED_PRECISION is a request: `accelerate launch` says it when told nothing, too.

    Its command line tells, and its file of settings. Where neither can be seen, it is one.
    """
    launcher = find_launcher()
    arguments = _launcher_arguments(launcher) if launcher else None
    if not arguments or "ACCELERATE_DYNAMO_MODE" not in os.environ:  # of torchrun, or exported by hand
        return True
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given, _ = launch_command_parser().parse_known_args([word for word in arguments if word != "launch"])
    if given.mixed_precision is None and (given.config_file or (Path(default_config_file).is_file() and not given.cpu)):
        return load_config_from_file(given.config_file).mixed_precision is not None
    return given.mixed_precision is not None


class StopSignal:
    """Whether this process has been told to stop, while in the `with` block, so that it saves before it ends.

    SIGTERM tells it, SIGINT (Ctrl-C), and the end of the process that launched it: a launcher that is killed passes no
    signal on. A second Ctrl-C ends it at once.
    """

    def __enter__(self) -> "StopSignal":
        self.received, self.received_at = 0, 0.0  # the number of the signal, and when it came
        self.launcher = find_launcher()
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, _: Any) -> None:
        if number == self.received == signal.SIGINT and time.monotonic() - self.received_at > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received:  # one that is sent to a process and to its group comes twice
            self.received, self.received_at = number, time.monotonic()

    def received_by_any(self, accelerator: Accelerator) -> int:
        """The signal by which any of the processes has been told to stop; 0 if none has. Every process must call it."""
        if not self.received and self.launcher and has_ended(self.launcher):
            self.received = signal.SIGTERM
        received = torch.tensor([self.received], device=accelerator.device)
        return int(accelerator.gather(received).max().item())

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
