"""Sequences of token ids of different lengths in flat arrays, and how new ones are put together from parts of them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..tokenization_mingpt import MASK_ID, PAD_ID


class Segments(NamedTuple):
    """N rows, each of K pieces of one flat array of token ids, in tokens; int64.

    starts: (N, K) where each piece begins; -1 is the mark MASK, with length 1.
    lengths: (N, K); 0 for a piece that is not there.
    first_label: (N,) where in its row the part begins that is to be learnt.
    """

    starts: np.ndarray
    lengths: np.ndarray
    first_label: np.ndarray

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each row, (N,)."""
        return self.lengths.sum(axis=1)

    def select(self, rows: np.ndarray) -> "Segments":
        return Segments(*(part[rows] for part in self))

    def shift(self, tokens: int) -> "Segments":
        """The same rows of an array in which theirs begins `tokens` later."""
        return self._replace(starts=np.where(self.starts == MASK_SEGMENT, MASK_SEGMENT, self.starts + tokens))


MASK_SEGMENT = -1


def stack_segments(parts: Sequence[Segments]) -> Segments:
    """Puts rows of the same array one after the other; those of fewer pieces get empty ones."""
    ends = np.cumsum([len(part.starts) for part in parts])
    starts = np.zeros((ends[-1], max(part.starts.shape[1] for part in parts)), dtype=np.int64)
    lengths = np.zeros_like(starts)
    for part, end in zip(parts, ends, strict=True):
        rows, columns = slice(end - len(part.starts), end), slice(part.starts.shape[1])
        starts[rows, columns], lengths[rows, columns] = part.starts, part.lengths
    return Segments(starts, lengths, np.concatenate([part.first_label for part in parts]))


def join_segments(
    token_ids: np.ndarray, pieces: Segments, *, mask_id: int, pad_id: int, pad_to_multiple_of: int = 1
) -> np.ndarray:
    """Puts rows together.

    Args:
        token_ids: the ids of all documents in one flat array.
        pieces: of N rows.
        mask_id, pad_id: the two marks.
        pad_to_multiple_of: of the width.

    Returns:
        (N, T) int64, as wide as the longest row, rounded up; shorter ones end in PAD.

    Example: of the ids of "abcdef", the pieces (0, 1), MASK, (3, 3), MASK, (1, 2) make those of "a⁇def⁇bc".
    """
    lengths = pieces.lengths.ravel()
    first_of_piece = np.cumsum(lengths) - lengths
    source = np.repeat(pieces.starts.ravel() - first_of_piece, lengths)
    source += np.arange(len(source))
    row_lengths = pieces.row_lengths
    width = -(-row_lengths.max() // pad_to_multiple_of) * pad_to_multiple_of
    rows = np.full((len(row_lengths), width), pad_id, dtype=np.int64)
    inside = np.arange(width) < row_lengths[:, None]
    rows[inside] = np.where(source < 0, mask_id, token_ids[source])
    return rows


IGNORE_ID = -100  # labels that carry no loss, as everywhere in transformers


class TokenSequences(NamedTuple):
    """N sequences of token ids: sequence i is `token_ids[offsets[i]:offsets[i + 1]]`; offsets has shape (N + 1,)."""

    token_ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @classmethod
    def from_table(cls, table: pa.Table) -> "TokenSequences":
        """Reads the column "input_ids"."""
        column = table["input_ids"].combine_chunks()
        offsets = column.offsets.to_numpy().astype(np.int64)
        return cls(column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0])

    def to_table(self) -> pa.Table:
        """Makes the column "input_ids"."""
        return pa.table({"input_ids": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.token_ids))})


class SegmentedSequences(NamedTuple):
    """What is to be learnt from some examples: rows of pieces of their token ids."""

    token_ids: np.ndarray
    pieces: Segments

    def join(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """`input_ids` and `labels` of the rows `order`, each (len(order), longest), padded on the right."""
        pieces = self.pieces.select(order)
        ids = join_segments(
            self.token_ids, pieces, mask_id=MASK_ID, pad_id=PAD_ID, pad_to_multiple_of=pad_to_multiple_of
        )
        place = np.arange(ids.shape[1])
        learnt = (place >= pieces.first_label[:, None]) & (ids != PAD_ID)
        return {"input_ids": ids, "labels": np.where(learnt, ids, IGNORE_ID)}

    def join_flat(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """The same rows one after the other as a single one, (1, T), told apart by `position_ids` that start anew.

        Padding at the end, if there is any, is one more row.
        """
        batch = self.join(order)
        inside = batch["input_ids"] != PAD_ID
        batch["labels"][:, 0] = IGNORE_ID  # nothing before it to be predicted from
        batch["position_ids"] = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
        padding = np.arange(-inside.sum() % pad_to_multiple_of)
        ends = {"input_ids": np.full_like(padding, PAD_ID), "labels": np.full_like(padding, IGNORE_ID)}
        ends["position_ids"] = padding
        return {name: np.concatenate((rows[inside], ends[name]))[None] for name, rows in batch.items()}


def stack_sequences(rows: Sequence[SegmentedSequences]) -> SegmentedSequences:
    """Puts the rows of several sources, one after the other, into one."""
    shifts = itertools.accumulate((len(part.token_ids) for part in rows), initial=0)
    shifted = [part.pieces.shift(shift) for part, shift in zip(rows, shifts, strict=False)]
    return SegmentedSequences(np.concatenate([part.token_ids for part in rows]), stack_segments(shifted))
