"""Asks a finetuned minGPT every question of a file, and reports its accuracy beside the baselines.

    python scripts/evaluate_birthplaces.py --model_name_or_path runs/rope-answers --questions_file birth_dev.tsv \
        --train_file birth_places_train.tsv --without_pretraining runs/no-pretraining
    python scripts/evaluate_birthplaces.py --model_name_or_path runs/rope-answers \
        --questions_file birth_test_inputs.tsv --output_dir runs/rope-answers/test

Writes predictions.txt (one a line, in the order of the questions) and, if the file has answers, report.json; by default
into the run folder. Runs on one process or, by `accelerate launch`, on several.
"""

from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from hf_mingpt.birthplaces import read_questions
from hf_mingpt.evaluation import (
    accuracy,
    answer_questions,
    baselines,
    check_questions,
    file_record,
    format_table,
    write_predictions,
)
from hf_mingpt.hub import load_run, run_record, write_card, write_json
from hf_mingpt.recipes import parse_recipe, user_errors


@dataclass(frozen=True, kw_only=True)
class EvaluationRecipe:
    model_name_or_path: str = field(metadata={"help": "Finetuned run folder or Hub name."})
    questions_file: str = field(metadata={"help": "TSV of questions, with or without answers."})
    train_file: str | None = field(default=None, metadata={"help": "Training TSV, for the most frequent answer."})
    without_pretraining: str | None = field(default=None, metadata={"help": "A run trained from scratch, to compare."})
    output_dir: str | None = field(default=None, metadata={"help": "Where to write; None: into the run folder."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace predictions that are there."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    batch_size: int = field(default=128, metadata={"help": "Questions answered at once."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU."})


def main() -> None:
    recipe = parse_recipe(EvaluationRecipe)
    state = PartialState(cpu=recipe.use_cpu)
    with user_errors():
        folder = output_folder(recipe)
        questions = read_questions(recipe.questions_file)
        train = read_questions(recipe.train_file, answers=True) if recipe.train_file else None
        names = [recipe.model_name_or_path] + [recipe.without_pretraining] * bool(recipe.without_pretraining)
        runs = [load_run(name, recipe.revision if name == recipe.model_name_or_path else None) for name in names]
        for model, _ in runs:
            check_questions(questions, model.config.max_position_embeddings)

    answers = []
    for model, tokenizer in runs:
        with state.split_between_processes(questions) as share:
            model.to(state.device).eval()
            mine = answer_questions(
                model, tokenizer, share, batch_size=recipe.batch_size, progress=state.is_main_process
            )
        answers.append(gather_object(mine))
    if state.is_main_process:
        report(recipe, folder, questions, train, answers)


def output_folder(recipe: EvaluationRecipe) -> Path:
    folder = Path(recipe.output_dir or recipe.model_name_or_path)
    if not recipe.output_dir and not folder.is_dir():
        raise ValueError(f"No output_dir, and {folder} is no folder: give --output_dir.")
    if (folder / "predictions.txt").exists() and not recipe.overwrite_output_dir:
        raise ValueError(f"{folder} holds predictions: choose another --output_dir, or give --overwrite_output_dir.")
    return folder


def report(recipe, folder, questions, train, answers) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.txt", answers[0])
    print(f"Wrote {folder / 'predictions.txt'}: {len(questions)} predictions.")
    if questions[0].answer is None:
        return
    references = [question.answer for question in questions]
    rows = {"model": accuracy(answers[0], references)}
    if recipe.without_pretraining:
        rows["without pretraining"] = accuracy(answers[1], references)
    rows |= baselines(train, references)
    content = {
        "model_name_or_path": recipe.model_name_or_path,
        "questions": file_record(recipe.questions_file),
        "train": file_record(recipe.train_file) if recipe.train_file else None,
        "results": rows,
        **run_record(),
    }
    write_json(folder / "report.json", content)
    if (folder / "run.json").exists():
        write_card(folder)
    print(format_table(rows))


if __name__ == "__main__":
    main()
