"""Reads the documents of a text file or table: .txt, .tsv, .csv, .parquet, .jsonl or .json.

No value is guessed. What looks like a number, a date or a missing value is text, and a typed cell that is not a string
is an error that names the line or row.
"""

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..system.files import first_line, parse_json, read_lines, read_text
from ..system.wording import count

_BATCH = 10_000  # documents


class MissingColumnError(ValueError):
    """A table has no such column, or more than one."""

    def __init__(self, source: str | Path, column: str, columns: Sequence[str], remedy: str = "set text_column"):
        self.columns = list(columns)
        number = "no column" if column not in columns else "more than one column"
        super().__init__(f"{source} has {number} {column!r}, only {self.columns}: {remedy}.")


def read_documents(path: str | Path, column: str = "text") -> Iterator[list[str]]:
    """Yields the documents of a file in batches, each document unchanged.

    A document is a line of a .txt, a cell of a table, or a string of JSON. A .tsv has no quoting; a cell of a .csv may
    be quoted and may contain line ends. A .json file is a list of objects; a .jsonl file, and a .json file that is not
    a list, has one object per line. Empty lines between rows are skipped.

    Args:
        path: File with one of the suffixes in `TEXT_FORMATS`. Call `check_utf8` first, except for a .parquet.
        column: Column of the documents. A .txt has only the column "text".

    Raises:
        ValueError: If the column is missing, a cell is not a string, or the file is damaged. The message names the line
            or row.
    """
    path = Path(path)
    if path.suffix == ".txt":
        _find_column(path, ["text"], column)
        yield from read_lines(path)
    elif path.suffix == ".parquet":
        yield from _read_parquet(path, column)
    else:
        documents = _read_json(path, column) if path.suffix in (".json", ".jsonl") else _read_cells(path, column)
        while batch := list(itertools.islice(documents, _BATCH)):
            yield batch


def _find_column(path: Path, columns: list[str], column: str) -> int:
    if columns.count(column) != 1:
        raise MissingColumnError(path, column, columns)
    return columns.index(column)


def _read_cells(path: Path, column: str) -> Iterator[str]:
    rows = _read_tsv(path) if path.suffix == ".tsv" else _read_csv(path)
    header: list[str] = next((row for _, row in rows), [])
    place = _find_column(path, header, column)
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}, line {number}: {count(len(row), 'cell')}, but {len(header)} in the first line.")
        yield row[place]


def _read_tsv(path: Path) -> Iterator[tuple[int, list[str]]]:
    lines = itertools.chain.from_iterable(read_lines(path))
    return ((number, line.split("\t")) for number, line in enumerate(lines, start=1) if line)


def _read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(2**31 - 1)  # the default is 131,072 characters
    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline().lstrip("\ufeff")
        reader = csv.reader(itertools.chain([first], file), strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader if row)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}: check the quotes.") from None


def _read_json(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        is_list = path.suffix == ".json" and file.read(1000).lstrip("\ufeff \t\r\n").startswith("[")
    if is_list:
        rows = ((f"{path}, row {i}", row) for i, row in enumerate(parse_json(read_text(path), str(path)), start=1))
    else:
        lines = (line for lines in read_lines(path) for line in lines)
        named = ((f"{path}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip())
        rows = ((name, parse_json(line, name)) for name, line in named)
    is_first = True
    for name, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{name} is not a JSON object: write {{{json.dumps(column)}: ...}}.")
        if is_first:
            _find_column(path, list(row), column)  # its error lists the columns
            is_first = False
        if column not in row:
            raise ValueError(f"{name} has no {column!r}: add it, or drop the row.")
        yield _check_text(row[column], name, column)


def _check_text(value: Any, name: str, column: str) -> str:
    if not isinstance(value, str):
        shown = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else json.dumps(value)
        raise ValueError(f"{name}: {column} is {shown}, not a string: quote it, or drop the row.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: {column} has half of a surrogate pair, not a character: replace it.") from None
    return value


def _read_parquet(path: Path, column: str) -> Iterator[list[str]]:
    try:
        file = pq.ParquetFile(path, memory_map=True)
        _find_column(path, file.schema_arrow.names, column)
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise ValueError(f"{path}: {column} is of type {kind}, not string: convert it.")
        row = 0
        for batch in file.iter_batches(_BATCH, columns=[column]):
            texts = batch.column(0).cast(pa.large_string())
            texts.validate(full=True)
            if texts.null_count:
                row += texts.is_null().index(True).as_py() + 1
                raise ValueError(f"{path}, row {row}: {column} is null, not a string: drop the row.")
            yield texts.to_pylist()
            row += len(texts)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as parquet: {first_line(error)}.") from None
