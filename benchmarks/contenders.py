"""One contender of the training benchmark, in a process of its own.

    python benchmarks/contenders.py NAME CORPUS.txt [NANOGPT]

Protocol: a contender reads a number of steps from standard input, one per line, trains that many, and answers with a
line of JSON: seconds, useful_tokens (without padding), parameters, peak_bytes. `benchmarks/bench.py` is the other side.
A contender of several processes starts the others itself and answers for all.

The alternatives train transformers' GPT2LMHeadModel at the size of the assignment's model on the same text, with the
data pipeline of the assignment: one document at a time, as strings, padded to the context length. So does nanoGPT, with
the model of the checkout NANOGPT.
"""

import importlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from hf_mingpt import MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.objectives import Objective
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe, build_config
from hf_mingpt.training.setup import batch_shape, build_accelerator

BLOCK_SIZE = 128
BATCH_SIZE = 128  # documents of an optimizer step, for every contender
MANY_STEPS = 1_000_000


@dataclass(frozen=True)
class Contender:
    """A training loop and its settings."""

    loop: str  # "ours", "plain" (a loop written out), "nanogpt" (the same loop) or "trainer" (transformers.Trainer)
    precision: str  # "float32" or "bf16"
    attention: str  # "eager" or "sdpa"
    optimizer: str = "adamw"
    processes: int = 1  # several have one thread each


CONTENDERS = {
    "hf_mingpt, Muon": Contender("ours", "bf16", "eager", "muon"),
    "hf_mingpt, AdamW": Contender("ours", "bf16", "eager"),
    "hf_mingpt, AdamW, 2 processes": Contender("ours", "bf16", "eager", processes=2),
    "hf_mingpt, float32": Contender("ours", "float32", "eager"),
    **{
        f"GPT-2, {loop}, {precision}, {attention}": Contender(loop, precision, attention)
        for loop in ("plain", "trainer")
        for precision in ("float32", "bf16")
        for attention in ("eager", "sdpa")
    },
    "GPT-2, trainer, bf16, sdpa, 2 processes": Contender("trainer", "bf16", "sdpa", processes=2),
    "nanoGPT, float32": Contender("nanogpt", "float32", "sdpa"),
    "nanoGPT, bf16": Contender("nanogpt", "bf16", "sdpa"),
}


class Gate:
    """Called before every step: lets the requested number of steps pass, then reports and waits for the next number."""

    def __init__(self, model: torch.nn.Module):
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.steps_left = 0
        self.started: float | None = None
        self.useful_tokens = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs) -> None:
        self.useful_tokens += int((kwargs["input_ids"] != 0).sum())  # PAD is 0

    def __call__(self) -> None:
        if not self.steps_left:
            if self.started is not None:
                seconds = time.perf_counter() - self.started
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                tokens, peak = self._of_all(self.useful_tokens, peak)
                record = {
                    "seconds": seconds,
                    "useful_tokens": tokens,
                    "parameters": self.parameters,
                    "peak_bytes": peak,
                }
                if is_main():
                    print(json.dumps(record), flush=True)
            (self.steps_left,) = self._of_all(int(sys.stdin.readline() or 0) if is_main() else 0)
            if not self.steps_left:
                raise SystemExit
            self.useful_tokens, self.started = 0, time.perf_counter()
        self.steps_left -= 1

    def _of_all(self, *numbers: int) -> list[int]:
        """The sums over the processes."""
        sums = torch.tensor(numbers)
        if dist.is_initialized():
            dist.all_reduce(sums)
        return sums.tolist()


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def start_others(processes: int) -> None:
    """Starts the other processes of this contender, and makes this process rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ |= {name: str(value) for name, value in together.items()}
    for rank in range(1, processes):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        subprocess.Popen([sys.executable, *sys.argv], stdin=subprocess.DEVNULL, env=environment)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    torch.set_num_threads(1)


class GatedObjective:
    """An objective with the gate in front: it is called once for the documents of each step."""

    def __init__(self, objective: Objective, gate: Gate):
        self.objective, self.gate = objective, gate

    def __call__(self, *args):
        self.gate()
        return self.objective(*args)


def train_ours(contender: Contender, corpus: str, output_dir: str) -> None:
    """The training loop of the package, as scripts/pretrain.py runs it with the preset `assignment_short`."""
    flags = PRETRAIN_PRESETS["assignment_short"].values | {
        "optim": contender.optimizer,
        "max_steps": MANY_STEPS,
        "mixed_precision": "bf16" if contender.precision == "bf16" else "no",
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": BATCH_SIZE // 32 // contender.processes,
        "use_cpu": True,
        "position_embedding_type": "learned",
    }
    recipe = PretrainRecipe(train_file=corpus, output_dir=output_dir, **flags)
    accelerator = build_accelerator(recipe)
    texts = load_corpus(recipe, [])
    tokenizer = build_corpus_tokenizer(texts, BLOCK_SIZE)
    model = MinGPTForCausalLM(build_config(recipe, len(tokenizer)))
    shape = batch_shape(recipe, accelerator, BLOCK_SIZE)
    steps = build_steps(recipe, texts, [], tokenizer, shape, block_size=BLOCK_SIZE, seed=recipe.seed)
    steps.objective = GatedObjective(steps.objective, Gate(model))
    train(model, steps, recipe, accelerator)


class CharacterCorruption(torch.utils.data.Dataset):
    """Span corruption of one document at a time, as strings, padded to the context length: the assignment's way."""

    def __init__(self, corpus: str):
        self.documents = [line for line in Path(corpus).read_text(encoding="utf-8").split("\n") if line]
        self.vocabulary = ["□", "⁇", *sorted({character for line in self.documents for character in line})]
        self.ids = {character: i for i, character in enumerate(self.vocabulary)}

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        text = self.documents[index][: random.randint(4, BLOCK_SIZE * 7 // 8)]
        length = random.randint(1, max(1, len(text) // 2 - 1))
        start = random.randint(0, max(0, len(text) - length))
        span = text[start : start + length]
        text = text[:start] + "⁇" + text[start + length :] + "⁇" + span
        text += "□" * (BLOCK_SIZE - len(text))
        ids = torch.tensor([self.ids[character] for character in text])
        return {"input_ids": ids, "labels": ids.masked_fill(ids == 0, -100)}


def build_gpt2(contender: Contender, vocab_size: int) -> GPT2LMHeadModel:
    """transformers' GPT-2 at the assignment's size, without dropout."""
    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    shape = {"n_layer": 4, "n_head": 8, "n_embd": 256, "n_positions": BLOCK_SIZE, "tie_word_embeddings": False}
    config = GPT2Config(vocab_size=vocab_size, use_cache=False, **shape, **no_dropout)
    return GPT2LMHeadModel._from_config(config, attn_implementation=contender.attention)


class NanoGPT(torch.nn.Module):
    """nanoGPT's model at the assignment's size, without dropout, with the arguments of transformers' models."""

    def __init__(self, vocab_size: int):
        super().__init__()
        theirs = importlib.import_module("model")  # of the checkout, the first folder of sys.path
        config = theirs.GPTConfig(
            block_size=BLOCK_SIZE, vocab_size=vocab_size, n_layer=4, n_head=8, n_embd=256, dropout=0.0, bias=True
        )
        with redirect_stdout(sys.stderr):  # it prints its size, and standard output is for the protocol
            self.model = theirs.GPT(config)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> CausalLMOutput:
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        logits, loss = self.model(input_ids, targets.masked_fill(targets == -100, -1))
        return CausalLMOutput(loss=loss, logits=logits)


def train_plain(contender: Contender, corpus: str, output_dir: str) -> None:
    """A plain PyTorch loop with the assignment's batches, for GPT-2 and nanoGPT."""
    dataset = CharacterCorruption(corpus)
    vocab_size = len(dataset.vocabulary)
    model = (NanoGPT(vocab_size) if contender.loop == "nanogpt" else build_gpt2(contender, vocab_size)).train()
    gate = Gate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95))

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        while True:
            yield from torch.utils.data.DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, drop_last=True)

    endless = batches()
    while True:
        gate()
        with torch.autocast("cpu", torch.bfloat16, enabled=contender.precision == "bf16"):
            loss = model(**next(endless)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


class GateCallback(TrainerCallback):
    """Calls the gate before each step of Trainer."""

    def __init__(self, gate: Gate):
        self.gate = gate

    def on_step_begin(self, *args, **kwargs) -> None:
        self.gate()


def train_with_trainer(contender: Contender, corpus: str, output_dir: str) -> None:
    """transformers.Trainer with default settings."""
    dataset = CharacterCorruption(corpus)
    model = build_gpt2(contender, len(dataset.vocabulary))
    arguments = TrainingArguments(
        output_dir=output_dir,
        per_device_train_batch_size=BATCH_SIZE // contender.processes,
        max_steps=MANY_STEPS,
        bf16=contender.precision == "bf16",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_drop_last=True,
    )
    Trainer(model, arguments, train_dataset=dataset, callbacks=[GateCallback(Gate(model))]).train()


LOOPS = {"ours": train_ours, "plain": train_plain, "nanogpt": train_plain, "trainer": train_with_trainer}


def main() -> None:
    name, corpus, *nanogpt = sys.argv[1:]
    sys.path[:0] = nanogpt
    contender = CONTENDERS[name]
    if contender.processes > 1 and "RANK" not in os.environ:
        start_others(contender.processes)
    torch.manual_seed(0)
    random.seed(0)
    with TemporaryDirectory() as folder:
        LOOPS[contender.loop](contender, corpus, folder)


if __name__ == "__main__":
    main()
