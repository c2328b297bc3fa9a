"""Sequences of token ids of different lengths in flat arrays, and new sequences put together from their segments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..tokenization_mingpt import MASK_ID, PAD_ID

IGNORE_ID = -100  # labels without loss, as everywhere in transformers
MASK_SEGMENT = -1


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
    """N sequences to learn from, each put together from K segments of one flat array of token ids; int64.

    token_ids: the flat array.
    segment_starts: (N, K) where each segment begins in it; MASK_SEGMENT is one MASK, with length 1.
    segment_lengths: (N, K) tokens; 0 for a segment that a sequence does not have.
    first_label: (N,) the position in each sequence where the labels begin; the tokens before it carry no loss.

    Example: of the ids of "abcdef", the segments (0, 1), MASK, (3, 3), MASK, (1, 2) as (start, length) make "a⁇def⁇bc".
    """

    token_ids: np.ndarray
    segment_starts: np.ndarray
    segment_lengths: np.ndarray
    first_label: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, (N,)."""
        return self.segment_lengths.sum(axis=1)

    def select(self, order: np.ndarray) -> "SegmentedSequences":
        """The sequences `order`, of the same flat array."""
        return SegmentedSequences(self.token_ids, *(array[order] for array in self[1:]))

    def prepend(self, token_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "SegmentedSequences":
        """Puts one more segment, of another flat array, before each sequence; the labels stay at their tokens.

        Args:
            token_ids: the other flat array.
            starts, lengths: (N,) the segments in it.
        """
        return SegmentedSequences(
            np.concatenate((self.token_ids, token_ids)),
            np.column_stack((len(self.token_ids) + starts, self.segment_starts)),
            np.column_stack((lengths, self.segment_lengths)),
            self.first_label + lengths,
        )

    def pad(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """`input_ids` and `labels` of the sequences `order`: (len(order), T) int64, padded on the right.

        T is the length of the longest, rounded up to a multiple of `pad_to_multiple_of`.
        """
        chosen = self.select(order)
        segment_lengths = chosen.segment_lengths.ravel()
        first_of_segment = np.cumsum(segment_lengths) - segment_lengths
        source = np.repeat(chosen.segment_starts.ravel() - first_of_segment, segment_lengths)
        source += np.arange(len(source))
        lengths = chosen.lengths
        width = -(-lengths.max() // pad_to_multiple_of) * pad_to_multiple_of
        position = np.arange(width)
        ids = np.full((len(lengths), width), PAD_ID, dtype=np.int64)
        ids[position < lengths[:, None]] = np.where(source == MASK_SEGMENT, MASK_ID, self.token_ids[source])
        has_label = (position >= chosen.first_label[:, None]) & (ids != PAD_ID)
        return {"input_ids": ids, "labels": np.where(has_label, ids, IGNORE_ID)}

    def flatten(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """The same as one long sequence, (1, T), without padding between them; `position_ids` restart at each.

        If T is rounded up, the padding at the end is one more sequence.
        """
        batch = self.pad(order)
        inside = batch["input_ids"] != PAD_ID
        batch["labels"][:, 0] = IGNORE_ID  # no token before it predicts it
        batch["position_ids"] = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
        padding = np.arange(-inside.sum() % pad_to_multiple_of)
        ends = {"input_ids": np.full_like(padding, PAD_ID), "labels": np.full_like(padding, IGNORE_ID)}
        ends["position_ids"] = padding
        return {name: np.concatenate((array[inside], ends[name]))[None] for name, array in batch.items()}


def stack_sequences(parts: Sequence[SegmentedSequences]) -> SegmentedSequences:
    """Puts the sequences of several sources, one after the other, into one."""
    width = max(part.segment_starts.shape[1] for part in parts)
    starts, lengths, shift = [], [], 0
    for part in parts:
        missing = ((0, 0), (0, width - part.segment_starts.shape[1]))
        shifted = np.where(part.segment_starts == MASK_SEGMENT, MASK_SEGMENT, part.segment_starts + shift)
        starts.append(np.pad(shifted, missing))
        lengths.append(np.pad(part.segment_lengths, missing))
        shift += len(part.token_ids)
    token_ids, first_label = (np.concatenate([part[field] for part in parts]) for field in (0, 3))
    return SegmentedSequences(token_ids, np.concatenate(starts), np.concatenate(lengths), first_label)
