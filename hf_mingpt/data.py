"""From files, Hub datasets and streams to the micro-batches of one optimizer step.

Built on `datasets`. The text is encoded once, by a cached `.map` (deterministic); what is random is drawn on the fly,
when a step's micro-batches are made, and depends on `(seed, epoch, index)` alone. Caches are keyed by what is
in a file, not by its path or its time.
"""

import itertools
import logging
import os
import signal
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import datasets.config
import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset, load_dataset_builder
from datasets.fingerprint import Hasher
from datasets.packaged_modules.csv.csv import CsvConfig
from torch.utils.data import DataLoader, get_worker_info
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .batching import BatchShape, MicroBatch, deal
from .birthplaces import Question, join_questions
from .corruption import permute
from .files import (
    TEXT_FORMATS,
    check_file,
    check_source,
    check_utf8,
    describe_failure,
    hash_folder,
    read_documents,
    read_text,
    sha256_of,
)
from .objectives import Objective, Ragged, Rows, stack_rows
from .tokenization_mingpt import (
    MASK,
    MASK_ID,
    build_tokenizer,
    build_vocabulary,
    character_table,
    check_marks,
    encode_texts,
    find_bad_character,
)

logger = logging.getLogger(__name__)

_FEATURES = Features({"text": Value("string")})
_BATCHES = Features({"text": List(Value("string"))})
_BATCH = 10_000  # documents
_READING = 1  # to be raised when the same bytes are read in another way: what was cached before is not taken then


@cache
def writable_cache(folder: Path) -> Path:
    """The folder, if files can be made in it; else a temporary one, which lasts as long as this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning(f"The cache {folder} cannot be written ({error.strerror}): what is read is not kept.")
        return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hf_mingpt-")


def load_texts(
    source: str, *, name: str | None = None, split: str = "train", text_column: str = "text", streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads documents from a local file, a local folder with a dataset, or the Hub.

    Text is UTF-8, with or without a byte order mark, which is dropped. LF, CRLF and CR end a line, nothing else does.
    Every other character is kept as it is, NUL, combining and invisible ones included: nothing is normalised. A cell of
    a table and a string of JSON are text, whatever they look like; what is no string is refused.

    Args:
        source: a path (.txt: one document a line; .tsv, .csv, .parquet, .jsonl: a column of documents) or a Hub name. A
            path is taken literally, and is never looked for on the Hub (`files.is_path`).
        name: the config of a Hub dataset.
        split: of a Hub dataset.
        text_column: the column that holds the documents; it becomes "text".
        streaming: read on the fly instead of through the cache.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, not UTF-8 or damaged, or has no such column, or what is in that is no text.
    """
    datasets.config.HF_DATASETS_CACHE = writable_cache(Path(datasets.config.HF_DATASETS_CACHE))
    if Path(source).is_file():
        return _load_file(Path(source), text_column, streaming)
    check_source(source, "file")
    where, options = source, {}
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
        raise ValueError(f"{source} has no column {text_column!r}, only {columns}: set text_column.")
    dataset = dataset.select_columns([text_column])
    return dataset if text_column == "text" else dataset.rename_column(text_column, "text")


def _link_by_content(folder: Path) -> str:
    """Makes another folder, of links to the files of one, for `datasets`.

    That would take the name of a folder as a pattern, and keys its cache by the paths and times of the files.
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
        for _ in read_documents(path, column):  # says what is wrong before the work
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
                raise ValueError(f"{path} has changed while it was read: read it again.")
            Path(unfinished, "text.arrow").replace(folder / "text.arrow")
    return Dataset.from_file(str(folder / "text.arrow"))


def _read_batches(path: str, column: str) -> Iterator[dict[str, list[str]]]:
    """Rows of many documents each: one by one they would be read thirty times as slowly."""
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


def _texts_of(batch: pa.Table, first: int) -> pa.Array:
    """The texts of a batch whose first row has the number `first` in the whole.

    Raises:
        ValueError: if they are no strings, as those of a dataset that others have loaded may be.
    """
    texts = batch["text"].combine_chunks()
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ValueError(f"The documents are of type {texts.type}, which is no string: name a column of strings.")
    if texts.null_count:
        row = first + texts.is_null().index(True).as_py() + 1
        raise ValueError(f"Document {row} is null, which is no string: drop it, or write what it says.")
    return texts


def build_corpus_tokenizer(
    texts: Dataset | IterableDataset, block_size: int, vocabulary_file: str | None = None
) -> PreTrainedTokenizerBase:
    """Makes the tokenizer of a corpus: the characters of its column "text", and of `vocabulary_file` if there is one.

    Raises:
        OSError: if that file cannot be read.
        ValueError: if it is not UTF-8, or a text contains one of the reserved marks.
    """
    batches = enumerate(texts.with_format("arrow").iter(_BATCH))
    corpus = (_texts_of(batch, number * _BATCH) for number, batch in batches)
    extra = []
    if vocabulary_file:
        extra = [[read_text(vocabulary_file)]]
        check_marks(extra[0][0], vocabulary_file)
    return build_tokenizer(build_vocabulary(itertools.chain(corpus, extra)), block_size)


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a character tokenizer from a folder or the Hub.

    Raises:
        OSError: if there is none.
        ValueError: if it is damaged, or no character tokenizer (`character_table`).
    """
    check_source(name_or_path, "tokenizer", has_owner=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise describe_failure(name_or_path, "tokenizer", error) from error
    try:
        character_table(tokenizer)
    except ValueError as error:
        raise ValueError(f"{name_or_path}: {error}") from error
    return tokenizer


def encode_documents(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase
) -> Dataset | IterableDataset:
    """Turns the column "text" into "input_ids". Empty documents are dropped.

    Raises:
        ValueError: if a document has a character without a token, or one of the reserved marks, or is no string, or if
            there are no documents. A stream raises when it comes to the document, a loaded dataset here.
    """
    encode = partial(_encode_batch, table=character_table(tokenizer), vocab_size=len(tokenizer))
    encoded = dataset.with_format("arrow").map(encode, with_indices=True, batched=True, remove_columns=["text"])
    if isinstance(encoded, Dataset):
        _check_documents(len(encoded))
    return encoded.with_format(None)


def _encode_batch(batch: pa.Table, rows: list[int], table: np.ndarray, vocab_size: int) -> pa.Table:
    """Of its own, and not within `encode_documents`, so that a stream can be sent to spawned workers."""
    texts = _texts_of(batch, rows[0])
    ids, offsets = encode_texts(texts, table)
    if (ids <= MASK_ID).any():
        document, message = find_bad_character(texts.to_pylist(), table) or (0, "")
        raise ValueError(
            f"Document {rows[document] + 1}: {message}: replace it, or take the vocabulary of this corpus."
        )
    small = np.min_scalar_type(vocab_size - 1)  # a byte a token for up to 256 characters
    return Ragged(ids.astype(small), np.unique(offsets)).to_table()


def _check_documents(number: int) -> None:
    if not number:
        raise ValueError("The corpus has no documents: all of its lines are empty.")


def group_into_blocks(
    dataset: Dataset | IterableDataset, block_size: int, newline_id: int
) -> Dataset | IterableDataset:
    """Joins documents with line ends and cuts the text into contiguous blocks of `block_size` tokens."""
    group = partial(_group_batch, block_size=block_size, newline_id=newline_id)
    return dataset.with_format("arrow").map(group, batched=True).with_format(None)


def _group_batch(batch: pa.Table, block_size: int, newline_id: int) -> pa.Table:
    documents = Ragged.from_table(batch)
    ids = np.insert(documents.token_ids, documents.offsets[1:], newline_id)
    ids = ids[: len(ids) - (len(ids) % block_size == 1)]  # of one token nothing can be learnt
    return Ragged(ids, np.append(np.arange(0, len(ids), block_size), len(ids))).to_table()


def encode_questions(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, block_size: int) -> Dataset:
    """Makes the dataset of `question MASK answer MASK` token ids.

    Raises:
        ValueError: if an example does not fit the block, or has a character without a token.
    """
    table = character_table(tokenizer)
    for number, (question, answer) in enumerate(questions, start=1):
        text = f"{question}{answer}"
        if (needed := len(text) + 2) > block_size:
            raise ValueError(
                f"Question {number}, {question!r}, needs {needed} tokens with its answer, over the block of "
                f"{block_size}: shorten it or use a model with a larger block."
            )
        if problem := find_bad_character([text], table):
            raise ValueError(f"Question {number}, {question!r}: {problem[1]}: replace it.")
    return Dataset(Ragged(*encode_texts(join_questions(questions, MASK), table)).to_table())


def take(dataset: Dataset, index: np.ndarray) -> Ragged:
    """Reads the sequences `index` of the column "input_ids", out of the memory-mapped Arrow file.

    It is quicker if the dataset has the format "arrow" already.
    """
    if dataset.format["type"] != "arrow":
        dataset = dataset.with_format("arrow")
    return Ragged.from_table(dataset[index.tolist()])


class Mixture:
    """Examples that join the documents of every step: `share` of the step's rows are theirs.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, dataset: Dataset, objective: Objective, share: float, *, seed: int):
        if not len(dataset):
            raise ValueError("There are no examples to join the documents.")
        self.dataset, self.objective, self.share, self.seed = dataset.with_format("arrow"), objective, share, seed

    def count(self, shape: BatchShape) -> int:
        """How many examples of theirs a step has.

        Raises:
            ValueError: if that is none, or the whole step.
        """
        count = round(self.share * shape.total)
        if not 0 < count < shape.total:
            raise ValueError(f"A share of {self.share} of the {shape.total} examples of a step is {count}: change it.")
        return count

    def rows(self, step: int, shape: BatchShape) -> Rows:
        """The rows that join a step: the next ones of an endless series of epochs, each in an order of its own."""
        number, size = self.count(shape), len(self.dataset)
        places = np.arange(step * number, (step + 1) * number)
        parts = []
        for epoch in range(places[0] // size, places[-1] // size + 1):
            index = permute(places[places // size == epoch] % size, size, seed=self.seed, epoch=epoch)
            parts.append(self.objective(take(self.dataset, index), epoch, index))
        return stack_rows(parts)


class TrainingSteps(torch.utils.data.Dataset):
    """Maps the number of an optimizer step to this process's micro-batches; it has no state."""

    def __init__(
        self,
        dataset: Dataset,
        objective: Objective,
        shape: BatchShape,
        *,
        seed: int,
        shuffle: bool = True,
        mixture: Mixture | None = None,
    ):
        self.dataset, self.objective, self.shape = dataset.with_format("arrow"), objective, shape
        self.seed, self.shuffle, self.mixture = seed, shuffle, mixture
        self.documents_per_step = shape.total - (mixture.count(shape) if mixture else 0)
        self.steps_per_epoch = -(-len(dataset) // self.documents_per_step)

    def index(self, step: int) -> np.ndarray:
        """The places in the dataset of a step's documents, of all processes."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first, size = step_of_epoch * self.documents_per_step, len(self.dataset)
        index = np.arange(first, min(first + self.documents_per_step, size))
        return permute(index, size, seed=self.seed, epoch=epoch) if self.shuffle else index

    def __getitem__(self, step: int) -> list[MicroBatch]:
        index = self.index(step)
        rows = [self.objective(take(self.dataset, index), step // self.steps_per_epoch, index)]
        if self.mixture:
            rows.append(self.mixture.rows(step, self.shape))
        return deal(stack_rows(rows), self.shape)


class StreamedSteps(torch.utils.data.IterableDataset):
    """The micro-batches of a stream of documents, in its order, step after step and epoch after epoch.

    Of several workers each reads the whole stream and makes its share of the steps; the loader asks them by turns.

    Raises:
        ValueError: if the stream has no documents, or what is wrong with its beginning.
    """

    steps_per_epoch = None  # not known before the stream has ended

    def __init__(
        self, dataset: IterableDataset, objective: Objective, shape: BatchShape, *, mixture: Mixture | None = None
    ):
        self.dataset, self.objective, self.shape = dataset.with_format("arrow"), objective, shape
        self.mixture = mixture
        self.documents_per_step = shape.total - (mixture.count(shape) if mixture else 0)
        _check_documents(len(list(self.dataset.take(1))))  # a stream of none would be read for ever

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        worker = get_worker_info()
        turn, num_turns = (worker.id, worker.num_workers) if worker else (0, 1)
        step = 0
        for epoch in itertools.count():
            first = 0
            for table in self.dataset.iter(self.documents_per_step):
                index = np.arange(first, first := first + len(table))
                if step % num_turns == turn:
                    rows = [self.objective(Ragged.from_table(table), epoch, index)]
                    if self.mixture:
                        rows.append(self.mixture.rows(step, self.shape))
                    yield deal(stack_rows(rows), self.shape)
                step += 1


def step_loader(
    steps: TrainingSteps | StreamedSteps,
    max_steps: int,
    num_workers: int = 0,
    *,
    start: int = 0,
    ahead: bool = False,
) -> Iterator[list[MicroBatch]]:
    """Yields the micro-batches of the steps `start` to `max_steps`, made by `num_workers` processes (0: by this one).

    Of a stream, what comes before `start` is read and thrown away.

    Args:
        ahead: for a GPU: a thread makes the next ones in pinned memory, where it can copy them while it computes.
    """
    is_stream = isinstance(steps, StreamedSteps)
    sampler = None if is_stream else range(start, max_steps)
    generator = torch.Generator().manual_seed(0)  # else the loader draws from torch's global one
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        generator=generator,
        pin_memory=ahead,
        worker_init_fn=_leave_stopping_to_the_main_process,
    )
    batches = itertools.islice(loader, start if is_stream else 0, max_steps if is_stream else None)
    return prepare_ahead(batches) if ahead else batches


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Clusters send SIGTERM to all processes, terminals SIGINT: the main one needs the workers until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


T = TypeVar("T")


def prepare_ahead(batches: Iterator[T], number: int = 4) -> Iterator[T]:
    """Yields what an iterator gives, in its order, while a thread makes the next ones."""
    with ThreadPoolExecutor(1) as thread:
        end = object()
        pending = deque(thread.submit(next, batches, end) for _ in range(number))
        while (batch := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, batches, end))
            yield batch  # type: ignore[misc]
