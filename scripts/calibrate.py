r"""Calibrates a minGPT on questions that it was not trained on.

    python scripts/split_questions.py --questions_file birth_places_train.tsv --output_dir runs/folds
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file runs/folds/fold-0/train.tsv --output_dir runs/fold-0
    python scripts/calibrate.py --model_name_or_path runs/fold-0 --questions_file runs/folds/fold-0/held_out.tsv \
        --train_questions_file runs/folds/fold-0/train.tsv --train_file wiki.txt --output_dir runs/closed_book

Writes calibration.json into the run or, with --output_dir, into another run that was trained in the same way on all
questions; the answers of that run about invented names then limit the threshold. `ask.py` and `evaluate_birthplaces.py`
use the file.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import read_questions
from hf_mingpt.evaluation.answering import describe_unknown_characters
from hf_mingpt.evaluation.calibrating import calibrate
from hf_mingpt.evaluation.scoring import calibration_metrics
from hf_mingpt.hub.loading import load_run, warn_of_text_only
from hf_mingpt.hub.run_folders import CALIBRATION_FILE, check_finished
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors, warn
from hf_mingpt.system.fields import check_fraction, check_least, flag, required
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.writing import check_no_writer, one_writer, write_json


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    questions_file: str = required(
        "TSV or Hub dataset of questions with answers, held out from the training of that run."
    )
    train_questions_file: str = required(
        "TSV or Hub dataset of the run's training questions: their answers are the candidates.", formerly="train_file"
    )
    train_file: str | None = flag(
        None,
        "The text that the run was trained on: no invented name is in it, and masked forms come from it.",
        formerly="corpus_file",
    )
    output_dir: str | None = flag(None, "Run folder to write into. None: the run itself.")
    overwrite_output_dir: bool = flag(False, "Replace an existing calibration.")
    target_accuracy: float = flag(
        0.8, "Accuracy that the answers over the threshold shall reach.", formerly="answer_accuracy"
    )
    max_false_answer_rate: float = flag(0.1, "Highest rate of answers about invented names.", formerly="false_answers")
    num_invented_names: int = flag(400, "Invented names to measure that rate on.")
    num_unknown_names: int = flag(32, "Invented names that each answer is compared with, for each kind of question.")
    use_cpu: bool = flag(False, "Stay on the CPU.")
    CONSTANTS: ClassVar = {"seed": 0}  # of the invented names

    def __post_init__(self):
        check_least(self, 0, "num_invented_names")
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
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        held_out_run = load_run(recipe.model_name_or_path)
        if unknown := describe_unknown_characters(questions, held_out_run[1]):
            warn(unknown)
        warn_of_text_only(recipe.model_name_or_path, *held_out_run)
        run = load_run(recipe.output_dir) if recipe.output_dir else held_out_run
        for model, _ in (held_out_run, run):
            model.to(join_processes(use_cpu=recipe.use_cpu).device).eval()
        calibration, probability, correct = calibrate(
            held_out_run,
            questions,
            train,
            run=run,
            documents=documents,
            num_unknown_names=recipe.num_unknown_names,
            num_invented_names=recipe.num_invented_names,
            seed=0,
            target_accuracy=recipe.target_accuracy,
            max_false_answer_rate=recipe.max_false_answer_rate,
            progress=True,
        )

    with accidents(), one_writer(path.parent):
        write_json(path, asdict(calibration))
    print(f"Wrote {path}: {correct.sum()} of {len(correct)} correct, threshold {calibration.threshold:.4g}.")
    if calibration.has_names:
        print("The model has learned the names of its text: about a name that it does not know, it abstains.")
    for name, score in calibration_metrics(probability, correct, calibration.threshold).items():
        print(f"  {name}: {'none' if score is None else f'{score:.3f}'}")


if __name__ == "__main__":
    main()
