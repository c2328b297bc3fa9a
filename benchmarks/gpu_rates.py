"""Throughput and profile of steps on a device: the sections `throughput` and `profile` of gpu.py.

    python benchmarks/gpu_rates.py NAME NANOGPT    (a contender of gpu.py, in a process of its own)

A contender builds and compiles its model of the size of GPT-2, and prints `ready`. For each line that it reads, it
trains that many steps and prints a line of JSON. So several contenders compile at once, and each is timed alone.
"""

import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from hf_mingpt import MODEL_PRESETS, MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.tokenization_mingpt import PAD_ID
from hf_mingpt.training.loop import bf16_residual_stream
from hf_mingpt.training.optimization import build_optimizers
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import attention_for
from hf_mingpt.training.stepping import GraphedStepper, Stepper

H100_FLOPS = 989e12  # dense bf16, datasheet of the H100 and the H200 (SXM)
NO_DROPOUT = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), 0.0)
LENGTH, VOCABULARY = 1024, 50257


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


def step_of_ours(stepper: Stepper, batch: dict[str, torch.Tensor]) -> None:
    stepper.accumulate(batch, last=True)
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
            with stepper.running(), bf16_residual_stream(model):
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


# ---- the size of GPT-2: contenders in processes of their own


def build_ours(vocabulary: int, nanogpt: str) -> nn.Module:
    size = {**MODEL_PRESETS["gpt2"], "vocab_size": vocabulary}
    return MinGPTForCausalLM(MinGPTConfig(**{**size, **NO_DROPOUT, "tie_word_embeddings": True}))


def build_nanogpt(vocabulary: int, nanogpt: str) -> nn.Module:
    sys.path.insert(0, nanogpt)
    theirs = importlib.import_module("model")
    size = {"block_size": LENGTH, "vocab_size": vocabulary, "n_layer": 12, "n_head": 12, "n_embd": 768}
    return theirs.GPT(theirs.GPTConfig(**size, bias=True))


def build_gpt2(vocabulary: int, nanogpt: str) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    config = GPT2Config(vocab_size=vocabulary, use_cache=False, **no_dropout)
    return GPT2LMHeadModel._from_config(config, attn_implementation="sdpa")


def build_llama(vocabulary: int, nanogpt: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=LENGTH, tie_word_embeddings=True, use_cache=False, **size
    )
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


class Contender(NamedTuple):
    """A model of GPT-2's size, and the shape of its batches. With 50304 columns, matrix products are aligned."""

    build: Callable[[int, str], nn.Module]
    vocabulary: int = VOCABULARY
    batch_size: int = 16


CONTENDERS = {
    "hf_mingpt": Contender(build_ours),
    "nanoGPT": Contender(build_nanogpt),
    "GPT2LMHeadModel": Contender(build_gpt2),
    "LlamaForCausalLM": Contender(build_llama),
    "hf_mingpt, vocabulary 50304": Contender(build_ours, 50304),
    "nanoGPT, vocabulary 50304": Contender(build_nanogpt, 50304),
    "hf_mingpt, vocabulary 50304, batch size 32": Contender(build_ours, 50304, 32),
    "nanoGPT, vocabulary 50304, batch size 32": Contender(build_nanogpt, 50304, 32),
}


def contend(name: str, nanogpt: str) -> None:
    """Trains next-token prediction on random tokens with `torch.compile`, bf16 autocast and fused AdamW.

    Ours trains by the steps of the training loop, with CUDA graphs; the other contenders by the usual ones.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build, vocabulary, batch_size = CONTENDERS[name]
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = build(vocabulary, nanogpt).to(device).train()
    parameters = sum(p.numel() for p in model.parameters())
    ids = torch.randint(VOCABULARY, (batch_size, LENGTH + 1), device=device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    running = ExitStack()
    if build is build_ours:
        stepper = build_stepper(device, model, graphs=device.type == "cuda", compiled=True, optim="adamw")
        running.enter_context(stepper.running())
        running.enter_context(bf16_residual_stream(model))
        step = partial(step_of_ours, stepper, {"input_ids": inputs, "labels": inputs.clone()})
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), fused=True)
        compiled = torch.compile(model)
        if build is build_nanogpt:
            step = partial(usual_step, model, optimizer, lambda: compiled(inputs, targets)[1])
        else:
            step = partial(usual_step, model, optimizer, lambda: compiled(input_ids=inputs, labels=inputs).loss)

    with running:
        started = time.perf_counter()
        for _ in range(4):  # the first two compile and record
            step()
        synchronize(device)
        print(json.dumps({"ready": True, "seconds": time.perf_counter() - started}), flush=True)
        for line in sys.stdin:
            if line == "profile\n":
                print(json.dumps(kernels_of(step, device, 3)), flush=True)
                continue
            seconds = seconds_of(step, device, int(line))
            tokens = inputs.numel() / seconds
            flops = 6 * parameters + 12 * 12 * 768 * LENGTH
            record = {
                "milliseconds": seconds * 1000,
                "tokens_per_second": tokens,
                "parameters": parameters,
                "mfu": tokens * flops / H100_FLOPS,
                "peak_megabytes": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
            }
            print(json.dumps(record), flush=True)


def usual_step(model: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: Callable[[], torch.Tensor]) -> None:
    with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
        loss = compute_loss()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


# ---- the time of a step by kernel


def profile_steps(device: torch.device, train_file: str, batch_size: int, steps: int, *, small: bool = False) -> dict:
    """Time on the device by kernel, and the busy time of the device, for eager steps."""
    batch = real_batch(train_file, batch_size)
    model = build_model(small=small)
    stepper = build_stepper(device, model, graphs=False)
    step = partial(step_of_ours, stepper, batch)
    with stepper.running(), bf16_residual_stream(model):
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


if __name__ == "__main__":
    contend(sys.argv[1], sys.argv[2])
