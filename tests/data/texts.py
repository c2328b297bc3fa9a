"""Texts as token ids without a tokenizer: a character's id is its code point, but for the two marks."""

from collections.abc import Sequence

import numpy as np

from hf_mingpt.data.sequences import SegmentedSequences, TokenSequences
from hf_mingpt.tokenization_mingpt import MASK_ID, PAD_ID

MARKS = {"□": PAD_ID, "⁇": MASK_ID}


def by_code_point(texts: Sequence[str], **options) -> dict[str, list[list[int]]]:
    """What a tokenizer without a vocabulary would return."""
    return {"input_ids": [ids(text).tolist() for text in texts]}


def ids(text: str) -> np.ndarray:
    return np.array([MARKS.get(character, ord(character)) for character in text], dtype=np.int64)


def documents_of(texts: Sequence[str]) -> TokenSequences:
    return TokenSequences(ids("".join(texts)), np.cumsum([0, *map(len, texts)]))


def texts_of(sequences: SegmentedSequences, pad_to_multiple_of: int = 1) -> list[str]:
    """The sequences as padded texts."""
    rows = sequences.pad(np.arange(len(sequences.lengths)), pad_to_multiple_of)["input_ids"]
    marks = {i: mark for mark, i in MARKS.items()}
    return ["".join(marks.get(i, chr(i)) for i in row) for row in rows.tolist()]
