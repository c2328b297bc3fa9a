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
of pieces of a flat array of token ids (`Segments`), which `join_segments` puts together.

References: CS224n, assignment 5, `CharCorruptionDataset`; Raffel et al. 2020, T5, arXiv:1910.10683; Steele,
Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (the mixing function of SplitMix64).
"""

from typing import NamedTuple

import numpy as np

from .draws import uniform_draws
from .sequences import MASK_SEGMENT, Segments

MIN_TRUNCATED_LENGTH = 4


class Spans(NamedTuple):
    """What happens to each of N documents, in tokens: integer arrays of the shapes (N,), (N, K) and (N, K)."""

    truncated_length: np.ndarray
    span_start: np.ndarray
    span_length: np.ndarray


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


def move_spans(starts: np.ndarray, spans: Spans) -> Segments:
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
    return Segments(
        np.insert(places, marked, MASK_SEGMENT, axis=1),
        np.insert(np.hstack((kept_length, length)), marked, 1, axis=1),
        np.zeros_like(starts),
    )
