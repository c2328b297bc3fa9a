"""Batching: the rows of an optimizer step, dealt out to processes and cut into micro-batches.

Between objectives and data in the flow. A step's examples are drawn first, for all processes and micro-batches; here
they are sorted by length and dealt out. So short rows share a micro-batch with short ones and little is padded, while
which examples share a *step*, and with it the gradient, is what it would be without sorting, on any number of
processes.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from .sequences import IGNORE_ID, SegmentedSequences


class BatchShape(NamedTuple):
    """How a step's examples are dealt out: to processes, and within one to micro-batches.

    pad_to_multiple_of: widths are multiples of it, so that few shapes occur and compiled kernels are found again.
    padding_free: the rows of a micro-batch are put into one.
    overhead: what a micro-batch costs beside its tokens, in tokens. If it is given, micro-batches get as many rows as
        make the step cheapest; none gets more tokens than `per_device_batch_size` of the longest rows.
    """

    per_device_batch_size: int
    gradient_accumulation_steps: int = 1
    num_processes: int = 1
    process_index: int = 0
    pad_to_multiple_of: int = 1
    padding_free: bool = False
    overhead: int | None = None

    @property
    def total(self) -> int:
        """Examples of one optimizer step."""
        return self.per_device_batch_size * self.gradient_accumulation_steps * self.num_processes


MicroBatch = dict[str, torch.Tensor]


def cut_rows(widths: np.ndarray, *, overhead: int, most_rows: int) -> list[int]:
    """Cuts rows into micro-batches so that their tokens, with padding, and their overheads are least in sum.

    Cuts are at multiples of some rows, again so that few shapes occur.

    Args:
        widths: (N,) tokens of each row, longest first, rounded up to what is padded to.
        overhead: of each micro-batch, in tokens.
        most_rows: of the longest; shorter ones may be more, with as many tokens.

    Returns:
        Where the micro-batches end; the last is N.

    Example: with an overhead of 20, eight rows of 9 and eight of 4 are cut at 8 and 16: 104 + 2 * 20 < 144 + 20.
    """
    starts = np.arange(0, len(widths), min(_ROWS_OF_A_CUT, most_rows))
    ends = np.append(starts[1:], len(widths))
    most_tokens = most_rows * int(widths[0])
    cost, cut_before = [0], []  # cost[i]: the least of all rows before starts[i]
    for end in ends:
        tokens = (end - starts[: len(cost)]) * widths[starts[: len(cost)]]
        costs = np.where(tokens <= most_tokens, cost + tokens + overhead, np.iinfo(np.int64).max)
        cut_before.append(best := int(costs.argmin()))
        cost.append(int(costs[best]))
    cuts = [len(starts)]
    while cuts[-1]:
        cuts.append(cut_before[cuts[-1] - 1])
    return ends[np.array(cuts[-2::-1]) - 1].tolist()


_ROWS_OF_A_CUT = 8


def make_micro_batches(rows: SegmentedSequences, shape: BatchShape) -> list[MicroBatch]:
    """Makes this process's micro-batches of the rows of one step.

    The rows are sorted by length and cut into chunks, of which each process takes every `num_processes`-th row. All
    processes get the same number of micro-batches: where a short chunk leaves nothing for one, it gets a row without
    labels.

    Returns:
        Dicts of `input_ids` and `labels`, each (B, T) int64, longest rows first, and `num_items_in_batch`, the labels
        of the whole step on all processes: what the loss is divided by. Where few tokens are learnt, also of
        `select_learnt`. There is no attention mask: PAD is on the right, where no token before it looks, and a
        broadcast causal mask is the cheaper one. With `padding_free` it is (1, T), and `position_ids` keep the rows
        apart.
    """
    lengths, processes = rows.pieces.row_lengths, shape.num_processes
    # the first token of a row has nothing before it to be predicted from
    labels = torch.tensor(int((lengths - np.maximum(rows.pieces.first_label, 1)).sum()))
    by_length = np.argsort(-lengths, kind="stable")
    most_rows = shape.per_device_batch_size * processes
    ends: Iterable[int] = range(most_rows, len(lengths) + most_rows, most_rows)
    if shape.overhead is not None and not shape.padding_free:
        widths = -(-lengths[by_length] // shape.pad_to_multiple_of) * shape.pad_to_multiple_of
        ends = cut_rows(widths, overhead=shape.overhead * processes, most_rows=most_rows)
    join = rows.join_flat if shape.padding_free else rows.join
    batches = []
    for start, end in itertools.pairwise((0, *ends)):
        share = by_length[start:end][shape.process_index :: processes]
        batch = join(share if len(share) else by_length[start : start + 1], shape.pad_to_multiple_of)
        if not len(share):
            batch["labels"][:] = IGNORE_ID
        batch |= select_learnt(batch["labels"], shape.pad_to_multiple_of)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        batches.append({**tensors, "num_items_in_batch": labels})
    return batches


def select_learnt(labels: np.ndarray, pad_to_multiple_of: int) -> dict[str, np.ndarray]:
    """Where the head is needed, in the terms of transformers' models: elsewhere no logits are computed.

    The same number of places for every row, so that a GPU need not ask how many there are.

    Args:
        labels: (B, T) with IGNORE_ID where nothing is learnt.

    Returns:
        `logits_to_keep`, (B, n) places whose next token is learnt, and `shift_labels`, (B, n) those tokens; n is
        that of the row with most, rounded up. Nothing if that is all of T.
    """
    learnt = labels[:, 1:] != IGNORE_ID
    counts = learnt.sum(axis=1)
    most = -(-max(counts.max(), 1) // pad_to_multiple_of) * pad_to_multiple_of
    if most >= labels.shape[1]:
        return {}
    places = np.argsort(~learnt, axis=1, kind="stable")[:, :most]  # those first
    following = np.take_along_axis(labels, places + 1, axis=1)
    return {"logits_to_keep": places, "shift_labels": following}
