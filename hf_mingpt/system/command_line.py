"""Command lines: flags, a YAML file, the launcher's settings and a preset become a recipe.

A flag wins over the YAML file, the file over the launcher, the launcher over the preset. `--print_config` prints what
comes out as a YAML file, without the launcher's part.
"""

import atexit
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_origin

from huggingface_hub.errors import StrictDataclassError

from .commands import as_called, program_name
from .fields import Preset, check_choice, check_finite, old_names, with_present_names, without_constants
from .flag_parser import build_parser, parse_flags
from .launching import launcher_settings
from .yaml_flags import format_yaml, read_yaml

# fields of text; in all others a leading tilde is the home folder
_TEXTS = ("prompt", "question", "questions", "name", "names")
_LISTS = ("report_to",)  # fields of words with commas between them; a YAML file may have a list

Recipe = TypeVar("Recipe")


def parse_recipe(
    recipe_class: type[Recipe],
    presets: Mapping[str, Preset] | None = None,
    argv: Sequence[str] | None = None,
    positionals: Sequence[str] = (),
) -> Recipe:
    """Reads a recipe from the command line: `[POSITIONALS] [FILE.yaml] [--preset NAME] [--field value ...]`.

    Words without a flag may stand anywhere. `--help` shows the values that a run with these arguments would take. A
    mistake ends the program with one sentence and exit code 2.

    Args:
        recipe_class: a dataclass with fields from `flag` and `required`.
        presets: the first is the default.
        argv: arguments; None: those of the program.
        positionals: fields whose values need no flag, in this order; a field of type tuple takes all words left.
    """
    _prepare_terminal()
    presets = presets or {}
    known = fields(recipe_class)  # type: ignore[arg-type]  # a dataclass, which a TypeVar cannot say
    with user_errors():
        parser = build_parser(recipe_class, presets, positionals)
        by_flag, words = parse_flags(parser, sys.argv[1:] if argv is None else argv)
        file = next((word for word in words if word.endswith((".yaml", ".yml"))), None)
        if file:
            words.remove(file)
        by_flag = _up_to_date(recipe_class, by_flag | _place(words, positionals, by_flag, recipe_class))
        by_file = _up_to_date(recipe_class, _read_file(file, recipe_class, parser)) if file else {}
        asked = {**by_file, **by_flag}
        shows_help, prints_config = asked.pop("help", False), asked.pop("print_config", False)
        preset = asked.pop("preset", None)
        values = _preset_values(preset, presets)
        if prints_config:
            print(format_yaml(recipe_class, {**({"preset": preset} if preset else {}), **values, **asked}))
            sys.exit(0)
        names = {f.name for f in known}
        if "use_cpu" in names:  # a script without this flag uses no device, so the launcher has no say
            values |= {name: value for name, value in launcher_settings().items() if name in names}
        for name, replaced in getattr(recipe_class, "REPLACED_BY", {}).items():
            if asked.get(name) is not None:
                values = {key: value for key, value in values.items() if key not in replaced}
        values |= asked
        if shows_help:
            build_parser(recipe_class, presets, positionals, values | {"preset": preset}).print_help()
            sys.exit(0)
        if missing := [f.name for f in known if f.default is MISSING and f.name not in values]:
            raise ValueError(f"Some flags are required: give {', '.join(f'--{name}' for name in missing)}.")
        recipe = recipe_class(**{name: _as_meant(name, value) for name, value in values.items()})
        check_finite(recipe)
        return recipe


def _read_file(path: str, recipe_class: Any, parser: Any) -> dict[str, Any]:
    """Reads the values of a YAML file, with the types of the flags; null only where None is the default."""
    nullable = {f.name for f in fields(recipe_class) if f.default is None}
    nullable |= {old for old, name in old_names(recipe_class).items() if name in nullable}
    lines = read_yaml(Path(path).expanduser(), nullable, _LISTS)
    values, _ = parse_flags(parser, [f"--{name}={value}" for name, value in lines.items() if value is not None])
    return values | {name: None for name, value in lines.items() if value is None}


def _place(
    words: Sequence[str], positionals: Sequence[str], given: Mapping[str, Any], recipe_class: Any
) -> dict[str, Any]:
    """Returns the values of the positionals that no flag gives.

    Raises:
        ValueError: if words are left over.
    """
    types: dict[str, Any] = {f.name: f.type for f in fields(recipe_class)}
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
        warn(f"The preset {name} is now called {new}. The old name will be removed in the next release.")
        name = new
    check_choice("preset", name, presets)
    return dict(presets[name].values)


def _up_to_date(recipe_class: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without old names and constants, with a warning for each."""
    return without_constants(recipe_class, with_present_names(recipe_class, values, warn), warn)


def warn(sentence: str) -> None:
    """Prints a warning, on the main process only."""
    if _is_main_process():
        print(f"{program_name()}: warning: {as_called(sentence)}", file=sys.stderr)


def tell(sentence: str) -> None:
    """Prints what a script has decided, on the main process only."""
    if _is_main_process():
        print(sentence)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _prepare_terminal() -> None:
    """Prepares output and the report of errors.

    Characters that the encoding of the terminal lacks are escaped. Ctrl-C is reported in one line. A program ends
    silently when the reader of its output has gone, as in `| head`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not a stand-in of a notebook or a test
        sys.stdout.reconfigure(errors="backslashreplace")
        atexit.unregister(_drop_unread_output)
        atexit.register(_drop_unread_output)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _exit_if_unread(error)
        if issubclass(kind, KeyboardInterrupt):
            print(f"{program_name()}: interrupted.", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = report


def _exit_if_unread(error: BaseException) -> None:
    """Ends the program if the error comes from its own output, whose reader has gone, and not from another pipe."""
    if isinstance(error, BrokenPipeError):
        try:
            print(flush=True)
        except BrokenPipeError:
            sys.exit(1)


def _drop_unread_output() -> None:
    """Drops what is left of the output if its reader has gone: the interpreter would report it when it ends."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_meant(name: str, value: Any) -> Any:
    """Decodes text, and expands a leading `~` in a path: a shell does not in `--flag=~/path`, nor does YAML.

    Raises:
        ValueError: if a path has bytes that this locale cannot decode, which JSON could not store.
    """
    if isinstance(value, tuple):
        return tuple(_as_meant(name, part) for part in value)
    if not isinstance(value, str):
        return value
    if name in _TEXTS:
        return as_text(value)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        shown = os.fsencode(value).decode("utf-8", "backslashreplace")
        raise ValueError(f"{name} {shown} cannot be decoded in this locale: set PYTHONUTF8=1, or choose another name.")
    return os.path.expanduser(value)


def as_text(argument: str) -> str:
    """Decodes an argument as UTF-8, whatever the locale."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


@contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with one sentence and exit code 2, instead of a traceback, after a mistake of the user.

    Scripts wrap in it everything that they check before the long work.
    """
    try:
        yield
    except (ValueError, OSError, StrictDataclassError) as error:
        _exit_if_unread(error)
        # an error of a configuration's field has its one sentence in the cause
        message = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
        if _is_main_process():
            print(f"{program_name()}: {as_called(str(message))}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def accidents() -> Iterator[None]:
    """Ends the program with one sentence and exit code 1 if long work cannot go on: full disk, infinite loss."""
    try:
        yield
    except (OSError, FloatingPointError) as error:
        _exit_if_unread(error)
        print(f"\n{program_name()}: {as_called(str(error))}", file=sys.stderr)  # below the progress bar
        sys.exit(1)
