"""Numbers and texts as messages show them: counts with their nouns, probabilities in percent, quotations."""

_MAX_QUOTED = 80  # characters


def count(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, in the singular or the plural.

    Args:
        number: of things.
        noun: in the singular.
        plural: if it is not the noun with an s.

    Example: `count(1, "person", "people")` gives `"1 person"`, and `count(2000, "name")` gives `"2,000 names"`.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def quote(text: str) -> str:
    """A text in quotation marks; of a long one the beginning.

    Example: "Where?" gives `"'Where?'"`.
    """
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[: _MAX_QUOTED - 3]}...")


def percent(probability: float, decimals: int = 0) -> str:
    """A probability in percent. Nothing that a model says is certain, so it is never 0 % or 100 %.

    Example: 0.874 gives `"87%"`, 0.9996 gives `"over 99%"`, and 0.0004 gives `"under 1%"`.
    """
    shown, least = f"{probability:.{decimals}%}", 10.0**-decimals
    if shown == f"{1:.{decimals}%}":
        return f"over {100 - least:.{decimals}f}%"
    return f"under {least:.{decimals}f}%" if shown == f"{0:.{decimals}%}" else shown
