"""The micro-batches of each optimizer step, from encoded examples.

A step is a function of its number: `TrainingSteps` has no state, so a run can resume at any step, and any number of
worker processes can prepare the steps.
"""

import itertools
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, get_worker_info

from .batching import BatchShape, MicroBatch, make_micro_batches
from .draws import permute
from .encoding import check_not_empty, take
from .objectives import Objective
from .sequences import SegmentedSequences, TokenSequences, stack_sequences


class Mixture:
    """Examples that join the documents of every step: `share` of the step's rows are theirs.

    Raises:
        ValueError: if there are none.
    """

    def __init__(self, dataset: Dataset, objective: Objective, share: float, *, seed: int):
        if not len(dataset):
            raise ValueError("There are no examples to join the documents.")
        self.dataset, self.objective, self.share, self.seed = dataset.with_format("arrow"), objective, share, seed

    def count(self, shape: BatchShape) -> int:
        """How many examples of theirs a step has.

        Raises:
            ValueError: if that is none, or the whole step.
        """
        count = round(self.share * shape.total)
        if not 0 < count < shape.total:
            raise ValueError(f"A share of {self.share} of the {shape.total} examples of a step is {count}: change it.")
        return count

    def rows(self, step: int, shape: BatchShape) -> SegmentedSequences:
        """The rows that join a step: the next ones of an endless series of epochs, each in an order of its own."""
        number, size = self.count(shape), len(self.dataset)
        places = np.arange(step * number, (step + 1) * number)
        parts = []
        for epoch in range(places[0] // size, places[-1] // size + 1):
            index = permute(places[places // size == epoch] % size, size, seed=self.seed, epoch=epoch)
            parts.append(self.objective(take(self.dataset, index), epoch, index))
        return stack_sequences(parts)


class TrainingSteps(torch.utils.data.Dataset):
    """Maps the number of an optimizer step to this process's micro-batches; it has no state."""

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
        """The places in the dataset of a step's documents, of all processes."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first, size = step_of_epoch * self.documents_per_step, len(self.dataset)
        index = np.arange(first, min(first + self.documents_per_step, size))
        return permute(index, size, seed=self.seed, epoch=epoch) if self.shuffle else index

    def __getitem__(self, step: int) -> list[MicroBatch]:
        index = self.index(step)
        rows = [self.objective(take(self.dataset, index), step // self.steps_per_epoch, index)]
        if self.mixture:
            rows.append(self.mixture.rows(step, self.shape))
        return make_micro_batches(stack_sequences(rows), self.shape)


class StreamedSteps(torch.utils.data.IterableDataset):
    """The micro-batches of a stream of documents, in its order, step after step and epoch after epoch.

    Of several workers each reads the whole stream and makes its share of the steps; the loader asks them by turns.

    Raises:
        ValueError: if the stream has no documents, or what is wrong with its beginning.
    """

    steps_per_epoch = None  # not known before the stream has ended

    def __init__(
        self, dataset: IterableDataset, objective: Objective, shape: BatchShape, *, mixture: Mixture | None = None
    ):
        self.dataset, self.objective, self.shape = dataset.with_format("arrow"), objective, shape
        self.mixture = mixture
        self.documents_per_step = shape.total - (mixture.count(shape) if mixture else 0)
        check_not_empty(len(list(self.dataset.take(1))))  # a stream of none would be read for ever

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        worker = get_worker_info()
        turn, num_turns = (worker.id, worker.num_workers) if worker else (0, 1)
        step = 0
        for epoch in itertools.count():
            first = 0
            for table in self.dataset.iter(self.documents_per_step):
                index = np.arange(first, first := first + len(table))
                if step % num_turns == turn:
                    rows = [self.objective(TokenSequences.from_table(table), epoch, index)]
                    if self.mixture:
                        rows.append(self.mixture.rows(step, self.shape))
                    yield make_micro_batches(stack_sequences(rows), self.shape)
                step += 1


def step_loader(
    steps: TrainingSteps | StreamedSteps,
    max_steps: int,
    num_workers: int = 0,
    *,
    start: int = 0,
    ahead: bool = False,
) -> Iterator[list[MicroBatch]]:
    """Yields the micro-batches of the steps `start` to `max_steps`, made by `num_workers` processes (0: by this one).

    Of a stream, what comes before `start` is read and thrown away.

    Args:
        ahead: for a GPU: a thread makes the next ones in pinned memory, where it can copy them while it computes.
    """
    is_stream = isinstance(steps, StreamedSteps)
    sampler = None if is_stream else range(start, max_steps)
    generator = torch.Generator().manual_seed(0)  # else the loader draws from torch's global one
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        generator=generator,
        pin_memory=ahead,
        worker_init_fn=_leave_stopping_to_the_main_process,
    )
    batches = itertools.islice(loader, start if is_stream else 0, max_steps if is_stream else None)
    return prepare_ahead(batches) if ahead else batches


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Clusters send SIGTERM to all processes, terminals SIGINT: the main one needs the workers until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


T = TypeVar("T")


def prepare_ahead(batches: Iterator[T], number: int = 4) -> Iterator[T]:
    """Yields what an iterator gives, in its order, while a thread makes the next ones."""
    with ThreadPoolExecutor(1) as thread:
        end = object()
        pending = deque(thread.submit(next, batches, end) for _ in range(number))
        while (batch := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, batches, end))
            yield batch  # type: ignore[misc]
