"""Batching: the sequences of an optimizer step, sharded across processes and split into micro-batches.

The examples of a step are drawn first, for all processes and micro-batches together. Here they are sorted by length and
sharded, so that a micro-batch holds sequences of similar length and little padding. Which examples share a *step*, and
therefore its gradient, does not depend on the sorting or on the number of processes.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from ..tokenization_mingpt import SpecialTokens
from .sequences import CHARACTER_MARKS, IGNORE_ID, SegmentedSequences


class BatchShape(NamedTuple):
    """How the examples of a step are sharded across processes, and split into micro-batches within one.

    pad_to_multiple_of: round widths up to a multiple, so that few shapes occur and compiled kernels can be reused.
    padding_free: put the sequences of a micro-batch into one.
    overhead: fixed cost of a micro-batch, in tokens. If it is given, micro-batches get as many sequences as make the
        step cheapest, but no more tokens than `per_device_batch_size` of the longest sequences.
    special_tokens: PAD and MASK of the tokenizer.
    """

    per_device_batch_size: int
    gradient_accumulation_steps: int = 1
    num_processes: int = 1
    process_index: int = 0
    pad_to_multiple_of: int = 1
    padding_free: bool = False
    overhead: int | None = None
    special_tokens: SpecialTokens = CHARACTER_MARKS

    @property
    def total(self) -> int:
        """Examples of one optimizer step: the global batch size."""
        return self.per_device_batch_size * self.gradient_accumulation_steps * self.num_processes


MicroBatch = dict[str, torch.Tensor]


def split_by_cost(widths: np.ndarray, *, overhead: int, max_longest: int) -> list[int]:
    """Splits sequences into micro-batches with the least total cost: tokens, with padding, plus overheads.

    Sizes are multiples of 8 sequences where possible, so that few shapes occur.

    Args:
        widths: (N,) tokens of each sequence, longest first, rounded up to the padding multiple.
        overhead: cost of each micro-batch, in tokens.
        max_longest: how many of the longest sequences fit a micro-batch; of shorter ones, as many as have no more
            tokens.

    Returns:
        The end of each micro-batch; the last is N.

    Example: with an overhead of 20, eight sequences of 9 and eight of 4 end at 8 and 16: 104 + 2 * 20 < 144 + 20.
    """
    starts = np.arange(0, len(widths), min(_SEQUENCES_PER_SPLIT, max_longest))
    ends = np.append(starts[1:], len(widths))
    max_tokens = max_longest * int(widths[0])
    cost, last_start = [0], []  # cost[i]: the least cost of all sequences before starts[i]
    for end in ends:
        tokens = (end - starts[: len(cost)]) * widths[starts[: len(cost)]]
        costs = np.where(tokens <= max_tokens, cost + tokens + overhead, np.iinfo(np.int64).max)
        last_start.append(best := int(costs.argmin()))
        cost.append(int(costs[best]))
    splits = [len(starts)]
    while splits[-1]:
        splits.append(last_start[splits[-1] - 1])
    return ends[np.array(splits[-2::-1]) - 1].tolist()


_SEQUENCES_PER_SPLIT = 8


def make_micro_batches(sequences: SegmentedSequences, shape: BatchShape) -> list[MicroBatch]:
    """Makes this process's micro-batches from the sequences of one step.

    The sequences are sorted by length and split into chunks; of each chunk, a process takes every `num_processes`-th
    sequence. All processes get the same number of micro-batches: if a short chunk leaves none for a process, the
    process gets a sequence without labels.

    Returns:
        Dicts of `input_ids` and `labels`, each (B, T) int64, longest sequences first, and `num_items_in_batch`, the
        number of labels in the whole step on all processes, which divides the loss. Where few positions have labels,
        `select_labels` adds its two arrays. With `padding_free`, B is 1, and `position_ids` separate the sequences.

        There is no attention mask: PAD is on the right, where no earlier token attends, and a causal mask that is
        broadcast is cheaper.
    """
    lengths, num_processes = sequences.lengths, shape.num_processes
    # no token predicts the first one of a sequence
    num_labels = torch.tensor(int((lengths - np.maximum(sequences.first_label, 1)).sum()))
    by_length = np.argsort(-lengths, kind="stable")
    chunk = shape.per_device_batch_size * num_processes
    ends: Iterable[int] = range(chunk, len(lengths) + chunk, chunk)
    if shape.overhead is not None and not shape.padding_free:
        widths = -(-lengths[by_length] // shape.pad_to_multiple_of) * shape.pad_to_multiple_of
        ends = split_by_cost(widths, overhead=shape.overhead * num_processes, max_longest=chunk)
    collate = sequences.flatten if shape.padding_free else sequences.pad
    batches = []
    for start, end in itertools.pairwise((0, *ends)):
        shard = by_length[start:end][shape.process_index :: num_processes]
        order = shard if len(shard) else by_length[start : start + 1]
        batch = collate(order, shape.pad_to_multiple_of, shape.special_tokens)
        if not len(shard):
            batch["labels"][:] = IGNORE_ID
        batch |= select_labels(batch["labels"], shape.pad_to_multiple_of)
        tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
        batches.append({**tensors, "num_items_in_batch": num_labels})
    return batches


def select_labels(labels: np.ndarray, pad_to_multiple_of: int) -> dict[str, np.ndarray]:
    """Selects the positions that need logits, as arguments of transformers' models; the others cost nothing.

    Every sequence gets the same number of positions, so that a GPU need not wait for a count.

    Args:
        labels: (B, T) with IGNORE_ID where a position has no label.
        pad_to_multiple_of: of the number of positions.

    Returns:
        `logits_to_keep`, (B, n) positions whose next token is a label, and `shift_labels`, (B, n) those labels. n is
        the largest number in a sequence, rounded up. An empty dict if that is T or more.
    """
    has_label = labels[:, 1:] != IGNORE_ID
    counts = has_label.sum(axis=1)
    most = -(-max(counts.max(), 1) // pad_to_multiple_of) * pad_to_multiple_of
    if most >= labels.shape[1]:
        return {}
    positions = np.argsort(~has_label, axis=1, kind="stable")[:, :most]  # those with a label first
    next_labels = np.take_along_axis(labels, positions + 1, axis=1)
    return {"logits_to_keep": positions, "shift_labels": next_labels}
