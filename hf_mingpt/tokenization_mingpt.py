"""Tokenizers: the character tokenizer, one token per character, and what the data format needs of any other.

The character tokenizer is a `TokenizersBackend` around a BPE model without merges, so `AutoTokenizer` loads it without
code of this package.

The vocabulary is that of the assignment: PAD has id 0, MASK has id 1, and the sorted characters of the corpus follow,
newline included. A character that is not in the vocabulary becomes PAD, which the model never learns to predict; use
`find_bad_character` to find such characters before training.

Any other tokenizer brings its own pad and mask token, or gets them from `add_special_tokens`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from .system.files import first_line
from .system.wording import quote

PAD = "\u25a1"  # white square
MASK = "\u2047"  # double question mark
PAD_ID, MASK_ID = 0, 1
_CODE_POINTS = 0x110000


class SpecialTokens(NamedTuple):
    """The ids of PAD and MASK; the defaults are those of a character tokenizer."""

    pad_id: int = PAD_ID
    mask_id: int = MASK_ID

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokens":
        """The ids of a tokenizer's pad and mask token.

        Raises:
            ValueError: If it lacks one of them, or they are the same token.
        """
        pad_id, mask_id = tokenizer.pad_token_id, tokenizer.mask_token_id
        for name, token_id in (("pad", pad_id), ("mask", mask_id)):
            if token_id is None:
                raise ValueError(f"The tokenizer has no {name} token: finetune the model first, which adds it.")
        if pad_id == mask_id:
            raise ValueError(
                f"The tokenizer has {tokenizer.mask_token!r} as pad token and as mask token: give it a pad token of "
                "its own."
            )
        return cls(int(pad_id), int(mask_id))  # type: ignore[arg-type]


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Adds PAD and MASK to a tokenizer, unless it has a pad and a mask token of its own.

    Raises:
        ValueError: If the tokenizer cannot add tokens, or its pad and mask token are the same.
    """
    marks = {"pad_token": PAD, "mask_token": MASK}
    missing: dict[str, Any] = {name: m for name, m in marks.items() if getattr(tokenizer, f"{name}_id", None) is None}
    if missing:
        try:
            tokenizer.add_special_tokens(missing)
        except Exception as error:  # tokenizers that cannot add tokens raise errors of many classes
            raise ValueError(
                f"The tokenizer, a {type(tokenizer).__name__}, has no {' and no '.join(missing)}, and none can be "
                "added: use a tokenizer that has them, or one that can add tokens."
            ) from error
    return SpecialTokens.of(tokenizer)


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The embeddings that a model needs: the largest token id, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **options: Any) -> dict[str, list]:
    """Tokenizes N texts, each as it is: without the special tokens that some tokenizers add at both ends.

    Args:
        options: Options of the tokenizer, such as `return_offsets_mapping`.

    Returns:
        A dict of lists of length N: the token ids of each text as "input_ids", and what `options` ask for.

    Raises:
        ValueError: If the tokenizer fails on a text.
    """
    if not texts:
        return {"input_ids": [], "offset_mapping": []}
    try:
        return dict(tokenizer(list(texts), add_special_tokens=False, verbose=False, **options))
    except Exception as error:  # such as one of the class Exception, for want of an unknown token
        if len(texts) > 1:
            for text in texts:
                tokenize([text], tokenizer, **options)
        raise ValueError(
            f"The tokenizer, a {type(tokenizer).__name__}, fails on {quote(texts[0])} ({first_line(error)}): use "
            "another, such as one with an unknown token."
        ) from error


def decode_each(token_ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token as it stands inside a text: with the space before it, if the token has one."""
    pairs = (([i], [i, i]) for i in token_ids)  # decoding drops the first space of some tokenizers
    return [str(tokenizer.decode(two)).removeprefix(str(tokenizer.decode(one))) for one, two in pairs]


def check_marks(text: str, name: str | Path) -> None:
    """Raises a ValueError with `name` and the line if a text contains PAD or MASK."""
    for mark in (PAD, MASK):
        if mark in text:
            line = text[: text.index(mark)].count("\n") + 1
            raise ValueError(
                f"{name}, line {line}: {mark!r} (U+{ord(mark):04X}) is a mark of the data format: remove it."
            )


def build_vocabulary(batches: Iterable[Sequence[str] | pa.Array]) -> list[str]:
    """Builds the vocabulary of a corpus, in the order of the ids: PAD, MASK, its sorted characters with the newline.

    Args:
        batches: Batches of texts.

    Raises:
        ValueError: If a text contains PAD or MASK.
    """
    seen = np.zeros(_CODE_POINTS, dtype=bool)
    seen[ord("\n")] = True
    number = 0
    for texts in batches:
        points, offsets = code_points(texts)
        seen[points] = True
        for reserved in (PAD, MASK):
            if seen[ord(reserved)]:
                place = int(np.flatnonzero(points == ord(reserved))[0])
                document = int(np.searchsorted(offsets, place, side="right")) - 1
                raise ValueError(
                    f"Document {number + document + 1}: character {place - offsets[document] + 1}, {reserved!r} "
                    f"(U+{ord(reserved):04X}), is reserved as a mark of the data format: replace it in the text."
                )
        number += len(offsets) - 1
    return [PAD, MASK, *map(chr, np.flatnonzero(seen))]


def build_tokenizer(vocabulary: Sequence[str], block_size: int) -> TokenizersBackend:
    """Builds the tokenizer of a vocabulary.

    Args:
        vocabulary: From `build_vocabulary`.
        block_size: Context length of the model, to which texts are truncated if a caller sets `truncation=True`.

    Raises:
        ValueError: If the vocabulary does not start with PAD and MASK.
    """
    if list(vocabulary[:2]) != [PAD, MASK]:
        raise ValueError(f"A vocabulary starts with {PAD!r} and {MASK!r}, but this one with {list(vocabulary[:2])!r}.")
    ids = {character: i for i, character in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges=[], unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*\S+|\s+"), "isolated")  # words, for word_ids()
    backend.decoder = decoders.Fuse()
    return TokenizersBackend(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=PAD,
        mask_token=MASK,
        padding_side="left",  # for batched generation
        model_max_length=block_size,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def character_table(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Maps every Unicode code point to its token id.

    Returns:
        (0x110000,) int32, with -1 for characters without a token.

    Raises:
        ValueError: If the tokenizer is not one of `build_tokenizer`: if a token is not a single character, PAD and MASK
            do not have the ids 0 and 1, or the ids are not distinct and consecutive.
    """
    vocabulary = tokenizer.get_vocab()
    if long := next((token for token in vocabulary if len(token) != 1), None):
        raise ValueError(
            f"The tokenizer has the token {long!r}, which is not a single character: use a character tokenizer."
        )
    if [vocabulary.get(PAD), vocabulary.get(MASK)] != [PAD_ID, MASK_ID]:
        raise ValueError(
            f"The tokenizer has {PAD!r} and {MASK!r} as ids {vocabulary.get(PAD)} and {vocabulary.get(MASK)}, not as "
            f"{PAD_ID} and {MASK_ID}: use a tokenizer of this package."
        )
    tokens: dict[int, str] = {}
    for token, token_id in vocabulary.items():
        if token_id in tokens:
            raise ValueError(
                f"The tokenizer has {tokens[token_id]!r} and {token!r} as the same id, {token_id}: make ids distinct."
            )
        tokens[token_id] = token
    if max(tokens) != len(tokens) - 1:
        raise ValueError(f"The tokenizer has {len(tokens)} tokens and the id {max(tokens)}: number them from 0.")
    table = np.full(_CODE_POINTS, -1, dtype=np.int32)
    for token, token_id in vocabulary.items():
        table[ord(token)] = token_id
    return table


def is_character_tokenizer(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each character is one token, with the ids of `character_table`."""
    try:
        table = character_table(tokenizer)
    except ValueError:
        return False
    # a byte-level tokenizer without merges has single characters as tokens, too, but they stand for bytes
    characters = list(tokenizer.get_vocab())
    ids = tokenizer(characters, add_special_tokens=False)["input_ids"]
    return ids == [[int(table[ord(character)])] for character in characters]


def code_points(texts: Sequence[str] | pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Splits texts into characters, without a Python loop.

    Args:
        texts: N texts; a null counts as an empty text.

    Returns:
        The concatenated Unicode code points (uint32), and offsets (N + 1,) int64: text i has
        `code_points[offsets[i]:offsets[i + 1]]`.
    """
    array = pc.fill_null(pa.array(texts, pa.large_string()), "")
    offsets = np.zeros(len(array) + 1, dtype=np.int64)
    np.cumsum(pc.utf8_length(array).to_numpy(), out=offsets[1:])
    _, byte_offsets, characters = array.buffers()
    first, last = np.frombuffer(byte_offsets, dtype=np.int64)[[array.offset, array.offset + len(array)]]
    text = str(memoryview(characters)[first:last], "utf-8") if last > first else ""
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32), offsets


def encode_texts(texts: Sequence[str] | pa.Array, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encodes texts to the same ids as the tokenizer, without a Python loop.

    Args:
        texts: N texts.
        table: From `character_table`.

    Returns:
        The concatenated token ids (int32), and offsets (N + 1,) int64: text i is `ids[offsets[i]:offsets[i + 1]]`. A
        character without a token has the id -1.
    """
    points, offsets = code_points(texts)
    return table[points], offsets


def find_bad_character(texts: Sequence[str], table: np.ndarray) -> tuple[int, str] | None:
    """Finds the first character that has no token, or is PAD or MASK.

    Returns:
        The index of its text and a description of the character, or None if there is none.
    """
    ids, offsets = encode_texts(texts, table)
    bad = np.flatnonzero(ids <= MASK_ID)  # -1 for unknown, PAD_ID, MASK_ID
    if not len(bad):
        return None
    index = int(np.searchsorted(offsets, bad[0], side="right")) - 1
    place = int(bad[0] - offsets[index])
    character = texts[index][place]
    problem = "is a mark of the data format" if character in (PAD, MASK) else "is not in the vocabulary"
    return index, f"character {place + 1}, {character!r} (U+{ord(character):04X}), {problem}"


def find_bad_text(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[int, str] | None:
    """Finds the first text that a tokenizer cannot encode: `find_bad_character`, with any tokenizer.

    Returns:
        The index of the text and a description of the problem: it has no tokens, or one is PAD or MASK. None if there
        is no such text.
    """
    if is_character_tokenizer(tokenizer):
        return find_bad_character(texts, character_table(tokenizer))
    special_tokens = SpecialTokens.of(tokenizer)
    encoded = tokenize(texts, tokenizer, return_offsets_mapping=tokenizer.is_fast)
    for index, ids in enumerate(encoded["input_ids"]):
        if not ids:
            return index, "it has no tokens with this tokenizer"
        if len(bad := find_reserved(np.array(ids), special_tokens, tokenizer.eos_token_id)):
            spans = encoded["offset_mapping"][index] if tokenizer.is_fast else None
            token = str(tokenizer.convert_ids_to_tokens(ids[bad[0]]))
            return index, describe_reserved(texts[index], token, spans, bad[0])
    return None


def find_reserved(ids: np.ndarray, special_tokens: SpecialTokens, eos_id: int | None) -> np.ndarray:
    """The positions of PAD and MASK among token ids. A PAD that ends texts as well is allowed."""
    reserved = ids == special_tokens.mask_id
    if special_tokens.pad_id != eos_id:
        reserved |= ids == special_tokens.pad_id
    return np.flatnonzero(reserved)


def describe_reserved(text: str, token: str, spans: Sequence[tuple[int, int]] | None, position: int) -> str:
    """Describes PAD or MASK among the tokens of a text: it stands there, or an unknown character becomes PAD."""
    if spans is None:
        return f"its token {token!r} is a mark of the data format"
    start, end = spans[position]
    problem = "is a mark of the data format" if text[start:end].strip() == token else "is not in the vocabulary"
    return f"character {start + 1}, {text[start:end]!r}, {problem}"
