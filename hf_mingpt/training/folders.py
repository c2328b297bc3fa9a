"""Where a run is written while it trains, and which checkpoints are there."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .recipes import TrainingRecipe

IGNORE_PATTERNS = ("checkpoint-*", "checkpoints/*")  # all checkpoints, to leave out of a push


def place_beside(output_dir: str | Path) -> Path:
    """The folder in which a run is written that will replace the one in `output_dir`."""
    folder = Path(os.path.realpath(output_dir))
    return folder.with_name(f"{folder.name}.unfinished")


def run_folder(recipe: TrainingRecipe) -> Path:
    """The folder in which a run is written until it is finished: its output folder, or the one beside it."""
    beside = place_beside(recipe.output_dir)
    return beside if (beside / "recipe.json").is_file() else Path(recipe.output_dir)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run folder, damaged ones included, sorted by step."""
    former = folder.glob("checkpoints/step-*")  # the name in earlier versions
    candidates = [path for path in (*former, *folder.glob("checkpoint-*")) if (path / "state.json").is_file()]
    return sorted((path for path in candidates if re.search(r"-\d+$", path.name)), key=step_of)


def last_checkpoint(recipe: TrainingRecipe) -> Path | None:
    """The newest checkpoint of the run, damaged or not; None if there is none."""
    return next(reversed(list_checkpoints(run_folder(recipe))), None)


@contextmanager
def resumable(recipe: TrainingRecipe) -> Iterator[None]:
    """Adds the last checkpoint and the remedy to an OSError of the block, whose sentence says what was not written."""
    try:
        yield
    except OSError as error:
        checkpoint = last_checkpoint(recipe)
        remedy = "There is no checkpoint: fix this, then start again."
        if checkpoint:
            remedy = f"The last checkpoint is {checkpoint}: fix this, then resume with --resume_from_checkpoint latest."
        raise OSError(f"{error} {remedy}") from error


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[-1])
