"""The whole experiment on generated biographies: pretrain, finetune, compare with no pretraining, report, plot.

    python scripts/run_demo.py --output_dir runs/demo

Prints every command it runs: each can be copied, changed and run alone.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    output_dir: str = flag("runs/demo", "Folder for the corpus and the three runs.")
    data_dir: str = flag("data/generated", "What generate_biographies.py wrote.")
    use_cpu: bool = flag(False, "Stay on the CPU.")


def main() -> None:
    recipe = parse_recipe(DemoRecipe)
    scripts, out, data = Path(__file__).parent, Path(recipe.output_dir), Path(recipe.data_dir)
    with user_errors():
        if not (data / "biographies.txt").exists():
            raise FileNotFoundError(f"No corpus in {data}: make one with scripts/generate_biographies.py.")
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, psutil.cpu_count(logical=False) or 1)))  # more gain nothing
    train = ["--overwrite_output_dir"] + ["--use_cpu"] * recipe.use_cpu
    pretrained, finetuned, scratch = out / "pretrained", out / "finetuned", out / "without-pretraining"
    questions = data / "birth_places_train.tsv"

    started = time.perf_counter()
    run(
        [sys.executable, scripts / "pretrain.py", "--preset", "demo", "--train_file", data / "biographies.txt"],
        ["--vocabulary_file", questions, "--output_dir", pretrained, *train],
    )
    for preset, folder in (("demo", finetuned), ("demo_from_scratch", scratch)):
        run(
            [sys.executable, scripts / "finetune.py", "--preset", preset, "--model_name_or_path", pretrained],
            ["--questions_file", questions, "--output_dir", folder, *train],
        )
    run(
        [sys.executable, scripts / "evaluate_birthplaces.py", "--model_name_or_path", finetuned],
        ["--questions_file", data / "birth_dev.tsv", "--train_questions_file", questions],
        ["--without_pretraining", scratch, "--overwrite_output_dir"],
    )
    run(
        [sys.executable, scripts / "plot_run.py", "--runs", f"{pretrained},{finetuned},{scratch}"],
        ["--output_file", out / "demo.png", "--overwrite_output_dir"],
    )
    results = json.loads((finetuned / "report.json").read_text(encoding="utf-8"))["results"]
    frequent = next(row for name, row in results.items() if name.startswith("most frequent"))
    print(f"The demo took {time.perf_counter() - started:.0f} s.")
    print(
        f"demo: pretrained {results['model']['accuracy']:.1%}, without pretraining "
        f"{results['without pretraining']['accuracy']:.1%}, most frequent {frequent['accuracy']:.1%}".replace("%", " %")
    )


def run(*parts: list) -> None:
    command = [str(word) for part in parts for word in part]
    shown = [Path(command[0]).name, *command[1:]]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
