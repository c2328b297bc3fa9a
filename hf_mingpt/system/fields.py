"""Fields of recipes: their help texts, and the checks that several recipes share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any


def flag(default: Any, help: str) -> Any:
    """A field of a recipe with its default and the help text of its flag."""
    return field(default=default, metadata={"help": help})


def required(help: str) -> Any:
    """A field without a default, with the help text of its flag."""
    return field(metadata={"help": help})


def check_choice(name: str, value: Any, choices: Sequence[Any] | Mapping[str, Any]) -> None:
    """Raises a ValueError if a value is none of the choices."""
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


def check_positive(recipe: Any, *names: str) -> None:
    """Raises a ValueError if one of these numbers of a recipe is 0 or less; None is off."""
    for name in names:
        value = getattr(recipe, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}: it must be more than 0.")
