"""Corruption: what pretraining makes of a document, as index arithmetic on whole batches.

Pure functions on token ids, between tokenization and data in the flow. A document

    Ada Byron. Ada Byron was born in London in 1815 .

loses its end, and then a span of what is left is moved behind it (*span corruption*, the objective of CS224n's
assignment 5):

    prefix MASK suffix MASK masked_content

    Ada Byron. Ada By⁇ was born⁇ron

Of several spans, each from its own part of the text, the marks say which goes where by their order:

    A⁇ Byron. Ad⁇yron was born⁇da⁇a B

What is drawn for a document depends on `(seed, epoch, index)` alone: not on the batch, the worker, the rank or the
number of processes. The draws and the algebra are apart, so that each can be tested: what becomes of documents is rows
of pieces of a flat array of token ids (`Pieces`), which `join_pieces` puts together.

References: CS224n, assignment 5, `CharCorruptionDataset`; Raffel et al. 2020, T5, arXiv:1910.10683; Steele,
Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (the mixing function of SplitMix64).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

MIN_TRUNCATED_LENGTH = 4


class Spans(NamedTuple):
    """What happens to each of N documents, in tokens: integer arrays of the shapes (N,), (N, K) and (N, K)."""

    truncated_length: np.ndarray
    span_start: np.ndarray
    span_length: np.ndarray


def uniform_draws(seed: int, epoch: int, index: np.ndarray, num_draws: int) -> np.ndarray:
    """Draws independent uniform numbers that are a function of their address.

    Args:
        seed: of the run.
        epoch: of the run.
        index: (N,) document indices, stable over epochs.
        num_draws: how many numbers each document gets.

    Returns:
        (N, num_draws) float64 in [0, 1). Equal addresses give equal numbers, whatever else is in the batch.
    """
    bits = random_bits((seed, epoch, index), num_draws)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(places: np.ndarray, size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Looks up places of an epoch's order: a permutation of range(size) that is computed where it is needed.

    A Feistel network over the smallest even number of bits, walked on from what lies outside the range (Black and
    Rogaway 2002, Ciphers with Arbitrary Finite Domains). So the order of a billion documents needs no memory; that of
    up to a quarter of a million is computed once and kept.

    Args:
        places: (N,) places, under `size`.
        size: of the epoch.
        seed, epoch: the address of the permutation.
    """
    if size <= _SMALL_EPOCH:
        return _whole_permutation(size, seed, epoch)[places]
    return _permute(places, size, seed, epoch)


_SMALL_EPOCH = 1 << 18


@lru_cache(maxsize=4)  # this epoch and the next one, of the documents and of the questions
def _whole_permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return _permute(np.arange(size), size, seed, epoch)


def _permute(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    ones = (np.uint64(1) << half) - np.uint64(1)
    keys = random_bits((seed, epoch), _FEISTEL_ROUNDS)[0]

    def encrypt(number: np.ndarray) -> np.ndarray:
        left, right = number >> half, number & ones
        with np.errstate(over="ignore"):
            for key in keys:
                left, right = right, left ^ (_mix(right ^ key) & ones)
        return left << half | right

    permuted = encrypt(np.asarray(places, dtype=np.uint64))
    while (outside := permuted >= size).any():
        permuted[outside] = encrypt(permuted[outside])
    return permuted.astype(np.int64)


_FEISTEL_ROUNDS = 8


def random_bits(address: Sequence[int | np.ndarray], number: int) -> np.ndarray:
    """64 bits that are a hash of the address, `number` times for each: (N, number)."""
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for part in address:
            state = _mix(state ^ _mix(np.atleast_1d(np.asarray(part, dtype=np.uint64)) + _GOLDEN))
        steps = np.arange(1, number + 1, dtype=np.uint64) * _GOLDEN
        return _mix(np.reshape(state, (-1, 1)) + steps)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def max_truncated_length(block_size: int) -> int:
    """The longest text that is kept: 7/8 of the block, which leaves room for the two MASKs."""
    return int(block_size * 7 / 8)


def check_room(block_size: int, num_spans: int) -> None:
    """Raises a ValueError if a block has no room for a text that loses so many spans."""
    if block_size < 8:
        raise ValueError(f"block_size {block_size} leaves no room for a corrupted text: use at least 8.")
    most = (block_size + 1 - max_truncated_length(block_size)) // 2  # two MASKs each; the last of a row is not read
    if not 1 <= num_spans <= most:
        raise ValueError(f"num_spans is {num_spans}: in a block of {block_size} it is from 1 to {most}.")


def draw_spans(
    lengths: np.ndarray, *, block_size: int, seed: int, epoch: int, index: np.ndarray, num_spans: int = 1
) -> Spans:
    """Draws how each document is truncated and which K spans of it are masked.

    The truncated length n is uniform on the integers [4, 7/8 of the block]; a shorter document is kept whole. It is cut
    into K parts, which lose a span each. In one of m tokens the span's length is uniform on [1, m/2 - 1], whose mean is
    m/4 (for odd m the upper end is m/2 - 1 rounded up or down with equal chance, which keeps the mean); below m = 4 it
    is 1, and of an empty part 0. Its place is uniform over all that fit.

    Args:
        lengths: (N,) tokens of each document, at least 1.
        block_size: of the model.
        seed, epoch, index: the address of the draws; `index` is (N,).
        num_spans: K.

    Raises:
        ValueError: if the block is too small.

    Example: `n = 4` allows one span length, 1, and four places, each with chance 1/4.
    """
    check_room(block_size, num_spans)
    draws = uniform_draws(seed, epoch, index, 1 + 3 * num_spans)
    longest = max_truncated_length(block_size)
    truncated = MIN_TRUNCATED_LENGTH + (draws[:, 0] * (longest - MIN_TRUNCATED_LENGTH + 1)).astype(np.int64)
    truncated = np.minimum(truncated, lengths)
    edges = truncated[:, None] * np.arange(num_spans + 1) // num_spans
    room = np.diff(edges)
    rounding = (draws[:, 1::3] < 0.5).astype(np.int64)
    longest_span = np.maximum((room + rounding) // 2 - 1, 1)
    span_length = np.minimum(1 + (draws[:, 2::3] * longest_span).astype(np.int64), room)
    span_start = edges[:, :-1] + (draws[:, 3::3] * (room - span_length + 1)).astype(np.int64)
    return Spans(truncated, span_start, span_length)


class Pieces(NamedTuple):
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

    def select(self, rows: np.ndarray) -> "Pieces":
        return Pieces(*(part[rows] for part in self))

    def shift(self, tokens: int) -> "Pieces":
        """The same rows of an array in which theirs begins `tokens` later."""
        return self._replace(starts=np.where(self.starts == MASK_PIECE, MASK_PIECE, self.starts + tokens))


MASK_PIECE = -1


def stack_pieces(parts: Sequence[Pieces]) -> Pieces:
    """Puts rows of the same array one after the other; those of fewer pieces get empty ones."""
    ends = np.cumsum([len(part.starts) for part in parts])
    starts = np.zeros((ends[-1], max(part.starts.shape[1] for part in parts)), dtype=np.int64)
    lengths = np.zeros_like(starts)
    for part, end in zip(parts, ends, strict=True):
        rows, columns = slice(end - len(part.starts), end), slice(part.starts.shape[1])
        starts[rows, columns], lengths[rows, columns] = part.starts, part.lengths
    return Pieces(starts, lengths, np.concatenate([part.first_label for part in parts]))


def join_pieces(
    token_ids: np.ndarray, pieces: Pieces, *, mask_id: int, pad_id: int, pad_to_multiple_of: int = 1
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


def move_spans(starts: np.ndarray, spans: Spans) -> Pieces:
    """The pieces of `prefix MASK suffix MASK masked_content`, all of it learnt.

    Args:
        starts: (N,) where each document begins in the flat array.
        spans: from `draw_spans`; of K of them it is K + 1 pieces of the text and then the K spans.
    """
    n, start, length = spans
    kept_start = np.insert(start + length, 0, 0, axis=1)
    kept_length = np.column_stack((start, n)) - kept_start
    places = starts[:, None] + np.hstack((kept_start, start))
    marked = np.arange(1, places.shape[1])  # a MASK before every piece but the first
    return Pieces(
        np.insert(places, marked, MASK_PIECE, axis=1),
        np.insert(np.hstack((kept_length, length)), marked, 1, axis=1),
        np.zeros_like(starts),
    )
