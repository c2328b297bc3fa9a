"""The micro-batches of each optimizer step, from encoded examples.

A step is a function of its number. `TrainingSteps` has no state, so a run can resume at any step, and any number of
worker processes can prepare the steps.
"""

import itertools
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, get_worker_info

from ..system.wording import count
from .batching import BatchShape, MicroBatch, make_micro_batches
from .draws import permute
from .encoding import check_not_empty, take
from .objectives import Objective
from .sequences import SegmentedSequences, TokenSequences, stack_sequences


class Mixture:
    """A second dataset, such as questions, whose examples are mixed into every step.

    Args:
        dataset: encoded examples.
        objective: how they are learned.
        ratio: of its examples among the examples of a step.
        seed: of the order of its examples, which is new in every epoch.

    Raises:
        ValueError: if the dataset is empty.
    """

    def __init__(self, dataset: Dataset, objective: Objective, ratio: float, *, seed: int):
        if not len(dataset):
            raise ValueError("The dataset to mix into the documents is empty: give it at least one example.")
        self.dataset, self.objective, self.ratio, self.seed = dataset.with_format("arrow"), objective, ratio, seed

    def count(self, shape: BatchShape) -> int:
        """Its examples in one step.

        Raises:
            ValueError: if that is none of the examples of the step, or all.
        """
        number = round(self.ratio * shape.total)
        if not 0 < number < shape.total:
            raise ValueError(
                f"questions_ratio {self.ratio} gives {count(number, 'question')} in a step of "
                f"{count(shape.total, 'example')}: change the ratio or the batch size."
            )
        return number

    def sequences(self, step: int, shape: BatchShape) -> SegmentedSequences:
        """Its sequences in one step: the next ones in an endless series of epochs."""
        number, size = self.count(shape), len(self.dataset)
        positions = np.arange(step * number, (step + 1) * number)
        parts = []
        for epoch in range(positions[0] // size, positions[-1] // size + 1):
            index = permute(positions[positions // size == epoch] % size, size, seed=self.seed, epoch=epoch)
            parts.append(self.objective(take(self.dataset, index), epoch, index))
        return stack_sequences(parts)


class TrainingSteps(torch.utils.data.Dataset):
    """Maps the number of an optimizer step to this process's micro-batches; it has no state.

    Args:
        dataset: encoded documents.
        objective: how they are learned.
        shape: of a step.
        seed: of the order of the documents.
        shuffle: draw a new order for every epoch; False: the order of the dataset.
        mixture: examples that are mixed into every step.
    """

    def __init__(
        self,
        dataset: Dataset,
        objective: Objective,
        shape: BatchShape,
        *,
        seed: int,
        shuffle: bool = True,
        mixture: Mixture | None = None,
    ):
        self.dataset, self.objective, self.shape = dataset.with_format("arrow"), objective, shape
        self.seed, self.shuffle, self.mixture = seed, shuffle, mixture
        self.documents_per_step = shape.total - (mixture.count(shape) if mixture else 0)
        self.steps_per_epoch = -(-len(dataset) // self.documents_per_step)

    def index(self, step: int) -> np.ndarray:
        """The indices of a step's documents in the dataset, for all processes."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first, size = step_of_epoch * self.documents_per_step, len(self.dataset)
        index = np.arange(first, min(first + self.documents_per_step, size))
        return permute(index, size, seed=self.seed, epoch=epoch) if self.shuffle else index

    def __getitem__(self, step: int) -> list[MicroBatch]:
        index = self.index(step)
        parts = [self.objective(take(self.dataset, index), step // self.steps_per_epoch, index)]
        if self.mixture:
            parts.append(self.mixture.sequences(step, self.shape))
        return make_micro_batches(stack_sequences(parts), self.shape)


class StreamedSteps(torch.utils.data.IterableDataset):
    """The micro-batches of a stream of documents in its own order, step after step and epoch after epoch.

    Each worker process reads the whole stream and makes every n-th step, because the loader takes turns.

    Raises:
        ValueError: if the stream is empty, or its first document cannot be read.
    """

    steps_per_epoch = None  # unknown until the stream ends

    def __init__(
        self, dataset: IterableDataset, objective: Objective, shape: BatchShape, *, mixture: Mixture | None = None
    ):
        self.dataset, self.objective, self.shape = dataset.with_format("arrow"), objective, shape
        self.mixture = mixture
        self.documents_per_step = shape.total - (mixture.count(shape) if mixture else 0)
        check_not_empty(len(list(self.dataset.take(1))))  # an empty stream would never yield a step

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        worker = get_worker_info()
        turn, num_turns = (worker.id, worker.num_workers) if worker else (0, 1)
        step = 0
        for epoch in itertools.count():
            first = 0
            for table in self.dataset.iter(self.documents_per_step):
                index = np.arange(first, first := first + len(table))
                if step % num_turns == turn:
                    parts = [self.objective(TokenSequences.from_table(table), epoch, index)]
                    if self.mixture:
                        parts.append(self.mixture.sequences(step, self.shape))
                    yield make_micro_batches(stack_sequences(parts), self.shape)
                step += 1


def max_sequence_length(steps: TrainingSteps | StreamedSteps, block_size: int) -> int:
    """The most tokens that a sequence of these steps can have.

    A segment of a sequence is a part of its example or one MASK, so a sequence has no more tokens than the longest
    example and a MASK for every segment. The examples of a stream are not known in advance.

    Args:
        steps: of a run.
        block_size: context length: the longest sequence of any data.
    """
    if isinstance(steps, StreamedSteps):
        return block_size
    sources: list[TrainingSteps | Mixture] = [steps, *([steps.mixture] if steps.mixture else [])]
    first, most = np.zeros(1, dtype=np.int64), 0
    for source in sources:
        batches = source.dataset.iter(10_000)
        longest = max(pc.max(pc.list_value_length(batch["input_ids"])).as_py() for batch in batches)
        num_segments = source.objective(take(source.dataset, first), 0, first).segment_starts.shape[1]
        most = max(most, longest + num_segments)
    return min(most, block_size)


def step_loader(
    steps: TrainingSteps | StreamedSteps,
    max_steps: int,
    num_workers: int = 0,
    *,
    start: int = 0,
    ahead: bool = False,
) -> Iterator[list[MicroBatch]]:
    """Yields the micro-batches of the steps from `start` to `max_steps` - 1.

    Args:
        steps: a stream is read from its beginning, and the steps before `start` are skipped.
        max_steps: end of the run.
        num_workers: processes that make the steps; 0: this process makes them.
        start: first step.
        ahead: for a GPU: a thread prepares the next steps in pinned memory, which the GPU can copy while it computes.
    """
    is_stream = isinstance(steps, StreamedSteps)
    sampler = None if is_stream else range(start, max_steps)
    generator = torch.Generator().manual_seed(0)  # without it, the loader draws from torch's global generator
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        generator=generator,
        pin_memory=ahead,
        worker_init_fn=_ignore_stop_signals,
    )
    batches = itertools.islice(loader, start if is_stream else 0, max_steps if is_stream else None)
    return prepare_ahead(batches) if ahead else batches


def _ignore_stop_signals(worker: int) -> None:
    """Clusters send SIGTERM, and terminals SIGINT, to all processes; the main one needs its workers until it saves."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


T = TypeVar("T")


def prepare_ahead(batches: Iterator[T], number: int = 4) -> Iterator[T]:
    """Yields the items of an iterator in order, while a thread prepares the next `number` of them."""
    with ThreadPoolExecutor(1) as thread:
        end = object()
        pending = deque(thread.submit(next, batches, end) for _ in range(number))
        while (batch := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, batches, end))
            yield batch  # type: ignore[misc]
