r"""Study: how often must a model read a fact before it knows it, and how many facts does a model hold?

    python benchmarks/exposure.py --output_dir runs/exposure
    python benchmarks/exposure.py --output_dir runs/exposure --only "10,000 people"

Each cell is one pretraining on biographies of invented people, with questions about two fifths of them mixed in. It has
a number of people, a masking policy, an architecture, and *exposures*: sequences about each person that the model reads
in the whole run. The learning rate decays to 0 in each cell; only the cells called "one run" have a constant rate and
averaged weights, and are evaluated at several points. An evaluation asks for every birthplace: in a biography that
masks it, as in training, and in a question.

The first cells, the cheapest, take seconds; all of them take days on two cores. After each cell, the study writes
exposure.md, exposure.json and exposure.png. It skips cells that results.jsonl has already, so you can stop it at any
time and start it again.

References: Allen-Zhu and Li 2024, Physics of Language Models 3.3, arXiv:2404.05405 (exposures, bits per parameter).
"""

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from exposure_figure import draw_exposure
from rows import add_rows, read_rows, table, with_spread

from hf_mingpt import MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.biographies import BiographyRecipe, Corpus, generate_corpus
from hf_mingpt.data.birthplaces import BIRTHPLACE
from hf_mingpt.data.encoding import build_corpus_tokenizer, take
from hf_mingpt.data.questions import Question, write_questions
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import write_text, written_aside
from hf_mingpt.tokenization_mingpt import MASK, SpecialTokens, tokenize, vocabulary_size
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe, build_config
from hf_mingpt.training.setup import batch_shape, build_accelerator

PHRASINGS = 8  # biographies of each person
BETWEEN = 16  # exposures between two evaluations of one run
CONTEXT_LENGTH = 160  # no biography is longer
CONTEXT = {"context_before": 8, "context_after": 2}  # "born in " tells a birthplace from a workplace
FULL_CONTEXT = {"context_before": CONTEXT_LENGTH, "context_after": CONTEXT_LENGTH}
_BY_CHANCE = {"learned_masking_policy": False, "masking_policy_probability": 0.0}
POLICIES: dict[str, dict[str, Any]] = {
    "span corruption": {"ssm_probability": 0.0, "title_prefix_probability": 0.0, **_BY_CHANCE, **FULL_CONTEXT},
    "SSM of any name or number": {"ssm_numbers": True, **_BY_CHANCE, **CONTEXT},
    "SSM of the learned policy": CONTEXT,
}
SPAN, ANY, LEARNED = POLICIES


class Cell(NamedTuple):
    """One pretraining. `one_run`: a constant rate and averaged weights, evaluated every `BETWEEN` exposures."""

    people: int
    policy: str
    hidden_size: int
    num_hidden_layers: int
    exposures: int
    seed: int = 0
    one_run: bool = False

    @property
    def curve(self) -> str:
        """What the cells of one curve share."""
        size = f"width {self.hidden_size}, {self.num_hidden_layers} layers"
        return f"{self.people:,} people, {self.policy}, {size}{', one run' * self.one_run}"


SIZES = ((16, 2), (32, 1), (32, 2), (64, 2), (128, 4))  # hidden size and layers
GRID = [
    Cell(people, policy, *size, exposures)
    for people in (1_000, 10_000)
    for policy in POLICIES
    for size in SIZES
    for exposures in (4, 16, 64, 256, 1024)
]
GRID += [Cell(1_000, LEARNED, 32, 2, 64, seed) for seed in (1, 2)]
GRID += [Cell(1_000, LEARNED, 32, 2, 64, one_run=True)]
GRID.sort(key=lambda cell: cell.people * cell.exposures * cell.hidden_size * cell.num_hidden_layers)


@dataclass(frozen=True, kw_only=True)
class ExposureRecipe:
    output_dir: str = required("Folder for the results.")
    only: str = flag("", "Run only the cells whose names contain this, such as '10,000 people'.")


def main() -> None:
    recipe = parse_recipe(ExposureRecipe)
    folder = Path(recipe.output_dir)
    cells = [cell for cell in GRID if recipe.only in cell.curve]
    with user_errors():
        if not cells:
            raise ValueError(f"only is {recipe.only!r}, but no name of a cell contains it: choose a part of a name.")
    folder.mkdir(parents=True, exist_ok=True)
    done = {Cell(*row["cell"]) for row in read_rows(folder)}
    pending = [cell for cell in cells if cell not in done]
    for cell in pending:
        add_rows(folder, [{"cell": cell, **row, **run_record()} for row in measure(cell)])
        page = show(folder)
    print(page if pending else show(folder))


def show(folder: Path) -> str:
    """Writes the results so far as JSON, as a table, which it returns, and as a figure."""
    curves = collect(read_rows(folder))
    write_text(folder / "exposure.json", json.dumps(curves, indent=1) + "\n")
    write_text(folder / "exposure.md", page := render(curves))
    with written_aside(folder / "exposure.png") as aside:
        draw_exposure(curves, aside)
    return page


def collect(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of each curve by exposures, each a mean over its seeds, in the order in which the table has them."""
    points: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        people, policy, *size, _, _, one_run = Cell(*row["cell"])
        points.setdefault((people, list(POLICIES).index(policy), *size, one_run, row["exposures"]), []).append(row)
    curves: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (*curve, exposures), seeds in sorted(points.items()):
        people, policy, width, layers, one_run = curve
        about = {"people": people, "policy": list(POLICIES)[policy], "hidden_size": width, "num_hidden_layers": layers}
        about |= {"one_run": one_run, "parameters": seeds[0]["parameters"], "prior_bits": seeds[0]["prior_bits"]}
        point: dict[str, Any] = {
            "exposures": exposures,
            "labeled": mean(row["labeled_ratio"] for row in seeds) * exposures,
        }
        for form in ("masked", "question"):
            point[form] = {"accuracies": [row[form]["correct"] / row[form]["total"] for row in seeds]}
            point[form]["bits"] = mean(row[form]["bits"] for row in seeds)
        known = mean(row["masked"]["bits_of_all"] for row in seeds)
        point["bits_per_parameter"] = known * people / about["parameters"]
        curves.setdefault(tuple(curve), {**about, "points": []})["points"].append(point)
    return list(curves.values())


def render(curves: Sequence[Mapping[str, Any]]) -> str:
    """The curves as a table: a row for each point."""
    columns = ["people", "policy", "width, layers", "parameters", "exposures", "with the fact"]
    columns += ["masked form", "bits", "question", "bits", "bits per parameter"]
    rows = []
    for curve in curves:
        size = f"{curve['hidden_size']}, {curve['num_hidden_layers']}{', one run' * curve['one_run']}"
        for point in curve["points"]:
            cells = [f"{curve['people']:,}", curve["policy"], size, f"{curve['parameters']:,}"]
            cells += [str(point["exposures"]), f"{point['labeled']:.0f}"]
            for form in ("masked", "question"):
                cells += [with_spread(point[form]["accuracies"]), f"{max(0, point[form]['bits']):.2f}"]
            rows.append([*cells, f"{max(0, point['bits_per_parameter']):.2f}"])
    return "\n".join(table(columns, rows)) + "\n"


def invent(people: int, seed: int) -> Corpus:
    """People with a birthplace, a workplace and, in half of the wordings, a date of birth; all have a question."""
    asked = 2 * people // 5
    groups = {"num_train_people": asked, "num_dev_people": asked, "num_test_people": people - 2 * asked}
    settings = {"phrasings_per_person": PHRASINGS, "distractor_probability": 1.0}
    return generate_corpus(BiographyRecipe(num_other_people=0, seed=seed, **groups, **settings))


def measure(cell: Cell) -> list[dict[str, Any]]:
    """Trains a cell. Returns a row for each evaluation."""
    started = time.process_time()
    corpus = invent(cell.people, cell.seed)
    people = [Question(*pair) for pair in (*corpus.train, *corpus.dev, *corpus.test)]
    asked = slice(len(corpus.train), len(corpus.train) + len(corpus.dev))
    prior = log2_prior(people)
    forms = {"masked": masked_forms(corpus.documents, people, POLICIES[cell.policy]), "question": people}
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        recipe = write_recipe(cell, corpus, Path(folder))
        accelerator = build_accelerator(recipe)
        questions, texts = people[: len(corpus.train)], load_corpus(recipe, [])
        tokenizer = build_corpus_tokenizer(texts, CONTEXT_LENGTH, more=[f"{q}{a}" for q, a in people])
        shape = batch_shape(recipe, accelerator, CONTEXT_LENGTH)
        steps = build_steps(recipe, texts, questions, tokenizer, shape, block_size=CONTEXT_LENGTH, seed=cell.seed)
        set_seed(cell.seed)
        model = MinGPTForCausalLM(build_config(recipe, vocabulary_size(tokenizer)))
        about = {"parameters": model.num_parameters(), "labeled_ratio": labeled_ratio(steps, corpus, tokenizer)}
        if cell.one_run:
            recipe = replace(recipe, eval_steps=BETWEEN // PHRASINGS * steps.steps_per_epoch)

        def evaluate(trained: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
            row = {"exposures": BETWEEN * (len(rows) + 1) if cell.one_run else cell.exposures, **about}
            row |= {"prior_bits": float(-prior.mean())}
            for form, prompts in forms.items():
                closed = form == "question" or cell.policy != SPAN
                log2, correct = recall(trained, tokenizer, prompts, closed=closed)
                bits = log2 - prior
                row[form] = {"correct": int(correct[asked].sum()), "total": len(corpus.dev)}
                row[form] |= {"bits": float(bits[asked].mean()), "bits_of_all": float(bits.mean())}
                row[form] |= {"correct_of_all": int(correct.sum())}
            rows.append(row | {"cpu_seconds": round(time.process_time() - started, 1)})
            return {"eval_loss": -row["question"]["bits"]}, []

        train(model, steps, recipe, accelerator, evaluate)
    return rows


def write_recipe(cell: Cell, corpus: Corpus, folder: Path) -> PretrainRecipe:
    """Writes the corpus of a cell. Returns the recipe of its pretraining."""
    text, questions, held_out = (folder / name for name in ("biographies.txt", "train.tsv", "dev.tsv"))
    write_text(text, "".join(f"{line}\n" for line in corpus.documents))
    write_questions(questions, corpus.train)
    write_questions(held_out, corpus.dev)
    values = PRETRAIN_PRESETS["closed_book"].values | POLICIES[cell.policy]
    values |= {"hidden_size": cell.hidden_size, "num_hidden_layers": cell.num_hidden_layers, "seed": cell.seed}
    values |= {"num_attention_heads": max(1, cell.hidden_size // 32), "max_position_embeddings": CONTEXT_LENGTH}
    values |= {"num_train_epochs": cell.exposures / PHRASINGS, "logging_steps": 100, "mixed_precision": "no"}
    if cell.one_run:
        values |= {"lr_scheduler_type": "constant_with_warmup", "ema_decay": 0.99}
    return PretrainRecipe(
        train_file=str(text),
        questions_file=str(questions),
        validation_questions_file=str(held_out),
        output_dir=str(folder),
        use_cpu=True,
        **values,
    )


def masked_forms(documents: Sequence[str], people: Sequence[Question], policy: dict[str, Any]) -> list[Question]:
    """Masks the birthplace in one biography of each person, with the longest context that a policy keeps.

    Example: "Ada Byron. Byron was born in Rome on 1 May 1815." becomes "Ada Byron. born in ⁇ o".
    """
    biographies: dict[str, str] = {}
    for document in documents:
        biographies.setdefault(document.partition(". ")[0], document)
    forms = []
    for question, answer in people:
        name = str(BIRTHPLACE.subject_of(question))
        document, title = biographies[name], len(name) + 2
        start = document.index(str(answer), title)
        end = start + len(str(answer))
        before = document[max(title, start - policy["context_before"]) : start]
        after = document[end : end + policy["context_after"]]
        forms.append(Question(f"{document[:title]}{before}{MASK}{after}", answer))
    return forms


def log2_prior(people: Sequence[Question]) -> np.ndarray:
    """(N,) log2 of the frequency of each answer among the answers."""
    frequency = Counter(answer for _, answer in people)
    return np.array([math.log2(frequency[answer] / len(people)) for _, answer in people])


@torch.inference_mode()
def recall(
    model: Any, tokenizer: Any, questions: Sequence[Question], *, closed: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the true answers, and whether greedy decoding gives them.

    Args:
        closed: a MASK ends each answer, as it does in every sequence but those of span corruption.

    Returns:
        (N,) log2 of the probability of each answer, and (N,) booleans.
    """
    pad_id, mask_id = SpecialTokens.of(tokenizer)
    encoded, answers = (tokenize(list(texts), tokenizer)["input_ids"] for texts in zip(*questions, strict=True))
    prompts, answers = [[*ids, mask_id] for ids in encoded], [[*ids, *[mask_id] * closed] for ids in answers]
    lengths = np.array([len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)])
    log2, correct = np.empty(len(questions)), np.empty(len(questions), dtype=bool)
    for index in np.array_split(np.argsort(lengths), -(-len(questions) // 500)):
        ids = torch.full((len(index), lengths[index].max()), pad_id)
        inside = torch.zeros(ids.shape, dtype=torch.bool)
        for row, i in enumerate(index):
            ids[row, : lengths[i]] = torch.tensor(prompts[i] + answers[i])
            inside[row, len(prompts[i]) : lengths[i]] = True
        logits, targets, inside = model(ids).logits[:, :-1], ids[:, 1:], inside[:, 1:]
        chosen = torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None])[..., 0]
        log2[index] = (chosen.double() * inside).sum(1).numpy() / math.log(2)
        correct[index] = ((logits.argmax(-1) == targets) | ~inside).all(1).numpy()
    return log2, correct


def labeled_ratio(steps: TrainingSteps, corpus: Corpus, tokenizer: Any) -> float:
    """The ratio of the sequences whose labels have the whole birthplace."""
    born = {BIRTHPLACE.subject_of(q): a for part in corpus[1:] for q, a in part}
    index = np.arange(min(4000, len(corpus.documents)))
    sequences = steps.objective(take(steps.dataset, index), 0, index)
    labels = sequences.pad(index)["labels"]
    predicted = [str(tokenizer.decode(row[row >= 0])) for row in labels]
    places = [born[corpus.documents[i].partition(". ")[0]] for i in index]
    return float(np.mean([place in text for place, text in zip(places, predicted, strict=True)]))


if __name__ == "__main__":
    main()
