"""Encoding: texts and questions to token ids, by a cached `.map` of `datasets`."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..system.command_line import warn
from ..system.files import check_source, describe_failure, first_line, read_text
from ..system.wording import count, quote
from ..tokenization_mingpt import (
    MASK_ID,
    SpecialTokens,
    build_tokenizer,
    build_vocabulary,
    character_table,
    check_marks,
    describe_reserved,
    encode_texts,
    find_bad_character,
    find_bad_text,
    find_reserved,
    is_character_tokenizer,
    tokenize,
    vocabulary_size,
)
from .alphabet import Alphabet
from .questions import Question
from .sequences import TokenSequences, align

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


def load_tokenizer(
    name_or_path: str, revision: str | None = None, *, has_owner: bool = True
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer of any class from a folder or the Hub, without running its code.

    Args:
        has_owner: whether a repository is always `owner/name`, so that a name without an owner is a path.

    Raises:
        OSError: if there is no tokenizer.
        ValueError: if it is damaged, if its class takes no plain text, or if it has no place for PAD and MASK.
    """
    check_source(name_or_path, "tokenizer", has_owner=has_owner)
    options = {"revision": revision, "trust_remote_code": False, "mistral_format": False}  # Mistral's own lacks a mask
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
    except Exception as error:
        raise describe_failure(name_or_path, "tokenizer", error) from error
    try:  # some classes want boxes around words, or packages that they miss only now
        tokenizer([""], add_special_tokens=False)
        _ = tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.get_vocab()
    except Exception as error:
        raise ValueError(
            f"{name_or_path}: its tokenizer, a {type(tokenizer).__name__}, cannot be used ({first_line(error)}): use "
            "one that takes plain text and has a pad and a mask token, or to which they can be added."
        ) from error
    vocabulary = tokenizer.get_vocab()
    if len(set(vocabulary.values())) < len(vocabulary):
        tokens: dict[int, str] = {}
        first, second = next((tokens[i], t) for t, i in vocabulary.items() if tokens.setdefault(i, t) != t)
        raise ValueError(f"{name_or_path}: the tokens {first!r} and {second!r} have the same id: make ids distinct.")
    return tokenizer


def encode_documents(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, *, aligned: bool = False
) -> Dataset | IterableDataset:
    """Turns the column "text" into "input_ids" and drops documents without tokens.

    Args:
        dataset: the documents.
        tokenizer: any tokenizer with a pad and a mask token.
        aligned: whether to keep the text and the place of each token in it, for objectives that look for names. A
            character tokenizer needs neither.

    Raises:
        ValueError: if a document is not a string, or has a character without a token or a reserved one (PAD or MASK),
            if there are no documents, or if the tokenizer cannot say where its tokens are. A stream raises when it
            reaches the document, a loaded dataset here.
    """
    size = vocabulary_size(tokenizer)
    if is_character_tokenizer(tokenizer):
        encode = partial(_encode_batch, table=character_table(tokenizer), vocab_size=size)
    elif aligned and not tokenizer.is_fast:
        raise ValueError(
            f"Salient span masking and document windows need to know where tokens are in a text, and the tokenizer, a "
            f"{type(tokenizer).__name__}, does not say it: use a fast tokenizer, or plain span corruption."
        )
    else:
        special_tokens = SpecialTokens.of(tokenizer)
        encode = partial(
            _tokenize_batch, tokenizer=tokenizer, special_tokens=special_tokens, vocab_size=size, aligned=aligned
        )
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


def _tokenize_batch(
    batch: pa.Table,
    rows: list[int],
    tokenizer: PreTrainedTokenizerBase,
    special_tokens: SpecialTokens,
    vocab_size: int,
    aligned: bool,
) -> pa.Table:
    texts = _texts_of(batch, rows[0])
    encoded = tokenize(texts.to_pylist(), tokenizer, return_offsets_mapping=tokenizer.is_fast)
    lengths = np.array(list(map(len, encoded["input_ids"])), dtype=np.int64)
    ids = np.fromiter(itertools.chain.from_iterable(encoded["input_ids"]), np.int64, lengths.sum())
    offsets = np.append(0, np.cumsum(lengths))
    if len(bad := find_reserved(ids, special_tokens, tokenizer.eos_token_id)):
        document = int(np.searchsorted(offsets, bad[0], side="right")) - 1
        spans = encoded["offset_mapping"][document] if tokenizer.is_fast else None
        token = str(tokenizer.convert_ids_to_tokens(int(ids[bad[0]])))
        message = describe_reserved(texts[document].as_py(), token, spans, int(bad[0] - offsets[document]))
        raise ValueError(f"Document {rows[document] + 1}: {message}: replace it, or use another tokenizer.")
    table = TokenSequences(ids.astype(np.min_scalar_type(vocab_size - 1)), np.unique(offsets)).to_table()
    if not aligned:
        return table
    spans = np.array(list(itertools.chain.from_iterable(encoded["offset_mapping"])), dtype=np.int64).reshape(-1, 2)
    return align(table, texts.filter(pa.array(lengths > 0)), spans)


def encode_texts_aligned(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> TokenSequences:
    """Encodes texts as `encode_documents` does, with an alignment; the texts are not checked."""
    if is_character_tokenizer(tokenizer):
        return TokenSequences(*encode_texts(texts, character_table(tokenizer)))
    encoded = tokenize(texts, tokenizer, return_offsets_mapping=True)
    offsets = np.append(0, np.cumsum([len(ids) for ids in encoded["input_ids"]]))
    ids = np.array(list(itertools.chain.from_iterable(encoded["input_ids"])), dtype=np.int64)
    spans = np.array(list(itertools.chain.from_iterable(encoded["offset_mapping"])), dtype=np.int64).reshape(-1, 2)
    return TokenSequences.from_table(
        align(TokenSequences(ids, offsets).to_table(), pa.array(texts, pa.string()), spans)
    )


def read_characters(dataset: Dataset | IterableDataset, alphabet: Alphabet) -> Iterator[TokenSequences]:
    """Reads the column "text" as characters of an alphabet, in batches, without empty documents.

    Raises:
        ValueError: if a document is not a string.
    """
    for number, batch in enumerate(dataset.with_format("arrow").iter(_BATCH)):
        ids, offsets = alphabet.encode(_texts_of(batch, number * _BATCH))
        yield TokenSequences(ids, np.unique(offsets))


def check_not_empty(number: int) -> None:
    """Raises a ValueError if a corpus has no documents."""
    if not number:
        raise ValueError("The corpus has no documents: all of its lines are empty, or have no tokens.")


def separator_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that `group_into_blocks` puts after each document: the end-of-text token, or a newline without one.

    MASK, which ends the answers of a finetuned model, is no end-of-text token.
    """
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id != tokenizer.mask_token_id:
        return [int(tokenizer.eos_token_id)]  # type: ignore[call-overload]
    return tokenize(["\n"], tokenizer)["input_ids"][0]


def group_into_blocks(
    dataset: Dataset | IterableDataset, block_size: int, separator: Sequence[int]
) -> Dataset | IterableDataset:
    """Joins documents with a separator and cuts the text into contiguous blocks of `block_size` tokens."""
    group = partial(_group_batch, block_size=block_size, separator=list(separator))
    return dataset.with_format("arrow").map(group, batched=True).with_format(None)


def _group_batch(batch: pa.Table, block_size: int, separator: list[int]) -> pa.Table:
    documents = TokenSequences.from_table(batch)
    ends = documents.offsets[1:]
    ids = np.insert(
        documents.token_ids,
        np.repeat(ends, len(separator)),
        np.tile(np.array(separator, documents.token_ids.dtype), len(ends)),
    )
    ids = ids[: len(ids) - (len(ids) % block_size == 1)]  # a block of one token has nothing to predict
    return TokenSequences(ids, np.append(np.arange(0, len(ids), block_size), len(ids))).to_table()


def encode_questions(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, block_size: int) -> Dataset:
    """Encodes each pair as `question MASK answer MASK`, in the column "input_ids"; question and answer by themselves.

    Raises:
        ValueError: if an example exceeds `block_size` tokens, or has no tokens or a character without one.
    """
    mask_id = SpecialTokens.of(tokenizer).mask_id
    parts = [text for question, answer in questions for text in (question, str(answer))]
    encoded = tokenize(parts, tokenizer)["input_ids"]
    examples = []
    for number, (text, ids, answer_ids) in enumerate(
        zip(parts[::2], encoded[::2], encoded[1::2], strict=True), start=1
    ):
        examples.append([*ids, mask_id, *answer_ids, mask_id])
        if (needed := len(examples[-1])) > block_size:
            raise ValueError(
                f"Question {number}, {quote(text)}, needs {needed} tokens with its answer, over the context length of "
                f"{block_size}: shorten it, or use a model with a longer context."
            )
    if problem := find_bad_text(parts, tokenizer):
        raise ValueError(
            f"Question {problem[0] // 2 + 1}, {quote(parts[problem[0] // 2 * 2])}: {problem[1]}: replace it."
        )
    if not is_character_tokenizer(tokenizer):
        _check_answers(parts[1::2], encoded[1::2], tokenizer)
    offsets = np.append(0, np.cumsum(list(map(len, examples))))
    ids = np.fromiter(itertools.chain.from_iterable(examples), np.int32, offsets[-1])
    return Dataset(TokenSequences(ids, offsets).to_table())


def _check_answers(answers: Sequence[str], encoded: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns about answers that no prediction can match, since the tokenizer decodes their tokens to another text."""
    decoded = [str(tokenizer.decode(ids)).strip() for ids in encoded]
    pairs = zip(answers, decoded, strict=True)
    if lost := [(answer, text) for answer, text in pairs if answer.strip() != text]:
        warn(
            f"The tokenizer changes {len(lost):,} of {count(len(answers), 'answer')}, such as {quote(lost[0][0])} to "
            f"{quote(lost[0][1])}, and no prediction matches a changed one: use a tokenizer that keeps case and spaces."
        )


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
