"""Scripts that make run folders in the test's own process, and what to compare of them."""

import json
import runpy
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

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
    return [(line["step"], line["loss"]) for line in lines]
