"""Measures how the cost of training scales with the model, the batch, the corpus and the number of processes.

    python benchmarks/scaling.py

Every point is measured in a process of its own, so that its peak memory is its own. Writes scaling.json and scaling.png
to --output_dir. Run nothing else on the machine.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from figures import draw_scaling

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.data.steps import TrainingSteps, step_loader
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.system.fields import flag
from hf_mingpt.system.writing import write_json, written_aside
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import build_accelerator
from hf_mingpt.training.stepping import bf16_residual_stream

BASE = {"hidden_size": 256, "num_hidden_layers": 4, "length": 64, "rows": 32, "attention": "eager"}
TOKENS = BASE["length"] * BASE["rows"]  # of a micro-batch while the length of its sequences varies
CURVES = {
    "hidden_size": [64, 128, 256, 512],
    "num_hidden_layers": [1, 2, 4, 8, 16],
    "rows": [4, 8, 16, 32, 64, 128],
    "length": [32, 64, 128, 256, 512, 1024, 2048],
}
DOCUMENTS = [1_000, 10_000, 100_000, 1_000_000]
DOCUMENT = (
    "Ada Byron {}. Ada Byron was born on 10 December 1815 in London, and read mathematics with her tutors there .\n"
)


@dataclass(frozen=True, kw_only=True)
class ScalingRecipe:
    output_dir: str = flag("runs/scaling", "Folder for scaling.json and scaling.png.")
    point: str | None = flag(None, "JSON of one point to measure; scaling.py starts itself with this flag.")


def main() -> None:
    recipe = parse_recipe(ScalingRecipe)
    if recipe.point:
        point = json.loads(recipe.point)
        measure = {"model": measure_model, "corpus": measure_corpus, "processes": measure_processes}[point.pop("kind")]
        if (result := measure(**point)) is not None:
            print(json.dumps(result))
        return
    results: dict = {"cores": os.cpu_count(), **run_record()}
    for name in ("hidden_size", "num_hidden_layers", "rows"):
        results[name] = [run_point(kind="model", **{**BASE, name: value}) for value in CURVES[name]]
    for name, attention in (("length", "eager"), ("length with sdpa", "sdpa")):
        results[name] = [
            run_point(
                kind="model", **{**BASE, "length": length, "rows": max(1, TOKENS // length), "attention": attention}
            )
            for length in CURVES["length"]
        ]
    results["corpus"] = [
        run_point(kind="corpus", documents=documents, streaming=streaming)
        for streaming in (False, True)
        for documents in DOCUMENTS
    ]
    results["processes"] = [run_point(kind="processes", processes=number) for number in (1, 2)]
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scaling.json", results)
    with written_aside(folder / "scaling.png") as aside:
        draw_scaling(results, aside)


def run_point(**point) -> dict[str, float]:
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    threads = str(os.cpu_count() or 1)
    if point["kind"] == "processes":
        number = point["processes"]
        flags = ["--num_processes", str(number), "--num_machines", "1", "--mixed_precision", "bf16"]
        flags += ["--dynamo_backend", "no"] + ["--multi_gpu"] * (number > 1)
        command = [sys.executable, "-m", "accelerate.commands.launch", *flags, *command[1:]]
        threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{point} failed:\n{done.stderr[-2000:]}")
    result = {**point, **json.loads(done.stdout.strip().splitlines()[-1])}
    print(result, file=sys.stderr)
    return result


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_model(*, hidden_size, num_hidden_layers, length, rows, attention) -> dict[str, float]:
    """Time of one forward and backward pass in bf16, and peak memory; the head width is 32."""
    shape = {"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers}
    shape |= {"num_attention_heads": hidden_size // 32, "max_position_embeddings": max(128, length)}
    no_dropout = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), 0.0)
    config = MinGPTConfig(position_embedding_type="rope", use_cache=False, **shape, **no_dropout)
    model = MinGPTForCausalLM._from_config(config, attn_implementation=attention).train()
    ids = torch.randint(2, 256, (rows, length))
    before = peak_megabytes()
    times = []
    for _ in range(9):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16), bf16_residual_stream(model):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        model.zero_grad()
        times.append(time.perf_counter() - started)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = statistics.median(times[2:])
    return {
        "parameters": parameters,
        "milliseconds": seconds * 1000,
        "tokens_per_second": rows * length / seconds,
        "peak_megabytes": peak_megabytes(),
        "megabytes_of_the_passes": peak_megabytes() - before,
    }


def measure_corpus(*, documents: int, streaming: bool) -> dict[str, float]:
    """Seconds to encode a corpus, milliseconds to prepare a step of 128 documents, and resident memory."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "corpus.txt")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(DOCUMENT.format(i) for i in range(documents))
        small = Path(folder, "small.txt")
        small.write_text("".join(DOCUMENT.format(i) for i in range(100)), encoding="utf-8")
        tokenizer = build_corpus_tokenizer(load_texts(str(small)), 128)
        os.environ["HF_DATASETS_CACHE"] = folder
        before = psutil.Process().memory_info().rss
        started = time.perf_counter()
        recipe = DataRecipe(train_file=str(path), streaming=streaming)
        steps = build_steps(recipe, load_corpus(recipe, []), [], tokenizer, BatchShape(32, 4), block_size=128, seed=0)
        encoding = time.perf_counter() - started
        times = []
        started = time.perf_counter()
        for _ in step_loader(steps, min(1_000, documents // 128)):
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
        return {
            "megabytes": path.stat().st_size / 1e6,
            "encoding_seconds": encoding,
            "milliseconds_of_data_per_step": statistics.median(times) * 1000,
            "resident_megabytes_more": (psutil.Process().memory_info().rss - before) / 2**20,
        }


def measure_processes(*, processes: int) -> dict[str, float] | None:
    """Useful tokens per second of the package's training loop, with 128 documents per step on all processes."""
    with TemporaryDirectory() as folder:
        flags = PRETRAIN_PRESETS["assignment_short"].values | {
            "max_steps": 30,
            "logging_steps": 5,
            "gradient_accumulation_steps": 1,
        }
        recipe = PretrainRecipe(train_file="-", output_dir=folder, use_cpu=True, **flags)
        accelerator = build_accelerator(recipe)
        rng = np.random.default_rng(0)
        from datasets import Dataset

        dataset = Dataset.from_dict({"input_ids": [rng.integers(2, 256, 64).tolist() for _ in range(1024)]})
        shape = BatchShape(32, 4 // processes, accelerator.num_processes, accelerator.process_index)
        model = MinGPTForCausalLM(MinGPTConfig(position_embedding_type="rope"))
        train(model, TrainingSteps(dataset, NextTokenPrediction(), shape, seed=0), recipe, accelerator)
        accelerator.end_training()
        if not accelerator.is_main_process:
            return None
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        if accelerator.num_processes != processes:
            raise RuntimeError(f"{accelerator.num_processes} processes started, not {processes}.")
        return {"tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines[1:])}


if __name__ == "__main__":
    main()
