"""Learns how far a minGPT's answers can be trusted, from questions that it was not trained on.

    python scripts/split_questions.py --questions_file birth_places_train.tsv --output_dir runs/folds
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file runs/folds/fold-0/train.tsv --output_dir runs/fold-0
    python scripts/calibrate.py --model_name_or_path runs/fold-0 --questions_file runs/folds/fold-0/held_out.tsv \
        --train_questions_file runs/folds/fold-0/train.tsv --train_file wiki.txt --output_dir runs/fast

Writes calibration.json: into the run that it was learnt from, or, with --output_dir, into one that was trained in the
same way on all questions. `ask.py` and `evaluate_birthplaces.py` find it there. What that run says of invented people
helps to choose the threshold under which the honest answer is "I don't know".
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hf_mingpt.data.birthplaces import invent_names, name_asked, question_about
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions
from hf_mingpt.evaluation.answering import answer_questions, check_questions
from hf_mingpt.evaluation.calibration import (
    ConfidenceFeatures,
    check_right_and_wrong,
    compute_confidence,
    fit_calibration,
)
from hf_mingpt.evaluation.report import calibration_metrics
from hf_mingpt.evaluation.scoring import exact_matches
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.run_folders import CALIBRATION_FILE, check_finished
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import check_fraction, check_least, flag, required
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.writing import check_no_writer, one_writer, write_json


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    questions_file: str = required("TSV of questions with answers, held out from the training of that run.")
    train_questions_file: str = required(
        "TSV of the run's training questions: their answers are the possible places.", formerly="train_file"
    )
    train_file: str | None = flag(
        None, "The text that the run was trained on: no invented name occurs in it.", formerly="corpus_file"
    )
    output_dir: str | None = flag(None, "Run folder to write into. None: the run itself.")
    overwrite_output_dir: bool = flag(False, "Replace an existing calibration.")
    target_accuracy: float = flag(
        0.8, "Accuracy that the answers over the threshold shall reach.", formerly="answer_accuracy"
    )
    max_false_answer_rate: float = flag(0.1, "Highest rate of answers about invented names.", formerly="false_answers")
    num_invented_names: int = flag(400, "Invented names to measure that rate on.")
    num_unknown_names: int = flag(32, "Invented names that each answer is compared with.")
    seed: int = flag(0, "Seed of the invented names.")
    use_cpu: bool = flag(False, "Stay on the CPU.")

    def __post_init__(self):
        check_least(self, 0, "num_invented_names", "seed")
        check_least(self, 1, "num_unknown_names")
        check_fraction(self, "target_accuracy", "max_false_answer_rate")


def main() -> None:
    recipe = parse_recipe(CalibrationRecipe)
    with user_errors():
        path = Path(recipe.output_dir or recipe.model_name_or_path) / CALIBRATION_FILE
        if not path.parent.is_dir():
            raise FileNotFoundError(f"No run folder at {path.parent}: give --output_dir.")
        check_no_writer(path.parent)
        if path.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{path} exists: give --overwrite_output_dir to replace it.")
        for folder in (recipe.model_name_or_path, path.parent):
            check_finished(folder)
        questions = read_questions(recipe.questions_file, answers=True)
        train = read_questions(recipe.train_questions_file, answers=True)
        if shared := {question for question, _ in questions} & {question for question, _ in train}:
            raise ValueError(f"{sorted(shared)[0]!r} is in both files: what was trained on says nothing. Hold it out.")
        names = [name_asked(question) for question, _ in [*train, *questions]]
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        number = recipe.num_unknown_names + recipe.num_invented_names
        made_up = invent_names(names, number, seed=recipe.seed, documents=documents)
        unknown_names, invented = made_up[: recipe.num_unknown_names], made_up[recipe.num_unknown_names :]
        held_out_run = load_run(recipe.model_name_or_path)
        run = load_run(recipe.output_dir) if recipe.output_dir else held_out_run
        for model, _ in (held_out_run, run):
            check_questions(questions, model.config.max_position_embeddings)
            model.to(join_processes(use_cpu=recipe.use_cpu).device).eval()

    predictions = answer_questions(*held_out_run, questions, progress=True)
    right = np.array(exact_matches(predictions, [question.answer for question in questions]))
    with user_errors():
        check_right_and_wrong(right)
    places = sorted({str(question.answer).strip() for question in train})
    comparison = {"places": places, "unknown_names": unknown_names}

    def take_signs(run, asked: list[Question], predictions: list[str]) -> ConfidenceFeatures:
        questions = [question for question, _ in asked]
        return compute_confidence(*run, questions, predictions, **comparison, progress=True).signs

    signs = take_signs(held_out_run, questions, predictions)
    about_nobody = [Question(question_about(name), None) for name in invented]
    calibration = fit_calibration(
        signs,
        right,
        of_invented=take_signs(run, about_nobody, answer_questions(*run, about_nobody)) if invented else None,
        **comparison,
        answer_accuracy=recipe.target_accuracy,
        false_answers=recipe.max_false_answer_rate,
    )
    with accidents(), one_writer(path.parent):
        write_json(path, asdict(calibration))
    scores = calibration_metrics(calibration.probability(signs), right, calibration.threshold)
    print(
        f"Wrote {path}: {right.sum()} of {len(right)} right; threshold {calibration.threshold:.2f}; on these questions:"
    )
    for name, score in scores.items():
        print(f"  {name}: {'none' if score is None else f'{score:.3f}'}")


if __name__ == "__main__":
    main()
