r"""Studies: many small runs of the experiment, each with one change from a baseline.

    python benchmarks/study.py --output_dir runs/study --jobs 2
    python benchmarks/study.py --train_file wiki.txt --questions_file birth_places_train.tsv \
        --output_dir runs/recipe-study

The first studies how a model stores and recalls facts, on invented people, whose birthplaces are known. The second is
an ablation of the preset `closed_book` on your own text; it holds out a fifth of the questions and measures accuracy on
them. Every run calls the scripts. Runs that results.jsonl has already are skipped, so a study can be interrupted and
resumed. Writes study.md and study.png.
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
from rows import add_rows, read_rows, table, with_spread

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions, split_folds, write_questions
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.confidence import score_answers
from hf_mingpt.evaluation.scoring import exact_matches
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import write_json, write_text, written_aside

SCRIPTS = Path(__file__).parent.parent / "scripts"


class Variant(NamedTuple):
    """One way to run the experiment.

    corpus: flags of generate_biographies.py; empty for a text of the user's.
    pretrain: flags of pretrain.py.
    finetune: finetune on the training questions after pretraining; False: mix them into pretraining.
    """

    corpus: Mapping[str, Any] = {}
    pretrain: Mapping[str, Any] = {}
    finetune: bool = False


def corpus(number_of_people: int, **changed: Any) -> dict[str, Any]:
    """Flags for a corpus of invented people: two fifths for training questions, two fifths for dev questions."""
    dev, test = 2 * number_of_people // 5, number_of_people // 8
    flags = {"num_train_people": dev, "num_dev_people": dev, "num_test_people": test}
    flags |= {"num_other_people": number_of_people - 2 * dev - test}
    return flags | {"phrasings_per_person": 4, "permute_sentences": True} | changed


def demo(number_of_people: int, **changed: Any) -> dict[str, Any]:
    """Flags of a pretraining whose number of epochs does not depend on the number of people."""
    steps = {"max_steps": 19 * number_of_people // 4}
    return {"preset": "demo", "model_preset": "demo", "position_embedding_type": "rope", **steps} | changed


_SSM = {"ssm_probability": 1.0, "context_before": 4, "context_after": 2, "ssm_numbers": False}
FACT_STORAGE: dict[str, dict[str, Variant]] = {
    "phrasings of a biography": {
        str(n): Variant(corpus(160, phrasings_per_person=n), demo(160), finetune=True) for n in (1, 4, 8)
    },
    "order of the sentences": {
        name: Variant(corpus(160, permute_sentences=permuted), demo(160), finetune=True)
        for name, permuted in (("birthplace first", False), ("any", True))
    },
    "questions": {
        "finetuning after pretraining": Variant(corpus(160), demo(160), finetune=True),
        "mixed into pretraining": Variant(corpus(160), demo(160)),
        "mixed in, with SSM": Variant(corpus(160), demo(160, **_SSM)),
        "mixed in, with SSM and paraphrases": Variant(corpus(160), demo(160, **_SSM, paraphrases_per_answer=1)),
    },
    "span corruption": {
        "one span": Variant(corpus(160), demo(160), finetune=True),
        "one span of a random window": Variant(corpus(160), demo(160, document_windows=True), finetune=True),
        "three spans": Variant(corpus(160), demo(160, num_spans=3), finetune=True),
    },
    "weights": {
        "last": Variant(corpus(160), demo(160), finetune=True),
        "averaged (EMA), constant learning rate": Variant(
            corpus(160), demo(160, ema_decay=0.99, lr_scheduler_type="constant_with_warmup"), finetune=True
        ),
    },
    "people": {str(n): Variant(corpus(n), demo(n), finetune=True) for n in (80, 160, 320)},
    "hidden size": {
        width: Variant(corpus(160), demo(160, model_preset=preset), finetune=True)
        for width, preset in (("48", "gpt-nano"), ("128", "demo"), ("192", "gpt-mini"))
    },
}

_PRESET = {"preset": "closed_book", "max_steps": 400}
_ANY_NAME = {"learned_masking_policy": False, "masking_policy_probability": 0.0}
_CHANGES = {
    "the preset": {},
    "longer contexts for a half": {"long_context_probability": 0.5},
    "nothing before a title": {"title_prefix_probability": 0.0},
    "SSM of any name for a tenth": {"masking_policy_probability": 0.9},
    "SSM of training answers": {"learned_masking_policy": False},
    "SSM of training answers, float32": {"learned_masking_policy": False, "mixed_precision": "no"},
    "SSM of any name": _ANY_NAME,
    "span corruption, no SSM": {"ssm_probability": 0.0, "title_prefix_probability": 0.0, **_ANY_NAME},
    "half as many questions": {"questions_ratio": 0.1},
    "half as many again": {"questions_ratio": 0.3},
    "one paraphrase of every answer": {"paraphrases_per_answer": 1},
    "learned positions": {"position_embedding_type": "learned"},
    "AdamW": {"optim": "adamw", "learning_rate": 1e-3},
    "dropout 0.1": {"dropout": 0.1},
    "no weight decay": {"weight_decay": 0.0},
    "averaged weights (EMA), constant learning rate": {"lr_scheduler_type": "constant_with_warmup", "ema_decay": 0.98},
}
PRESET_ABLATION: dict[str, dict[str, Variant]] = {
    "ablation of the preset closed_book": {
        name: Variant({}, {**_PRESET, **changed}) for name, changed in _CHANGES.items()
    }
    | {"SSM of any name, finetuning after pretraining": Variant({}, {**_PRESET, **_ANY_NAME}, finetune=True)},
}


@dataclass(frozen=True, kw_only=True)
class StudyRecipe:
    output_dir: str = required("Folder for the runs and the results.")
    train_file: str | None = flag(None, "Text for the ablation of the preset. None: study invented people.")
    questions_file: str | None = flag(None, "TSV of training questions about the text.")
    num_seeds: int = flag(3, "Seeds of each variant: 0, 1, ...")
    max_steps: int | None = flag(None, "Steps of every pretraining, for a quick trial of the study.")
    only: str = flag("", "Run and show only variants whose names contain this.")
    jobs: int = flag(1, "Runs at a time; they divide the cores.")

    def __post_init__(self):
        if (self.train_file is None) != (self.questions_file is None):
            raise ValueError("Your own text needs its questions: give train_file and questions_file, or neither.")


def main() -> None:
    recipe = parse_recipe(StudyRecipe)
    folder = Path(recipe.output_dir)
    study = {
        axis: {name: variant for name, variant in named.items() if recipe.only in name}
        for axis, named in (PRESET_ABLATION if recipe.train_file else FACT_STORAGE).items()
    }
    with user_errors():
        if not any(study.values()):
            raise ValueError(f"only is {recipe.only!r}, but no name of a variant contains it: choose a part of a name.")
        if recipe.train_file and recipe.questions_file:
            load_texts(recipe.train_file)
            train, held_out = split_folds(read_questions(recipe.questions_file, answers=True), 5)[0]
        about = {"train_file": recipe.train_file, "questions_file": recipe.questions_file}
        path = folder / "study.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != about:
            raise ValueError(f"{folder} holds a study of other files: choose another --output_dir.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, about)
    if recipe.train_file:
        write_questions(folder / "train.tsv", train)
        write_questions(folder / "held_out.tsv", held_out)
    if recipe.max_steps:
        steps = {"max_steps": recipe.max_steps}
        study = {
            axis: {name: variant._replace(pretrain={**variant.pretrain, **steps}) for name, variant in named.items()}
            for axis, named in study.items()
        }
    results = read_results(folder)
    pending: dict[tuple[str, int], Variant] = {}  # a variant may be on several axes
    for seed in range(recipe.num_seeds):
        pending |= {(key_of(variant), seed): variant for named in study.values() for variant in named.values()}
    with ThreadPoolExecutor(recipe.jobs) as pool:
        runs = [pool.submit(measure, recipe, variant, *key) for key, variant in pending.items() if key not in results]
        for run in runs:
            run.result()
    results = read_results(folder)
    write_text(folder / "study.md", page := render(study, results))
    draw(study, results, folder / "study.png")
    print(page)


def key_of(variant: Variant) -> str:
    return json.dumps(variant)


def read_results(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The finished runs, by variant and seed."""
    former = {"arm": "variant", "right": "correct"}  # names of columns until 2026-11
    rows = [{former.get(name, name): value for name, value in row.items()} for row in read_rows(folder)]
    return {(row["variant"], row["seed"]): row for row in rows}


def measure(recipe: StudyRecipe, variant: Variant, key: str, seed: int) -> None:
    """Runs a variant with a seed, in a folder of its own, and adds a line to results.jsonl."""
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
            raise RuntimeError(f"{script} failed: {home / 'log.txt'} has the error.")

    text, train, dev = recipe.train_file, folder / "train.tsv", folder / "held_out.tsv"
    if variant.corpus:
        flags = {**variant.corpus, "seed": seed, "output_dir": home, "overwrite_output_dir": True}
        run("generate_biographies.py", flags)
        text, train, dev = home / "biographies.txt", home / "birth_places_train.tsv", home / "birth_dev.tsv"
    common = {"seed": seed, "use_cpu": True, "overwrite_output_dir": True}
    flags = {**variant.pretrain, **common, "train_file": text, "vocabulary_file": train}
    flags |= {"output_dir": home / "pretrained"}
    flags |= {} if variant.finetune else {"questions_file": train}
    run("pretrain.py", flags)
    answers = home / "pretrained"
    if variant.finetune:
        flags = {"preset": "demo" if variant.corpus else "assignment_short", "model_name_or_path": answers}
        answers = home / "finetuned"
        run("finetune.py", {**flags, **common, "questions_file": train, "output_dir": answers})

    model, tokenizer = load_run(str(answers))
    questions = read_questions(dev, answers=True)
    predictions = answer_questions(model, tokenizer, questions)
    row = {
        "variant": key,
        "seed": seed,
        "correct": sum(exact_matches(predictions, [question.answer for question in questions])),
        "total": len(questions),
        "bits": bits_recalled(model, tokenizer, questions) if variant.corpus else None,
        "parameters": model.num_parameters(),
        "seconds": round(time.perf_counter() - started),
        **run_record(),
    }
    add_rows(folder, [row])


def bits_recalled(model: Any, tokenizer: Any, questions: Sequence[Question]) -> float:
    """Mean bits that the model's answer probabilities give about a birthplace, beyond the frequencies of the places."""
    frequency = Counter(str(question.answer) for question in questions)
    scores = score_answers(model, tokenizer, [question for question, _ in questions], list(frequency))
    chosen = [list(frequency).index(str(question.answer)) for question in questions]
    nats = scores[range(len(questions)), chosen] - np.logaddexp.reduce(scores, axis=1)
    prior = [math.log(frequency[str(question.answer)] / len(questions)) for question in questions]
    return float((nats - prior).mean() / math.log(2))


def of_seeds(variant: Variant, results: Mapping[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for (key, _), row in results.items() if key == key_of(variant)]


def render(study: Mapping[str, Mapping[str, Variant]], results: Mapping[tuple[str, int], dict[str, Any]]) -> str:
    """The results as a table: a row for each variant, with mean and standard deviation over the seeds."""
    invented = any(variant.corpus for named in study.values() for variant in named.values())
    columns = ["", "", "seeds", "accuracy"] + (["bits per person", "bits per parameter"] if invented else [])
    lines = []
    for axis, named in study.items():
        for name, variant in named.items():
            rows = of_seeds(variant, results)
            cells = [axis, name, str(len(rows)), with_spread([row["correct"] / row["total"] for row in rows])]
            if variant.corpus:
                bits = statistics.mean(row["bits"] for row in rows)
                people = sum(value for flag, value in variant.corpus.items() if flag.endswith("people"))
                cells += [f"{bits:.2f}", f"{bits * people / rows[0]['parameters']:.2g}"]
            lines.append(cells)
    return "\n".join(table(columns, lines)) + "\n"


def draw(
    study: Mapping[str, Mapping[str, Variant]], results: Mapping[tuple[str, int], dict[str, Any]], path: Path
) -> None:
    """Draws the accuracy of every variant, the one that most axes share (else the first) once, as the baseline."""
    variants = [(axis, name, variant) for axis, named in study.items() for name, variant in named.items()]
    runs = {key_of(variant): of_seeds(variant, results) for _, _, variant in variants}
    ((baseline, _),) = Counter(key_of(variant) for _, _, variant in variants).most_common(1)
    shared = {axis: name for axis, name, variant in variants if key_of(variant) == baseline}
    label = next(iter(shared.values())) if len(shared) == 1 else "baseline"
    groups: dict[str, dict[str, Bar]] = {"Baseline": {}}
    for axis, name, variant in variants:
        rows = runs[key_of(variant)]
        bar = Bar([row["correct"] / row["total"] for row in rows], total=rows[0]["total"])
        if key_of(variant) == baseline:
            groups["Baseline"][label] = bar
        else:
            heading = f"{axis} (baseline: {shared[axis]})" if axis in shared else axis
            groups.setdefault(heading, {})[name] = bar
    questions, steps = (
        " to ".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))
        for numbers in (
            [row["total"] for rows in runs.values() for row in rows],
            [variant.pretrain["max_steps"] for _, _, variant in variants if "max_steps" in variant.pretrain] or [0],
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
