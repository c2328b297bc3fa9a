"""Span corruption: the pretraining objective of CS224n, assignment 5, as index arithmetic on whole batches.

Pure functions on token ids, between tokenization and data in the flow. A document

    Ada Byron. Ada Byron was born in London .

loses its end, and then a span of what is left is moved behind it:

    prefix MASK suffix MASK masked_content

    Ada Byron. Ada By⁇ was born⁇ron

What is drawn for a document depends on `(seed, epoch, index)` alone: not on the batch, the worker, the rank or the
number of processes. The draws (`draw_spans`) and the algebra (`move_spans`) are apart, so that each can be tested.

References: CS224n, assignment 5, `CharCorruptionDataset`; Raffel et al. 2020, T5, arXiv:1910.10683;
Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (the mixing function of SplitMix64).
"""

from typing import NamedTuple

import numpy as np

MIN_TRUNCATED_LENGTH = 4


class Spans(NamedTuple):
    """What happens to each of N documents, in tokens; three integer arrays of shape (N,)."""

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
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for part in (np.uint64(seed), np.uint64(epoch), np.asarray(index, dtype=np.uint64)):
            state = _mix(state ^ _mix(np.atleast_1d(part) + _GOLDEN))
        steps = np.arange(1, num_draws + 1, dtype=np.uint64) * _GOLDEN
        bits = _mix(np.reshape(state, (-1, 1)) + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def max_truncated_length(block_size: int) -> int:
    """The longest text that is kept: 7/8 of the block, which leaves room for the two MASKs."""
    return int(block_size * 7 / 8)


def draw_spans(lengths: np.ndarray, *, block_size: int, seed: int, epoch: int, index: np.ndarray) -> Spans:
    """Draws how each document is truncated and which span of it is masked.

    The truncated length n is uniform on the integers [4, 7/8 of the block]; a shorter document is kept whole. The
    span's length is uniform on [1, n/2 - 1], whose mean is n/4 (for odd n the upper end is n/2 - 1 rounded up or down
    with equal chance, which keeps the mean); below n = 4 it is 1. Its place is uniform over all that fit.

    Args:
        lengths: (N,) tokens of each document, at least 1.
        block_size: of the model, at least 8.
        seed, epoch, index: the address of the draws; `index` is (N,).

    Example: `n = 4` allows one span length, 1, and four places, each with chance 1/4.
    """
    if block_size < 8:
        raise ValueError(f"block_size {block_size} leaves no room for a corrupted text: use at least 8.")
    draws = uniform_draws(seed, epoch, index, 4)
    longest = max_truncated_length(block_size)
    truncated = MIN_TRUNCATED_LENGTH + (draws[:, 0] * (longest - MIN_TRUNCATED_LENGTH + 1)).astype(np.int64)
    truncated = np.minimum(truncated, lengths)
    rounding = (draws[:, 1] < 0.5).astype(np.int64)
    longest_span = np.maximum((truncated + rounding) // 2 - 1, 1)
    span_length = 1 + (draws[:, 2] * longest_span).astype(np.int64)
    span_start = (draws[:, 3] * (truncated - span_length + 1)).astype(np.int64)
    return Spans(truncated, span_start, span_length)


def move_spans(
    token_ids: np.ndarray, starts: np.ndarray, spans: Spans, *, mask_id: int, pad_id: int, width: int | None = None
) -> np.ndarray:
    """Writes `prefix MASK suffix MASK masked_content PAD...` for each document.

    Args:
        token_ids: the ids of all documents in one flat array.
        starts: (N,) where each document begins in it.
        spans: from `draw_spans`.
        mask_id, pad_id: the two marks.
        width: of the result; by default that of the longest row.

    Returns:
        (N, width) int64; row i holds `truncated_length[i] + 2` tokens, then PAD.

    Example: the ids of "abcdef" with span_start 1 and span_length 2 become those of "a⁇def⁇bc".
    """
    n, start, length = (part[:, None] for part in spans)
    place = np.arange(int(n.max()) + 2 if width is None else width)[None, :]
    second_mask = n - length + 1
    source = place - (place > start)  # the prefix stays, the suffix moves one to the right for the first MASK
    source = source + length * (place > start)  # and back over the gap
    source = np.where(place > second_mask, place - second_mask - 1 + start, source)
    source = np.clip(source, 0, np.maximum(n - 1, 0))
    rows = token_ids[starts[:, None] + source].astype(np.int64)
    rows[(place == start) | (place == second_mask)] = mask_id
    rows[place >= n + 2] = pad_id
    return rows
