"""Fields of recipes: help texts, former names, topics, presets, and the checks that several recipes share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

# The groups of --help, in this order. A field without a topic has that of the field before it.
TOPICS = ("Data", "Objective", "Model", "Optimization", "Evaluation", "Hardware", "Checkpoints and logging", "Hub")


@dataclass(frozen=True)
class Preset:
    """Named values for the flags of a script.

    Attributes:
        reason: one line, for --help.
        values: by the names of the fields.
        formerly: the name that the preset had before, which works for one release.
    """

    reason: str
    values: dict[str, Any]
    formerly: str | None = None


def flag(default: Any, help: str, *, topic: str | None = None, formerly: str | None = None) -> Any:
    """A field of a recipe.

    Args:
        default: what it is without a flag.
        help: the help text of its flag.
        topic: one of TOPICS.
        formerly: the name that the field had before, which works for one release.
    """
    return field(default=default, metadata={"help": help, "topic": topic, "formerly": formerly})


def required(help: str, *, topic: str | None = None, formerly: str | None = None) -> Any:
    """A field of a recipe without a default; otherwise as `flag`."""
    return flag(MISSING, help, topic=topic, formerly=formerly)


def old_names(recipe_class: Any) -> dict[str, str]:
    """Maps the old names of fields to their present names."""
    return {old: f.name for f in fields(recipe_class) if (old := f.metadata.get("formerly"))}


def with_present_names(
    recipe_class: Any, values: Mapping[str, Any], warn: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Renames values from the old names of fields to the present ones.

    An old name may be the present name of another field: `train_file` named the training questions in some scripts, and
    names the text now. A value that ends in .tsv is taken for the questions, unless they are given by their own name.

    Args:
        recipe_class: a dataclass.
        values: by present or old names.
        warn: takes a sentence for every old name.

    Raises:
        ValueError: if a value is given under both of its names.
    """
    old, present = old_names(recipe_class), {f.name for f in fields(recipe_class)}
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        new = old.get(name, name)
        if name in present and not (str(value).endswith(".tsv") and new not in values):
            new = name
        if new in renamed:
            former = next(former for former in old if old[former] == new)
            raise ValueError(f"{new} and {former} are two names of one flag: give {new} only.")
        if new != name:
            warn(f"{name} is now called {new}. The old name will be removed in the next release.")
        renamed[new] = value
    return renamed


def without_constants(
    recipe_class: Any, values: Mapping[str, Any], warn: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Drops the values of former fields that are constants now: the `CONSTANTS` of a recipe.

    Args:
        recipe_class: a dataclass.
        values: by the names of fields and constants.
        warn: takes a sentence for every constant.

    Raises:
        ValueError: if a constant is given another value than its own or None.
    """
    constants = getattr(recipe_class, "CONSTANTS", {})
    for name in constants.keys() & values.keys():
        sentence = f"{name} is gone: it is always {constants[name]}."
        if values[name] not in (None, constants[name]):
            raise ValueError(f"{name} is {values[name]}, but {sentence}")
        warn(sentence)
    return {name: value for name, value in values.items() if name not in constants}


def check_choice(name: str, value: Any, choices: Sequence[Any] | Mapping[str, Any]) -> None:
    """Raises a ValueError if a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is unknown: choose one of {', '.join(map(str, choices))}.")


def check_finite(recipe: Any) -> None:
    """Raises a ValueError if a number of a recipe is infinite or NaN: comparisons let NaN through."""
    for name, value in vars(recipe).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: give a finite number.")


def check_least(recipe: Any, least: int, *names: str) -> None:
    """Raises a ValueError if one of these numbers of a recipe is smaller than `least`. None is off."""
    for name in names:
        if (value := getattr(recipe, name)) is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}.")


def check_positive(recipe: Any, *names: str) -> None:
    """Raises a ValueError if one of these numbers of a recipe is 0 or less. None is off."""
    for name in names:
        if (value := getattr(recipe, name)) is not None and value <= 0:
            raise ValueError(f"{name} is {value}: it must be more than 0.")


def check_fraction(recipe: Any, *names: str) -> None:
    """Raises a ValueError if one of these numbers of a recipe is not from 0 to 1."""
    for name in names:
        if not 0 <= (value := getattr(recipe, name)) <= 1:
            raise ValueError(f"{name} is {value}: it must be from 0 to 1.")
