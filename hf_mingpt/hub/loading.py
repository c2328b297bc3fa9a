"""Loading runs: model, tokenizer, calibration and metrics of a run folder or a Hub repository. No code there is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..data.encoding import load_tokenizer
from ..evaluation.calibration import Calibration
from ..system.files import check_source, describe_failure, name_apart, parse_json, read_text
from ..training.metrics_log import read_log
from .run_folders import CALIBRATION_FILE, check_finished


def load_run(
    name_or_path: str, revision: str | None = None, **config: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the model and the tokenizer of a run folder or a Hub repository. No code that lies there is run.

    The weights are float32, whatever type the file has: in a smaller one an answer would depend on the others of its
    batch, and most steps of a finetuning would be rounded away.

    Args:
        config: fields of the configuration to change, such as a dropout.

    Raises:
        OSError: if there is no such run.
        ValueError: if the run is not finished or needs code of its own, if weights, model and vocabulary do not fit
            each other, or if the weights are damaged or not finite.
    """
    check_finished(name_or_path)
    check_source(name_or_path, "run folder", has_owner=True)
    model = load_model(name_or_path, revision, dtype=torch.float32, **config)
    tokenizer = load_tokenizer(name_or_path, revision)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"{name_or_path}: the vocabulary has {len(tokenizer)} tokens, the model {model.config.vocab_size}: "
            "use the tokenizer that was saved with the model."
        )
    return model, tokenizer


def load_model(name_or_path: str, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """Loads the causal language model of a folder or a Hub repository, with its weights or not at all.

    Args:
        options: of `from_pretrained`, such as a dtype, and fields of the configuration to change.

    Raises:
        OSError, ValueError: as `load_run` does.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            revision=revision,
            trust_remote_code=False,  # None would ask on the standard input
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except SafetensorError as error:
        raise ValueError(f"{name_or_path}: its weights are damaged ({error}): get the file anew.") from error
    except StrictDataclassError as error:
        raise ValueError(f"{name_or_path}: {error.__cause__ or error}") from error
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
    if bad := [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{name_or_path}: its weights are not finite in {', '.join(bad[:3])} ({len(bad)} in all): take an earlier "
            "checkpoint."
        )
    return model


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
        metrics[label] = list(read_log(path))
        for number, record in enumerate(metrics[label], start=1):
            if not all(isinstance(record.get(key), int | float) for key in ("loss", "learning_rate")):
                raise ValueError(f"{path}, line {number} has no loss and learning_rate: it is of no run.")
    return metrics
