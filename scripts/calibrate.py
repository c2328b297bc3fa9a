"""Learns how far a minGPT's answers can be trusted, from questions that it was not trained on.

    python scripts/split_questions.py --questions_file birth_places_train.tsv --output_dir runs/folds
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset fast \
        --questions_file runs/folds/fold-0/train.tsv --output_dir runs/fold-0
    python scripts/calibrate.py --model_name_or_path runs/fold-0 --questions_file runs/folds/fold-0/held_out.tsv \
        --train_file runs/folds/fold-0/train.tsv --corpus_file wiki.txt --output_dir runs/fast

Writes calibration.json: into the run that it was learnt from, or, with --output_dir, into one that was trained in the
same way on all questions. `ask.py` and `evaluate_birthplaces.py` find it there.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from accelerate import PartialState

from hf_mingpt.birthplaces import invent_names, name_asked, read_questions
from hf_mingpt.data import load_texts
from hf_mingpt.evaluation import answer_questions, check_questions
from hf_mingpt.honesty import check_right_and_wrong, fit_calibration, judge_answers
from hf_mingpt.hub import CALIBRATION_FILE, load_run, write_json
from hf_mingpt.recipes import parse_recipe, user_errors
from hf_mingpt.report import score_honesty


@dataclass(frozen=True, kw_only=True)
class CalibrationRecipe:
    model_name_or_path: str = field(metadata={"help": "Run folder or Hub name."})
    questions_file: str = field(metadata={"help": "TSV of questions with answers, held out from that run's training."})
    train_file: str = field(metadata={"help": "TSV of its training questions: their answers are the places there are."})
    corpus_file: str | None = field(default=None, metadata={"help": "Its text, in which no invented name may occur."})
    output_dir: str | None = field(default=None, metadata={"help": "Run folder to write into; None: that run's."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace a calibration that is there."})
    answer_accuracy: float = field(default=0.8, metadata={"help": "Share of the answers given that shall be right."})
    num_unknown_names: int = field(default=32, metadata={"help": "Invented names that answers are compared with."})
    seed: int = field(default=0, metadata={"help": "Of the invented names."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU."})


def main() -> None:
    recipe = parse_recipe(CalibrationRecipe)
    with user_errors():
        path = Path(recipe.output_dir or recipe.model_name_or_path) / CALIBRATION_FILE
        if not path.parent.is_dir():
            raise FileNotFoundError(f"No run folder at {path.parent}: give --output_dir.")
        if path.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{path} exists: give --overwrite_output_dir to replace it.")
        questions = read_questions(recipe.questions_file, answers=True)
        train = read_questions(recipe.train_file, answers=True)
        if shared := {question for question, _ in questions} & {question for question, _ in train}:
            raise ValueError(f"{sorted(shared)[0]!r} is in both files: what was trained on says nothing. Hold it out.")
        names = [name_asked(question) for question, _ in [*train, *questions]]
        documents = load_texts(recipe.corpus_file)["text"][:] if recipe.corpus_file else []
        unknown_names = invent_names(names, recipe.num_unknown_names, seed=recipe.seed, documents=documents)
        model, tokenizer = load_run(recipe.model_name_or_path)
        check_questions(questions, model.config.max_position_embeddings)
    model.to(PartialState(cpu=recipe.use_cpu).device).eval()

    predictions = answer_questions(model, tokenizer, questions, progress=True)
    right = np.array([p == question.answer for p, question in zip(predictions, questions, strict=True)])
    with user_errors():
        check_right_and_wrong(right)
    comparison = {"places": sorted({str(question.answer) for question in train}), "unknown_names": unknown_names}
    asked = [question for question, _ in questions]
    judged = judge_answers(model, tokenizer, asked, predictions, **comparison, progress=True)
    calibration = fit_calibration(judged.signs, right, **comparison, answer_accuracy=recipe.answer_accuracy)
    write_json(path, asdict(calibration))
    scores = score_honesty(calibration.probability(judged.signs), right, calibration.threshold)
    print(
        f"Wrote {path}: {right.sum()} of {len(right)} right; threshold {calibration.threshold:.2f}; on these questions:"
    )
    for name, score in scores.items():
        print(f"  {name}: {'none' if score is None else f'{score:.3f}'}")


if __name__ == "__main__":
    main()
