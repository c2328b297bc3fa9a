"""Command lines: flags, a YAML file, the launcher's settings and a preset become a recipe.

A flag wins over the YAML file, the file over the launcher, the launcher over the preset.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from .fields import check_choice, check_finite
from .files import first_line, read_text
from .launching import launcher_settings

_TEXTS = ("prompt", "name")  # fields that are text; of the others none but a path begins with a tilde


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
            check_choice("preset", preset, presets)
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
