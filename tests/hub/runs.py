"""Scripts that make run folders in the test's own process, and what to compare of them."""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

from accelerate.state import AcceleratorState

from hf_mingpt.evaluation.calibration import Calibration
from hf_mingpt.system.writing import write_json

from ..conftest import SCRIPTS

PEOPLE = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Byron", "Quist", "Mir", "Roe", "Lund")]


class Killed(BaseException):
    """Not an Exception, so that nothing cleans up after it, as after SIGKILL."""


def script(name: str, *arguments) -> None:
    """Runs a script in this process."""
    argv, sys.argv = sys.argv, [str(part) for part in (SCRIPTS / name, *arguments)]
    try:
        runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    finally:
        sys.argv = argv
        AcceleratorState._reset_state(reset_partial_state=True)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in lines]


def calibrate_by_hand(folder: Path) -> None:
    """Writes a calibration with a weight for one feature."""
    weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
    names = {"candidates": ["London", "Bonn"], "unknown_names": ["Bo"]}
    calibration = Calibration(weights=weights, bias=0.0, threshold=0.5, fitted_on=9, **names)
    write_json(folder / "calibration.json", asdict(calibration))


def push(*flags) -> tuple:
    """The command line of a push."""
    return (SCRIPTS / "push_to_hub.py", *flags)
