"""Recipes: everything a run is told, as frozen dataclasses.

After presets in the flow. A recipe is what a script's flags, a YAML file, the launcher's settings and a preset come
down to: `parse_recipe` reads them, the former winning over the latter. Field names are those of transformers'
TrainingArguments where it has them.
"""

import argparse
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from .configuration_mingpt import MinGPTConfig
from .files import first_line, read_text
from .launching import PRECISIONS, launcher_settings
from .presets import MODEL_PRESETS
from .tokenization_mingpt import PAD_ID

OPTIMIZERS = ("adamw", "muon")
# transformers' schedules that need no arguments of their own, and the assignment's
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "warmup_stable_decay", "assignment")
TRACKERS = (None, "tensorboard", "trackio")
OBJECTIVES = ("span_corruption", "causal")
MIXED_PRECISIONS = (None, *PRECISIONS)
MAX_SEED = 2**32 - 1  # NumPy's

_TEXTS = ("prompt", "name")  # fields that are text; of the others none but a path begins with a tilde


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _required(help: str) -> Any:
    return field(metadata={"help": help})


def _check_choice(name: str, value: Any, choices: Sequence[Any] | Mapping[str, Any]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown: choose one of {', '.join(map(str, choices))}.")


def check_finite(recipe: Any) -> None:
    """Raises a ValueError if a number of a recipe is infinite or none: comparisons let NaN through."""
    for name, value in vars(recipe).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: give a finite number.")


def check_least(recipe: Any, least: int, *names: str) -> None:
    """Raises a ValueError if one of these numbers of a recipe is smaller; None is off."""
    for name in names:
        if (value := getattr(recipe, name)) is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}.")


def _check_positive(recipe: Any, *names: str) -> None:
    for name in names:
        value = getattr(recipe, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}: it must be more than 0.")


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What pretraining and finetuning share."""

    output_dir: str = _required("Run folder to write.")
    overwrite_output_dir: bool = _flag(False, "Replace the run that is in the output folder.")
    seed: int = _flag(0, "Seed of the weights, the order of the examples and all other draws.")
    num_train_epochs: float = _flag(10.0, "Passes over the examples.")
    max_steps: int | None = _flag(None, "Optimizer updates; overrides num_train_epochs. Streams need it.")
    per_device_train_batch_size: int = _flag(32, "Examples of one micro-batch on one process; on a CPU more, if short.")
    gradient_accumulation_steps: int = _flag(4, "Micro-batches of one optimizer update.")
    shuffle: bool = _flag(True, "Draw a new order for every epoch.")
    optim: str = _flag(
        "adamw", f"One of {OPTIMIZERS}: muon is for the matrices of the blocks, with AdamW for the rest."
    )
    learning_rate: float = _flag(6e-4, "Peak learning rate of AdamW.")
    muon_learning_rate: float = _flag(0.02, "Peak learning rate of Muon.")
    lr_scheduler_type: str = _flag("linear", f"One of {SCHEDULES}.")
    warmup_steps: int = _flag(10, "Steps of linear warm-up.")
    decay_share: float = _flag(0.2, "Of warmup_stable_decay: the last part of the run, in which the rate falls to 0.")
    decay_epochs: float | None = _flag(None, "Of assignment: when its cosine is first at its lowest.")
    weight_decay: float = _flag(0.1, "For the weights of linear layers.")
    decay_all_weights: bool = _flag(False, "Decay also norms and embeddings, as the assignment's code does.")
    adam_beta1: float = _flag(0.9, "AdamW's beta1.")
    adam_beta2: float = _flag(0.95, "AdamW's beta2.")
    max_grad_norm: float = _flag(1.0, "Gradients are clipped to this norm.")
    average_decay: float | None = _flag(None, "Keep an average of the weights that forgets at this rate: 0.99, say.")
    dropout: float = _flag(0.1, "Dropout on embeddings, attention weights and the residual stream.")
    mixed_precision: str | None = _flag(
        None, "'no', 'bf16' or 'fp16'; None: bf16 where the hardware gains from it, fp16 on other GPUs."
    )
    attn_implementation: str | None = _flag(None, "'eager', 'sdpa' or another of transformers; None: the fastest here.")
    padding_free: bool = _flag(False, "Join the rows of a micro-batch into one, for flash and flex attention.")
    torch_compile: bool = _flag(False, "Compile the model; the first steps take minutes.")
    use_cpu: bool = _flag(False, "Stay on the CPU, with one process or several.")
    dataloader_num_workers: int = _flag(0, "Processes that prepare batches ahead.")
    logging_steps: int = _flag(10, "Steps between two lines of metrics.jsonl.")
    save_steps: int | None = _flag(None, "Steps between two checkpoints; None: only when the run is told to stop.")
    save_total_limit: int = _flag(2, "Checkpoints to keep.")
    resume_from_checkpoint: str | None = _flag(None, "'latest', or a folder checkpoint-N: go on from there.")
    report_to: str | None = _flag(None, "Tracker beside metrics.jsonl: 'tensorboard' or 'trackio'.")
    push_to_hub: bool = _flag(False, "Push the run folder when done.")
    hub_model_id: str | None = _flag(None, "Repository to push to; None: the name of the output folder.")
    hub_private_repo: bool = _flag(False, "Make the repository private.")

    def __post_init__(self):
        check_finite(self)
        _check_choice("optim", self.optim, OPTIMIZERS)
        _check_choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        _check_choice("report_to", self.report_to, TRACKERS)
        if (self.decay_epochs is not None) != (self.lr_scheduler_type == "assignment"):
            raise ValueError(
                f"decay_epochs is {self.decay_epochs} and lr_scheduler_type {self.lr_scheduler_type!r}: "
                "'assignment' takes decay_epochs, the others do not."
            )
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"decay_share is {self.decay_share}: it is over 0 and at most 1.")
        _check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        _check_positive(self, "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate")
        _check_positive(self, "gradient_accumulation_steps", "muon_learning_rate", "max_grad_norm", "logging_steps")
        _check_positive(self, "save_steps", "save_total_limit", "decay_epochs")
        check_least(self, 0, "seed", "warmup_steps", "weight_decay", "dataloader_num_workers")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}: it must be at most {MAX_SEED}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is from 0 to under 1.")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay is {self.average_decay}: it is over 0 and under 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it is a share, from 0 to under 1.")
        if self.resume_from_checkpoint in ("true", "True"):  # TrainingArguments' word for it
            object.__setattr__(self, "resume_from_checkpoint", "latest")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(TrainingRecipe):
    """Pretraining: text in, a model that has read it out."""

    train_file: str = _required("Text file (a document a line), table with a column of documents, or Hub dataset.")
    dataset_config_name: str | None = _flag(None, "Config of a Hub dataset.")
    dataset_split: str = _flag("train", "Split of a Hub dataset.")
    text_column: str = _flag("text", "Column of the documents.")
    streaming: bool = _flag(False, "Read the documents on the fly, in their order; needs max_steps and tokenizer_name.")
    tokenizer_name: str | None = _flag(None, "Folder or Hub name of a character tokenizer; None: from the corpus.")
    vocabulary_file: str | None = _flag(None, "Text whose characters join the corpus's: of the questions to come.")
    objective: str = _flag("span_corruption", f"One of {OBJECTIVES}.")
    num_spans: int = _flag(1, "Spans that span corruption takes out of a document.")
    document_windows: bool = _flag(False, "Span corruption of all parts of long documents, not of their beginnings.")
    salient_share: float = _flag(0.0, "Share of the documents' draws that become a cloze of a name or a number.")
    salient_numbers: bool = _flag(True, "Clozes of numbers too, not of names only.")
    context_before: int | None = _flag(None, "Most characters that a cloze keeps before its gap; None: any number.")
    context_after: int | None = _flag(None, "Most characters that it keeps after its gap; None: any number.")
    long_context_share: float = _flag(0.0, "Share of the clozes that keep up to 24 and 4 characters instead.")
    questions_file: str | None = _flag(None, "TSV of training questions with answers, read along with the text.")
    questions_share: float = _flag(0.25, "Their share of the examples of each step.")
    answers_share: float = _flag(0.0, "Share of the clozes that ask for an answer of questions_file, where one stands.")
    seek_contexts: bool = _flag(False, "Ask instead for what stands as the answers do: learnt from where they stand.")
    phrasings_per_answer: int = _flag(0, "Documents that restate each answer of questions_file, to join the text.")
    model_preset: str = _flag("assignment", f"Size of the model: one of {', '.join(MODEL_PRESETS)}.")
    attention_type: str | None = _flag(None, "'dot_product' or 'synthesizer'; None: as the model preset has it.")
    position_embedding_type: str | None = _flag(None, "'learned' or 'rope'; None: as the model preset has it.")
    max_position_embeddings: int | None = _flag(None, "Block of the model; None: as the model preset has it.")
    block_size: int | None = _flag(None, "Longest training example, in characters; None: the block of the model.")

    def __post_init__(self):
        super().__post_init__()
        _check_choice("objective", self.objective, OBJECTIVES)
        _check_choice("model_preset", self.model_preset, MODEL_PRESETS)
        for name in ("salient_share", "long_context_share", "questions_share", "answers_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share, from 0 to 1.")
        check_least(self, 0, "context_before", "context_after", "phrasings_per_answer")
        check_least(self, 1, "num_spans", "max_position_embeddings", "block_size")
        if self.long_context_share and (not self.salient_share or None in (self.context_before, self.context_after)):
            raise ValueError(
                f"long_context_share is {self.long_context_share}: it is of the clozes of salient_share, and beside "
                "short contexts: give salient_share, context_before and context_after too."
            )
        if self.answers_share and not (self.salient_share and self.questions_file):
            also = " and --seek_contexts false" if self.seek_contexts else ""
            raise ValueError(
                f"answers_share is {self.answers_share}: it is of the clozes of salient_share, and the answers are "
                f"those of a questions_file: give both, or --answers_share 0{also}."
            )
        for name, unset in (("salient_share", 0), ("num_spans", 1), ("document_windows", False)):
            if (value := getattr(self, name)) != unset and self.objective != "span_corruption":
                raise ValueError(f"{name} {value} goes with the objective 'span_corruption' only.")
        if self.seek_contexts and (self.streaming or not self.answers_share):
            raise ValueError(
                "seek_contexts is for the share of clozes that answers_share says, and learns from the whole text: "
                "give answers_share, and not streaming, or --seek_contexts false."
            )
        if self.questions_file and not 0 < self.questions_share < 1:
            raise ValueError(
                f"questions_share is {self.questions_share}: with a questions_file it is over 0 and under 1."
            )
        if self.phrasings_per_answer and (self.streaming or not self.questions_file):
            raise ValueError(
                f"phrasings_per_answer is {self.phrasings_per_answer}: they are of the answers of a questions_file, "
                "and join a text that is no stream: give questions_file, and not streaming."
            )
        if self.streaming and self.decay_epochs:
            raise ValueError(
                f"decay_epochs is {self.decay_epochs}: how many steps that is of a stream is not known. Give another "
                "lr_scheduler_type."
            )
        if self.streaming and (self.max_steps is None or self.tokenizer_name is None):
            raise ValueError("A stream has no known length or vocabulary: give max_steps and tokenizer_name with it.")


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(TrainingRecipe):
    """Finetuning: a pretrained run and questions with answers in, a model that answers out."""

    model_name_or_path: str = _required("Pretrained run folder or Hub name.")
    revision: str | None = _flag(None, "Branch, tag or commit of a Hub model.")
    from_scratch: bool = _flag(False, "Take the shape and the vocabulary of that model, but new weights.")
    train_file: str = _required("TSV of question and answer.")


Recipe = TypeVar("Recipe")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of flags, and a script's docstring as it is written."""


def parse_recipe(
    recipe_class: type[Recipe],
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    argv: Sequence[str] | None = None,
    positionals: Sequence[str] = (),
) -> Recipe:
    """Reads a recipe from the command line: `[positionals] [FILE.yaml] [--preset NAME] [--field value ...]`.

    A flag wins over the YAML file, that over what the launcher asks for, and that over the preset. A mistake ends the
    program with one sentence and code 2.

    Args:
        recipe_class: a dataclass.
        presets: named values; the first is taken if none is named.
        argv: by default that of the program.
        positionals: fields whose values stand first, without their flags.
    """
    _prepare_terminal()
    presets = presets or {}
    argv = list(sys.argv[1:] if argv is None else argv)
    first, rest = split_arguments(argv)
    argv = _as_flags(dict(zip(positionals, first, strict=False))) + first[len(positionals) :] + rest
    parser = HfArgumentParser(
        recipe_class,  # type: ignore[arg-type]
        description=sys.modules["__main__"].__doc__,
        formatter_class=_Formatter,
    )
    if presets:
        parser.add_argument(
            "--preset", default=next(iter(presets)), help=f"Values to start from: {', '.join(presets)}."
        )
    with user_errors():
        unset: set[str] = set()  # what a YAML file sets to null, where a preset may have a value
        if argv and argv[0].endswith((".yaml", ".yml")):
            lines = _read_yaml(Path(argv[0]).expanduser(), recipe_class)
            unset = {name for name, value in lines.items() if value is None}
            argv = _as_flags(lines) + argv[1:]
        names = {field.name for field in fields(recipe_class)}  # type: ignore[arg-type]
        if "use_cpu" in names:  # what this script runs is on devices, of which the launcher has a say
            asked = {name: value for name, value in launcher_settings().items() if name in names - unset}
            argv = _as_flags(asked) + argv
        if presets:
            finder = argparse.ArgumentParser(add_help=False)
            finder.add_argument("--preset", default=next(iter(presets)))
            preset = finder.parse_known_args(argv)[0].preset
            _check_choice("preset", preset, presets)
            argv = _as_flags({name: value for name, value in presets[preset].items() if name not in unset}) + argv
        values = vars(parser.parse_args(argv))
        values.pop("preset", None)
        recipe = recipe_class(**{name: _as_meant(name, value) for name, value in values.items()})
        check_finite(recipe)
        return recipe


def _prepare_terminal() -> None:
    """Lets a script print what the terminal's encoding lacks, escaped, and end after Ctrl-C with a word."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # and not what a notebook or a test has put there
        sys.stdout.reconfigure(errors="backslashreplace")

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            print(f"{Path(sys.argv[0]).name}: interrupted.", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report


def _as_meant(name: str, value: Any) -> Any:
    """Text of a command line as it was typed, and a path with the home folder for its `~`.

    A shell leaves the `~` of `--flag=~/path`, and YAML has no shell.

    Raises:
        ValueError: if a path has bytes that are no characters in this locale: a file of JSON could not hold it.
    """
    if not isinstance(value, str):
        return value
    if name in _TEXTS:
        return as_text(value)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        shown = os.fsencode(value).decode("utf-8", "backslashreplace")
        raise ValueError(f"{name} {shown} is no text in this locale: set PYTHONUTF8=1, or take another name.")
    return os.path.expanduser(value)


def as_text(argument: str) -> str:
    """Text of a command line as it was typed: in UTF-8, also where the locale is another."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before the first flag, and the rest."""
    first_flag = next((i for i, argument in enumerate(argv) if argument.startswith("-")), len(argv))
    return list(argv[:first_flag]), list(argv[first_flag:])


def _as_flags(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _read_yaml(path: Path, recipe_class: Any) -> dict[str, str | None]:
    """The `name: value` lines of a YAML file, each value as it is written; None for null or nothing.

    YAML's guesses are not made, so that `no` is no boolean, `1e-3` no string, and `2020-01-01` no date; but where a
    recipe wants a boolean, `on` and `off` are, too.
    """
    defaults = {field.name: field.default for field in fields(recipe_class)}
    booleans = {field.name for field in fields(recipe_class) if field.type is bool}
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{place} is no YAML that can be read: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is no YAML that can be read: {first_line(error)}.") from None
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} holds no `name: value` lines: write the flags of this script, one a line.")
    values: dict[str, str | None] = {}
    for key, value in node.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and re.fullmatch(r"\w[\w-]*", key.value)):
            raise ValueError(f"{where} begins with no name of a flag: write `name: value`.")
        name = key.value.replace("-", "_")
        if name in values:
            raise ValueError(f"{where}: {name} is there twice: keep one of them.")
        if not isinstance(value, yaml.ScalarNode) or not value.tag.endswith(":str"):
            raise ValueError(f"{where}: {name} has no plain value: write one word, number or text.")
        is_null = value.style is None and value.value.lower() in ("", "~", "null")
        if is_null and defaults.get(name, 0) is not None:
            raise ValueError(f"{where}: {name} has no value: write one, or drop the line.")
        values[name] = None if is_null else value.value
        if name in booleans and value.value.lower() in ("on", "off"):
            values[name] = str(value.value.lower() == "on")
    return values


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one sentence, instead of a traceback, where its user made a mistake.

    Scripts put around it what they do before the long work.
    """
    try:
        yield
    except (ValueError, OSError, StrictDataclassError) as error:
        # Of a field of the configuration the cause speaks, in one sentence.
        message = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
        if os.environ.get("RANK", "0") == "0":
            print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def accidents() -> Iterator[None]:
    """Ends the program with one sentence where long work cannot go on: on a full disk, or with a loss of infinity."""
    try:
        yield
    except (OSError, FloatingPointError) as error:
        print(f"\n{Path(sys.argv[0]).name}: {error}", file=sys.stderr)  # below the progress bar
        sys.exit(1)


def build_config(recipe: PretrainRecipe, vocab_size: int) -> MinGPTConfig:
    """The configuration of a new model.

    Raises:
        ValueError: if `block_size` is over the model's, or the fields do not fit each other.
    """
    values = MODEL_PRESETS[recipe.model_preset] | {"vocab_size": vocab_size, "pad_token_id": PAD_ID}
    for name in ("attention_type", "position_embedding_type", "max_position_embeddings"):
        if (value := getattr(recipe, name)) is not None:
            values |= {name: value}
    for name in ("embedding_dropout", "attention_dropout", "hidden_dropout"):
        values |= {name: recipe.dropout}
    config = MinGPTConfig(**values)
    if (recipe.block_size or 0) > config.max_position_embeddings:
        raise ValueError(
            f"block_size {recipe.block_size} is over the model's {config.max_position_embeddings}: "
            "lower it, or raise max_position_embeddings."
        )
    return config
