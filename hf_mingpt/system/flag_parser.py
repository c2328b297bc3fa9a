"""The flags of a recipe as an argparse parser: one flag per field, in groups by topic."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from itertools import pairwise
from types import NoneType
from typing import Any, get_args, get_origin

from .commands import as_called, program_name
from .fields import TOPICS, Preset

# what users of transformers, of minGPT and of the assignment's run.py write
_SYNONYMS = {
    "lr": "learning_rate",
    "pretrain_lr": "learning_rate",
    "finetune_lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "max_epochs": "num_train_epochs",
    "bf16": "mixed_precision bf16",
    "fp16": "mixed_precision fp16",
    "no_cuda": "use_cpu",
    "device": "use_cpu",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_embd": "hidden_size",
    "model": "model_name_or_path",
    "reading_params_path": "model_name_or_path",
    "writing_params_path": "output_dir",
    "outputs_path": "output_dir",
    "pretrain_corpus_path": "train_file",
    "finetune_corpus_path": "questions_file",
    "eval_corpus_path": "questions_file",
}
_TRUE, _FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message}.")

    def format_help(self) -> str:
        return as_called(super().format_help())


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line ends of a script's docstring, and leaves room beside long flags."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


def build_parser(
    recipe_class: Any,
    presets: Mapping[str, Preset],
    positionals: Sequence[str],
    values: Mapping[str, Any] | None = None,
) -> argparse.ArgumentParser:
    """Builds the parser of a recipe. It returns the flags that are given, without defaults.

    Old names of fields and former fields are flags too, which --help does not show.

    Args:
        recipe_class: a dataclass with fields from `flag` and `required`.
        presets: named in the help.
        positionals: named in the help; `parse_flags` returns words without a flag in their order.
        values: by field, and the preset; the help shows them as the defaults.
    """
    parser = _Parser(
        prog=program_name(),
        usage=_usage(recipe_class, presets, positionals),
        description=sys.modules["__main__"].__doc__,
        epilog=_epilog(presets),
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this page.")
    parser.add_argument("--print_config", action="store_true", help="Print the flags as a YAML file to edit.")
    if presets:
        preset = (values or {}).get("preset") or next(iter(presets))
        parser.add_argument("--preset", metavar="NAME", help=f"Values to start from. (default: {preset!r})")
    groups: dict[str | None, Any] = {None: parser}
    groups |= {topic: parser.add_argument_group(topic) for topic in TOPICS}
    names, topic = {f.name for f in fields(recipe_class)}, None
    for f in fields(recipe_class):
        topic = f.metadata["topic"] or topic
        if get_origin(f.type) is tuple:  # a positional only
            continue
        _add_flag(groups[topic], f, f.name, f"{f.metadata['help']} {_describe_default(f, values or {})}")
        if (old := f.metadata["formerly"]) and old not in names:
            _add_flag(parser, f, old, argparse.SUPPRESS)
    for name, value in getattr(recipe_class, "CONSTANTS", {}).items():
        parser.add_argument(f"--{name}", type=type(value), help=argparse.SUPPRESS)
    return parser


def _usage(recipe_class: Any, presets: Mapping[str, Preset], positionals: Sequence[str]) -> str:
    many = {f.name for f in fields(recipe_class) if get_origin(f.type) is tuple}
    words = [f"[{name.upper()}{' ...' if name in many else ''}]" for name in positionals]
    return " ".join(["%(prog)s", *words, "[FILE.yaml]", *["[--preset NAME]"] * bool(presets), "[--flag VALUE ...]"])


def _epilog(presets: Mapping[str, Preset]) -> str:
    lines = [f"  {name}: {preset.reason}" for name, preset in presets.items()]
    if presets:
        lines = ["presets (--preset NAME --help shows the values of one):", *lines, ""]
    return "\n".join([*lines, "FILE.yaml has `flag: value` lines. A flag on the command line wins over it."])


def _describe_default(f: Field, values: Mapping[str, Any]) -> str:
    return "(required)" if f.default is MISSING else f"(default: {values.get(f.name, f.default)!r})"


def _add_flag(group: Any, f: Field, name: str, help: str) -> None:
    """Adds the flag of a field under a name, also with dashes, and `--no_name` where it is on by default."""
    of_type: Any = next((part for part in get_args(f.type) if part is not NoneType), f.type)
    options: dict[str, Any] = {"type": of_type, "metavar": {int: "N", float: "X"}.get(of_type, "TEXT")}
    if of_type is bool:
        options = {"type": _boolean, "metavar": "BOOL", "nargs": "?", "const": True}
    group.add_argument(f"--{name}", help=help.replace("%", "%%"), **options)
    dashed = name.replace("_", "-")
    if dashed != name:
        group.add_argument(f"--{dashed}", dest=name, help=argparse.SUPPRESS, **options)
    if f.default is True:
        off = {"dest": name, "action": "store_const", "const": False, "help": argparse.SUPPRESS}
        group.add_argument(f"--no_{name}", f"--no-{dashed}", **off)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in _TRUE


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of the flags, by their names as given, and the words without a flag.

    Raises:
        ValueError: for an unknown or abbreviated flag, and for a value of another type.
    """
    argv = [*argv, "--"]
    end = argv.index("--")
    booleans = {spelling for action in parser._actions if action.nargs == "?" for spelling in action.option_strings}
    words = []
    for word, following in pairwise(argv[: end + 1]):
        # otherwise argparse takes the word after a boolean flag as its value
        bare = word in booleans and following.lower() not in _TRUE + _FALSE
        words.append(f"{word}=true" if bare else word)
    given, rest = parser.parse_known_args(words)
    if unknown := next((word for word in rest if word.startswith("-")), None):
        name = unknown.partition("=")[0]
        shown = [action.option_strings[0] for action in parser._actions if action.help != argparse.SUPPRESS]
        meant = f"--{_SYNONYMS.get(name.strip('-').replace('-', '_'))}"
        near = [meant] if meant.partition(" ")[0] in shown else get_close_matches(name, shown, 1)
        raise ValueError(f"{name} is unknown: {f'did you mean {near[0]}?' if near else 'see --help.'}")
    return vars(given), [*rest, *argv[end + 1 : -1]]
