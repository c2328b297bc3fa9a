"""Run folders: what they hold, and how a run is written so that its folder is always whole or marked as unfinished.

A run folder holds

- config.json, model.safetensors, generation_config.json and the tokenizer, as transformers writes them;
- configuration_mingpt.py and modeling_mingpt.py, so that it loads with `trust_remote_code=True` where this package is
  not installed;
- recipe.json (the run configuration), run.json (command, versions, commit, hardware, time) and metrics.jsonl (loss);
- README.md, the model card;
- samples.jsonl, predictions on held-out data while it trained;
- checkpoint-N, the checkpoints, and checkpoint-best-N, the best weights;
- after an evaluation, predictions.txt and report.json; with a calibration.json, calibration.md and calibration.png too.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accelerate import Accelerator
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from ..evaluation.report import PAGE, PICTURE
from ..system.command_line import user_errors
from ..system.writing import UNFINISHED, check_no_writer, explain, flush, one_writer, write_json
from ..training.evaluation_schedule import BEST
from ..training.folders import IGNORE_PATTERNS, list_checkpoints, place_beside, run_folder
from ..training.metrics_log import SAMPLES
from ..training.recipes import TrainingRecipe
from ..training.trackers import start_trackers

CALIBRATION_FILE = "calibration.json"
REPORT_FILES = ("report.json", PAGE, PICTURE, "honesty.md", "honesty.png")  # the last two: of earlier versions
EVALUATION_FILES = ("predictions.txt", CALIBRATION_FILE, *REPORT_FILES)
# The files that are pushed: no checkpoints, no files of the user's own, no logs of trackers, which name the host.
PUBLIC_FILES = [*EVALUATION_FILES, "README.md", "metrics.jsonl", "recipe.json", "run.json", "config.json"]
PUBLIC_FILES += ["generation_config.json", "model*.safetensors*", "*token*.json", "vocab.*", "merges.txt"]
PUBLIC_FILES += ["chat_template.jinja", "*_mingpt.py"]
TRACKER_FOLDER = "hf_mingpt"  # in a run folder
# The files that are removed when another run replaces this one. All others are the user's and stay.
RUN_FILES = [*PUBLIC_FILES, SAMPLES, *IGNORE_PATTERNS, TRACKER_FOLDER, "checkpoints", f"{UNFINISHED}*"]
REPLACED = f"{UNFINISHED}replacement"  # folder in a run folder: the run that is being replaced


def check_destination(recipe: TrainingRecipe) -> None:
    """Checks, before training, that the run can be written into its output folder and pushed.

    Raises:
        ValueError: if the output folder is not empty and the recipe neither replaces nor resumes its run, or if it
            cannot be replaced.
        OSError: if another process writes into it, or if the recipe pushes to the Hub and the token is not valid.
    """
    folder, beside = Path(recipe.output_dir), place_beside(recipe.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file: choose another folder.")
    if folder.name.endswith(".unfinished"):
        raise ValueError(f"output_dir {folder} ends in .unfinished, the mark of unfinished runs: choose another name.")
    check_no_writer(folder)
    check_no_writer(beside)
    if os.environ.get("RANK", "0") == "0":  # a run may have died while it replaced another
        if is_finished(beside):
            replace_run(folder)
        _keep_user_files(folder)
    _check_output_folder(recipe)
    if recipe.push_to_hub:
        validate_repo_id(recipe.hub_model_id or folder.resolve().name)
        HfApi().whoami()


def _check_output_folder(recipe: TrainingRecipe) -> None:
    folder, beside, checkpoint = Path(recipe.output_dir), place_beside(recipe.output_dir), recipe.resume_from_checkpoint
    resumes = _resumes(recipe)
    if resumes and recipe.overwrite_output_dir:
        raise ValueError(
            "overwrite_output_dir would remove the checkpoint of resume_from_checkpoint: give one of them."
        )
    if (beside / "recipe.json").is_file() and not recipe.overwrite_output_dir:
        if checkpoint != "latest" and not _lies_in(checkpoint, beside):
            raise ValueError(
                f"{beside} holds an unfinished run that is to replace {folder}: resume it (--resume_from_checkpoint "
                "latest) or replace it as well (--overwrite_output_dir)."
            )
    elif _is_not_empty(folder) and not recipe.overwrite_output_dir and not resumes:
        raise ValueError(
            f"output_dir {folder} is not empty: choose another folder, replace it (--overwrite_output_dir), or resume "
            "an interrupted run (--resume_from_checkpoint latest)."
        )
    real = Path(os.path.realpath(folder))
    if _will_replace(recipe) and (os.path.ismount(real) or Path.cwd().is_relative_to(real)):
        raise ValueError(
            f"output_dir {folder} cannot be replaced, because it is a mount point or contains the working directory: "
            "choose a folder inside it, or change the working directory."
        )


@contextmanager
def sole_writer(recipe: TrainingRecipe, accelerator: Accelerator) -> Iterator[None]:
    """Locks the output folder for the processes of this job while the block runs.

    Exits with code 2 if another job writes into it, or has done so since `check_destination`.
    """
    accelerator.wait_for_everyone()  # all have passed check_destination
    with ExitStack() as stack:
        if accelerator.is_main_process:
            with user_errors():
                stack.enter_context(one_writer(recipe.output_dir))
                _check_output_folder(recipe)
        yield


def _is_not_empty(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _lies_in(checkpoint: str | None, folder: Path) -> bool:
    """Whether a checkpoint lies in a run folder, or in its `checkpoints`, as in earlier versions."""
    real = Path(os.path.realpath(folder))
    return checkpoint is not None and Path(os.path.realpath(checkpoint)).parent in (real, real / "checkpoints")


def _resumes(recipe: TrainingRecipe) -> bool:
    """Whether the recipe resumes the run of its output folder, rather than a checkpoint of another run."""
    checkpoint, folder = recipe.resume_from_checkpoint, Path(recipe.output_dir)
    return checkpoint == "latest" or _lies_in(checkpoint, folder) or _lies_in(checkpoint, place_beside(folder))


def _will_replace(recipe: TrainingRecipe) -> bool:
    """Whether the run replaces its output folder, whose content stays until the new run is finished."""
    folder = Path(recipe.output_dir)
    return _is_not_empty(folder) and (recipe.overwrite_output_dir or is_finished(folder))


def is_finished(folder: str | Path) -> bool:
    """Whether a folder holds a finished run. config.json is written last."""
    return all((Path(folder) / name).is_file() for name in ("recipe.json", "run.json", "config.json"))


def check_finished(folder: str | Path) -> None:
    """Raises a ValueError if a folder holds an unfinished run or a checkpoint."""
    folder = Path(folder)
    if (folder / "recipe.json").is_file() and not is_finished(folder):
        raise ValueError(
            f"{folder} is an unfinished run: finish it first, with the command that started it and "
            "--resume_from_checkpoint latest."
        )
    if (folder / "state.json").is_file() and not (folder / "config.json").exists():
        raise ValueError(f"{folder} is a checkpoint, for --resume_from_checkpoint: give the folder of a finished run.")


def start_run(recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Makes the run folder, writes recipe.json (on the main process), and starts the trackers.

    All processes call it after `check_destination`. If the output folder holds a run, the new run is written beside it
    and replaces it at the end.
    """
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder = _make_folder(recipe)
        write_json(folder / "recipe.json", {"kind": type(recipe).__name__, **dataclasses.asdict(recipe)})
    accelerator.wait_for_everyone()
    start_trackers(accelerator, TRACKER_FOLDER, dataclasses.asdict(recipe), str(run_folder(recipe)))


def _make_folder(recipe: TrainingRecipe) -> Path:
    folder, beside = Path(recipe.output_dir), place_beside(recipe.output_dir)
    resumes = _resumes(recipe)
    if resumes and (beside / "recipe.json").is_file():
        _remove_leftovers(beside)
        return beside
    (beside / "recipe.json").unlink(missing_ok=True)  # from here on, the rest of it is not a run
    shutil.rmtree(beside, ignore_errors=True)
    if not _will_replace(recipe):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        return folder
    beside.mkdir()
    if resumes:  # the present run keeps its checkpoints until it is replaced
        for name in ("metrics.jsonl", SAMPLES):
            if (folder / name).exists():
                shutil.copy(folder / name, beside)
        for path in (*list_checkpoints(folder), *folder.glob(f"{BEST}*"), folder / TRACKER_FOLDER):
            if path.is_dir():
                shutil.copytree(path, beside / path.relative_to(folder), copy_function=_link)
    return beside


def _remove_leftovers(folder: Path) -> None:
    """Removes what a run that was killed had not finished writing or removing."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        if leftover.name != REPLACED:  # which has files of the user's
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


@contextmanager
def written_whole(folder: Path, name: str) -> Iterator[Path]:
    """Yields a temporary folder for a run's files, then moves them into `folder`, config.json last.

    Nothing loads from `folder` before config.json is there. The files of an evaluation of the previous weights are
    removed. On an error, the new files are removed instead.

    Args:
        folder: the run folder.
        name: the name of the run, which becomes the title of its card.

    Raises:
        OSError: if the files cannot be written.
    """
    home = folder / f"{UNFINISHED}files"
    aside = home / name
    try:
        shutil.rmtree(home, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in aside.iterdir():
            flush(path)
    except Exception as error:  # safetensors, tokenizers and Python each raise another for a full disk
        why = explain(error, folder)
        shutil.rmtree(home, ignore_errors=True)
        raise OSError(f"{folder} could not be written: {why}.") from error
    for file in ("config.json", *EVALUATION_FILES):  # these belong to other weights
        (folder / file).unlink(missing_ok=True)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    flush(folder)
    shutil.rmtree(home)


def replace_run(folder: Path) -> None:
    """Replaces a run folder by the finished run beside it. The user's own files stay.

    For a moment there is no folder, but it never holds parts of two runs.
    """
    beside = place_beside(folder)
    folder = beside.with_name(beside.name.removesuffix(".unfinished"))  # symbolic links resolved
    if folder.exists():
        if (beside / REPLACED).exists():  # an earlier attempt died here
            folder.rmdir()
        else:
            folder.rename(beside / REPLACED)
    beside.rename(folder)
    flush(folder.parent)
    _keep_user_files(folder)


def _keep_user_files(folder: Path) -> None:
    """Moves the user's own files from the replaced run into the new one, and removes the rest."""
    if (folder / REPLACED).exists():
        for path in (folder / REPLACED).iterdir():
            if not any(path.match(pattern) for pattern in RUN_FILES):
                path.rename(folder / path.name)
        shutil.rmtree(folder / REPLACED)
