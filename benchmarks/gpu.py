r"""Checks and benchmarks the package on one GPU in a few minutes. Prints tables and writes all results to gpu.json.

    python benchmarks/gpu.py --train_file wiki.txt --questions_file birth_places_train.tsv \
        --dev_questions_file birth_dev.tsv --nanogpt path/to/nanoGPT
    python benchmarks/gpu.py --device cpu --small true --train_file ... --sections correctness,profile

Sections:

- correctness: compares the GPU with the CPU, for every attention implementation, precision and way of training
  (gpu_model_checks.py, gpu_training_checks.py).
- speedrun: the time of training and of the whole command, and the accuracy on the dev questions, for several seeds.
- throughput: tokens per second and model FLOP utilization (MFU), of the 3.3M model by batch size, and of a model of the
  size of GPT-2 beside nanoGPT and models of transformers (gpu_rates.py, gpu_contenders.py).
- profile: the time of a step by kernel.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import gpu_contenders
import gpu_model_checks
import gpu_rates
import gpu_training_checks
import torch

from hf_mingpt.data.questions import read_questions
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import write_json

HERE = Path(__file__).parent
SECTIONS = ("correctness", "speedrun", "throughput", "profile")
# one micro-batch per step: a GPU gains nothing from several
ON_A_GPU = ["--per_device_train_batch_size", "128", "--gradient_accumulation_steps", "1"]
ON_A_GPU += ["--dataloader_num_workers", "8"]
SPEEDRUNS = {
    "closed_book": [],
    "closed_book, 50 epochs": ["--num_train_epochs", "50"],
}


@dataclass(frozen=True, kw_only=True)
class GpuRecipe:
    train_file: str = required("Text file, one document per line.", formerly="corpus_file")
    questions_file: str | None = flag(None, "TSV of training questions, for speedrun.")
    dev_questions_file: str | None = flag(None, "TSV of questions to evaluate on, for speedrun.", formerly="dev_file")
    nanogpt: str | None = flag(None, "Checkout of karpathy/nanoGPT, to compare with.")
    sections: str = flag(",".join(SECTIONS), "Sections to run, separated by commas.")
    device: str = flag("cuda", "'cuda' or 'cpu'.")
    small: bool = flag(False, "Small sizes, for a quick test of the script.")
    seeds: int = flag(3, "Number of seeds of each speedrun.")
    only: str = flag("", "Run only the checks whose name contains one of these.")
    output_dir: str = flag("runs/gpu", "Folder for gpu.json and gpu.md.")

    def __post_init__(self):
        if unknown := set(self.sections.split(",")) - set(SECTIONS):
            raise ValueError(f"sections {', '.join(sorted(unknown))} are unknown: choose from {', '.join(SECTIONS)}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device 'cuda' is not available: give --device cpu.")


def main() -> None:
    recipe = parse_recipe(GpuRecipe)
    device = torch.device(recipe.device)
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    folder = Path(recipe.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict = {"machine": machine(device), **run_record()}
    for section in recipe.sections.split(","):
        started = time.perf_counter()
        if section == "correctness":
            results["correctness"] = run_checks(recipe, device)
        elif section == "speedrun":
            results["speedrun"] = run_speedruns(recipe)
        elif section == "throughput":
            results["throughput"] = measure_throughput(recipe, device)
        else:
            batch_sizes = [8] if recipe.small else [128, 4096]
            steps = 2 if recipe.small else 10
            results["profile"] = [
                gpu_rates.profile_steps(device, recipe.train_file, batch_size, steps, small=recipe.small)
                for batch_size in batch_sizes
            ]
        print(f"{section}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        write_json(folder / "gpu.json", results)
    page = render(results)
    (folder / "gpu.md").write_text(page, encoding="utf-8")
    print(page)
    if any(check["result"] == "FAILED" for check in results.get("correctness", [])):
        sys.exit(1)


def machine(device: torch.device) -> dict:
    names = {"processor": platform.processor(), "cores": os.cpu_count(), "date": date.today().isoformat()}
    if device.type == "cuda":
        names |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return names


def run_checks(recipe: GpuRecipe, device: torch.device) -> list[dict]:
    results = []
    checks = gpu_model_checks.model_checks() | gpu_training_checks.training_checks()
    with TemporaryDirectory() as folder:
        place = gpu_model_checks.Place(device, recipe.small, Path(folder))
        for name, check in checks.items():
            if not any(part in name for part in recipe.only.split(",")):
                continue
            started = time.perf_counter()
            try:
                result, detail = "passed", check(place)
            except gpu_model_checks.Skipped as error:
                result, detail = "skipped", str(error)
            except Exception as error:  # run the other checks
                places = " < ".join(f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)))
                result, detail = "FAILED", f"{type(error).__name__}: {str(error)[-300:]} in {places[:300]}"
            seconds = time.perf_counter() - started
            results.append({"check": name, "result": result, "detail": detail, "seconds": seconds})
            print(f"{result}: {name}: {detail} ({seconds:.1f} s)", file=sys.stderr, flush=True)
    return results


def run_speedruns(recipe: GpuRecipe) -> list[dict]:
    if not (recipe.questions_file and recipe.dev_questions_file):
        raise ValueError("speedrun needs --questions_file and --dev_questions_file.")
    questions = read_questions(recipe.dev_questions_file, answers=True)
    device = torch.device(recipe.device)
    results = []
    for name, flags in SPEEDRUNS.items():
        for seed in range(recipe.seeds):
            with TemporaryDirectory() as folder:
                run = Path(folder, "run")
                command = [
                    sys.executable,
                    str(HERE.parent / "scripts" / "pretrain.py"),
                    "--preset",
                    "closed_book",
                    *ON_A_GPU,
                ]
                command += ["--train_file", recipe.train_file, "--questions_file", recipe.questions_file, *flags]
                command += ["--seed", str(seed), "--output_dir", str(run)]
                if recipe.small:
                    command += ["--max_steps", "2", "--model_preset", "gpt-nano", "--use_cpu", "true"]
                    command += ["--vocabulary_file", recipe.questions_file]
                environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
                started = time.perf_counter()
                done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
                wall = time.perf_counter() - started
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
                lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
                model, tokenizer = load_run(str(run))
                model = model.to(device).eval()
                answer_questions(model, tokenizer, questions[:8])
                started = time.perf_counter()
                predictions = answer_questions(model, tokenizer, questions, batch_size=len(questions))
                answering = time.perf_counter() - started
                correct = sum(p == q.answer for p, q in zip(predictions, questions, strict=True))
                row = {
                    "recipe": name,
                    "seed": seed,
                    "accuracy": correct / len(questions),
                    "steps": lines[-1]["step"],
                    "training_seconds": lines[-1]["seconds"],
                    "seconds_of_the_last_half": lines[-1]["seconds"] - lines[len(lines) // 2 - 1]["seconds"],
                    "command_seconds": wall,
                    "useful_tokens_per_second": statistics.median(
                        line["tokens_per_second"] for line in lines[len(lines) // 2 :]
                    ),
                    "answers_per_second": len(questions) / answering,
                }
                print(row, file=sys.stderr, flush=True)
                results.append(row)
    return results


def measure_throughput(recipe: GpuRecipe, device: torch.device) -> dict:
    batch_sizes, repeats = ([8, 16], 3) if recipe.small else ([128, 512, 2048, 8192], 20)
    results: dict = {"matrix_product_flops": gpu_rates.matrix_product_rate(device, 256 if recipe.small else 8192)}
    groups = [] if recipe.small else gpu_contenders.CONTENDERS  # a model of GPT-2's size is not small
    results["gpt2_size"] = [
        gpu_contenders.measure_group(group, Path(recipe.output_dir), recipe.nanogpt) for group in groups
    ]
    results["small_model"] = gpu_rates.measure_small(
        device, recipe.train_file, batch_sizes, repeats, small=recipe.small
    )
    return results


def render(results: dict) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [f"# One GPU, {results['machine']['date']}", "", f"{results['machine']}; {versions}.", ""]
    if "correctness" in results:
        lines += ["| check | result | detail | s |", "|---|---|---|---|"]
        lines += [
            f"| {c['check']} | {c['result']} | {c['detail']} | {c['seconds']:.1f} |" for c in results["correctness"]
        ]
    if "speedrun" in results:
        lines += [
            "",
            "| speedrun | seed | dev accuracy | steps | training | command | tokens/s | answers/s |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {r['recipe']} | {r['seed']} | {r['accuracy']:.1%} | {r['steps']} | {r['training_seconds']:.1f} s "
            f"| {r['command_seconds']:.1f} s | {r['useful_tokens_per_second']:,.0f} | {r['answers_per_second']:,.0f} |"
            for r in results["speedrun"]
        ]
    if "throughput" in results:
        throughput = results["throughput"]
        lines += ["", f"bf16 matrix products: {throughput['matrix_product_flops'] / 1e12:.1f} TFLOP/s."]
        lines += [
            "",
            "| GPT-2's size, compiled, 16 x 1024 tokens | | tokens/s | ms | MFU | memory | compilation |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r['name']} | {r['group']} | {r['tokens_per_second']:,.0f} | {r['milliseconds']:.1f} | {r['mfu']:.1%} "
            f"| {r['peak_megabytes'] or 0:,.0f} MB | {r['seconds_to_compile']:.0f} s |"
            for group in throughput["gpt2_size"]
            for r in group["rows"]
        ]
        lines += ["", "| 3.3M, batch size | mode | length | useful tokens/s | tokens/s | ms | MFU | peak memory |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [
            f"| {r['batch_size']} | {r['mode']} | {r['length']} | {r['useful_tokens_per_second']:,.0f} "
            f"| {r['tokens_per_second']:,.0f} | {r['milliseconds']:.2f} | {r['mfu']:.1%} "
            f"| {r['peak_megabytes'] or 0:,.0f} MB |"
            for r in throughput["small_model"]
        ]
        for group in throughput["gpt2_size"]:
            for name, kernels in group["profiles"].items():
                lines += render_profile(name, kernels)
    for section in results.get("profile", []):
        lines += render_profile(f"3.3M, batch size {section['batch_size']}, eager", section)
    return "\n".join(lines) + "\n"


def render_profile(title: str, profile: dict) -> list[str]:
    busy = f"{profile['busy_milliseconds_per_step']:.2f} of {profile['milliseconds_per_step']:.2f} ms"
    return [
        "",
        f"{title}: the device is busy for {busy} of a step, with {profile['kernels_per_step']:.0f} kernels.",
        "",
        "| kernel | fraction | per step | us |",
        "|---|---|---|---|",
        *(
            f"| {k['name'].replace('|', '/')} | {k['fraction']:.1%} | {k['count']:.0f} | {k['microseconds']:.1f} |"
            for k in profile["kernels"]
        ),
    ]


if __name__ == "__main__":
    with user_errors():
        main()
