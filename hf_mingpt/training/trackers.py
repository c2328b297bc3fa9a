"""Experiment trackers beside metrics.jsonl: those of accelerate, several at once.

Each tracker is started, fed and closed by itself, on the main process. One that fails ends neither the run nor the
others.
"""

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

logger = logging.getLogger(__name__)


def tracker_names(report_to: str | None) -> list[str]:
    """The trackers that `report_to` names, separated by commas; all that are installed for `"all"`.

    Raises:
        ValueError: If a name is unknown.
    """
    names = list(dict.fromkeys(name for part in (report_to or "").split(",") if (name := part.strip())))
    if names in ([], ["none"]):
        return []
    choices = sorted(LOGGER_TYPE_TO_CLASS)
    for name in names:
        if name not in (*choices, "all"):
            raise ValueError(
                f"report_to {name!r} is unknown: choose one or several of {', '.join(choices)}, separated by commas, "
                "or all or none alone."
            )
    return [str(name) for name in get_available_trackers()] if "all" in names else names


def check_trackers(report_to: str | None) -> list[str]:
    """Imports the packages of the trackers, so that one that is missing or broken is found before the run.

    Returns:
        The names of the trackers.

    Raises:
        ValueError: If a package is missing, cannot be imported, or has a version that accelerate does not support.
    """
    names = tracker_names(report_to)
    if report_to and not names and "all" in report_to:
        raise ValueError("report_to is 'all', but no tracker is installed: pip install tensorboard.")
    for name in names:
        if name not in LoggerType.list():  # registered with accelerate by code of the user
            continue
        if find_spec(name) is None:
            raise ValueError(f"report_to {name!r} is not installed: pip install {name}.")
        try:
            import_module({"tensorboard": "torch.utils.tensorboard"}.get(name, name))
        except Exception as error:  # a broken package may raise anything
            raise ValueError(f"report_to {name!r} cannot be imported: {error}.") from error
        if name not in map(str, get_available_trackers()):
            raise ValueError(f"report_to {name!r} is installed in a version that accelerate does not support.")
    return names


def start_trackers(accelerator: Accelerator, project: str, config: Mapping[str, Any], folder: str) -> None:
    """Starts the trackers of `accelerator.log_with`, with the run configuration.

    Args:
        accelerator: From `build_accelerator`.
        project: Name of the project or experiment.
        config: Values of any type; those that a tracker could not take become strings.
        folder: Where trackers that write files write them.
    """
    accelerator.project_configuration.logging_dir = folder
    values = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in config.items()}
    started, kinds = [], accelerator.log_with
    for kind in kinds:
        accelerator.log_with, accelerator.trackers = [kind], []
        try:
            accelerator.init_trackers(project, config=values)
        except Exception as error:  # trackers raise exceptions of their own, and none of them should end a run
            logger.warning(f"{kind} could not be started and gets no metrics: {error}")
        else:
            started += accelerator.trackers
    accelerator.log_with, accelerator.trackers = kinds, started


def log_to_trackers(accelerator: Accelerator, values: Mapping[str, Any], step: int) -> None:
    """Logs metrics to all trackers. One that fails gets no more."""
    _for_each(accelerator, lambda tracker: tracker.log(dict(values), step=step), "failed and gets no more metrics")


def close_trackers(accelerator: Accelerator) -> None:
    """Closes all trackers, and ends the use of the accelerator."""
    _for_each(accelerator, lambda tracker: tracker.finish(), "could not be closed")
    accelerator.trackers.clear()
    accelerator.end_training()


def _for_each(accelerator: Accelerator, act: Callable[[GeneralTracker], None], failure: str) -> None:
    for tracker in list(accelerator.trackers):
        try:
            act(tracker)
        except Exception as error:  # trackers raise exceptions of their own, and none of them should end a run
            logger.warning(f"{tracker.name} {failure} ({error}); metrics.jsonl has all of them.")
            accelerator.trackers.remove(tracker)
