"""Encoding: texts and questions to token ids, by a cached `.map` of `datasets`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..system.files import check_source, describe_failure, read_text
from ..tokenization_mingpt import (
    MASK,
    MASK_ID,
    build_tokenizer,
    build_vocabulary,
    character_table,
    check_marks,
    encode_texts,
    find_bad_character,
)
from .questions import Question, join_questions
from .sequences import TokenSequences

_BATCH = 10_000  # documents


def _texts_of(batch: pa.Table, first: int) -> pa.Array:
    """The texts of a batch whose first row is row `first` of the dataset.

    Raises:
        ValueError: if the column is not of strings or has a null, as a dataset from elsewhere may.
    """
    texts = batch["text"].combine_chunks()
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise ValueError(f"The documents are of type {texts.type}, not strings: name a column of strings.")
    if texts.null_count:
        row = first + texts.is_null().index(True).as_py() + 1
        raise ValueError(f"Document {row} is null, not a string: drop it or fill it.")
    return texts


def build_corpus_tokenizer(
    texts: Dataset | IterableDataset,
    block_size: int,
    vocabulary_file: str | None = None,
    *,
    more: Iterable[str] = (),
) -> PreTrainedTokenizerBase:
    """Builds the tokenizer of a corpus, whose vocabulary is the characters of its column "text".

    Args:
        texts: the corpus.
        block_size: context length of the model.
        vocabulary_file: a text whose characters join the vocabulary.
        more: texts whose characters join it, such as questions and the `corpus_characters` of held-out documents.

    Raises:
        OSError: if `vocabulary_file` cannot be read.
        ValueError: if it is not UTF-8, or a text contains a reserved character (PAD or MASK).
    """
    extra = ["".join(corpus_characters(texts)), *more]
    if vocabulary_file:
        extra.append(read_text(vocabulary_file))
        check_marks(extra[-1], vocabulary_file)
    return build_tokenizer(build_vocabulary([extra]), block_size)


def corpus_characters(texts: Dataset | IterableDataset) -> list[str]:
    """The sorted characters of the column "text", and the newline.

    Raises:
        ValueError: if a text contains a reserved character (PAD or MASK).
    """
    batches = enumerate(texts.with_format("arrow").iter(_BATCH))
    _, _, *characters = build_vocabulary(_texts_of(batch, number * _BATCH) for number, batch in batches)
    return characters


def load_tokenizer(name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a character tokenizer from a folder or the Hub.

    Raises:
        OSError: if there is no tokenizer.
        ValueError: if it is damaged, or not a character tokenizer (`character_table`).
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
    """Turns the column "text" into "input_ids" and drops empty documents.

    Raises:
        ValueError: if a document is not a string, or has a character without a token or a reserved one (PAD or MASK),
            or if there are no documents. A stream raises when it reaches the document, a loaded dataset here.
    """
    encode = partial(_encode_batch, table=character_table(tokenizer), vocab_size=len(tokenizer))
    encoded = dataset.with_format("arrow").map(encode, with_indices=True, batched=True, remove_columns=["text"])
    if isinstance(encoded, Dataset):
        check_not_empty(len(encoded))
    return encoded.with_format(None)


def _encode_batch(batch: pa.Table, rows: list[int], table: np.ndarray, vocab_size: int) -> pa.Table:
    """At the top level, and not inside `encode_documents`, so that spawned workers can import it."""
    texts = _texts_of(batch, rows[0])
    ids, offsets = encode_texts(texts, table)
    if (ids <= MASK_ID).any():
        document, message = find_bad_character(texts.to_pylist(), table) or (0, "")
        raise ValueError(
            f"Document {rows[document] + 1}: {message}: replace it, or use a tokenizer with this character."
        )
    small = np.min_scalar_type(vocab_size - 1)  # a byte a token for up to 256 characters
    return TokenSequences(ids.astype(small), np.unique(offsets)).to_table()


def check_not_empty(number: int) -> None:
    """Raises a ValueError if a corpus has no documents."""
    if not number:
        raise ValueError("The corpus has no documents: all of its lines are empty.")


def group_into_blocks(
    dataset: Dataset | IterableDataset, block_size: int, newline_id: int
) -> Dataset | IterableDataset:
    """Joins documents with newlines and cuts the text into contiguous blocks of `block_size` tokens."""
    group = partial(_group_batch, block_size=block_size, newline_id=newline_id)
    return dataset.with_format("arrow").map(group, batched=True).with_format(None)


def _group_batch(batch: pa.Table, block_size: int, newline_id: int) -> pa.Table:
    documents = TokenSequences.from_table(batch)
    ids = np.insert(documents.token_ids, documents.offsets[1:], newline_id)
    ids = ids[: len(ids) - (len(ids) % block_size == 1)]  # a block of one token has nothing to predict
    return TokenSequences(ids, np.append(np.arange(0, len(ids), block_size), len(ids))).to_table()


def encode_questions(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, block_size: int) -> Dataset:
    """Encodes each pair as `question MASK answer MASK`, in the column "input_ids".

    Raises:
        ValueError: if an example exceeds `block_size` tokens, or has a character without a token.
    """
    table = character_table(tokenizer)
    for number, (question, answer) in enumerate(questions, start=1):
        text = f"{question}{answer}"
        if (needed := len(text) + 2) > block_size:
            raise ValueError(
                f"Question {number}, {question!r}, needs {needed} tokens with its answer, over the context length of "
                f"{block_size}: shorten it, or use a model with a longer context."
            )
        if problem := find_bad_character([text], table):
            raise ValueError(f"Question {number}, {question!r}: {problem[1]}: replace it.")
    return Dataset(TokenSequences(*encode_texts(join_questions(questions, MASK), table)).to_table())


def take(dataset: Dataset, index: np.ndarray) -> TokenSequences:
    """Reads the sequences `index` of the column "input_ids" from the memory-mapped Arrow file.

    It is faster if the dataset has the format "arrow" already.
    """
    if dataset.format["type"] != "arrow":
        dataset = dataset.with_format("arrow")
    return TokenSequences.from_table(dataset[index.tolist()])


def iterate(dataset: Dataset | IterableDataset) -> Iterator[TokenSequences]:
    """Reads all sequences of the column "input_ids", in batches."""
    return map(TokenSequences.from_table, dataset.with_format("arrow").iter(_BATCH))
