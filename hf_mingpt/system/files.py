"""Files that a user names: which names are paths, and what is in a file, literally and as it is now.

At the very left of the flow. Every other module reads text, JSON and tables of other people through this one, so that
a byte order mark, a line end or a damaged file is treated alike everywhere.

- Text is UTF-8. Byte order marks at its beginning are dropped. LF, CRLF and CR end a line, and so does CR CR LF, which
  a conversion done twice leaves behind; nothing else ends one. The last line needs no end.
- What cannot be read is a ValueError or an OSError of one sentence that names the file, and the line if there are any.
"""

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

TEXT_FORMATS = (".txt", ".tsv", ".csv", ".parquet", ".jsonl", ".json")
_CHUNK = 1 << 22  # bytes, characters
_ROWS = 10_000
_LINE_ENDS = re.compile(r"\r+\n?")


def is_path(name: str) -> bool:
    """Whether a name means a file or a folder, there or not, and not a repository of the Hub.

    It does if something is there, if the Hub allows no such name, if the folder of `folder/name` is there, or if it has
    the ending of a file.
    """
    path = Path(name)
    if not name or path.exists() or path.suffix in TEXT_FORMATS:
        return True
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return path.parent.is_dir() if "/" in name else "." in name


def check_source(name: str, what: str, *, has_owner: bool = False) -> None:
    """Raises a FileNotFoundError if a name means a path at which nothing is, before anybody looks for it on the Hub.

    Args:
        what: should be there.
        has_owner: whether on the Hub it is always `owner/name`, so that a name without an owner is a path.
    """
    means_path = is_path(name) or (has_owner and "/" not in name)
    if not name or (means_path and not Path(name).exists()):
        raise FileNotFoundError(f"No {what} at {name or repr(name)}: check the path.")


def check_file(path: str | Path) -> None:
    """Raises a FileNotFoundError if there is no file, and a ValueError if it is empty."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file at {path}: check the path.")
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{path} is empty.")


def first_line(error: BaseException) -> str:
    """What an error of a library says, without the lines that explain it, and without its full stop."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def describe_failure(name: str, what: str, error: Exception) -> Exception:
    """What to raise where a library failed to load what a user named: of one sentence, and of a common kind.

    It is an OSError if something is missing, else a ValueError: of a damaged file libraries make errors of all kinds.
    """
    if "trust_remote_code" in str(error):
        return ValueError(f"{name} needs code of its own, which is not run: name another.")
    message = first_line(error.__cause__ or error if type(error).__module__.startswith("datasets") else error)
    if not isinstance(error, OSError):
        return ValueError(f"{name} has no {what} that can be read: {message}.")
    return OSError(f"{name}: {message}." if is_path(name) else f"{name} is no {what} here, and on the Hub: {message}.")


def sha256_of(path: str | Path) -> str:
    """The sha256 of what a file holds."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: str | Path, *patterns: str) -> str:
    """A sha256 of what all files of a folder, or those in it that one of the patterns fits, are called and hold."""
    found = {path for pattern in patterns or ("**/*",) for path in Path(folder).glob(pattern) if path.is_file()}
    lines = [f"{sha256_of(path)} {path.relative_to(folder)}\n" for path in sorted(found)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def name_apart(paths: Sequence[str | Path]) -> list[str]:
    """The shortest names that tell paths apart: each one's last part, or as many of its last parts as it takes.

    Raises:
        ValueError: if two of them are the same.

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
    """Raises a ValueError with the line and the byte, counted from 0, where a file is not UTF-8."""
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
        line = 1 + _end_lines(content[: error.start].decode("utf-8")).count("\n")
        return f"{path}, line {line}: not UTF-8 (byte {error.start}): save the file as UTF-8."
    return f"{path} has changed while it was read: read it again."


def _end_lines(text: str) -> str:
    """Makes every line end an LF."""
    if "\r" not in text:
        return text
    return _LINE_ENDS.sub(lambda end: "\n" if end[0].endswith("\n") else "\n" * len(end[0]), text)


def read_lines(path: str | Path) -> Iterator[list[str]]:
    """Yields the lines of a text, many at a time and in flat memory; for a file that has passed `check_utf8`."""
    rest, start = "", True
    with Path(path).open(encoding="utf-8", newline="") as file:
        while chunk := file.read(_CHUNK):
            text = rest + (chunk.lstrip("\ufeff") if start else chunk)
            whole = text.rstrip("\r")  # whether these are ends of their own, the next chunk says
            *lines, last = _end_lines(whole).split("\n")
            rest, start = last + text[len(whole) :], False
            yield lines
    if rest:
        yield _end_lines(rest).removesuffix("\n").split("\n")


def read_text(path: str | Path) -> str:
    """The whole text of a file, its lines ended by LF.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is not UTF-8.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"No file at {path}: check the path.")
    check_utf8(path)
    return _end_lines(Path(path).read_bytes().decode("utf-8").lstrip("\ufeff"))


def parse_json(text: str, name: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: that begins with `name`, if it is no JSON, nested too deeply, or names a key twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := next((key for i, key in enumerate(keys) if key in keys[:i]), None):
            raise ValueError(f"{twice!r} is there twice")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise ValueError(f"{name} is no JSON that can be read: it is nested too deeply.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise ValueError(f"{name} is no JSON that can be read: {error.msg} ({place}).") from None
    except ValueError as error:  # of a key, or of a number that is too long; what Python advises there is not for users
        raise ValueError(f"{name} is no JSON that can be read: {str(error).split(';')[0]}.") from None


def read_documents(path: str | Path, column: str = "text") -> Iterator[list[str]]:
    """Yields the documents of a file, many at a time, each as it stands: lines of a .txt, cells or strings of others.

    In tables and JSON nothing is guessed: what looks like a number, a date or a missing value is text. A line of a .tsv
    has no quotes; a cell of a .csv may have them, and line ends in them. A .json is a list of objects, or, like a
    .jsonl, an object a line. Empty lines between rows are skipped.

    Args:
        path: of one of TEXT_FORMATS; but for a .parquet, it has passed `check_utf8`.
        column: that of the documents; a .txt has only "text".

    Raises:
        ValueError: with the line or row, if there is no such column, or what is in it is no string, or the file is
            damaged.
    """
    path = Path(path)
    if path.suffix == ".txt":
        _find_column(path, ["text"], column)
        yield from read_lines(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path, column)
    else:
        rows = _read_json(path, column) if path.suffix in (".json", ".jsonl") else _read_cells(path, column)
        while batch := list(itertools.islice(rows, _ROWS)):
            yield batch


def _find_column(path: Path, columns: list[str], column: str) -> int:
    if columns.count(column) != 1:
        number = "no column" if column not in columns else "more than one column"
        raise ValueError(f"{path} has {number} {column!r}, only {columns}: set text_column.")
    return columns.index(column)


def _read_cells(path: Path, column: str) -> Iterator[str]:
    rows = _read_tsv(path) if path.suffix == ".tsv" else _read_csv(path)
    header: list[str] = next((row for _, row in rows), [])
    place = _find_column(path, header, column)
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {len(row)} cells, but {len(header)} in the first line.")
        yield row[place]


def _read_tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = itertools.chain.from_iterable(read_lines(path))
    return ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line)


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the usual one is 131,072 characters
    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline().lstrip("\ufeff")
        reader = csv.reader(itertools.chain([first], file), strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: quote its cells anew.") from None


def _read_json(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        is_list = path.suffix == ".json" and file.read(1000).lstrip("\ufeff \t\r\n").startswith("[")
    if is_list:
        rows = ((f"{path}, row {i}", row) for i, row in enumerate(parse_json(read_text(path), str(path)), start=1))
    else:
        lines = (line for lines in read_lines(path) for line in lines)
        named = ((f"{path}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip())
        rows = ((name, parse_json(line, name)) for name, line in named)
    columns = None
    for name, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{name} is no object of columns: write {{{json.dumps(column)}: ...}}.")
        if columns is None:
            columns = list(row)
            _find_column(path, columns, column)  # says which there are
        if column not in row:
            raise ValueError(f"{name} has no {column!r}: write it, or drop the row.")
        yield _check_text(row[column], name, column)


def _check_text(value: Any, name: str, column: str) -> str:
    """What a cell of a typed table holds, if it is text."""
    if not isinstance(value, str):
        shown = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else json.dumps(value)
        raise ValueError(f"{name}: {column} is {shown}, which is no string: quote it, or drop the row.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: {column} has half of a surrogate pair, which is no character: replace it.") from None
    return value


def _read_parquet(path: Path, column: str) -> Iterator[list[str]]:
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _find_column(path, file.schema_arrow.names, column)
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(f"{path}: {column} is of type {kind}, which is no string: convert it.")
        row = 0
        for batch in file.iter_batches(_ROWS, columns=[column]):
            texts = batch.column(0).cast(pa.large_string())
            texts.validate(full=True)
            if texts.null_count:
                row += texts.is_null().index(True).as_py() + 1
                raise ValueError(f"{path}, row {row}: {column} is null, which is no string: drop the row.")
            yield texts.to_pylist()
            row += len(texts)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet file that can be read: {first_line(error)}.") from None
