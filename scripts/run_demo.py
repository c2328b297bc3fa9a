"""The whole experiment on generated biographies: pretrain, finetune, compare with no pretraining, calibrate, report.

    python scripts/run_demo.py --output_dir runs/demo

It prints every command that it runs. You can copy, change and run each of them alone. Without --data_dir, the
biographies are generated first.
"""

import hf_mingpt.system.threads  # noqa: I001 (before torch)
import json
import multiprocessing
import os
import runpy
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import hf_mingpt.evaluation.calibration
import hf_mingpt.hub.saving
import hf_mingpt.training.loop  # noqa: F401 (once, for all that is forked below)
from hf_mingpt.cli import run_script
from hf_mingpt.data.birthplaces import BIRTHPLACE
from hf_mingpt.hub.loading import DEMO_FOLDER
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.commands import PROGRAM, SCRIPTS, as_called, is_command, name_of
from hf_mingpt.system.fields import flag

NEXT = """
What you can do now:
  {ask} "{name}" "Nobody Known"{named} --train_file {text}
  {python} -m {install} && {demo}{shown}
  look at {picture} and read {run}/calibration.md; docs/tutorial.md goes through every step."""


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    output_dir: str = flag(str(DEMO_FOLDER), "Folder for the runs.")
    data_dir: str | None = flag(
        None, "Folder that generate_biographies.py wrote. None: it writes one first, data in the output_dir."
    )
    use_cpu: bool = flag(False, "Stay on the CPU.")


def main() -> None:
    recipe = parse_recipe(DemoRecipe)
    out = Path(recipe.output_dir)
    data = Path(recipe.data_dir or out / "data")
    text, questions, dev = data / "biographies.txt", data / "birth_places_train.tsv", data / "birth_dev.tsv"
    with user_errors():
        if recipe.data_dir and not text.exists():
            raise FileNotFoundError(f"No text in {data}: make one with scripts/generate_biographies.py.")
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, psutil.cpu_count(logical=False) or 1)))  # more gain nothing
    use_cpu = ["--use_cpu"] * recipe.use_cpu
    pretrained, finetuned, scratch = out / "pretrained", out / "finetuned", out / "without-pretraining"
    held_out, fold = out / "held-out", out / "folds" / "fold-0"

    def train(script: str, preset: str, folder: Path, *flags: object) -> None:
        run(script, "--preset", preset, *flags, "--output_dir", folder, "--overwrite_output_dir", *use_cpu)

    def finetune(preset: str, folder: Path, questions_file: Path) -> None:
        train("finetune.py", preset, folder, "--model_name_or_path", pretrained, "--questions_file", questions_file)

    started = time.perf_counter()
    if not recipe.data_dir:
        run("generate_biographies.py", "--output_dir", data, "--overwrite_output_dir")
    train("pretrain.py", "demo", pretrained, "--train_file", text, "--vocabulary_file", questions)
    finetune("demo", finetuned, questions)
    finetune("demo_from_scratch", scratch, questions)

    # how far to trust an answer: a run that has not seen half of the training questions is asked about that half
    folds = ["--questions_file", questions, "--output_dir", fold.parent, "--num_folds", 2]
    run("split_questions.py", *folds, "--overwrite_output_dir")
    finetune("demo", held_out, fold / "train.tsv")
    run(
        *("calibrate.py", "--model_name_or_path", held_out, "--questions_file", fold / "held_out.tsv"),
        *("--train_questions_file", fold / "train.tsv", "--train_file", text),
        *("--num_invented_names", 200, "--output_dir", finetuned, "--overwrite_output_dir", *use_cpu),
    )
    run(
        *("evaluate_birthplaces.py", "--model_name_or_path", finetuned, "--questions_file", dev),
        *("--train_questions_file", questions, "--without_pretraining", scratch, "--overwrite_output_dir", *use_cpu),
    )
    runs = ",".join(map(str, (pretrained, finetuned, scratch)))
    run("plot_run.py", "--runs", runs, "--output_file", out / "demo.png", "--overwrite_output_dir")

    report = json.loads((finetuned / "report.json").read_text(encoding="utf-8"))
    results = report["results"]
    frequent = next(row for name, row in results.items() if name.startswith("most frequent"))
    print(f"\nThe demo took {time.perf_counter() - started:.0f} s.")
    print(
        f"demo: pretrained {results['model']['accuracy']:.1%}, without pretraining "
        f"{results['without pretraining']['accuracy']:.1%}, most frequent {frequent['accuracy']:.1%}".replace("%", " %")
    )
    surest = [BIRTHPLACE.subject_of(example["question"]) for example in report["calibration"]["best"]]
    name = next(iter(surest), None) or text.read_text(encoding="utf-8").partition(". ")[0]
    about = {"name": name, "run": shlex.quote(str(finetuned)), "text": shlex.quote(str(text))}
    if out == DEMO_FOLDER:  # where ask.py and demo.py look for themselves
        about |= {"named": "", "shown": ""}
    else:
        about |= {
            "named": f" --model_name_or_path {about['run']}",
            "shown": f" {about['run']} --train_file {about['text']}",
        }
    install = as_called('pip install -c constraints.txt -e ".[demo]"')
    about |= {"ask": command("ask.py"), "demo": command("demo.py"), "install": install, "picture": out / "demo.png"}
    print(NEXT.format(python=as_typed(sys.executable), **about))


def run(script: str, *flags: object) -> None:
    """Prints a command as you can copy it, and does what it does in a process of its own.

    Where processes can be forked, they need not import torch again.
    """
    words = list(map(str, flags))
    print(f"\n$ {command(script)} {shlex.join(words)}", flush=True)
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=run_as_main, args=(script, words))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def run_as_main(script: str, words: list[str]) -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # which a fork of this process reads no more
    if is_command():
        run_script(SCRIPTS / script, words)
    else:
        sys.argv = [str(SCRIPTS / script), *words]
        runpy.run_path(sys.argv[0], run_name="__main__")


def command(script: str) -> str:
    """How you call a script, in the way that this one was called."""
    if is_command():
        return f"{PROGRAM} {name_of(Path(script).stem)}"
    return f"{as_typed(sys.executable)} {as_typed(SCRIPTS / script)}"


def as_typed(path: str | Path) -> str:
    """A path as you type it in the working directory."""
    here = os.path.relpath(path)
    return shlex.quote(str(path) if here.startswith("..") else here)


if __name__ == "__main__":
    main()
