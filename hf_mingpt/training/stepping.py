"""The computation of a step: gradients of its micro-batches, then the update, eagerly or with CUDA graphs.

On a GPU a small model spends its time launching kernels. A CUDA graph records the kernel launches for one shape of
micro-batch and replays them with a single launch.

References: https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/; torch's notes on CUDA semantics, "CUDA
Graphs".
"""

import gc
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ..data.batching import MicroBatch
from .recipes import TrainingRecipe
from .sharding import gather

MAX_GRAPHS = 64  # later shapes run eagerly


class Stepper:
    """Runs the forward and backward passes and the update of a step, eagerly.

    Args:
        model: Model from `accelerator.prepare`.
        optimizers: Optimizers from `accelerator.prepare`.
        loss: Scalar tensor on the device. The loss of every micro-batch is added to it.
        max_grad_norm: Norm to which the gradients are clipped.
        accelerator: The `Accelerator` that has prepared them.
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

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context in which all steps must run."""
        is_bf16 = self.accelerator.mixed_precision == "bf16"
        stream = bf16_residual_stream(self.accelerator.unwrap_model(self.model)) if is_bf16 else nullcontext()
        with warnings.catch_warnings(), stream:
            if self.accelerator.scaler is not None:
                # fp16 skips an update whose gradients overflow, usually the first; the learning rate follows the step
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            yield

    def accumulate(self, batch: MicroBatch, *, last: bool) -> None:
        """Accumulates the gradients of a micro-batch. `last` marks the last one of the step."""
        inputs = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            self._backward(inputs)

    def update(self) -> None:
        """Updates the weights, and clears the gradients."""
        self._update(set_to_none=True)

    def _backward(self, inputs: dict[str, torch.Tensor]) -> None:
        loss = self.model(**inputs).loss
        # DDP divides by the number of processes, accelerate by the accumulation steps; the loss is already normalized
        self.accelerator.backward(loss * self.accelerator.num_processes * self.accelerator.gradient_accumulation_steps)
        self.loss += loss.detach()

    def _update(self, *, set_to_none: bool) -> None:
        norm = gather(self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm))
        scaler = self.accelerator.scaler
        overflow = scaler is not None and not norm.isfinite()  # fp16: skip the update, and lower the loss scale
        for optimizer in self.optimizers:
            if not overflow:
                optimizer.optimizer.step()  # accelerate's would change the loss scale once per optimizer
            optimizer.zero_grad(set_to_none=set_to_none)
        if scaler is not None:
            scaler.update()


class GraphedStepper(Stepper):
    """Records a CUDA graph for each shape of micro-batch and one for the update, and replays them.

    The first time, a shape or the update runs eagerly, which also initializes CUDA libraries and optimizer states; the
    second time it is recorded. The memory of the gradients is kept, so that all graphs share it.
    """

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: Counter[tuple] = Counter()
        self.graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]] = {}
        self.learning_rates: list[list[torch.Tensor]] = []  # scalars on the device, for each group of each optimizer
        self.update_graph: torch.cuda.CUDAGraph | None = None
        self.updated = False

    @contextmanager
    def running(self) -> Iterator[None]:
        # recording needs its own stream, and autograd remembers the stream on which it first saw the weights
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream), super().running():
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def accumulate(self, batch: MicroBatch, *, last: bool) -> None:
        shape = tuple((name, tensor.shape) for name, tensor in sorted(batch.items()))
        self.seen[shape] += 1
        if shape not in self.graphs:
            if self.seen[shape] == 1 or not self.updated or len(self.graphs) == MAX_GRAPHS:
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
            self.learning_rates = [
                [torch.tensor(float(group["lr"]), device=self.accelerator.device) for group in optimizer.param_groups]
                for optimizer in self.optimizers
            ]
            with self._learning_rates_on_device(), self._record(self.update_graph):
                self._update(set_to_none=False)
        for optimizer, rates in zip(self.optimizers, self.learning_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                rate.fill_(group["lr"])
        self.update_graph.replay()

    @contextmanager
    def _record(self, graph: torch.cuda.CUDAGraph) -> Iterator[None]:
        # torch.cuda.graph would collect garbage and empty the cache, 0.1 s for every shape. The thread that prepares
        # batches may allocate pinned memory meanwhile, hence the error mode "thread_local".
        collecting = gc.isenabled()
        gc.disable()  # freeing one graph while another is recorded would invalidate the recording
        try:
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            yield
            graph.capture_end()
        finally:
            if collecting:
                gc.enable()

    @contextmanager
    def _learning_rates_on_device(self) -> Iterator[None]:
        """Makes the optimizers read learning rates from tensors while the block runs: a graph would record a number."""
        with ExitStack() as restored:
            for optimizer, rates in zip(self.optimizers, self.learning_rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    before = {name: group[name] for name in ("lr", "capturable") if name in group}
                    restored.callback(group.update, before)
                    group["lr"] = rate
                    if "capturable" in group:
                        group["capturable"] = True
            yield


@contextmanager
def bf16_residual_stream(model: PreTrainedModel) -> Iterator[None]:
    """Keeps the residual stream of a model under bf16 autocast in bf16 while the block runs.

    Autocast computes matrix products in bf16 but adds them to a float32 stream, which every projection casts again.
    With a bf16 stream nothing is cast: the norms read and write bf16, with float32 weights.
    """
    embeddings = model.base_model.get_submodule("dropout")  # its output is the stream
    handle = embeddings.register_forward_hook(lambda module, args, output: output.bfloat16())
    try:
        yield
    finally:
        handle.remove()


def build_stepper(
    recipe: TrainingRecipe,
    model: nn.Module,
    optimizers: Sequence[AcceleratedOptimizer],
    loss: torch.Tensor,
    accelerator: Accelerator,
) -> Stepper:
    """The fastest stepper that supports the recipe. For the arguments see `Stepper`."""
    kind = GraphedStepper if can_record(recipe, accelerator) else Stepper
    return kind(model, optimizers, loss, recipe.max_grad_norm, accelerator)


def can_record(recipe: TrainingRecipe, accelerator: Accelerator) -> bool:
    """Whether a run can use CUDA graphs: one process, one GPU, and no operation that depends on values on the host."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.distributed_type == DistributedType.NO
        and accelerator.scaler is None
        and recipe.ema_decay is None
        and not recipe.padding_free
    )
