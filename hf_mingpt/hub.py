"""The Hub: a finished run is saved with its card, and pushed.

Last in the flow. What is pushed is a run folder's own files, of each path in them the last part only.
"""

import json
import logging
import shlex
import shutil
from contextlib import nullcontext
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .birthplaces import MAX_ANSWER_TOKENS
from .checkpoints import last_checkpoint, run_folder
from .evaluation import format_table
from .markup import code_span, escape_markdown
from .recipes import TrainingRecipe, user_errors
from .report import PICTURE_LINE, format_honesty
from .run_folders import (
    PUBLIC_FILES,
    check_finished,
    replace_run,
    run_record,
    without_folders,
    write_json,
    written_whole,
)
from .tokenization_mingpt import MASK, MASK_ID, PAD_ID
from .writing import UNFINISHED, one_writer, written_aside

logger = logging.getLogger(__name__)

_HIDDEN = [".*", "*/.*", f"{UNFINISHED}*"]  # in a folder of data
_HERE = Path(__file__).parent
# in a wheel beside this file, in a checkout on the top level
CARD_TEMPLATE = next(p for p in (_HERE / "model_card.md", _HERE.parent / "model_card.md") if p.exists())


def _read_public(path: Path) -> dict[str, Any]:
    """What the public may know of recipe.json, run.json or report.json: all but folders, hosts and users."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in content.items():
        if isinstance(value, str):
            words = [without_folders(word, path) for word in (shlex.split(value) if name == "command" else [value])]
            content[name] = shlex.join(words) if name == "command" else words[0]
    return content


def finish_run(
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seconds: float,
    stop_at_mask: bool,
) -> None:
    """Writes a trained run into its folder on the main process, and pushes it if the recipe says so.

    Raises:
        OSError: if it cannot be written; its checkpoints, and a run that it was to replace, are left as they are.
    """
    if accelerator.is_main_process:
        try:
            about = run_record()
        except Exception as error:  # of packages and their records: the weights are to be written all the same
            logger.warning(f"run.json says neither command nor versions: {error}")
            about = {}
        record = about | {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
            "parameters": model.num_parameters(),
            "training_seconds": round(seconds, 1),
        }
        folder, written = Path(recipe.output_dir), run_folder(recipe)
        with one_writer(written) if written != folder else nullcontext():
            try:
                with written_whole(written, folder.resolve().name) as aside:
                    shutil.copy(written / "recipe.json", aside)
                    save_run(aside, model, tokenizer, record, stop_at_mask=stop_at_mask)
            except OSError as error:
                raise OSError(
                    f"{error} The last checkpoint is {last_checkpoint(recipe)}: make room, and go on with "
                    "--resume_from_checkpoint latest."
                ) from error
            if written != folder:
                replace_run(folder)
            print(f"Wrote {folder}: {model.num_parameters():,} parameters, {seconds:.0f} s of training.")
            if recipe.push_to_hub:
                with user_errors():
                    print(f"Pushed: {push_run(folder, recipe.hub_model_id, private=recipe.hub_private_repo)}")
    try:
        accelerator.end_training()
    except Exception as error:  # of the tracker, whatever it raises: the run is there
        logger.warning(f"{recipe.report_to} could not be ended: {error}")
        accelerator.trackers.clear()
        accelerator.end_training()


def save_run(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    *,
    stop_at_mask: bool,
) -> None:
    """Writes model, generation config, tokenizer, model code, run.json and the card into a run folder.

    Args:
        record: what run.json says.
        stop_at_mask: whether generation ends with a MASK, as the answer to a question does.
    """
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_ANSWER_TOKENS, pad_token_id=PAD_ID, eos_token_id=MASK_ID if stop_at_mask else None
    )
    model.save_pretrained(folder)  # with the files of its code
    tokenizer.eos_token = MASK if stop_at_mask else None
    tokenizer.save_pretrained(folder)
    write_json(folder / "run.json", record)
    try_card(folder)


def write_card(folder: str | Path, repo_id: str | None = None) -> ModelCard:
    """Renders model_card.md from what stands in a run folder, as its README.md, with the metadata of the Hub.

    Names and texts that come from elsewhere are no markup in it.
    """
    folder = Path(folder)
    recipe, run, config = (_read_public(folder / name) for name in ("recipe.json", "run.json", "config.json"))
    report_path = folder / "report.json"
    report = _read_public(report_path) if report_path.exists() else None
    name = repo_id or folder.resolve().name
    data = ModelCardData(
        license="mit",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["mingpt", "character-level", "span-corruption", "closed-book-question-answering"],
        model_name=name,
        eval_results=_eval_results(report) if report else None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(CARD_TEMPLATE),
        name=name,
        text=escape_markdown,
        code=code_span,
        parameters=f"{run['parameters']:,}",
        config=config,
        recipe=recipe,
        answers_questions=recipe["kind"] == "FinetuneRecipe" or bool(recipe.get("questions_file")),
        run=run,
        report=report,
        table=format_table(report["results"]) if report else None,
        honesty=f"{PICTURE_LINE}\n\n{format_honesty(report['honesty'])}" if report and "honesty" in report else None,
    )
    with written_aside(folder / "README.md") as aside:
        card.save(aside)
    return card


def try_card(folder: str | Path) -> None:
    """Writes the card, or says in a warning why there is none: a run is worth more than its card."""
    try:
        write_card(folder)
    except Exception as error:  # of templates, records and disks
        logger.warning(f"{folder} has no new card: {error}")


def _eval_results(report: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="question-answering",
            task_name="Closed-book birthplace questions",
            dataset_type="birthplaces",
            dataset_name=report["questions"]["file"],
            metric_type="exact_match",
            metric_name="accuracy",
            metric_value=round(report["results"]["model"]["accuracy"], 4),
        )
    ]


def push_run(
    folder: str | Path, repo_id: str | None = None, *, private: bool = False, revision: str | None = None
) -> str:
    """Pushes the files of a run to the Hub, with its card rendered anew, and returns the address of the commit.

    What else lies in the folder stays there, and what is pushed names no folder, host or user.

    Args:
        repo_id: "name" or "owner/name"; None: the folder's name.
        revision: the branch to push to; it is made if there is none.

    Raises:
        FileNotFoundError: if the folder is no run folder.
        ValueError: if the run is not finished.
        OSError: if the push fails; it can be repeated.
    """
    folder = Path(folder)
    check_finished(folder)
    if missing := [f for f in ("config.json", "model.safetensors", "run.json") if not (folder / f).is_file()]:
        raise FileNotFoundError(f"{folder} is no finished run: it lacks {', '.join(missing)}.")
    return _push(folder, repo_id, kind="run", private=private, revision=revision)


def push_dataset(folder: str | Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a folder of data with its card, as it is but for hidden files, and returns the address of the commit.

    Args:
        folder: of scripts/generate_biographies.py, whose card says how `load_dataset` reads it.
        repo_id: "name" or "owner/name"; None: the folder's name.

    Raises:
        FileNotFoundError: if the folder has no card.
        OSError: if the push fails; it can be repeated.
    """
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(
            f"{folder} has no README.md, the card of the dataset: make one, or name another folder."
        )
    return _push(folder, repo_id, kind="data", private=private)


def _push(folder: Path, repo_id: str | None, *, kind: str, private: bool, revision: str | None = None) -> str:
    api = HfApi(library_name="hf_mingpt", library_version=version("hf_mingpt"))
    repo_type = "model" if kind == "run" else "dataset"
    try:
        name = repo_id or folder.resolve().name
        repo = api.create_repo(name, private=private, repo_type=repo_type, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo, branch=revision, repo_type=repo_type, exist_ok=True)
        what: Any = {"repo_type": repo_type, "revision": revision, "commit_message": f"Push the {kind}"}
        if kind == "run":
            write_card(folder, repo)
            commit = api.create_commit(repo, _public_files(folder), **what)
        else:
            commit = api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=_HIDDEN, **what)
    except Exception as error:  # of a server that dies the client gives errors that have no common kind with the rest
        raise OSError(
            f"The push failed: {error}. What is in {folder} is whole: repeat scripts/push_to_hub.py --{kind} {folder}."
        ) from error
    return str(commit.commit_url)


def _public_files(folder: Path) -> list[CommitOperationAdd]:
    """The files of a run, as they are pushed."""
    files: list[CommitOperationAdd] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in PUBLIC_FILES):
            content: Any = path
            if path.name in ("recipe.json", "run.json", "report.json"):
                content = json.dumps(_read_public(path), indent=2, ensure_ascii=False).encode() + b"\n"
            files.append(CommitOperationAdd(path.name, content))
    return files
