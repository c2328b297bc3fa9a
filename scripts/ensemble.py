r"""Combines several minGPTs, or phrasings: of their answers to a question, the one with the greatest mean probability.

    python scripts/ensemble.py runs/run-0 runs/run-1 runs/run-2 --questions_file birth_dev.tsv \
        --output_dir runs/ensemble

Writes predictions.txt (one per line, in the order of the questions) and, if the file has answers, report.json with the
accuracy of each run and of the ensemble. With --train_questions_file, it also writes distilled.tsv: the training
questions, and the questions of the file with the ensemble's answers. One model is distilled from them:

    python scripts/ensemble.py runs/run-0 runs/run-1 runs/run-2 --questions_file birth_test_inputs.tsv \
        --train_questions_file birth_places_train.tsv --output_dir runs/teachers
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file runs/teachers/distilled.tsv --output_dir runs/distilled

With --masked_forms, every run is also asked in masked forms, as in pretraining. One run is enough then:

    python scripts/ensemble.py runs/run-0 --masked_forms 3 --train_file wiki.txt \
        --train_questions_file birth_places_train.tsv --questions_file birth_dev.tsv --output_dir runs/four-phrasings
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.phrasings import find_masked_forms, rephrase
from hf_mingpt.data.questions import Question, add_pseudo_labels, read_questions, write_questions
from hf_mingpt.data.validation import warn_of_training_questions
from hf_mingpt.evaluation.answering import (
    answer_questions,
    check_questions,
    describe_unknown_characters,
    with_mark,
    write_predictions,
)
from hf_mingpt.evaluation.ensemble import ensemble_answers
from hf_mingpt.evaluation.report import format_table
from hf_mingpt.evaluation.scoring import accuracy, baselines, file_record
from hf_mingpt.hub.loading import load_run, warn_of_text_only
from hf_mingpt.hub.records import run_record
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors, warn
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.system.files import name_apart
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.wording import count
from hf_mingpt.system.writing import check_no_writer, one_writer, write_json


@dataclass(frozen=True, kw_only=True)
class EnsembleRecipe:
    runs: tuple[str, ...] = flag((), "Run folders or Hub names.")
    questions_file: str = required("TSV or Hub dataset of questions, with or without answers.")
    output_dir: str = required("Folder to write.")
    train_questions_file: str | None = flag(
        None,
        "TSV or Hub dataset of the training questions, for distilled.tsv, the baseline and masked forms.",
        formerly="train_file",
    )
    masked_forms: int = flag(
        0,
        "Ask in this number of masked forms too, the most frequent ones, such as `Ada Byron. in [MASK], `.",
    )
    train_file: str | None = flag(None, "Text that the runs were pretrained on, for masked forms.")
    overwrite_output_dir: bool = flag(False, "Replace existing predictions.")
    batch_size: int = flag(128, "Questions per batch.")
    use_cpu: bool = flag(False, "Stay on the CPU.")

    def __post_init__(self):
        check_least(self, 1, "batch_size")
        check_least(self, 0, "masked_forms")
        if len(self.runs) < (1 if self.masked_forms else 2):
            raise ValueError(
                f"An ensemble needs two runs or more, not {len(self.runs)}: name their folders, or ask one in "
                "--masked_forms."
            )
        if self.masked_forms and None in (self.train_file, self.train_questions_file):
            raise ValueError("masked_forms are counted in a text: give --train_file and --train_questions_file.")


def main() -> None:
    recipe = parse_recipe(EnsembleRecipe, positionals=("runs",))
    folder = Path(recipe.output_dir)
    with user_errors():
        check_no_writer(folder)
        if (folder / "predictions.txt").exists() and not recipe.overwrite_output_dir:
            raise ValueError(
                f"{folder} holds predictions: choose another --output_dir, or give --overwrite_output_dir."
            )
        labels = ["the run ensemble" if label == "ensemble" else label for label in name_apart(recipe.runs)]
        questions = read_questions(recipe.questions_file)
        train = read_questions(recipe.train_questions_file, answers=True) if recipe.train_questions_file else None
        warn_of_training_questions(questions, train or [])
        asked = [question for question, _ in questions]
        phrasings = rephrase_questions(recipe, asked, train) if recipe.masked_forms and train else []
        runs = [load_run(name) for name in recipe.runs]
        for name, (model, tokenizer) in zip(recipe.runs, runs, strict=True):
            warn_of_text_only(name, model, tokenizer)
            for texts in (asked, *phrasings):
                check_questions(as_asked(texts, tokenizer), tokenizer, model.config.max_position_embeddings)
        for unknown in dict.fromkeys(describe_unknown_characters(questions, tokenizer) for _, tokenizer in runs):
            if unknown:  # once if the runs have one vocabulary
                warn(unknown)
        device = join_processes(use_cpu=recipe.use_cpu).device
    for model, _ in runs:
        model.to(device).eval()

    predictions = [
        answer_questions(*run, as_asked(texts, run[1]), batch_size=recipe.batch_size, progress=True)
        for texts in (asked, *phrasings)
        for run in runs
    ]
    chosen = ensemble_answers(runs, asked, predictions, phrasings=phrasings, progress=True)
    with accidents(), one_writer(folder):
        write(recipe, folder, questions, train, dict(zip(labels, predictions, strict=False)), chosen)


def as_asked(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    return [Question(with_mark(text, tokenizer), None) for text in texts]


def rephrase_questions(recipe: EnsembleRecipe, asked: list[str], train: list[Question]) -> list[list[str]]:
    forms = find_masked_forms(train, load_texts(str(recipe.train_file))["text"][:], recipe.masked_forms)
    for template, found in forms.items():
        print(f"{template} is also asked as {', '.join(f'{str(form)!r}' for form in found)}.")
    phrasings = rephrase(asked, forms)
    if not any(texts != asked for texts in phrasings):
        raise ValueError(f"{recipe.train_file} has no masked form of these questions: leave --masked_forms out.")
    return phrasings


def write(recipe: EnsembleRecipe, folder: Path, questions, train, predictions: dict[str, list[str]], chosen) -> None:
    write_predictions(folder / "predictions.txt", chosen)
    for name in ("distilled.tsv", "report.json"):  # of earlier predictions
        (folder / name).unlink(missing_ok=True)
    print(f"Wrote {folder / 'predictions.txt'}: {count(len(questions), 'prediction')}.")
    if train:
        labeled = add_pseudo_labels(train, [question for question, _ in questions], chosen)
        write_questions(folder / "distilled.tsv", labeled)
        print(
            f"Wrote {folder / 'distilled.tsv'}: {count(len(train), 'training question')} and "
            f"{len(labeled) - len(train):,} more."
        )
    if questions[0].answer is not None:
        references = [question.answer for question in questions]
        rows = {name: accuracy(answers, references) for name, answers in predictions.items()}
        rows["ensemble"] = accuracy(chosen, references)
        rows |= baselines(train, questions)
        content = {"questions": file_record(recipe.questions_file, questions), "results": rows, **run_record()}
        write_json(folder / "report.json", content)
        print(format_table(rows))


if __name__ == "__main__":
    main()
