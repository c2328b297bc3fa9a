"""Texts as token ids without a tokenizer: a character's id is its code point, but for the two marks."""

from collections.abc import Sequence

import numpy as np

from hf_mingpt.data.alphabet import CharacterClasses
from hf_mingpt.data.salient_spans import SalientSpans, find_salient_spans, find_titles
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


CLASSES = CharacterClasses.of([*MARKS, *map(chr, range(2, 0x180))])


def spans_of(*texts: str, numbers: bool = True) -> SalientSpans:
    return find_salient_spans(documents_of(texts), CLASSES, numbers=numbers)


def titles_of(*texts: str) -> list[int]:
    return find_titles(documents_of(texts), CLASSES).tolist()


def salient(text: str, *others: str, numbers: bool = True) -> list[str]:
    """The salient spans of `text`, as strings, when the others follow it and when they precede it."""
    found = []
    for texts, place in (([text, *others], 0), ([*others, text], len(others))):
        _, _, starts, lengths, offsets, _ = spans_of(*texts, numbers=numbers)
        joined, its = "".join(texts), slice(offsets[place], offsets[place + 1])
        found.append([joined[a : a + n] for a, n in zip(starts[its], lengths[its], strict=True)])
    assert found[0] == found[1]
    return found[0]
