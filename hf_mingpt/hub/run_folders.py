"""Run folders: where a run is written, whole or unfinished, and how it is loaded again.

Between report and hub in the flow. A run folder holds config, weights (safetensors), generation config, tokenizer, the
two files of model code (so that it loads with `trust_remote_code=True` where this package is not installed),
recipe.json, run.json, metrics.jsonl, and the model card as README.md.
"""

import dataclasses
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from ..evaluation.report import PICTURE
from ..system.command_line import user_errors
from ..system.writing import UNFINISHED, check_no_writer, explain, flush, one_writer, write_json
from ..training.folders import IGNORE_PATTERNS, list_checkpoints, place_beside, run_folder
from ..training.recipes import TrainingRecipe

CALIBRATION_FILE = "calibration.json"
EVALUATION_FILES = ("predictions.txt", "report.json", CALIBRATION_FILE, "honesty.md", PICTURE)
# What is pushed of a run: not checkpoints, nor the logs of trackers, which name the host, nor what is the user's.
PUBLIC_FILES = [*EVALUATION_FILES, "README.md", "metrics.jsonl", "recipe.json", "run.json", "config.json"]
PUBLIC_FILES += ["generation_config.json", "model*.safetensors*", "*token*.json", "vocab.*", "merges.txt"]
PUBLIC_FILES += ["chat_template.jinja", "*_mingpt.py"]
TRACKER_FOLDER = "hf_mingpt"  # in a run folder
# What goes when another run takes its place; the rest is the user's, and stays.
RUN_FILES = [*PUBLIC_FILES, *IGNORE_PATTERNS, TRACKER_FOLDER, "checkpoints", f"{UNFINISHED}*"]
REPLACED = f"{UNFINISHED}replacement"  # folder in a run folder: the run that was there before
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "tokenizers", "huggingface_hub")
_PACKAGE = Path(__file__).parent.parent


def check_destination(recipe: TrainingRecipe) -> None:
    """Makes sure, before the work, that its result has a place to go to.

    Raises:
        ValueError: if the output folder holds something and the recipe does not say to replace it or to go on with it,
            or if it cannot be replaced.
        OSError: if another process writes into it, or the recipe says to push and the Hub does not know who we are.
    """
    folder, beside = Path(recipe.output_dir), place_beside(recipe.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file: choose another folder.")
    if folder.name.endswith(".unfinished"):
        raise ValueError(f"output_dir {folder} is named as runs are until they replace another: choose another name.")
    check_no_writer(folder)
    check_no_writer(beside)
    if os.environ.get("RANK", "0") == "0":  # a run may have died while it took the place of another
        if is_finished(beside):
            replace_run(folder)
        _keep_what_is_not_of_the_run(folder)
    _check_output_folder(recipe)
    if recipe.push_to_hub:
        validate_repo_id(recipe.hub_model_id or folder.resolve().name)
        HfApi().whoami()


def _check_output_folder(recipe: TrainingRecipe) -> None:
    folder, beside, checkpoint = Path(recipe.output_dir), place_beside(recipe.output_dir), recipe.resume_from_checkpoint
    goes_on = _goes_on(recipe)
    if goes_on and recipe.overwrite_output_dir:
        raise ValueError(
            "overwrite_output_dir would remove what resume_from_checkpoint goes on with: give one of them."
        )
    if (beside / "recipe.json").is_file() and not recipe.overwrite_output_dir:
        if checkpoint != "latest" and not _is_of(checkpoint, beside):
            raise ValueError(
                f"{beside} holds an unfinished run that is to take the place of {folder}: go on with it "
                "(--resume_from_checkpoint latest), or replace it too (--overwrite_output_dir)."
            )
    elif _holds_something(folder) and not recipe.overwrite_output_dir and not goes_on:
        raise ValueError(
            f"output_dir {folder} is not empty: choose another, or give --overwrite_output_dir, or, to go on with an "
            "interrupted run, --resume_from_checkpoint latest."
        )
    real = Path(os.path.realpath(folder))
    if _will_replace(recipe) and (os.path.ismount(real) or Path.cwd().is_relative_to(real)):
        raise ValueError(
            f"output_dir {folder} cannot be replaced, as a disk is mounted there or the working directory is in it: "
            "choose a folder in it, or go elsewhere."
        )


@contextmanager
def sole_writer(recipe: TrainingRecipe, accelerator: Accelerator) -> Iterator[None]:
    """Keeps other jobs from writing into the output folder while the block runs; its processes share it.

    Ends the program if another job writes into it, or has done so since `check_destination`.
    """
    accelerator.wait_for_everyone()  # until all have checked it
    with ExitStack() as stack:
        if accelerator.is_main_process:
            with user_errors():
                stack.enter_context(one_writer(recipe.output_dir))
                _check_output_folder(recipe)
        yield


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _is_of(checkpoint: str | None, folder: Path) -> bool:
    """Whether a checkpoint lies in a run folder, under its present or its former kind of name."""
    real = Path(os.path.realpath(folder))
    return checkpoint is not None and Path(os.path.realpath(checkpoint)).parent in (real, real / "checkpoints")


def _goes_on(recipe: TrainingRecipe) -> bool:
    """Whether the recipe goes on with the run of its output folder, and not with a copy of another."""
    checkpoint, folder = recipe.resume_from_checkpoint, Path(recipe.output_dir)
    return checkpoint == "latest" or _is_of(checkpoint, folder) or _is_of(checkpoint, place_beside(folder))


def _will_replace(recipe: TrainingRecipe) -> bool:
    """Whether the run is to take the place of what is in its output folder: what is whole there stays until then."""
    folder = Path(recipe.output_dir)
    return _holds_something(folder) and (recipe.overwrite_output_dir or is_finished(folder))


def is_finished(folder: str | Path) -> bool:
    """Whether a folder holds a finished run: its config.json comes last."""
    return all((Path(folder) / name).is_file() for name in ("recipe.json", "run.json", "config.json"))


def check_finished(folder: str | Path) -> None:
    """Raises a ValueError if a folder holds a run that is not finished, or a checkpoint."""
    folder = Path(folder)
    if (folder / "recipe.json").is_file() and not is_finished(folder):
        raise ValueError(
            f"{folder} is an unfinished run: finish it first, by the command that made it and "
            "--resume_from_checkpoint latest."
        )
    if (folder / "state.json").is_file() and not (folder / "config.json").exists():
        raise ValueError(f"{folder} is a checkpoint, for --resume_from_checkpoint: name the folder of a finished run.")


def start_run(recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Makes the run folder and writes the recipe into it, on the main process; starts the tracker if there is one.

    All processes must have passed `check_destination` before. If the output folder holds a run, this one is written
    beside it, and takes its place when it is finished.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder = _make_folder(recipe)
        write_json(folder / "recipe.json", {"kind": type(recipe).__name__, **dataclasses.asdict(recipe)})
    accelerator.wait_for_everyone()
    if recipe.report_to:
        accelerator.project_configuration.logging_dir = str(run_folder(recipe))
        accelerator.init_trackers(TRACKER_FOLDER, config={k: str(v) for k, v in dataclasses.asdict(recipe).items()})


def _make_folder(recipe: TrainingRecipe) -> Path:
    folder, beside = Path(recipe.output_dir), place_beside(recipe.output_dir)
    goes_on = _goes_on(recipe)
    if goes_on and (beside / "recipe.json").is_file():
        return beside
    (beside / "recipe.json").unlink(missing_ok=True)  # from here on, what is left of it is no run
    shutil.rmtree(beside, ignore_errors=True)
    if not _will_replace(recipe):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        return folder
    beside.mkdir()
    if goes_on:  # what it goes on with stays with the run that is there, too
        if (folder / "metrics.jsonl").exists():
            shutil.copy(folder / "metrics.jsonl", beside)
        for path in (*list_checkpoints(folder), folder / TRACKER_FOLDER):
            if path.is_dir():
                shutil.copytree(path, beside / path.relative_to(folder), copy_function=_link)
    return beside


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def run_record() -> dict[str, Any]:
    """With what a run was made: command (of paths the last part), date, versions, commit of the code."""
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *map(without_folders, sys.argv[1:])]),
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of this code; None if there is no git, or it is installed, maybe within another's repository."""
    git = ["git", "-C", str(_PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        said = subprocess.run(git, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    except OSError:
        return None
    folder, _, commit = said.strip().partition("\n")
    return commit[:7] if commit and Path(folder) == _PACKAGE.parent.resolve() else None


def without_folders(argument: str, near: Path | None = None) -> str:
    """An argument of a command without what it says of the machine: of a path the last part, of several, too.

    `owner/name` is one of the Hub, unless there is an `owner` here, or in a folder above `near`.
    """
    flag, equals, value = argument.rpartition("=")
    here = (near or Path.cwd() / "x").resolve()

    def shorten(path: str) -> str:
        owner, *_ = path.split("/")
        if re.fullmatch(r"\w[\w.-]*/[\w.-]+", path) and not any((f / owner).exists() for f in (Path(), *here.parents)):
            return path
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]

    return f"{flag}{equals}{','.join(map(shorten, value.split(',')))}"


@contextmanager
def written_whole(folder: Path, name: str) -> Iterator[Path]:
    """Gives a folder of a name to write a run's files to, then moves them up into `folder`, config.json last.

    Until then nothing loads from there. What an evaluation of other weights wrote goes then; on an error, what is new.

    Args:
        name: of the run, which heads its card.

    Raises:
        OSError: if they cannot be written.
    """
    home = folder / f"{UNFINISHED}files"
    aside = home / name
    try:
        shutil.rmtree(home, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            flush(path)
    except Exception as error:  # safetensors, tokenizers and Python each have their own for a full disk
        why = explain(error, folder)
        shutil.rmtree(home, ignore_errors=True)
        raise OSError(f"{folder} could not be written: {why}.") from error
    for file in ("config.json", *EVALUATION_FILES):  # these are of other weights
        (folder / file).unlink(missing_ok=True)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    flush(folder)
    shutil.rmtree(home)


def replace_run(folder: Path) -> None:
    """Lets the finished run that is beside a folder take its place. What the folder holds besides a run stays there.

    There is a moment without a folder, and none with parts of two runs in it.
    """
    beside = place_beside(folder)
    folder = beside.with_name(beside.name.removesuffix(".unfinished"))  # without links
    if folder.exists():
        if (beside / REPLACED).exists():  # it died here before
            folder.rmdir()
        else:
            folder.rename(beside / REPLACED)
    beside.rename(folder)
    flush(folder.parent)
    _keep_what_is_not_of_the_run(folder)


def _keep_what_is_not_of_the_run(folder: Path) -> None:
    """Takes it over from the run that was there before, which goes."""
    if (folder / REPLACED).exists():
        for path in (folder / REPLACED).iterdir():
            if not any(path.match(pattern) for pattern in RUN_FILES):
                path.rename(folder / path.name)
        shutil.rmtree(folder / REPLACED)
