"""YAML files of flags: `name: value` lines, each value taken as it is written."""

import re
from collections.abc import Collection
from pathlib import Path

import yaml

from .files import first_line, read_text


def read_yaml(path: Path, nullable: Collection[str], lists: Collection[str] = ()) -> dict[str, str | None]:
    """The `name: value` lines of a YAML file; None for null or nothing.

    Values are text: `no` is not a boolean, `1e-3` not a string and `2020-01-01` not a date, as YAML would guess.

    Args:
        path: of the file.
        nullable: names that may be null.
        lists: names whose value may be a list of words, which is read as words with commas between them.

    Raises:
        ValueError: if the file has anything else, with the line.
        OSError: if it cannot be read.
    """
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{place} is not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not valid YAML: {first_line(error)}.") from None
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{path} has no `name: value` lines: write the flags of this script, one per line.")
    values: dict[str, str | None] = {}
    for key, value in node.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if not (isinstance(key, yaml.ScalarNode) and re.fullmatch(r"\w[\w-]*", key.value)):
            raise ValueError(f"{where} does not begin with the name of a flag: write `name: value`.")
        name = key.value.replace("-", "_")
        if name in values:
            raise ValueError(f"{where}: {name} is given twice: keep one.")
        if name in lists and isinstance(value, yaml.SequenceNode):
            words = [word.value if isinstance(word, yaml.ScalarNode) else "" for word in value.value]
            if all(words):
                values[name] = ",".join(words)
                continue
        if not isinstance(value, yaml.ScalarNode) or not value.tag.endswith(":str"):
            raise ValueError(f"{where}: {name} has no plain value: write one word, number or text.")
        is_null = value.style is None and value.value.lower() in ("", "~", "null")
        if is_null and name not in nullable:
            raise ValueError(f"{where}: {name} has no value: write one, or remove the line.")
        values[name] = None if is_null else value.value
    return values
