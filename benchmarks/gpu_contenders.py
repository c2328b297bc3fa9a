"""Training throughput at the size of GPT-2, beside other models: a part of the section `throughput` of gpu.py.

    python benchmarks/gpu_contenders.py GROUP NAME NANOGPT    (one contender, in a process of its own)

A contender builds and compiles its model, and prints a line of JSON. For each number that it reads, it trains that many
steps and prints another line. So the contenders of a group compile at the same time, and each is timed alone.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_rates import H100_FLOPS, NO_DROPOUT, build_stepper, kernels_of, seconds_of, step_of_ours, synchronize
from torch import nn

from hf_mingpt import MODEL_PRESETS, MinGPTConfig, MinGPTForCausalLM

HERE = Path(__file__).parent
LENGTH, VOCABULARY = 1024, 50257
PROFILED = ("hf_mingpt", "nanoGPT")


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
    """A model of GPT-2's size, and the micro-batches of its steps.

    A vocabulary of 50304 aligns matrix products. Eight micro-batches of 32 are 262,144 tokens, about a step of GPT-2.
    """

    build: Callable[[int, str], nn.Module]
    vocabulary: int = VOCABULARY
    batch_size: int = 16
    micro_batches: int = 1


# the contenders of a group compile at the same time, and share the memory of the GPU
CONTENDERS = {
    "vocabulary 50257": {
        "hf_mingpt": Contender(build_ours),
        "nanoGPT": Contender(build_nanogpt),
        "GPT2LMHeadModel": Contender(build_gpt2),
        "LlamaForCausalLM": Contender(build_llama),
    },
    "vocabulary 50304": {
        "hf_mingpt": Contender(build_ours, 50304),
        "nanoGPT": Contender(build_nanogpt, 50304),
        "hf_mingpt, 8 x 32 sequences": Contender(build_ours, 50304, 32, 8),
        "nanoGPT, 8 x 32 sequences": Contender(build_nanogpt, 50304, 32, 8),
    },
}


def contend(group: str, name: str, nanogpt: str) -> None:
    """Trains next-token prediction on random tokens with `torch.compile`, bf16 autocast and fused AdamW.

    Ours trains by the steps of the training loop, with CUDA graphs; the other contenders by the usual ones.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build, vocabulary, batch_size, micro_batches = CONTENDERS[group][name]
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
        step = partial(step_of_ours, stepper, {"input_ids": inputs, "labels": inputs.clone()}, micro_batches)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), fused=True)
        compiled = torch.compile(model)
        if build is build_nanogpt:
            step = partial(usual_step, model, optimizer, lambda: compiled(inputs, targets)[1], micro_batches)
        else:
            step = partial(
                usual_step, model, optimizer, lambda: compiled(input_ids=inputs, labels=inputs).loss, micro_batches
            )

    with running:
        started = time.perf_counter()
        for _ in range(4):  # the first compiles, the second records
            step()
            if device.type == "cuda":
                torch.cuda.empty_cache()  # the other contenders need it
        synchronize(device)
        print(json.dumps({"ready": True, "seconds": time.perf_counter() - started}), flush=True)
        for line in sys.stdin:
            if line == "profile\n":
                print(json.dumps(kernels_of(step, device, 3)), flush=True)
                continue
            seconds = seconds_of(step, device, int(line))
            tokens = micro_batches * inputs.numel() / seconds
            flops = 6 * parameters + 12 * 12 * 768 * LENGTH
            record = {
                "milliseconds": seconds * 1000,
                "tokens_per_second": tokens,
                "parameters": parameters,
                "mfu": tokens * flops / H100_FLOPS,
                "peak_megabytes": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
            }
            print(json.dumps(record), flush=True)


def usual_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, compute_loss: Callable[[], torch.Tensor], micro_batches: int
) -> None:
    for _ in range(micro_batches):
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16):
            loss = compute_loss() / micro_batches
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure_group(group: str, folder: Path, nanogpt: str | None) -> dict[str, Any]:
    """Times the contenders of a group in turns.

    Args:
        group: Key of `CONTENDERS`.
        folder: For the logs of the contenders.
        nanogpt: Checkout of nanoGPT. None: leave it out.

    Returns:
        The rows of the contenders, the profiles of some, and the logs of those that failed.
    """
    logs = {
        name: folder / f"{group}-{name}.log".replace(" ", "-").replace(",", "")
        for name in CONTENDERS[group]
        if nanogpt or "nanoGPT" not in name
    }
    processes = {name: _start(group, name, nanogpt or "", log) for name, log in logs.items()}
    results: dict[str, Any] = {"rows": [], "profiles": {}, "failed": {}}
    ready = {name: _read(process) for name, process in processes.items()}  # waits for all
    for name in [name for name, record in ready.items() if record is None]:
        results["failed"][name] = logs[name].read_text(encoding="utf-8")[-600:]
        print(f"{name} has failed: {results['failed'][name]}", file=sys.stderr)
        processes.pop(name).wait()
    turns: dict[str, list[dict]] = {name: [] for name in processes}
    for _ in range(3):
        for name, process in processes.items():
            turns[name].append(_ask(process, max(3, 10 // CONTENDERS[group][name].micro_batches)))
    for name, process in processes.items():
        if name in PROFILED:
            results["profiles"][f"{name}, {group}"] = _ask(process, "profile")
        process.stdin.close()
        process.wait()
    for name, records in turns.items():
        medians = {
            key: statistics.median(record[key] for record in records)
            for key in ("milliseconds", "tokens_per_second", "mfu")
        }
        row = {"name": name, "group": group, "seconds_to_compile": ready[name]["seconds"]}
        results["rows"].append({**row, **records[0], **medians})
    return results


def _start(group: str, name: str, nanogpt: str, log: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, group, name, nanogpt],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log.open("w", encoding="utf-8"),
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"},
    )


def _ask(process: subprocess.Popen, question: int | str) -> dict:
    process.stdin.write(f"{question}\n")
    process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen) -> dict | None:
    """The next line of JSON of a contender, or None if it has failed. nanoGPT prints other lines, too."""
    line = next((line for line in process.stdout if line.startswith("{")), None)
    return json.loads(line) if line else None


if __name__ == "__main__":
    contend(*sys.argv[1:])
