"""A step's arithmetic: gradients of its micro-batches, then the update, kernel by kernel or as CUDA graphs.

Between optimization and training in the flow. A small model on a GPU spends its time launching kernels: a CUDA graph
records the launches of a micro-batch shape once and replays them as one.

References: https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/; torch's notes on CUDA semantics, "CUDA
Graphs".
"""

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn

from ..data.batching import MicroBatch
from .recipes import TrainingRecipe
from .sharding import gather

MOST_GRAPHS = 64  # shapes; those that come later run kernel by kernel


class Stepper:
    """Runs the arithmetic of an optimizer step, kernel by kernel.

    Args:
        model: as `accelerator.prepare` gives it.
        optimizers: likewise.
        loss: a scalar tensor on the device, to which the loss of every micro-batch is added.
        max_grad_norm: to which gradients are clipped.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[AcceleratedOptimizer],
        loss: torch.Tensor,
        max_grad_norm: float,
        accelerator: Accelerator,
    ):
        self.model, self.optimizers, self.loss = model, optimizers, loss
        self.max_grad_norm, self.accelerator = max_grad_norm, accelerator

    def running(self) -> AbstractContextManager:
        """The context in which all steps must run."""
        return nullcontext()

    def accumulate(self, batch: MicroBatch, *, last: bool) -> None:
        """Adds the gradients of a micro-batch; `last` says that no other one of the step follows."""
        inputs = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            self._backward(inputs)

    def update(self) -> None:
        """Moves the weights by the gradients, and clears these."""
        self._update(set_to_none=True)

    def _backward(self, inputs: dict[str, torch.Tensor]) -> None:
        loss = self.model(**inputs).loss
        # DDP divides by the one, accelerate by the other
        self.accelerator.backward(loss * self.accelerator.num_processes * self.accelerator.gradient_accumulation_steps)
        self.loss += loss.detach()

    def _update(self, *, set_to_none: bool) -> None:
        norm = gather(self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm))
        scaler = self.accelerator.scaler
        overflow = (
            scaler is not None and not norm.isfinite()
        )  # of fp16: nothing moves, and the scale of the losses falls
        for optimizer in self.optimizers:
            if not overflow:
                optimizer.optimizer.step()  # accelerate's own would change the scale once for each optimizer
            optimizer.zero_grad(set_to_none=set_to_none)
        if scaler is not None:
            scaler.update()


class GraphedStepper(Stepper):
    """Records the kernels of each shape of micro-batch, and those of the update, and replays them.

    What comes the first time runs kernel by kernel, which also warms up what CUDA and the optimizers make at their
    first use; the second time it is recorded. Gradients stay where they are, so that all graphs share them.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]] = {}
        self.rates: list[list[torch.Tensor]] = []  # of the recorded update, on the device: groups of each optimizer
        self.update_graph: torch.cuda.CUDAGraph | None = None
        self.updated = False

    @contextmanager
    def running(self) -> Iterator[None]:
        # recording needs a stream of its own, and autograd remembers the stream on which it met the weights
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def accumulate(self, batch: MicroBatch, *, last: bool) -> None:
        shape = tuple((name, tensor.shape) for name, tensor in sorted(batch.items()))
        self.seen[shape] += 1
        if shape not in self.graphs:
            if self.seen[shape] == 1 or not self.updated or len(self.graphs) == MOST_GRAPHS:
                super().accumulate(batch, last=last)
                return
            inputs = {name: torch.zeros_like(tensor, device=self.accelerator.device) for name, tensor in batch.items()}
            graph = torch.cuda.CUDAGraph()
            with self._record(graph):
                self._backward(inputs)
            self.graphs[shape] = graph, inputs
        graph, inputs = self.graphs[shape]
        for name, tensor in batch.items():
            inputs[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def update(self) -> None:
        if not self.updated:
            self._update(set_to_none=False)
            self.updated = True
            return
        if self.update_graph is None:
            self.update_graph = torch.cuda.CUDAGraph()
            self.rates = [
                [torch.tensor(float(group["lr"]), device=self.accelerator.device) for group in optimizer.param_groups]
                for optimizer in self.optimizers
            ]
            with self._rates_on_device(), self._record(self.update_graph):
                self._update(set_to_none=False)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                rate.fill_(group["lr"])
        self.update_graph.replay()

    @contextmanager
    def _record(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        # torch.cuda.graph would collect garbage and empty the cache each time, a tenth of a second for every shape.
        # The thread that prepares batches may allocate pinned memory meanwhile, so only this thread is watched.
        collecting = gc.isenabled()
        gc.disable()  # a graph that is freed while another is recorded would spoil it
        graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
        try:
            yield
        finally:
            graph.capture_end()
            if collecting:
                gc.enable()

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Within it, the optimizers read their learning rates from `self.rates`: a recorded number never changes."""
        with ExitStack() as restored:
            for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    before = {name: group[name] for name in ("lr", "capturable") if name in group}
                    restored.callback(group.update, before)
                    group["lr"] = rate
                    if "capturable" in group:
                        group["capturable"] = True
            yield


def build_stepper(
    recipe: TrainingRecipe,
    model: nn.Module,
    optimizers: Sequence[AcceleratedOptimizer],
    loss: torch.Tensor,
    accelerator: Accelerator,
) -> Stepper:
    """The fastest stepper that can do what the recipe asks for. Arguments as of `Stepper`."""
    kind = GraphedStepper if can_record(recipe, accelerator) else Stepper
    return kind(model, optimizers, loss, recipe.max_grad_norm, accelerator)


def can_record(recipe: TrainingRecipe, accelerator: Accelerator) -> bool:
    """Whether the steps of a run can be CUDA graphs: one process, one GPU, and nothing that asks the host."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.distributed_type == DistributedType.NO
        and accelerator.scaler is None
        and recipe.ema_decay is None
        and not recipe.padding_free
        and not recipe.torch_compile
    )
