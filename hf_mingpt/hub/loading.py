"""Loading: model, tokenizer, calibration and metrics of a run folder or a Hub repository, without running its code."""

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
from ..system.command_line import tell, warn
from ..system.files import check_source, describe_failure, name_apart, parse_json, read_text
from ..tokenization_mingpt import vocabulary_size
from ..training.metrics_log import read_log
from .run_folders import CALIBRATION_FILE, check_finished, is_finished

DEMO_FOLDER = Path("runs/demo")  # of `make demo`


def find_run(name_or_path: str | None) -> str:
    """The run that a user names; without a name the calibrated run of `make demo`, and says so.

    Raises:
        FileNotFoundError: if there is neither.
    """
    run = DEMO_FOLDER / "finetuned"
    if name_or_path is None and not (run / CALIBRATION_FILE).is_file():
        raise FileNotFoundError(
            f"No model_name_or_path, and no {run}: name a run, or make that one with scripts/run_demo.py."
        )
    if name_or_path is None:
        tell(f"Run: {run}")
    return name_or_path or str(run)


def find_demo_data(name: str) -> str | None:
    """A file that the run of `make demo` was trained on, if it is still there."""
    path = DEMO_FOLDER / "data" / name
    return str(path) if path.is_file() else None


def load_run(
    name_or_path: str, revision: str | None = None, **config: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the model and the tokenizer of a run folder or a Hub repository, without running its code.

    The weights are float32, whatever the dtype of the file. In a smaller dtype, an answer would depend on the other
    questions of its batch, and most updates of finetuning would be rounded away.

    Args:
        name_or_path: a run folder or a name on the Hub.
        revision: a branch, tag or commit on the Hub.
        config: fields of the configuration to change, such as a dropout.

    Raises:
        OSError: if there is no such run.
        ValueError: if the run is unfinished or needs its own code, if weights, configuration and vocabulary do not
            match, or if the weights are damaged or not finite. A model may have more embeddings than the tokenizer has
            tokens.
    """
    check_finished(name_or_path)
    check_source(name_or_path, "run folder", has_owner=True)
    model = load_model(name_or_path, revision, dtype=torch.float32, **config)
    tokenizer = load_tokenizer(name_or_path, revision)
    if (size := vocabulary_size(tokenizer)) > model.config.vocab_size:  # a model may have more, for its speed
        raise ValueError(
            f"{name_or_path}: the vocabulary has {size} tokens, the model {model.config.vocab_size}: "
            "use the tokenizer that was saved with the model."
        )
    return model, tokenizer


def warn_of_text_only(name_or_path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns about a run folder that was trained on text alone, and so does not answer questions yet."""
    if is_finished(name_or_path) and model.generation_config.eos_token_id != tokenizer.mask_token_id:
        warn(f"{name_or_path} was trained on text alone and answers no questions: train it on some with finetune.py.")


def load_model(name_or_path: str, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """Loads a causal language model, and refuses weights that do not match its configuration.

    Args:
        name_or_path: a folder or a name on the Hub.
        revision: a branch, tag or commit on the Hub.
        options: options of `from_pretrained`, such as a dtype, and fields of the configuration to change.

    Raises:
        OSError, ValueError: see `load_run`.
    """
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            revision=revision,
            trust_remote_code=False,  # None would ask on standard input
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except SafetensorError as error:
        raise ValueError(f"{name_or_path}: its weights are damaged ({error}): download the file again.") from error
    except StrictDataclassError as error:
        raise ValueError(f"{name_or_path}: {error.__cause__ or error}") from error
    except Exception as error:
        if "unexpected keyword argument" in str(error):  # a field of MinGPTConfig, given to another architecture
            raise ValueError(
                f"{name_or_path} is not a minGPT: convert it first, with scripts/convert_checkpoint.py."
            ) from error
        raise describe_failure(name_or_path, "model", error) from error
    model, info = loaded
    # the library only warns, and initializes missing weights at random
    for kind, names in (
        ("lack", info["missing_keys"]),
        ("have the unknown", info["unexpected_keys"]),
        ("have another shape in", {name for name, *_ in info["mismatched_keys"]}),
    ):
        if names:
            raise ValueError(
                f"{name_or_path}: its weights {kind} {', '.join(sorted(names)[:3])} ({len(names)} in all): they do not "
                "match its config.json."
            )
    # a quantized weight, of a subclass, knows few functions
    weights = {n: w if type(w) is torch.Tensor else w.dequantize() for n, w in model.state_dict().items()}
    if bad := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{name_or_path}: its weights are not finite in {', '.join(bad[:3])} ({len(bad)} in all): take an earlier "
            "checkpoint."
        )
    return model


def load_calibration(name_or_path: str, revision: str | None = None) -> Calibration:
    """Loads the calibration of a run folder or a Hub repository.

    Args:
        name_or_path: a run folder or a name on the Hub.
        revision: a branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if the run has no calibration.
        OSError: if the Hub cannot be reached.
        ValueError: if the file is damaged, has an impossible value, or is of a version with other features.
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
        raise FileNotFoundError(f"{name_or_path} has no {CALIBRATION_FILE}: write it with scripts/calibrate.py.")
    try:
        content = parse_json(read_text(path), path.name)
        if not isinstance(content, dict):
            raise ValueError("It is not an object.")
        if "candidates" not in content and "places" in content:  # as earlier versions called them
            content["candidates"] = content.pop("places")
        calibration = Calibration(**content)
        if not calibration.candidates or not calibration.unknown_names:
            raise ValueError("It has no candidates or no unknown names.")
        return calibration
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a calibration of this version: write it again with scripts/calibrate.py. {error}"
        ) from error


def read_metrics(folders: Sequence[str | Path]) -> dict[str, list[dict[str, Any]]]:
    """Reads the metrics.jsonl of run folders.

    Returns:
        The records of each run, by the shortest names that distinguish the folders: those of training, with `loss`
        and `learning_rate`, and those of evaluations, whose metrics begin with `eval_`. An incomplete last line is
        left out.

    Raises:
        FileNotFoundError: if a folder has no metrics.jsonl.
        ValueError: with the line, if it is damaged.
    """
    metrics = {}
    for label, folder in zip(name_apart(folders), map(Path, folders), strict=True):
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(
                f"No metrics.jsonl in {folder}: give folders that pretrain.py or finetune.py wrote."
            )
        metrics[label] = list(read_log(path))
        for number, record in enumerate(metrics[label], start=1):
            keys = [key for key in record if key.startswith("eval_")] or ("loss", "learning_rate")
            if not all(isinstance(record.get(key), int | float) for key in keys):
                raise ValueError(f"{path}, line {number} has no loss and learning_rate: give the folder of a run.")
    return metrics
