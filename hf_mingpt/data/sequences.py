"""Sequences of token ids of different lengths in flat arrays, and new sequences put together from their segments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ..tokenization_mingpt import SpecialTokens, code_points

IGNORE_ID = -100  # labels without loss, as everywhere in transformers
MASK_SEGMENT = -1
CHARACTER_MARKS = SpecialTokens()
ALIGNMENT_COLUMNS = ("characters", "token_starts", "token_ends")


class TokenSequences(NamedTuple):
    """N sequences of token ids: sequence i is `token_ids[offsets[i]:offsets[i + 1]]`; offsets has shape (N + 1,).

    `alignment` says which characters each token covers; without it, each token is one character.
    """

    token_ids: np.ndarray
    offsets: np.ndarray
    alignment: "Alignment | None" = None

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @classmethod
    def from_table(cls, table: pa.Table) -> "TokenSequences":
        """Reads the column "input_ids" and, if there is an alignment, the columns that `align` adds."""
        token_ids, offsets = _read_lists(table, "input_ids")
        if "characters" not in table.column_names:
            return cls(token_ids, offsets)
        characters = cls(*code_points(table["characters"].combine_chunks()))
        first = np.repeat(characters.offsets[:-1], np.diff(offsets))
        starts, ends = (_read_lists(table, name)[0] + first for name in ("token_starts", "token_ends"))
        return cls(token_ids, offsets, Alignment(characters, starts, ends))

    def to_table(self) -> pa.Table:
        """Makes the column "input_ids"."""
        return pa.table({"input_ids": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.token_ids))})

    @property
    def characters(self) -> "TokenSequences":
        """The same sequences as ids of characters (`alphabet.py`)."""
        return self.alignment.characters if self.alignment else self

    def count_covered(self, lengths: np.ndarray) -> np.ndarray:
        """(N,) how many tokens lie within the first `lengths` (N,) characters of each sequence."""
        if not self.alignment:
            return lengths
        ends = self.alignment.characters.offsets[:-1] + lengths
        return np.searchsorted(self.alignment.ends, ends, side="right") - self.offsets[:-1]

    def cover(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps M spans of characters to the fewest tokens that cover them; an empty span stays empty.

        Args:
            starts, lengths: (M,) where each span starts in the flat array of characters, and its characters.

        Returns:
            (M,) where each span starts in the flat array of token ids, and (M,) its tokens.
        """
        if not self.alignment:
            return starts, lengths
        first = np.searchsorted(self.alignment.ends, starts, side="right")
        last = np.searchsorted(self.alignment.starts, starts + lengths, side="left")
        return first, np.where(lengths > 0, np.maximum(last - first, 0), 0)


class Alignment(NamedTuple):
    """Which characters of N sequences each of their T tokens covers.

    characters: the sequences as code points.
    starts, ends: (T,) where each token starts and ends in the flat array of code points; neither ever decreases.
    """

    characters: TokenSequences
    starts: np.ndarray
    ends: np.ndarray


def align(table: pa.Table, texts: pa.Array, spans: np.ndarray) -> pa.Table:
    """Adds an alignment to the column "input_ids" of N texts.

    Args:
        table: from `TokenSequences.to_table`.
        texts: the N texts.
        spans: (T, 2) where each token starts and ends in its text.
    """
    lists = table["input_ids"].combine_chunks()
    # some tokenizers say that a token without characters is at 0
    base = np.repeat(np.arange(len(texts)) << 32, np.diff(lists.offsets.to_numpy()))[:, None]
    spans = np.maximum.accumulate(spans + base, axis=0) - base
    columns = {"input_ids": lists, "characters": texts}
    for name, places in zip(("token_starts", "token_ends"), spans.T.astype(np.uint32), strict=True):
        columns[name] = pa.LargeListArray.from_arrays(lists.offsets, pa.array(places))
    return pa.table(columns)


def _read_lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The flat array of a column of lists, and its offsets."""
    column = table[name].combine_chunks()
    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]


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

    def pad(
        self, order: np.ndarray, pad_to_multiple_of: int = 1, special_tokens: SpecialTokens = CHARACTER_MARKS
    ) -> dict[str, np.ndarray]:
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
        inside = position < lengths[:, None]
        ids = np.full((len(lengths), width), special_tokens.pad_id, dtype=np.int64)
        ids[inside] = np.where(source == MASK_SEGMENT, special_tokens.mask_id, self.token_ids[source])
        has_label = inside & (position >= chosen.first_label[:, None])
        return {"input_ids": ids, "labels": np.where(has_label, ids, IGNORE_ID)}

    def flatten(
        self, order: np.ndarray, pad_to_multiple_of: int = 1, special_tokens: SpecialTokens = CHARACTER_MARKS
    ) -> dict[str, np.ndarray]:
        """The same as one long sequence, (1, T), without padding between them; `position_ids` restart at each.

        If T is rounded up, the padding at the end is one more sequence.
        """
        batch = self.pad(order, special_tokens=special_tokens)
        inside = np.arange(batch["input_ids"].shape[1]) < self.lengths[order][:, None]
        batch["labels"][:, 0] = IGNORE_ID  # no token before it predicts it
        batch["position_ids"] = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
        padding = np.arange(-inside.sum() % pad_to_multiple_of)
        ends = {"input_ids": np.full_like(padding, special_tokens.pad_id), "labels": np.full_like(padding, IGNORE_ID)}
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
