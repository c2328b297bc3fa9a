"""Asks a minGPT where people were born. It answers with a calibrated probability, or says "I don't know".

    python scripts/ask.py "Albert Einstein" "Ada Byron" --model_name_or_path runs/fast --train_file wiki.txt

The run (a folder or a Hub name) needs a calibration.json (scripts/calibrate.py). With --train_file, the line about the
person is shown.
"""

from dataclasses import dataclass

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.calibration import Answer, ask
from hf_mingpt.evaluation.report import find_biographies
from hf_mingpt.hub.loading import load_calibration, load_run
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.wording import percent


@dataclass(frozen=True, kw_only=True)
class AskRecipe:
    names: tuple[str, ...] = flag((), "People to ask about.")
    model_name_or_path: str = required("Run folder or Hub name.")
    train_file: str | None = flag(
        None, "The text that the model was trained on: shows the line about the person.", formerly="corpus_file"
    )
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    use_cpu: bool = flag(False, "Stay on the CPU.")

    def __post_init__(self):
        if not self.names:
            raise ValueError('No name: give one, as in `ask.py "Ada Byron" --model_name_or_path runs/fast`.')


def main() -> None:
    recipe = parse_recipe(AskRecipe, positionals=("names",))
    with user_errors():
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        calibration = load_calibration(recipe.model_name_or_path, recipe.revision)
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        model.to(join_processes(use_cpu=recipe.use_cpu).device).eval()
        answers = ask(model, tokenizer, recipe.names, calibration)
    lines = find_biographies([Question(question_about(name), None) for name in recipe.names], documents)
    for answer, line in zip(answers, lines, strict=True):
        print(describe(answer, line, calibration.threshold))


def describe(answer: Answer, line: str | None, threshold: float) -> str:
    """Formats an answer in two or three lines."""
    reply = f"{answer.place} ({percent(answer.probability)} likely to be correct)"
    if not answer.confident:
        below = f"below the threshold of {100 * threshold:.4g}%"
        reply = f"I don't know ({answer.place} is {percent(answer.probability)} likely to be correct, {below})"
    alternatives = ", ".join(f"{place} {percent(probability)}" for place, probability in answer.alternatives)
    text = f"{answer.name}: {reply}\n    alternatives: {alternatives}"
    return text + (f"\n    text: {line}" if line else "")


if __name__ == "__main__":
    main()
