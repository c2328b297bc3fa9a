"""Studies: many small runs of the experiment, each of which differs from one of them in one thing.

    python benchmarks/study.py --output_dir runs/study --jobs 2
    python benchmarks/study.py --train_file wiki.txt --questions_file birth_places_train.tsv \
        --output_dir runs/recipe-study

The first asks how facts are stored and brought out, on invented people, of whom the truth is known. The second asks
what each piece of the preset `closed_book` is worth on a text of yours; its answers are judged on a fifth of the
questions, which is held out. Every run is the scripts' own work; those that results.jsonl has already are not repeated,
so that a study can be stopped and go on. Writes study.md and study.png.
"""

import hashlib
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from figures import Bar, draw_accuracies

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions, split_folds, write_questions
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import score_answers
from hf_mingpt.evaluation.scoring import exact_matches
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.run_folders import run_record
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import write_json, write_text, written_aside

SCRIPTS = Path(__file__).parent.parent / "scripts"


class Arm(NamedTuple):
    """One way to do the experiment: flags of generate_biographies.py and of pretrain.py, and whether to finetune after.

    If not, the training questions are read along with the text.
    """

    corpus: Mapping[str, Any] = {}
    pretrain: Mapping[str, Any] = {}
    finetune: bool = False


def corpus(number_of_people: int, **changed: Any) -> dict[str, Any]:
    """Flags for invented people: two fifths of them are trained on, and two fifths asked about."""
    asked, tested = 2 * number_of_people // 5, number_of_people // 8
    flags = {"num_train_people": asked, "num_dev_people": asked, "num_test_people": tested}
    flags |= {"num_other_people": number_of_people - 2 * asked - tested}
    return flags | {"phrasings_per_person": 4, "permute_sentences": True} | changed


def demo(number_of_people: int, **changed: Any) -> dict[str, Any]:
    """Flags of a pretraining in which every person is read as often as in any other."""
    steps = {"max_steps": 19 * number_of_people // 4}
    return {"preset": "demo", "model_preset": "demo", "position_embedding_type": "rope", **steps} | changed


_CLOZES = {"ssm_probability": 1.0, "context_before": 4, "context_after": 2, "ssm_numbers": False}
STORED: dict[str, dict[str, Arm]] = {
    "phrasings of a biography": {
        str(n): Arm(corpus(160, phrasings_per_person=n), demo(160), finetune=True) for n in (1, 4, 8)
    },
    "order of the sentences": {
        name: Arm(corpus(160, permute_sentences=permuted), demo(160), finetune=True)
        for name, permuted in (("birthplace first", False), ("any", True))
    },
    "questions": {
        "finetuned after the text": Arm(corpus(160), demo(160), finetune=True),
        "read along with it": Arm(corpus(160), demo(160)),
        "along with clozes of it": Arm(corpus(160), demo(160, **_CLOZES)),
        "along with clozes, answers restated": Arm(corpus(160), demo(160, **_CLOZES, paraphrases_per_answer=1)),
    },
    "span corruption": {
        "one span of the beginning": Arm(corpus(160), demo(160), finetune=True),
        "of windows of it all": Arm(corpus(160), demo(160, document_windows=True), finetune=True),
        "three spans": Arm(corpus(160), demo(160, num_spans=3), finetune=True),
    },
    "weights": {
        "the last ones": Arm(corpus(160), demo(160), finetune=True),
        "averaged, at a constant rate": Arm(
            corpus(160), demo(160, ema_decay=0.99, lr_scheduler_type="constant_with_warmup"), finetune=True
        ),
    },
    "people": {str(n): Arm(corpus(n), demo(n), finetune=True) for n in (80, 160, 320)},
    "width of the model": {
        width: Arm(corpus(160), demo(160, model_preset=preset), finetune=True)
        for width, preset in (("48", "gpt-nano"), ("128", "demo"), ("192", "gpt-mini"))
    },
}

_FAST = {"preset": "closed_book", "max_steps": 400}
_ANY_NAME = {"learned_masking_policy": False, "masking_policy_probability": 0.0}
_ONE_THING = {
    "the preset": {},
    "short contexts only": {"long_context_probability": 0.0},
    "clozes of training answers": {"learned_masking_policy": False},
    "clozes of training answers, float32": {"learned_masking_policy": False, "mixed_precision": "no"},
    "clozes of any name": _ANY_NAME,
    "span corruption instead of clozes": {"ssm_probability": 0.0, "long_context_probability": 0.0, **_ANY_NAME},
    "half as many questions": {"questions_ratio": 0.05},
    "three times as many questions": {"questions_ratio": 0.3},
    "answers restated in a document each": {"paraphrases_per_answer": 1},
    "learned positions": {"position_embedding_type": "learned"},
    "AdamW": {"optim": "adamw", "learning_rate": 1e-3},
    "dropout 0.1": {"dropout": 0.1},
    "no weight decay": {"weight_decay": 0.0},
    "averaged weights at a constant rate": {"lr_scheduler_type": "constant_with_warmup", "ema_decay": 0.98},
}
PIECES: dict[str, dict[str, Arm]] = {
    "pieces of the preset fast": {name: Arm({}, {**_FAST, **changed}) for name, changed in _ONE_THING.items()}
    | {"any name, questions finetuned after": Arm({}, {**_FAST, **_ANY_NAME}, finetune=True)},
}


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    output_dir: str = required("Where the runs and the results go.")
    train_file: str | None = flag(None, "Text to study the preset on; None: invented people.")
    questions_file: str | None = flag(None, "TSV of its training questions.")
    num_seeds: int = flag(3, "Of each arm: 0, 1, ...")
    max_steps: int | None = flag(None, "Of every pretraining, to try the study itself.")
    only: str = flag("", "Run and show only arms whose names have this in them.")
    jobs: int = flag(1, "Runs at a time, each with its share of the cores.")

    def __post_init__(self):
        if (self.train_file is None) != (self.questions_file is None):
            raise ValueError("A text of yours needs its questions: give train_file and questions_file, or neither.")


def main() -> None:
    recipe = parse_recipe(StudyRecipe)
    folder = Path(recipe.output_dir)
    study = {
        axis: {name: arm for name, arm in named.items() if recipe.only in name}
        for axis, named in (PIECES if recipe.train_file else STORED).items()
    }
    with user_errors():
        if not any(study.values()):
            raise ValueError(f"only is {recipe.only!r}: no arm has that in its name.")
        if recipe.train_file and recipe.questions_file:
            load_texts(recipe.train_file)
            train, held_out = split_folds(read_questions(recipe.questions_file, answers=True), 5)[0]
        about = {"train_file": recipe.train_file, "questions_file": recipe.questions_file}
        if (folder / "study.json").exists() and json.loads(
            (folder / "study.json").read_text(encoding="utf-8")
        ) != about:
            raise ValueError(f"{folder} has the study of other files: choose another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", about)
    if recipe.train_file:
        write_questions(folder / "train.tsv", train)
        write_questions(folder / "held_out.tsv", held_out)
    if recipe.max_steps:
        steps = {"max_steps": recipe.max_steps}
        study = {
            axis: {name: arm._replace(pretrain={**arm.pretrain, **steps}) for name, arm in named.items()}
            for axis, named in study.items()
        }
    results = read_results(folder)
    pending: dict[tuple[str, int], Arm] = {}  # an arm may stand on several axes
    for seed in range(recipe.num_seeds):
        pending |= {(key_of(arm), seed): arm for named in study.values() for arm in named.values()}
    with ThreadPoolExecutor(recipe.jobs) as pool:
        runs = [pool.submit(measure, recipe, arm, *key) for key, arm in pending.items() if key not in results]
        for run in runs:
            run.result()
    results = read_results(folder)
    write_text(folder / "study.md", table := render(study, results))
    draw(study, results, folder / "study.png")
    print(table)


def key_of(arm: Arm) -> str:
    return json.dumps(arm)


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The runs that are done, by arm and seed."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(row["arm"], row["seed"]): row for row in map(json.loads, lines)}


def measure(recipe: StudyRecipe, arm: Arm, key: str, seed: int) -> None:
    """Runs an arm with a seed, in a folder of its own, and adds a line to results.jsonl."""
    folder = Path(recipe.output_dir)
    home = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:8]}-{seed}"
    home.mkdir(exist_ok=True)
    started = time.perf_counter()
    threads = max(1, (os.cpu_count() or 1) // recipe.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run(script: str, flags: Mapping[str, Any]) -> None:
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        command = [str(word) for word in (sys.executable, SCRIPTS / script, *words)]
        with (home / "log.txt").open("a", encoding="utf-8") as log:
            print(shlex.join(command), file=log, flush=True)
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"{script} failed: {home / 'log.txt'} says why.")

    text, train, asked = recipe.train_file, folder / "train.tsv", folder / "held_out.tsv"
    if arm.corpus:
        run("generate_biographies.py", {**arm.corpus, "seed": seed, "output_dir": home, "overwrite_output_dir": True})
        text, train, asked = home / "biographies.txt", home / "birth_places_train.tsv", home / "birth_dev.tsv"
    common = {"seed": seed, "use_cpu": True, "overwrite_output_dir": True}
    flags = {**arm.pretrain, **common, "train_file": text, "vocabulary_file": train, "output_dir": home / "pretrained"}
    flags |= {} if arm.finetune else {"questions_file": train}
    run("pretrain.py", flags)
    answers = home / "pretrained"
    if arm.finetune:
        flags = {
            "preset": "demo" if arm.corpus else "assignment_short",
            "model_name_or_path": answers,
            "questions_file": train,
        }
        answers = home / "finetuned"
        run("finetune.py", {**flags, **common, "output_dir": answers})

    model, tokenizer = load_run(str(answers))
    questions = read_questions(asked, answers=True)
    said = answer_questions(model, tokenizer, questions)
    row = {
        "arm": key,
        "seed": seed,
        "right": sum(exact_matches(said, [question.answer for question in questions])),
        "total": len(questions),
        "bits": bits_told(model, tokenizer, questions) if arm.corpus else None,
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - started),
        **run_record(),
    }
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def bits_told(model: Any, tokenizer: Any, questions: Sequence[Question]) -> float:
    """How many bits the model tells about a person's birthplace, in the mean, beside how frequent the places are."""
    frequency = Counter(str(question.answer) for question in questions)
    scores = score_answers(model, tokenizer, [question for question, _ in questions], list(frequency))
    chosen = [list(frequency).index(str(question.answer)) for question in questions]
    nats = scores[range(len(questions)), chosen] - np.logaddexp.reduce(scores, axis=1)
    prior = [math.log(frequency[str(question.answer)] / len(questions)) for question in questions]
    return float((nats - prior).mean() / math.log(2))


def of_seeds(arm: Arm, results: Mapping[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for (key, _), row in results.items() if key == key_of(arm)]


def render(study: Mapping[str, Mapping[str, Arm]], results: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    """The results as a table: one row an arm, the seeds' mean and standard deviation."""
    invented = any(arm.corpus for named in study.values() for arm in named.values())
    columns = ["", "", "seeds", "right"] + (["bits told of a person", "bits a parameter"] if invented else [])
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for axis, named in study.items():
        for name, arm in named.items():
            rows = of_seeds(arm, results)
            shares = [row["right"] / row["total"] for row in rows]
            spread = f" ± {statistics.stdev(shares):.1%}" if len(shares) > 1 else ""
            cells = [axis, name, str(len(rows)), f"{statistics.mean(shares):.1%}{spread}"]
            if arm.corpus:
                told = statistics.mean(row["bits"] for row in rows)
                everyone = sum(value for flag, value in arm.corpus.items() if flag.endswith("people"))
                cells += [f"{told:.2f}", f"{told * everyone / rows[0]['parameters']:.2g}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(study: Mapping[str, Mapping[str, Arm]], results: Mapping[tuple[str, int], dict[str, Any]], path: Path) -> None:
    """Draws the accuracy of every variant, the one that most axes share (else the first) once, as the baseline."""
    arms = [(axis, name, arm) for axis, named in study.items() for name, arm in named.items()]
    runs = {key_of(arm): of_seeds(arm, results) for _, _, arm in arms}
    ((baseline, _),) = Counter(key_of(arm) for _, _, arm in arms).most_common(1)
    shared = {axis: name for axis, name, arm in arms if key_of(arm) == baseline}
    label = next(iter(shared.values())) if len(shared) == 1 else "baseline"
    groups: dict[str, dict[str, Bar]] = {"Baseline": {}}
    for axis, name, arm in arms:
        rows = runs[key_of(arm)]
        bar = Bar([row["right"] / row["total"] for row in rows], total=rows[0]["total"])
        if key_of(arm) == baseline:
            groups["Baseline"][label] = bar
        else:
            heading = f"{axis} (baseline: {shared[axis]})" if axis in shared else axis
            groups.setdefault(heading, {})[name] = bar
    questions, steps = (
        " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))
        for numbers in (
            [row["total"] for rows in runs.values() for row in rows],
            [arm.pretrain["max_steps"] for _, _, arm in arms if "max_steps" in arm.pretrain] or [0],
        )
    )
    with written_aside(path) as aside:
        draw_accuracies(
            groups,
            aside,
            title="One change at a time",
            subtitle=f"Exact match on {questions} held-out questions; {steps} steps of pretraining",
            baseline=label,
        )


if __name__ == "__main__":
    main()
