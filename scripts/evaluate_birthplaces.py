r"""Evaluates a minGPT on a file of questions: predictions, accuracy beside baselines, and calibration.

    python scripts/evaluate_birthplaces.py --model_name_or_path runs/rope-answers --questions_file birth_dev.tsv \
        --train_questions_file birth_places_train.tsv --without_pretraining runs/no-pretraining
    python scripts/evaluate_birthplaces.py --model_name_or_path runs/rope-answers \
        --questions_file birth_test_inputs.tsv --output_dir runs/rope-answers/test

The questions may ask for anything, not only for birthplaces. Writes predictions.txt (one per line, in the order of the
questions) and, if the file has answers, report.json; by default into the run folder. With --train_file, the report
tells wrong answers that are not in the text from those that are not recalled. If the run has a calibration.json
(scripts/calibrate.py), it also writes calibration.md and calibration.png. Runs on one process, or on several with
`accelerate launch`.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object

from hf_mingpt.data.birthplaces import invent_for_templates
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions
from hf_mingpt.data.subjects import match
from hf_mingpt.data.validation import warn_of_training_questions
from hf_mingpt.evaluation.answering import (
    answer_questions,
    check_questions,
    describe_unknown_characters,
    write_predictions,
)
from hf_mingpt.evaluation.calibration import Calibration
from hf_mingpt.evaluation.confidence import compute_confidence
from hf_mingpt.evaluation.figures import draw_calibration
from hf_mingpt.evaluation.report import (
    PAGE,
    PICTURE,
    build_report,
    count_wrong_answers,
    format_metrics,
    format_page,
    format_table,
)
from hf_mingpt.evaluation.scoring import accuracy, baselines, file_record
from hf_mingpt.hub.cards import try_card
from hf_mingpt.hub.loading import load_calibration, load_run, warn_of_text_only
from hf_mingpt.hub.records import run_record
from hf_mingpt.hub.run_folders import REPORT_FILES
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors, warn
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.system.files import name_apart
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.wording import count
from hf_mingpt.system.writing import check_no_writer, one_writer, write_json, write_text, written_aside
from hf_mingpt.tokenization_mingpt import tokenize


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    model_name_or_path: str = required("Finetuned run folder or Hub name.")
    questions_file: str = required("TSV or Hub dataset of questions, with or without answers.")
    train_questions_file: str | None = flag(
        None, "TSV or Hub dataset of the training questions, for the most frequent answer.", formerly="train_file"
    )
    without_pretraining: str | None = flag(None, "Run trained without pretraining, to compare.")
    calibration: str | None = flag(None, "Run whose calibration is used. None: the run itself.")
    train_file: str | None = flag(
        None, "The text that the model was trained on, for the calibration report.", formerly="corpus_file"
    )
    num_invented_names: int = flag(200, "Invented names, to measure false answers.")
    output_dir: str | None = flag(None, "Folder to write. None: the run folder.")
    overwrite_output_dir: bool = flag(False, "Replace existing predictions.")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    batch_size: int = flag(128, "Questions per batch.")
    use_cpu: bool = flag(False, "Stay on the CPU.")
    CONSTANTS: ClassVar = {"seed": 1}  # of the invented names: not those of the calibration

    def __post_init__(self):
        check_least(self, 1, "num_invented_names", "batch_size")


def main() -> None:
    recipe = parse_recipe(EvaluationRecipe)
    with user_errors():
        state = join_processes(use_cpu=recipe.use_cpu)
        folder = output_folder(recipe)
        questions = read_questions(recipe.questions_file)
        train = read_questions(recipe.train_questions_file, answers=True) if recipe.train_questions_file else None
        warn_of_training_questions(questions, train or [])
        names = [recipe.model_name_or_path] + [recipe.without_pretraining] * bool(recipe.without_pretraining)
        runs = [load_run(name, recipe.revision if name == recipe.model_name_or_path else None) for name in names]
        for name, (model, tokenizer) in zip(names, runs, strict=True):
            check_questions(questions, tokenizer, model.config.max_position_embeddings)
            warn_of_text_only(name, model, tokenizer)
        if unknown := describe_unknown_characters(questions, runs[0][1]):
            warn(unknown)
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else None
        calibration = find_calibration(recipe) if questions[0].answer is not None else None
        if calibration:
            invented = invent_questions(recipe, calibration, [*questions, *(train or [])], documents or [])

    with accidents(), ExitStack() as stack:
        if state.is_main_process:
            with user_errors():
                stack.enter_context(one_writer(folder))
        for model, _ in runs:
            model.to(state.device).eval()
        predictions = [answer(*run, questions, recipe, state) for run in runs]
        calibration_report = None
        if calibration:
            probability = compute_probability(*runs[0], questions, predictions[0], calibration, state)
            invented_predictions = answer(*runs[0], invented, recipe, state)
            invented_probability = compute_probability(*runs[0], invented, invented_predictions, calibration, state)
            if state.is_main_process:
                calibration_report = build_report(
                    questions,
                    predictions[0],
                    probability,
                    threshold=calibration.threshold,
                    invented_probability=invented_probability,
                    train=train,
                    documents=documents,
                    context_length=runs[0][0].config.max_position_embeddings,
                    count_tokens=lambda text: len(tokenize([text], runs[0][1])["input_ids"][0]),
                )
        if state.is_main_process:
            write(recipe, folder, questions, train, predictions, documents, calibration_report)
    state.destroy_process_group()  # otherwise its threads may abort the interpreter at exit


def find_calibration(recipe: EvaluationRecipe) -> Calibration | None:
    try:
        calibration = load_calibration(recipe.calibration or recipe.model_name_or_path, recipe.revision)
    except FileNotFoundError:
        if recipe.calibration:
            raise
        return None
    if find_spec("matplotlib") is None:
        raise ValueError(
            "The calibration report has a picture, and matplotlib is not installed: pip install matplotlib."
        )
    return calibration


def invent_questions(
    recipe: EvaluationRecipe, calibration: Calibration, questions: list[Question], documents: list[str]
) -> list[Question]:
    """Questions about invented names, in equal numbers for each kind of question that the calibration knows."""
    asked, templates = [question for question, _ in questions], calibration.templates
    kinds = [template for template in templates if any(match(question, templates) == template for question in asked)]
    if not kinds:
        raise ValueError(
            f"None of the {count(len(asked), 'question')} is like those of the calibration, such as `{templates[0]}`: "
            "calibrate on questions of this form."
        )
    number, elsewhere = -(-recipe.num_invented_names // len(kinds)), [*calibration.unknown_names, *documents]
    names = invent_for_templates(asked, templates, number, seed=1, documents=elsewhere)
    return [Question(template.fill(name), None) for template, own in names.items() for name in own]


def answer(model, tokenizer, questions: list[Question], recipe: EvaluationRecipe, state: PartialState) -> list[str]:
    """Answers questions; each process answers its part."""
    with state.split_between_processes(questions) as part:
        own = answer_questions(model, tokenizer, part, batch_size=recipe.batch_size, progress=state.is_main_process)
    return gather_object(own)


def compute_probability(
    model, tokenizer, questions: list[Question], predictions: list[str], calibration: Calibration, state: PartialState
) -> np.ndarray:
    """(N,) the probability that each prediction is correct; each process computes its part."""
    with state.split_between_processes(list(zip(questions, predictions, strict=True))) as part:
        confidence = compute_confidence(
            model,
            tokenizer,
            [question for (question, _), _ in part],
            [prediction for _, prediction in part],
            calibration,
            names=calibration.has_names,
            progress=state.is_main_process,
        )
    return np.array(gather_object(calibration.probability(confidence.features).tolist()))


def output_folder(recipe: EvaluationRecipe) -> Path:
    folder = Path(recipe.output_dir or recipe.model_name_or_path)
    if not recipe.output_dir and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder to write predictions into: give --output_dir.")
    check_no_writer(folder)
    if (folder / "predictions.txt").exists() and not recipe.overwrite_output_dir:
        raise ValueError(f"{folder} holds predictions: choose another --output_dir, or give --overwrite_output_dir.")
    return folder


def write(recipe, folder, questions, train, predictions, documents, calibration_report) -> None:
    write_predictions(folder / "predictions.txt", predictions[0])
    for name in REPORT_FILES:  # of earlier predictions
        (folder / name).unlink(missing_ok=True)
    print(f"Wrote {folder / 'predictions.txt'}: {count(len(questions), 'prediction')}.")
    if questions[0].answer is None:
        return
    references = [question.answer for question in questions]
    rows = {"model": accuracy(predictions[0], references)}
    if recipe.without_pretraining:
        rows["without pretraining"] = accuracy(predictions[1], references)
    rows |= baselines(train, questions)
    wrong = count_wrong_answers(questions, predictions[0], documents) if documents is not None else None
    content = {
        "model_name_or_path": recipe.model_name_or_path,
        "questions": file_record(recipe.questions_file, questions),
        "train": file_record(recipe.train_questions_file, train) if train else None,
        "results": rows,
        **({"wrong_answers": wrong} if wrong else {}),
        **({"calibration": calibration_report} if calibration_report else {}),
        **run_record(),
    }
    write_json(folder / "report.json", content)
    if calibration_report:
        title = f"Calibration of {name_apart([recipe.model_name_or_path])[0]}"
        with written_aside(folder / PICTURE) as aside:
            draw_calibration(calibration_report, aside)
        write_text(folder / PAGE, format_page(calibration_report, title=title))
        print(f"Wrote {folder / PAGE}.")
    if (folder / "run.json").exists():
        try_card(folder)
    print(format_table(rows))
    if wrong:
        print(f"\nWrong answers: {', '.join(f'{number} {reason}' for reason, number in wrong.items())}.")
    if calibration_report:
        print(f"\n{format_metrics(calibration_report)}")


if __name__ == "__main__":
    main()
