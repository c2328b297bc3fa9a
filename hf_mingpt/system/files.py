"""Reads files that a user names: paths, UTF-8 text and JSON.

Every other module reads foreign text and JSON through this one, so byte order marks, line ends and damaged files are
handled in one place.

- Text is UTF-8. Byte order marks at its beginning are dropped. LF, CRLF and CR end a line, and so does CR CR LF, the
  result of converting twice. No other character ends a line. The last line needs no line end.
- A file that cannot be read raises a ValueError or an OSError: one sentence with the file and, for text, the line.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TEXT_FORMATS = (".txt", ".tsv", ".csv", ".parquet", ".jsonl", ".json")
_CHUNK = 1 << 22  # bytes or characters
_LINE_ENDS = re.compile(r"\r+\n?")
_HUB_DATASET = re.compile(r"([\w.-]+/[\w.-]+)(?:(?:/([\w.-]+))?:([\w.-]+))?")


class HubDataset(NamedTuple):
    """A dataset on the Hub, with its configuration and split; None: the usual one."""

    repository: str
    configuration: str | None
    split: str | None


def is_path(name: str) -> bool:
    """Whether a name is a path rather than a repository of the Hub.

    A name is a path if it exists, if the Hub does not allow it, if it is `folder/name` and the folder exists, or if it
    has the suffix of a file.
    """
    path = Path(name)
    if not name or path.exists() or path.suffix in TEXT_FORMATS:
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return path.parent.is_dir() if "/" in name else "." in name


def hub_dataset(name: str) -> HubDataset | None:
    """Parses `owner/name`, `owner/name:split` or `owner/name/configuration:split`. None: the name is a path.

    Example: `you/people/questions:dev` is the split `dev` of the configuration `questions`.
    """
    match = _HUB_DATASET.fullmatch(name)
    if match is None or is_path(match[1]) or Path(name).exists() or Path(name).suffix in TEXT_FORMATS:
        return None
    return HubDataset(match[1], match[2], match[3])


def check_source(name: str, what: str, *, has_owner: bool = False) -> None:
    """Raises a FileNotFoundError if a name is a path that does not exist, before it is looked up on the Hub.

    Args:
        name: Path or repository name.
        what: What it should be, for the message.
        has_owner: Whether repositories of this kind are always `owner/name`, so that a name without an owner is a path.
    """
    means_path = is_path(name) or (has_owner and "/" not in name)
    if not name or (means_path and not Path(name).exists()):
        raise FileNotFoundError(f"No {what} at {name or repr(name)}: check the path.")


def check_file(path: str | Path) -> None:
    """Raises a FileNotFoundError if the file does not exist, and a ValueError if it is empty."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file at {path}: check the path.")
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{path} is empty.")


def first_line(error: BaseException) -> str:
    """The first line of an error message, without its full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def describe_failure(name: str, what: str, error: Exception) -> Exception:
    """The exception to raise when a library fails to load what a user named: one sentence, of a common type.

    It is an OSError if something is missing, else a ValueError. (Libraries raise many types for a damaged file.)

    Args:
        name: Path or repository name.
        what: What should have been loaded, for the message.
        error: Exception of the library.
    """
    if "trust_remote_code" in str(error):
        return ValueError(f"{name} needs remote code, which is never run: choose another.")
    if (several := str(error)).startswith("Config name is missing"):
        names = several.splitlines()[1].partition(": ")[2]
        remedy = "give --dataset_config_name" if what == "text" else f"name one, as in {name}/CONFIGURATION:SPLIT"
        return ValueError(f"{name} has several configurations, {names}: {remedy}.")
    message = first_line(error.__cause__ or error if type(error).__module__.startswith("datasets") else error)
    if not isinstance(error, OSError):
        return ValueError(f"{name} has no readable {what}: {message}.")
    return OSError(f"{name}: {message}." if is_path(name) else f"No {what} {name} here or on the Hub: {message}.")


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: str | Path, *patterns: str) -> str:
    """A SHA-256 of the names and contents of all files in a folder, or of those that match one of the patterns."""
    found = {path for pattern in patterns or ("**/*",) for path in Path(folder).glob(pattern) if path.is_file()}
    lines = [f"{sha256_of(path)} {path.relative_to(folder)}\n" for path in sorted(found)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def name_apart(paths: Sequence[str | Path]) -> list[str]:
    """The shortest distinct names of paths: the last part of each, or as many last parts as make it unique.

    Raises:
        ValueError: If two paths are the same.

    Example: `runs/a/fast`, `runs/b/fast` and `runs/b/slow` are `a/fast`, `b/fast` and `slow`.
    """
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    if twice := next((path for path, part in zip(paths, parts, strict=True) if parts.count(part) > 1), None):
        raise ValueError(f"{twice} is named twice: name each once.")

    def shortest(one: tuple[str, ...]) -> str:
        lengths = range(1, len(one))
        number = next((n for n in lengths if [other[-n:] for other in parts].count(one[-n:]) == 1), len(one))
        return str(Path(*one[-number:]))

    return [shortest(one) for one in parts]


def check_utf8(path: str | Path) -> None:
    """Raises a ValueError with the line and the byte offset (from 0) if a file is not UTF-8."""
    with Path(path).open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{path} is UTF-16: save the file as UTF-8.")
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            while file.read(_CHUNK):
                pass
    except UnicodeDecodeError:
        raise ValueError(_describe_bad_byte(Path(path))) from None


def _describe_bad_byte(path: Path) -> str:
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + _normalize_line_ends(content[: error.start].decode("utf-8")).count("\n")
        return f"{path}, line {line}: not UTF-8 (byte {error.start}): save the file as UTF-8."
    return f"{path} has changed while it was read: read it again."


def _normalize_line_ends(text: str) -> str:
    """Replaces every line end with LF."""
    if "\r" not in text:
        return text
    return _LINE_ENDS.sub(lambda end: "\n" if end[0].endswith("\n") else "\n" * len(end[0]), text)


def read_lines(path: str | Path) -> Iterator[list[str]]:
    """Yields the lines of a text file in batches, in constant memory. Call `check_utf8` first."""
    rest, start = "", True
    with Path(path).open(encoding="utf-8", newline="") as file:
        while chunk := file.read(_CHUNK):
            text = rest + (chunk.lstrip("\ufeff") if start else chunk)
            whole = text.rstrip("\r")  # a CR at the end of a chunk may belong to a CRLF
            *lines, last = _normalize_line_ends(whole).split("\n")
            rest, start = last + text[len(whole) :], False
            yield lines
    if rest:
        yield _normalize_line_ends(rest).removesuffix("\n").split("\n")


def read_text(path: str | Path) -> str:
    """Reads a whole text file, with LF as line ends.

    Raises:
        OSError: If the file does not exist.
        ValueError: If it is not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file at {path}: check the path.")
    check_utf8(path)
    return _normalize_line_ends(Path(path).read_bytes().decode("utf-8").lstrip("\ufeff"))


def parse_json(text: str, name: str) -> Any:
    """Parses JSON strictly.

    Args:
        text: JSON.
        name: What the text is, for the message.

    Raises:
        ValueError: If the text is not JSON, is nested too deeply, or has a duplicate key.
    """

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if duplicate := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
            raise ValueError(f"duplicate key {duplicate!r}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=refuse_duplicates)
    except RecursionError:
        raise ValueError(f"{name} is not valid JSON: it is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise ValueError(f"{name} is not valid JSON: {error.msg} ({place}).") from None
    except ValueError as error:  # a duplicate key, or a number that is too long, with Python's advice after a semicolon
        raise ValueError(f"{name} is not valid JSON: {str(error).split(';')[0]}.") from None
