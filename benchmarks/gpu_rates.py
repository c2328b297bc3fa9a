"""Throughput and profile of steps on a device: the sections `throughput` and `profile` of gpu.py."""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hf_mingpt import MODEL_PRESETS, MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.tokenization_mingpt import PAD_ID
from hf_mingpt.training.optimization import build_optimizers
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import attention_for
from hf_mingpt.training.stepping import GraphedStepper, Stepper

H100_FLOPS = 989e12  # dense bf16, datasheet of the H100 and the H200 (SXM)
NO_DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), 0.0)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize(device)
    return (time.perf_counter() - started) / repeats


def matrix_product_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a product of two random bf16 matrices of that size."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return 2 * size**3 / seconds_of(lambda: a @ b, device, 10)


def build_model(*, small: bool = False) -> MinGPTForCausalLM:
    """Builds the assignment's model with RoPE."""
    size = MODEL_PRESETS["gpt-nano"] if small else {}
    return MinGPTForCausalLM(MinGPTConfig(**{"position_embedding_type": "rope", **NO_DROPOUT, **size}))


def build_stepper(
    device: torch.device, model: MinGPTForCausalLM, *, graphs: bool, compiled: bool = False, optim: str = "muon"
) -> Stepper:
    """Builds the stepper of a model as `train` does, in bf16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16")
    recipe = PretrainRecipe(train_file="-", output_dir="-", optim=optim, dropout=0.0)
    model.train()
    model.set_attn_implementation(attention_for(device, model.config.max_position_embeddings))
    model.config.use_cache = False
    optimizers = build_optimizers(model, recipe)
    if compiled:
        model.compile(dynamic=False)
    wrapped, *optimizers = accelerator.prepare(model, *optimizers)
    loss = torch.zeros((), device=device)
    return (GraphedStepper if graphs else Stepper)(wrapped, optimizers, loss, 1.0, accelerator)


def step_of_ours(stepper: Stepper, batch: dict[str, torch.Tensor], micro_batches: int = 1) -> None:
    for i in range(micro_batches):
        stepper.accumulate(batch, last=i == micro_batches - 1)
    stepper.update()


def real_batch(train_file: str, batch_size: int) -> dict[str, torch.Tensor]:
    """The first micro-batch of span corruption, repeated to the batch size."""
    recipe = DataRecipe(train_file=train_file)
    texts = load_corpus(recipe, [])
    tokenizer = build_corpus_tokenizer(texts, 128)
    shape = BatchShape(min(batch_size, len(texts)), 1, pad_to_multiple_of=8)
    (batch,) = build_steps(recipe, texts, [], tokenizer, shape, block_size=128, seed=0)[0]
    times = -(-batch_size // len(batch["input_ids"]))
    return {
        name: tensor.repeat(times, *[1] * (tensor.ndim - 1))[:batch_size] if tensor.ndim > 1 else tensor
        for name, tensor in batch.items()
    }


def measure_small(
    device: torch.device, train_file: str, batch_sizes: list[int], repeats: int, *, small: bool = False
) -> list[dict]:
    """Throughput of the 3.3M model by batch size: eager, with CUDA graphs, and compiled."""
    results = []
    for batch_size in batch_sizes:
        batch = real_batch(train_file, batch_size)
        useful = int((batch["input_ids"] != PAD_ID).sum())
        modes = {"eager": (False, False)}
        if device.type == "cuda":
            modes |= {"CUDA graphs": (True, False)}
            if batch_size in (batch_sizes[0], batch_sizes[-1]):
                modes |= {"torch.compile": (False, True), "torch.compile, CUDA graphs": (True, True)}
        for mode, (graphs, compiled) in modes.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            torch.manual_seed(0)
            model = build_model(small=small)
            stepper = build_stepper(device, model, graphs=graphs, compiled=compiled)

            if device.type == "cuda":
                batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
            step = partial(step_of_ours, stepper, batch)
            with stepper.running():
                for _ in range(4):
                    step()
                seconds = seconds_of(step, device, repeats)
            parameters = model.num_parameters()
            results.append(
                {
                    "batch_size": batch_size,
                    "mode": mode,
                    "length": batch["input_ids"].shape[1],
                    "milliseconds": seconds * 1000,
                    "useful_tokens_per_second": useful / seconds,
                    "tokens_per_second": batch["input_ids"].numel() / seconds,
                    "mfu": 6 * parameters * batch["input_ids"].numel() / seconds / H100_FLOPS,
                    "peak_megabytes": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
                }
            )
            del step, stepper, model
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return results


# ---- the time of a step by kernel


def profile_steps(device: torch.device, train_file: str, batch_size: int, steps: int, *, small: bool = False) -> dict:
    """Time on the device by kernel, and the busy time of the device, for eager steps."""
    batch = real_batch(train_file, batch_size)
    model = build_model(small=small)
    stepper = build_stepper(device, model, graphs=False)
    step = partial(step_of_ours, stepper, batch)
    with stepper.running():
        for _ in range(3):
            step()
        return {"batch_size": batch_size, **kernels_of(step, device, steps)}


def kernels_of(step: Callable[[], None], device: torch.device, steps: int) -> dict:
    """Milliseconds per step, how many of them the device is busy, and the 20 kernels with the largest total time."""
    seconds = seconds_of(step, device, steps)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        synchronize(device)
    times: dict[str, list[float]] = {}  # microseconds
    for event in profiler.events():
        if device.type == "cuda" and event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            times.setdefault(event.name, []).append(event.self_device_time_total)
        elif device.type == "cpu":
            times.setdefault(event.name, []).append(event.self_cpu_time_total)
    total = sum(sum(kernel) for kernel in times.values())
    top = sorted(times.items(), key=lambda item: -sum(item[1]))[:20]
    return {
        "milliseconds_per_step": seconds * 1000,
        "busy_milliseconds_per_step": total / steps / 1000,
        "kernels_per_step": sum(len(kernel) for kernel in times.values()) / steps,
        "kernels": [
            {
                "name": name[:90],
                "fraction": sum(kernel) / total,
                "count": len(kernel) / steps,
                "microseconds": statistics.mean(kernel),
            }
            for name, kernel in top
        ],
    }
