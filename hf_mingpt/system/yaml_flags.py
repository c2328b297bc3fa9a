"""YAML files of flags: `name: value` lines, each value taken as it is written. `--print_config` writes one."""

import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_origin

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


def format_yaml(recipe_class: Any, values: Mapping[str, Any]) -> str:
    """A YAML file of all flags of a recipe, each below its help text.

    A flag without a value here is a comment, with its default.

    Args:
        recipe_class: a dataclass with fields from `flag` and `required`.
        values: by the names of the fields, and the preset.
    """
    lines = [_line("preset", values["preset"])] if "preset" in values else []
    for f in fields(recipe_class):
        if get_origin(f.type) is tuple:  # a word without a flag
            continue
        if topic := f.metadata["topic"]:
            lines += ["", f"## {topic}"]
        lines += ["", f"# {f.metadata['help']}"]
        if f.name in values:
            lines.append(_line(f.name, values[f.name]))
        else:
            lines.append(f"# {f.name}: (required)" if f.default is MISSING else f"# {_line(f.name, f.default)}")
    return "\n".join(lines).strip()


def _line(name: str, value: Any) -> str:
    if isinstance(value, str) and not (re.fullmatch(r"[\w./][\w./-]*", value) and value.lower() != "null"):
        value = yaml.dump(value, default_style='"', allow_unicode=True, width=2**31).strip()
    elif value is None or isinstance(value, bool):
        value = {None: "null", True: "true", False: "false"}[value]
    return f"{name}: {value}"
