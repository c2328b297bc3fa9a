"""Run folders and the Hub: save everything that belongs together, render the card, push, load again.

Last in the flow. A run folder holds config, weights (safetensors), generation config, tokenizer, the two files of model
code (so that it loads with `trust_remote_code=True` where this package is not installed), recipe.json, run.json,
metrics.jsonl, and the model card as README.md. What is pushed is that folder.
"""

import dataclasses
import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from .birthplaces import MAX_ANSWER_TOKENS
from .checkpoints import FOLDER as CHECKPOINTS
from .data import load_tokenizer
from .evaluation import format_table
from .files import check_source, describe_failure, name_apart, parse_json, read_text
from .honesty import Calibration
from .recipes import TrainingRecipe, user_errors
from .report import PICTURE, PICTURE_LINE, format_honesty
from .tokenization_mingpt import MASK, MASK_ID, PAD_ID

CODE_FILES = ("configuration_mingpt.py", "modeling_mingpt.py")
AUTO_MAP = {
    "AutoConfig": "configuration_mingpt.MinGPTConfig",
    "AutoModel": "modeling_mingpt.MinGPTModel",
    "AutoModelForCausalLM": "modeling_mingpt.MinGPTForCausalLM",
}
CALIBRATION_FILE = "calibration.json"
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "tokenizers", "huggingface_hub")
_HERE = Path(__file__).parent
# in a wheel beside this file, in a checkout on the top level
CARD_TEMPLATE = next(p for p in (_HERE / "model_card.md", _HERE.parent / "model_card.md") if p.exists())


def check_destination(recipe: TrainingRecipe) -> None:
    """Makes sure, before the work, that its result has a place to go to.

    Raises:
        ValueError: if the output folder holds something and the recipe does not say to replace it or to go on with it.
        OSError: if the recipe says to push, and the Hub does not know who we are.
    """
    folder = Path(recipe.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file: choose another folder.")
    if recipe.resume_from_checkpoint and recipe.overwrite_output_dir:
        raise ValueError(
            "overwrite_output_dir would remove what resume_from_checkpoint goes on with: give one of them."
        )
    may_be_used = recipe.overwrite_output_dir or recipe.resume_from_checkpoint
    if folder.is_dir() and any(folder.iterdir()) and not may_be_used:
        raise ValueError(
            f"output_dir {folder} is not empty: choose another, or give --overwrite_output_dir, or, to go on with an "
            "interrupted run, --resume_from_checkpoint latest."
        )
    if recipe.push_to_hub:
        HfApi().whoami()


def start_run(recipe: TrainingRecipe, accelerator: Accelerator) -> None:
    """Makes the run folder and writes the recipe into it, on the main process; starts the tracker if there is one.

    All processes must have passed `check_destination` before. Of a run that is replaced, what would be taken for the
    new one's is removed.
    """
    accelerator.wait_for_everyone()
    folder = Path(recipe.output_dir)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "report.json", "predictions.txt", CALIBRATION_FILE, "honesty.md", PICTURE):
            if name != "metrics.jsonl" or not recipe.resume_from_checkpoint:
                (folder / name).unlink(missing_ok=True)
        if not recipe.resume_from_checkpoint:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        write_json(folder / "recipe.json", {"kind": type(recipe).__name__, **dataclasses.asdict(recipe)})
    if recipe.report_to:
        accelerator.init_trackers("hf_mingpt", config={k: str(v) for k, v in dataclasses.asdict(recipe).items()})


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file for people to read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def run_record() -> dict[str, Any]:
    """With what a run was made: command (of absolute paths the last part), date, versions, commit of the code."""
    git = ["git", "-C", str(_HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])]),
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": commit or None,
    }


def _without_folders(argument: str) -> str:
    """An argument of a command without what it says of the machine: cards are for the public."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def finish_run(
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seconds: float,
    stop_at_mask: bool,
) -> None:
    """Writes a trained run into its folder on the main process, and pushes it if the recipe says so."""
    if accelerator.is_main_process:
        folder = Path(recipe.output_dir)
        record = run_record() | {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
            "parameters": model.num_parameters(),
            "training_seconds": round(seconds, 1),
        }
        save_run(folder, model, tokenizer, record, stop_at_mask=stop_at_mask)
        print(f"Wrote {folder}: {model.num_parameters():,} parameters, {seconds:.0f} s of training.")
        if recipe.push_to_hub:
            with user_errors():
                print(f"Pushed: {push_run(folder, recipe.hub_model_id, private=recipe.hub_private_repo)}")
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
    model.config.auto_map = AUTO_MAP
    model.save_pretrained(folder)
    del model.config.auto_map  # an ordinary save copies no code, so it must not name any
    tokenizer.eos_token = MASK if stop_at_mask else None
    tokenizer.save_pretrained(folder)
    for name in CODE_FILES:
        shutil.copyfile(_HERE / name, folder / name)
    write_json(folder / "run.json", record)
    write_card(folder)


def load_run(
    name_or_path: str, revision: str | None = None, **config: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the model and the tokenizer of a run folder or a Hub repository.

    Args:
        config: fields of the configuration to change, such as a dropout.

    Raises:
        OSError: if there is no such run.
        ValueError: if weights, model and vocabulary do not fit each other, or the weights are damaged.
    """
    check_source(name_or_path, "run folder", has_owner=True)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_path, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, **config
        )
    except SafetensorError as error:
        raise ValueError(f"{name_or_path}: its weights are damaged ({error}): get the file anew.") from error
    except StrictDataclassError:
        raise
    except Exception as error:
        raise describe_failure(name_or_path, "model", error) from error
    model, info = loaded
    # the library would only warn, and draw at random what is missing
    for kind, names in (
        ("lack", info["missing_keys"]),
        ("have, and the model has not,", info["unexpected_keys"]),
        ("have in another shape", {name for name, *_ in info["mismatched_keys"]}),
    ):
        if names:
            raise ValueError(
                f"{name_or_path}: its weights {kind} {', '.join(sorted(names)[:3])} ({len(names)} in all): they are "
                "not those of its config.json."
            )
    tokenizer = load_tokenizer(name_or_path, revision)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"{name_or_path}: the vocabulary has {len(tokenizer)} tokens, the model {model.config.vocab_size}: "
            "use the tokenizer that was saved with the model."
        )
    return model, tokenizer


def load_calibration(name_or_path: str, revision: str | None = None) -> Calibration:
    """Loads the calibration of a run folder or a Hub repository.

    Raises:
        FileNotFoundError: if it has none.
        OSError: if the Hub cannot be reached.
        ValueError: if it is no calibration, has a value that none can have, or is of a version that took other signs.
    """
    check_source(name_or_path, "run folder", has_owner=True)
    path = Path(name_or_path) / CALIBRATION_FILE
    if not Path(name_or_path).is_dir():
        try:
            path = Path(hf_hub_download(name_or_path, CALIBRATION_FILE, revision=revision))
        except RemoteEntryNotFoundError:
            pass
        except OSError as error:
            raise describe_failure(name_or_path, "run folder", error) from error
    if not path.is_file():
        raise FileNotFoundError(f"{name_or_path} has no {CALIBRATION_FILE}: make it with scripts/calibrate.py.")
    try:
        content = parse_json(read_text(path), path.name)
        if not isinstance(content, dict):
            raise ValueError("It is no object.")
        calibration = Calibration(**content)
        if not calibration.places or not calibration.unknown_names:
            raise ValueError("It has no places, or no unknown names, to compare an answer with.")
        return calibration
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no calibration of this version: make it anew (scripts/calibrate.py). {error}"
        ) from error


def write_card(folder: str | Path, repo_id: str | None = None) -> ModelCard:
    """Renders model_card.md from what stands in a run folder, as its README.md, with the metadata of the Hub."""
    folder = Path(folder)
    recipe, run, config = (json.loads((folder / f).read_text()) for f in ("recipe.json", "run.json", "config.json"))
    report_path = folder / "report.json"
    report = json.loads(report_path.read_text()) if report_path.exists() else None
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
        parameters=f"{run['parameters']:,}",
        config=config,
        recipe=recipe,
        answers_questions=recipe["kind"] == "FinetuneRecipe" or bool(recipe.get("questions_file")),
        run=run,
        report=report,
        table=format_table(report["results"]) if report else None,
        honesty=f"{PICTURE_LINE}\n\n{format_honesty(report['honesty'])}" if report and "honesty" in report else None,
    )
    card.save(folder / "README.md")
    return card


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
    """Pushes a run folder to the Hub, with its card rendered anew, and returns the address of the commit.

    Args:
        repo_id: "name" or "owner/name"; None: the folder's name.
        revision: the branch to push to; it is made if there is none.

    Raises:
        FileNotFoundError: if the folder is no run folder.
        OSError: if the push fails; it can be repeated.
    """
    folder = Path(folder)
    if missing := [f for f in ("config.json", "model.safetensors", "run.json") if not (folder / f).is_file()]:
        raise FileNotFoundError(f"{folder} is no finished run: it lacks {', '.join(missing)}.")
    return _push(folder, repo_id, kind="run", private=private, revision=revision)


def push_dataset(folder: str | Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a folder of data with its card, as it is, and returns the address of the commit.

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
        if kind == "run":
            write_card(folder, repo)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            repo_type=repo_type,
            revision=revision,
            commit_message=f"Push the {kind} {folder.resolve().name}",
            ignore_patterns=[f"{CHECKPOINTS}/*"],
        )
    except Exception as error:  # of a server that dies the client gives errors that have no common kind with the rest
        raise OSError(
            f"The push failed: {error}. What is in {folder} is whole: repeat scripts/push_to_hub.py --{kind} {folder}."
        ) from error
    return str(commit.commit_url)


def read_metrics(folders: Sequence[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """The metrics.jsonl of each run folder, by the shortest names that tell the folders apart.

    Raises:
        FileNotFoundError: if a folder has none.
        ValueError: with the line, if it is damaged; a last line that the run did not end is left out.
    """
    metrics = {}
    for label, folder in zip(name_apart(folders), map(Path, folders), strict=True):
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(
                f"No metrics.jsonl in {folder}: name folders that pretrain.py or finetune.py wrote."
            )
        *lines, _ = read_text(path).split("\n")
        metrics[label] = [parse_json(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1)]
        for number, record in enumerate(metrics[label], start=1):
            values = [record.get(key) for key in ("step", "loss", "learning_rate")] if isinstance(record, dict) else []
            if not values or not all(isinstance(value, int | float) for value in values):
                raise ValueError(f"{path}, line {number} has no step, loss and learning_rate: it is of no run.")
    return metrics
