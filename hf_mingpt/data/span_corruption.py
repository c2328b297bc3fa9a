"""Span corruption, the pretraining objective of CS224n's assignment 5, as index arithmetic on whole batches.

A document

    Ada Byron. Ada Byron was born in London in 1815 .

is truncated, and one span of what is left moves to its end:

    prefix MASK suffix MASK masked_content

    Ada Byron. Ada By⁇ was born⁇ron

With several spans, each from its own part of the text, the order of the masks says which span belongs where:

    A⁇ Byron. Ad⁇yron was born⁇da⁇a B

`draw_spans` draws the spans at random; `move_spans` builds the sequences and draws nothing. The draws for a document
depend on `(seed, epoch, index)` alone: not on the batch, the worker, the rank or the number of processes.

References: CS224n, assignment 5, `CharCorruptionDataset`; Raffel et al. 2020, T5, arXiv:1910.10683.
"""

from typing import NamedTuple

import numpy as np

from .draws import uniform_draws
from .sequences import MASK_SEGMENT, SegmentedSequences, TokenSequences

MIN_TRUNCATED_LENGTH = 4


class Spans(NamedTuple):
    """Where N documents are truncated and which K spans of each are masked, in tokens.

    truncated_length: (N,).
    start, length: (N, K).
    """

    truncated_length: np.ndarray
    start: np.ndarray
    length: np.ndarray


def max_truncated_length(block_size: int) -> int:
    """The longest text that is kept: 7/8 of the context length, which leaves room for the two MASKs."""
    return int(block_size * 7 / 8)


def check_room(block_size: int, num_spans: int) -> None:
    """Raises a ValueError if `num_spans` masked spans do not fit the context length."""
    if block_size < 8:
        raise ValueError(f"block_size {block_size} leaves no room for a corrupted text: use at least 8.")
    most = (block_size + 1 - max_truncated_length(block_size)) // 2  # two MASKs each; the last token is only a label
    if not 1 <= num_spans <= most:
        raise ValueError(f"num_spans is {num_spans}: with block_size {block_size}, use 1 to {most}.")


def draw_spans(
    lengths: np.ndarray, *, block_size: int, seed: int, epoch: int, index: np.ndarray, num_spans: int = 1
) -> Spans:
    """Draws where each document is truncated and which K spans of it are masked.

    The truncated length n is uniform on the integers from 4 to 7/8 of the context length; a shorter document is kept
    whole. The text is cut into K parts, and each part loses one span. In a part of m tokens, the length of the span is
    uniform on 1, ..., m/2 - 1, whose mean is m/4. For odd m the upper end is m/2 - 1 rounded up or down with
    probability 1/2 each, which keeps the mean; for m < 4 the length is 1, and for an empty part 0. The start of the
    span is uniform over all positions where it fits.

    Args:
        lengths: (N,) tokens of each document, at least 1.
        block_size: context length of the model.
        seed, epoch, index: the address of the draws; `index` is (N,).
        num_spans: K.

    Raises:
        ValueError: if the context length is too small for the spans.

    Example: `n = 4` allows one span length, 1, and four starts, each with probability 1/4.
    """
    check_room(block_size, num_spans)
    draws = uniform_draws(seed, epoch, index, 1 + 3 * num_spans)
    longest = max_truncated_length(block_size)
    truncated = MIN_TRUNCATED_LENGTH + (draws[:, 0] * (longest - MIN_TRUNCATED_LENGTH + 1)).astype(np.int64)
    truncated = np.minimum(truncated, lengths)
    edges = truncated[:, None] * np.arange(num_spans + 1) // num_spans  # (N, K + 1)
    room = np.diff(edges)  # (N, K)
    round_up = (draws[:, 1::3] < 0.5).astype(np.int64)
    longest_span = np.maximum((room + round_up) // 2 - 1, 1)
    length = np.minimum(1 + (draws[:, 2::3] * longest_span).astype(np.int64), room)
    start = edges[:, :-1] + (draws[:, 3::3] * (room - length + 1)).astype(np.int64)
    return Spans(truncated, start, length)


def move_spans(documents: TokenSequences, spans: Spans) -> SegmentedSequences:
    """Builds `prefix MASK suffix MASK masked_content` of each document; every token has a label.

    With K spans, the segments are K + 1 parts of the text that is kept and then the K spans, with a MASK between them.
    """
    truncated, start, length = spans
    kept_start = np.insert(start + length, 0, 0, axis=1)
    kept_length = np.column_stack((start, truncated)) - kept_start
    segment_starts = documents.offsets[:-1, None] + np.hstack((kept_start, start))
    masks = np.arange(1, segment_starts.shape[1])  # before every segment but the first
    return SegmentedSequences(
        documents.token_ids,
        np.insert(segment_starts, masks, MASK_SEGMENT, axis=1),
        np.insert(np.hstack((kept_length, length)), masks, 1, axis=1),
        np.zeros_like(truncated),
    )
