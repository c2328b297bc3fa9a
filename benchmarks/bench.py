r"""Compares this package with its alternatives in one run, and writes the table: `make bench`.

    python benchmarks/bench.py --train_file wiki.txt --answers_run runs/demo/answers \
        --questions_file runs/demo/data/birth_dev.tsv [--nanogpt NANOGPT]

- Training: the contenders of `benchmarks/contenders.py` take turns, each in its own process; medians over the rounds.
- Utilization: 6 x parameters x useful tokens/s over the FLOP/s of bf16 matrix products at the model's shapes, which are
  measured in every round.
- Data: encoding of text, micro-batches, and collators beside those of transformers, on one core.
- Answers: questions in batches with a cache, one at a time without one (the assignment's way), and with GPT-2.
- Start-up: from starting pretrain.py to its first step.

Run nothing else on the machine: other work makes the numbers worthless.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from contenders import BLOCK_SIZE, CONTENDERS, Contender, build_gpt2
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from hf_mingpt.data.assembly import build_steps
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.collators import DataCollatorForSalientSpans, DataCollatorForSpanCorruption, add_index
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import MAX_ANSWER_TOKENS, Question, extract_prediction, read_questions
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import write_json, write_text
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID, character_table, encode_texts

HERE = Path(__file__).parent
OURS = ("hf_mingpt, AdamW", "hf_mingpt, AdamW, 2 processes")  # with the optimizer of the others


@dataclass(frozen=True, kw_only=True)
class BenchRecipe:
    train_file: str = required("Text file, one document per line.", formerly="corpus_file")
    answers_run: str = required("Finetuned run folder that answers the questions.")
    questions_file: str = required("TSV of questions with answers, to answer and to mix into the text.")
    nanogpt: str | None = flag(None, "Checkout of karpathy/nanoGPT, to compare with. None: without it.")
    output_dir: str = flag("runs/bench", "Folder for bench.json and bench.md.")
    rounds: int = flag(5, "Turns of every contender.")
    steps_per_round: int = flag(4, "Optimizer steps of one turn.")
    num_questions: int = flag(500, "Questions to answer; those of the file are repeated.")


def main() -> None:
    recipe = parse_recipe(BenchRecipe)
    with user_errors():
        if recipe.nanogpt and not (Path(recipe.nanogpt) / "model.py").is_file():
            raise ValueError(f"nanogpt {recipe.nanogpt!r} has no model.py: name a checkout of karpathy/nanoGPT.")
        questions = read_questions(recipe.questions_file, answers=True)
        run = load_run(recipe.answers_run)
        load_texts(recipe.train_file)
    results = {
        "machine": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "date": date.today().isoformat(),
        },
        "startup_seconds": measure_startup(recipe.train_file),
        "data": measure_data(recipe.train_file, recipe.questions_file),
        "answers": measure_answers(run, questions, recipe.num_questions),
        "training": measure_training(recipe),
        **run_record(),
    }
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "bench.json", results)
    table = render(results)
    write_text(folder / "bench.md", table)
    print(table)


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure_startup(corpus: str) -> float:
    """Seconds from starting scripts/pretrain.py to its first optimizer step, without the time of that step."""
    with TemporaryDirectory() as folder:
        output_dir = f"{folder}/run"
        flags = ["--max_steps", "1", "--logging_steps", "1", "--output_dir", output_dir, "--use_cpu", "true"]
        process = subprocess.Popen(
            [sys.executable, str(HERE.parent / "scripts" / "pretrain.py"), "--train_file", corpus, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started = time.perf_counter()
        metrics = Path(output_dir, "metrics.jsonl")
        while process.poll() is None and not metrics.exists():
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        process.wait()
        return seconds - json.loads(metrics.read_text(encoding="utf-8"))["seconds"]


def measure_training(recipe: BenchRecipe) -> dict[str, dict[str, float]]:
    """Useful tokens/s, peak memory and utilization of every contender, and the FLOP/s of matrix products."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
    nanogpt = [recipe.nanogpt] if recipe.nanogpt else []
    names = [name for name, contender in CONTENDERS.items() if nanogpt or contender.loop != "nanogpt"]
    processes = {
        name: subprocess.Popen(
            [sys.executable, str(HERE / "contenders.py"), name, recipe.train_file, *nanogpt],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=environment,
        )
        for name in names
    }

    def turn(name: str, steps: int) -> dict[str, float]:
        process = processes[name]
        process.stdin.write(f"{steps}\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} ended early: run `python benchmarks/contenders.py` to see its error.")
        return json.loads(line)

    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    rates_of: dict[str, list[float]] = {name: [] for name in names}
    products = []
    for round_number in range(recipe.rounds + 1):
        products.append(matrix_product_rate())
        for name in names:
            record = turn(name, recipe.steps_per_round if round_number else 1)  # the first one warms up
            turns[name].append(record)
            rates_of[name].append(rate := record["useful_tokens"] / record["seconds"])
            print(f"round {round_number} of {recipe.rounds}: {name}: {rate:,.0f} tokens/s", file=sys.stderr)
    for process in processes.values():
        process.stdin.close()
        process.wait()

    rows = {}
    for name, records in turns.items():
        rates = rates_of[name]
        parameters = records[0]["parameters"]
        utilization = [6 * parameters * rate / product for rate, product in zip(rates, products, strict=True)]
        rows[name] = {
            "useful_tokens_per_second": statistics.median(rates[1:]),
            "slowest": min(rates[1:]),
            "fastest": max(rates[1:]),
            "utilization": statistics.median(utilization[1:]),
            "ours_is_times_faster": {
                ours: statistics.median([a / b for a, b in zip(rates_of[ours][1:], rates[1:], strict=True)])
                for ours in OURS
            },
            "peak_megabytes": records[-1]["peak_bytes"] / 2**20,
            "parameters": parameters,
        }
    rows["matrix products"] = {"gigaflops": statistics.median(products[1:]) / 1e9}
    return rows


def matrix_product_rate(num_tokens: int = 2048, repeats: int = 20) -> float:
    """FLOP/s of bf16 matrix products at the shapes of the assignment's blocks, in their proportions."""
    shapes = [(256, 256)] * 4 + [(256, 1024), (1024, 256)]
    inputs = {width: torch.randn(num_tokens, width).bfloat16() for width in (256, 1024)}
    weights = [torch.randn(shape).bfloat16() for shape in shapes]
    seconds = median_seconds(lambda: [inputs[weight.shape[0]] @ weight for weight in weights], repeats)
    return sum(2 * num_tokens * a * b for a, b in shapes) / seconds


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def measure_data(corpus_file: str, questions_file: str) -> dict[str, float]:
    """Megabytes of text encoded per second, and useful tokens put into micro-batches per second, on one core."""
    texts = load_texts(corpus_file)
    tokenizer = build_corpus_tokenizer(texts, BLOCK_SIZE, questions_file)
    lines = texts["text"][:]
    table = character_table(tokenizer)
    size = sum(len(line.encode()) for line in lines)
    rates = {"encoded_megabytes_per_second": size / 1e6 / median_seconds(lambda: encode_texts(lines, table), 20)}
    mixed = {"ssm_probability": 0.5, "questions_file": questions_file, "questions_ratio": 0.25}
    for name, fields in (("span corruption", {}), ("salient span masking and questions", mixed)):
        recipe = DataRecipe(train_file=corpus_file, **fields)
        questions = read_questions(questions_file, answers=True) if recipe.questions_file else []
        for micro_batches in (4, 32):
            shape = BatchShape(32, micro_batches)
            steps = build_steps(recipe, texts, questions, tokenizer, shape, block_size=BLOCK_SIZE, seed=0)
            first = [steps[i] for i in range(4)]
            tokens = np.mean([sum(int((batch["input_ids"] != PAD_ID).sum()) for batch in step) for step in first])
            seconds = median_seconds(lambda steps=steps: steps[5], 50)
            rates[f"{name}, steps of {32 * micro_batches}: tokens_per_second"] = float(tokens) / seconds
    return rates | measure_collators(texts, tokenizer)


def measure_collators(texts: Dataset, tokenizer: PreTrainedTokenizerBase, repeats: int = 20) -> dict[str, float]:
    """Documents that collators make into batches per second: ours, and those of transformers, which mask in place."""
    rows = add_index(encode_documents(texts.select(range(min(128, len(texts)))), tokenizer, aligned=True))
    ours, theirs = list(rows), list(rows.select_columns("input_ids"))
    marked = [{**row, "special_tokens_mask": [0] * len(row["input_ids"])} for row in theirs]
    transformers_mlm = DataCollatorForLanguageModeling(tokenizer)
    transformers_causal = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    collators = {
        "DataCollatorForSpanCorruption": (DataCollatorForSpanCorruption(tokenizer, BLOCK_SIZE), ours),
        "DataCollatorForSalientSpans": (DataCollatorForSalientSpans(tokenizer, BLOCK_SIZE), ours),
        "transformers' DataCollatorForLanguageModeling, mlm": (transformers_mlm, marked),
        "transformers' DataCollatorForLanguageModeling, causal": (transformers_causal, theirs),
    }
    return {
        f"{name}, batches of {len(examples)}: documents_per_second": len(examples)
        / median_seconds(lambda collate=collate, examples=examples: collate(examples), repeats)
        for name, (collate, examples) in collators.items()
    }


def measure_answers(run, questions: list[Question], number: int) -> dict[str, dict[str, float]]:
    """Questions per second: ours in batches, ours in the assignment's way, and GPT-2 with `generate`."""
    model, tokenizer = run
    model.eval()
    repeated = [questions[i % len(questions)] for i in range(number)]
    few = repeated[: max(10, number // 20)]
    gpt2 = build_gpt2(Contender("plain", "float32", "sdpa"), model.config.vocab_size).eval()
    prompts = [question.question + MASK for question in repeated]

    def gpt2_batches() -> None:
        for start in range(0, number, 128):
            batch = tokenizer(prompts[start : start + 128], padding=True, return_tensors="pt")
            gpt2.generate(
                **batch,
                max_new_tokens=MAX_ANSWER_TOKENS,
                use_cache=True,
                do_sample=False,
                eos_token_id=MASK_ID,
                pad_token_id=PAD_ID,
            )

    answers = answer_questions(model, tokenizer, repeated)
    if answers[: len(few)] != one_at_a_time(model, tokenizer, few):
        raise RuntimeError("The answers in batches differ from those one at a time.")
    repeats = 3
    rates = {
        "ours, in batches with a cache": number
        / median_seconds(lambda: answer_questions(model, tokenizer, repeated), repeats),
        "ours, one at a time without a cache": len(few)
        / median_seconds(lambda: one_at_a_time(model, tokenizer, few), 1),
        "GPT-2 (untrained), generate in batches": number / median_seconds(gpt2_batches, repeats),
    }
    best = rates["ours, in batches with a cache"]
    return {name: {"questions_per_second": rate, "ours_is_times_faster": best / rate} for name, rate in rates.items()}


@torch.inference_mode()
def one_at_a_time(model, tokenizer, questions: list[Question]) -> list[str]:
    """The assignment's way: 32 tokens for each question, each from the whole text so far, without a cache."""
    predictions = []
    for question in questions:
        ids = tokenizer(question.question + MASK, return_tensors="pt")["input_ids"]
        for _ in range(MAX_ANSWER_TOKENS):
            window = ids[:, -model.config.max_position_embeddings :]
            logits = model(window, use_cache=False).logits[:, -1]
            ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
        predictions.append(extract_prediction(tokenizer.decode(ids[0]), MASK))
    return predictions


def render(results: dict) -> str:
    """The results as a Markdown page."""
    machine, training = results["machine"], dict(results["training"])
    products = training.pop("matrix products")["gigaflops"]
    lines = [
        f"# Benchmark, {machine['date']}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; commit {results['commit']}; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f". bf16 matrix products at this model's shapes: {products:.0f} GFLOP/s.",
        "",
        "| training, 128 documents a step | tokens/s | slowest to fastest "
        + "".join(f"| {ours} is faster " for ours in OURS)
        + "| utilization | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in training.items():
        lines.append(
            f"| {name} | {row['useful_tokens_per_second']:,.0f} | {row['slowest']:,.0f} to {row['fastest']:,.0f} "
            + "".join(f"| {row['ours_is_times_faster'][ours]:.1f} x " for ours in OURS)
            + f"| {row['utilization']:.1%} | {row['peak_megabytes']:,.0f} MB |"
        )
    lines += ["", "| answers | questions/s | ours is faster |", "|---|---|---|"]
    for name, row in results["answers"].items():
        lines.append(f"| {name} | {row['questions_per_second']:,.1f} | {row['ours_is_times_faster']:.1f} x |")
    lines += ["", "| data, one core | |", "|---|---|"]
    for name, rate in results["data"].items():
        lines.append(f"| {name} | {rate:,.0f} |")
    lines += ["", f"Start-up, to the first step: {results['startup_seconds']:.1f} s.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
