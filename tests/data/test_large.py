"""A gigabyte of text, and a run of 200,000 steps, in flat memory: `make test-large`."""

import json
import math
import os
from pathlib import Path

import numpy as np
import psutil
import pytest
from accelerate import Accelerator
from datasets import Dataset

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import encode_documents
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.objectives import NextTokenPrediction, SpanCorruption
from hf_mingpt.data.steps import StreamedSteps, TrainingSteps, step_loader
from hf_mingpt.training.folders import last_checkpoint
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import PretrainRecipe

from ..conftest import TEXT, small_model

pytestmark = pytest.mark.large
SIZES = (10_000_000, 1_000_000_000)  # bytes


def anonymous_memory() -> int:
    """Bytes of this process that are not pages of a file, which the system may drop."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    lines = TEXT.encode() * 10_000
    for size in SIZES:
        with (folder / f"{size}.txt").open("wb") as file:
            for _ in range(size // len(lines)):
                file.write(lines)
    return folder


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc of Linux")
@pytest.mark.parametrize("streaming", [False, True])
def test_memory_does_not_grow_with_the_corpus(texts, tokenizer, streaming):
    growth = []
    for size in SIZES:
        before = anonymous_memory()
        dataset = encode_documents(load_texts(str(texts / f"{size}.txt"), streaming=streaming), tokenizer)
        shape = BatchShape(32, 4)
        objective = SpanCorruption(48, 0)
        steps = (
            StreamedSteps(dataset, objective, shape) if streaming else TrainingSteps(dataset, objective, shape, seed=0)
        )
        for _ in step_loader(steps, 2_000):
            pass
        growth.append(anonymous_memory() - before)
    small, large = growth
    assert large < small + 100_000_000


def test_a_long_run_is_stable(tmp_path):
    """200,000 steps of a tiny model: memory does not grow, the loss is finite, old checkpoints are deleted."""
    number, memory, kept = 200_000, [], []
    rng = np.random.default_rng(0)
    dataset = Dataset.from_dict({"input_ids": [rng.integers(2, 12, n).tolist() for n in rng.integers(6, 30, 1000)]})

    class WatchedSteps(TrainingSteps):
        def __getitem__(self, step):
            if step % 1_000 == 0:
                memory.append(psutil.Process().memory_info().rss)
                kept.append(len(list(tmp_path.glob("checkpoint-*"))))
            return super().__getitem__(step)

    recipe = PretrainRecipe(
        train_file="x",
        output_dir=str(tmp_path),
        use_cpu=True,
        mixed_precision="no",
        max_steps=number,
        logging_steps=1_000,
        save_steps=10_000,
        save_total_limit=3,
    )
    steps = WatchedSteps(dataset, NextTokenPrediction(), BatchShape(4), seed=0)
    train(small_model("rope", num_hidden_layers=1), steps, recipe, Accelerator(cpu=True))

    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == number // 1_000
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    settled = memory[len(memory) // 20]
    print(f"memory after 5 % of the run {settled / 1e6:.0f} MB, at most {max(memory) / 1e6:.0f} MB after it")
    assert max(memory[len(memory) // 20 :]) < 1.05 * settled
    assert max(kept) == recipe.save_total_limit
    assert last_checkpoint(recipe).name == f"checkpoint-{number}"
