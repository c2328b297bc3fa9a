"""Loading: documents from files, folders, streams and the Hub, as a dataset with the column "text"; Hub questions.

Built on `datasets`. Caches are keyed by the content of a file, not by its path or its time.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets.config
import pyarrow as pa
from datasets import (
    Dataset,
    Features,
    IterableDataset,
    List,
    Value,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.fingerprint import Hasher
from datasets.packaged_modules.csv.csv import CsvConfig

from ..system.files import (
    TEXT_FORMATS,
    check_file,
    check_source,
    check_utf8,
    describe_failure,
    hash_folder,
    hub_dataset,
    sha256_of,
)
from ..system.writing import writable_cache
from .documents import MissingColumnError, read_documents

_FEATURES = Features({"text": Value("string")})
_BATCHES = Features({"text": List(Value("string"))})
_READING = 1  # raise it when the same bytes are read in another way, so that older caches are not used


def load_texts(
    source: str, *, name: str | None = None, split: str = "train", text_column: str = "text", streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads documents from a local file, a local folder with a dataset, or the Hub.

    Text is UTF-8; a byte order mark is dropped. LF, CRLF and CR end a line, and nothing else does. Every other
    character is kept, including NUL, combining and invisible ones: nothing is normalized. The cells of a table and the
    strings of JSON are text, whatever they look like; other types are an error.

    Args:
        source: a path (.txt: one document per line; .tsv, .csv, .parquet, .jsonl: a column of documents) or a Hub
            name, which may have a configuration and a split (`files.hub_dataset`). A path is taken literally and never
            looked up on the Hub (`files.is_path`).
        name: the configuration of a Hub dataset.
        split: of a Hub dataset.
        text_column: the column of the documents; it becomes "text".
        streaming: read on the fly instead of through the cache.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is empty, damaged or not UTF-8, has no such column, or the column is not text.
    """
    datasets.config.HF_DATASETS_CACHE = writable_cache(Path(datasets.config.HF_DATASETS_CACHE))
    if Path(source).is_file():
        return _load_file(Path(source), text_column, streaming)
    where, options = source, {}
    if on_hub := hub_dataset(source):
        given = {on_hub.configuration: name, on_hub.split: None if split == "train" else split}
        if both := next(((a, b) for a, b in given.items() if a and b and a != b), None):
            raise ValueError(f"{source} names {both[0]!r}, and a flag names {both[1]!r}: give one of them.")
        where, name, split = on_hub.repository, on_hub.configuration or name, on_hub.split or split
    else:
        check_source(source, "file")
    try:
        if Path(source).is_dir():
            where = _link_by_content(Path(source))
            is_csv = isinstance(load_dataset_builder(where, name).config, CsvConfig)
            options = {"keep_default_na": False} if is_csv else {}
        dataset = load_dataset(where, name, split=split, streaming=streaming, **options)
        columns = dataset.column_names or list(next(iter(dataset)))
    except Exception as error:
        raise describe_failure(source, "text", error) from error
    if text_column not in columns:
        raise MissingColumnError(source, text_column, columns)
    dataset = dataset.select_columns([text_column])
    return dataset if text_column == "text" else dataset.rename_column(text_column, "text")


def load_questions(source: str) -> list[tuple[str, str | None]]:
    """Loads the columns "question" and "answer" of a dataset on the Hub; without the second, answers are None.

    Args:
        source: the name for `files.hub_dataset`. The usual configuration is "questions", if there is one, and the
            usual split "train".

    Raises:
        OSError: if there is no such dataset, or the Hub cannot be reached.
        ValueError: if it has no such configuration, split or column, or a column is not text.
    """
    on_hub = hub_dataset(source)
    if on_hub is None:
        raise FileNotFoundError(f"No file at {source}: check the path.")
    datasets.config.HF_DATASETS_CACHE = writable_cache(Path(datasets.config.HF_DATASETS_CACHE))
    try:
        name = on_hub.configuration
        if name is None and "questions" in get_dataset_config_names(on_hub.repository):
            name = "questions"
        rows = load_dataset(on_hub.repository, name, split=on_hub.split or "train")
    except Exception as error:
        raise describe_failure(source, "questions", error) from error
    columns = ["question", *(["answer"] if "answer" in rows.column_names else [])]
    for column in columns:
        if column not in rows.column_names:
            raise MissingColumnError(source, column, rows.column_names, "rename one of them")
        if getattr(rows.features[column], "dtype", None) not in ("string", "large_string", "null"):
            raise ValueError(f"{source}: its column {column!r} is not text: make it one text in each row.")
    questions = rows["question"][:]
    return list(zip(questions, rows["answer"][:] if "answer" in columns else [None] * len(questions), strict=True))


def _link_by_content(folder: Path) -> str:
    """Makes a folder of links to the files of `folder`, named by their content, and returns it for `datasets`.

    `datasets` would take the name of a folder as a pattern, and key its cache by the paths and times of the files.
    """
    plain = Path(datasets.config.HF_DATASETS_CACHE, "hf_mingpt", hash_folder(folder))
    plain.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=plain.parent) as unfinished:
        for path in folder.rglob("*"):
            if path.is_file():
                link, target = Path(unfinished, "link"), plain / path.relative_to(folder)
                link.symlink_to(path.resolve())
                target.parent.mkdir(parents=True, exist_ok=True)
                link.replace(target)
    return str(plain)


def _load_file(path: Path, column: str, streaming: bool) -> Dataset | IterableDataset:
    if path.suffix not in TEXT_FORMATS:
        raise ValueError(f"{path}: cannot read {path.suffix!r} files, only {', '.join(TEXT_FORMATS)}.")
    check_file(path)
    if path.suffix != ".parquet":
        check_utf8(path)
    if streaming:
        for _ in read_documents(path, column):  # raises before the work if a part cannot be read
            pass
        where = {"path": os.path.abspath(path), "column": column}
        batches = IterableDataset.from_generator(_read_batches, features=_BATCHES, gen_kwargs=where)
        rows = batches.with_format("arrow").map(_flatten, batched=True, batch_size=1, features=_FEATURES)
        return rows.with_format(None)
    digest = sha256_of(path)
    folder = Path(datasets.config.HF_DATASETS_CACHE, "hf_mingpt", Hasher.hash((_READING, digest, path.suffix, column)))
    if not (folder / "text.arrow").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            _write_table(path, column, Path(unfinished, "text.arrow"))
            if sha256_of(path) != digest:
                raise ValueError(f"{path} changed while it was being read: run the command again.")
            Path(unfinished, "text.arrow").replace(folder / "text.arrow")
    return Dataset.from_file(str(folder / "text.arrow"))


def _read_batches(path: str, column: str) -> Iterator[dict[str, list[str]]]:
    """Yields rows of many documents each, which is thirty times as fast as one document per row."""
    return ({"text": texts} for texts in read_documents(path, column) if texts)


def _flatten(batch: pa.Table) -> pa.Table:
    return pa.table({"text": batch["text"].combine_chunks().flatten()})


def _write_table(path: Path, column: str, target: Path) -> None:
    schema, has_documents = _FEATURES.arrow_schema, False
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for texts in read_documents(path, column):
            has_documents = has_documents or any(texts)
            writer.write_table(pa.table({"text": texts}, schema))
    if not has_documents:
        raise ValueError(f"{path} has no documents: all of its lines are empty.")
