"""Command lines: flags, a YAML file, the launcher's settings and a preset become a recipe.

A flag wins over the YAML file, the file over the launcher, the launcher over the preset.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, TypeVar, get_args, get_origin

from huggingface_hub.errors import StrictDataclassError

from .fields import TOPICS, Preset, check_choice, check_finite, old_names, with_present_names
from .launching import launcher_settings
from .yaml_flags import read_yaml

_TEXTS = ("prompt", "name", "names")  # fields of text; in all others a leading tilde is the home folder
_TRUE, _FALSE = ("true", "yes", "on", "t", "y", "1"), ("false", "no", "off", "f", "n", "0")

Recipe = TypeVar("Recipe")


def parse_recipe(
    recipe_class: type[Recipe],
    presets: Mapping[str, Preset] | None = None,
    argv: Sequence[str] | None = None,
    positionals: Sequence[str] = (),
) -> Recipe:
    """Reads a recipe from the command line: `[FILE.yaml] [--preset NAME] [--field value ...] [positionals]`.

    Words without a flag may stand anywhere. A flag wins over the YAML file, the file over what the launcher asks for,
    and the launcher over the preset. A mistake ends the program with one sentence and exit code 2.

    Args:
        recipe_class: a dataclass with fields from `flag` and `required`.
        presets: the first is the default.
        argv: words of the command line; None: those of the program.
        positionals: fields whose values may be given without a flag, in this order; a tuple takes all that are left.
    """
    _prepare_terminal()
    presets = presets or {}
    with user_errors():
        parser = _build_parser(recipe_class, presets)
        by_flag, words = _read(parser, sys.argv[1:] if argv is None else argv)
        files = [word for word in words if word.endswith((".yaml", ".yml"))]
        by_flag |= _place([word for word in words if word not in files[:1]], positionals, by_flag, recipe_class)
        by_flag = with_present_names(recipe_class, by_flag, _warn)
        by_file: dict[str, Any] = {}
        if files:
            old = old_names(recipe_class)
            nullable = {f.name for f in _fields(recipe_class) if f.default is None}
            lines = read_yaml(Path(files[0]).expanduser(), nullable | {name for name in old if old[name] in nullable})
            by_file, _ = _read(parser, [f"--{name}={value}" for name, value in lines.items() if value is not None])
            by_file |= {name: None for name, value in lines.items() if value is None}
            by_file = with_present_names(recipe_class, by_file, _warn)
        asked = {**by_file, **by_flag}
        values = _preset_values(asked.pop("preset", None), presets)
        names = {f.name for f in _fields(recipe_class)}
        if "use_cpu" in names:  # a script without that flag uses no device, and the launcher has no say
            values |= {name: value for name, value in launcher_settings().items() if name in names}
        values |= asked
        if values.pop("help", False):
            _build_parser(recipe_class, presets, positionals, values).print_help()
            sys.exit(0)
        if missing := [f.name for f in _fields(recipe_class) if f.default is MISSING and f.name not in values]:
            raise ValueError(f"Some flags are required: give {', '.join(f'--{name}' for name in missing)}.")
        recipe = recipe_class(**{name: _as_meant(name, value) for name, value in values.items()})
        check_finite(recipe)
        return recipe


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message}.")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line ends of a script's docstring, and leaves room for the texts beside long flags."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32)


def _fields(recipe_class: Any) -> tuple[Field, ...]:
    return fields(recipe_class)


def _build_parser(
    recipe_class: Any,
    presets: Mapping[str, Preset],
    positionals: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> argparse.ArgumentParser:
    """A parser that returns what is given and nothing else; with `values`, for --help, which shows them as defaults."""
    flags = [f for f in _fields(recipe_class) if get_origin(f.type) is not tuple]
    words = " ".join(f"[{name.upper()}{'' if name in {f.name for f in flags} else ' ...'}]" for name in positionals)
    parser = _Parser(
        usage=" ".join(["%(prog)s [FILE.yaml]", *["[--preset NAME]"] * bool(presets), "[--flag VALUE ...]", words]),
        description=sys.modules["__main__"].__doc__,
        epilog="presets:\n" + "\n".join(f"  {name}: {preset.reason}" for name, preset in presets.items())
        if presets
        else None,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this page, with the values of the preset.")
    if presets:
        parser.add_argument("--preset", metavar="NAME", help=f"Values to start from (default: {next(iter(presets))}).")
    groups: dict[str | None, Any] = {None: parser}
    groups |= {topic: parser.add_argument_group(topic) for topic in TOPICS}
    topic, names = None, {f.name for f in flags}
    for f in flags:
        topic = f.metadata.get("topic") or topic
        help = f"{f.metadata['help']} {_describe_default(f, values or {})}".replace("%", "%%")
        _add_flag(groups[topic], f, f.name, help)
        if (old := f.metadata.get("formerly")) and old not in names:
            _add_flag(parser, f, old, argparse.SUPPRESS)
    return parser


def _add_flag(group: Any, f: Field, name: str, help: str) -> None:
    of_type: Any = next((part for part in get_args(f.type) if part is not NoneType), f.type)
    metavar = {bool: "BOOL", int: "N", float: "X"}.get(of_type, "TEXT")
    options: dict[str, Any] = {"type": of_type, "metavar": metavar}
    if of_type is bool:
        options |= {"type": _boolean, "nargs": "?", "const": True}
        if f.default is True:
            for spelling in {f"--no_{name}", f"--no-{name.replace('_', '-')}"}:
                group.add_argument(spelling, dest=name, action="store_const", const=False, help=argparse.SUPPRESS)
    group.add_argument(f"--{name}", help=help, **options)
    if "_" in name:
        group.add_argument(f"--{name.replace('_', '-')}", dest=name, help=argparse.SUPPRESS, **options)


def _describe_default(f: Field, values: Mapping[str, Any]) -> str:
    if f.default is MISSING:
        return "(required)"
    return f"(default: {values.get(f.name, f.default)!r})"


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in _TRUE


def _read(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of the flags, by their names as given, and the words without a flag.

    Raises:
        ValueError: for an unknown flag, or a value of another type.
    """
    argv = [*argv, "--"]
    end = argv.index("--")
    booleans = {s for action in parser._actions if action.nargs == "?" for s in action.option_strings}
    known = []
    for word, following in pairwise(argv[: end + 1]):
        # argparse would take any word that follows for the value of a boolean flag
        bare = word in booleans and following.lower() not in _TRUE + _FALSE
        known.append(f"{word}=true" if bare else word)
    given, words = parser.parse_known_args(known)
    if unknown := next((word for word in words if word.startswith("-")), None):
        name = unknown.partition("=")[0]
        near = get_close_matches(name, [s for action in parser._actions for s in action.option_strings], 1)
        raise ValueError(f"{name} is unknown: {f'did you mean {near[0]}?' if near else 'see --help.'}")
    return vars(given), [*words, *argv[end + 1 : -1]]


def _place(words: Sequence[str], positionals: Sequence[str], given: Mapping[str, Any], recipe_class: Any) -> dict:
    """The values of positionals that are not given by a flag.

    Raises:
        ValueError: if words are left over.
    """
    types: dict[str, Any] = {f.name: f.type for f in _fields(recipe_class)}
    rest, placed = list(words), dict[str, Any]()
    for name in [name for name in positionals if name not in given]:
        if get_origin(types[name]) is tuple:
            placed[name], rest = tuple(rest), []
        elif rest:
            placed[name] = rest.pop(0)
    if rest:
        raise ValueError(f"{rest[0]!r} belongs to no flag: remove it, or write a flag before it (see --help).")
    return placed


def _preset_values(name: str | None, presets: Mapping[str, Preset]) -> dict[str, Any]:
    if not presets:
        return {}
    name = name or next(iter(presets))
    if new := next((key for key, preset in presets.items() if preset.formerly == name), None):
        _warn(f"The preset {name} is now called {new}. The old name will be removed in the next release.")
        name = new
    check_choice("preset", name, presets)
    return dict(presets[name].values)


def _warn(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: warning: {sentence}", file=sys.stderr)


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
    if isinstance(value, tuple):
        return tuple(_as_meant(name, part) for part in value)
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
