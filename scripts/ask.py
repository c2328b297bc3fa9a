"""Asks a minGPT. It answers with a calibrated probability, or says "I don't know".

    python scripts/ask.py "Where was Albert Einstein born?" --model_name_or_path runs/closed_book --train_file wiki.txt
    python scripts/ask.py "Albert Einstein" "Ada Byron" --model_name_or_path runs/closed_book
    python scripts/ask.py "Nobody Known"

A bare name gets each kind of question that the run was calibrated on. A sentence with a gap works as well: "Albert
Einstein was born in [MASK].". The run (a folder or a Hub name) needs a calibration.json (scripts/calibrate.py); without
a name, it is the run of `make demo`. With --train_file, the line that a question is about is shown.
"""

from dataclasses import dataclass

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.subjects import find_documents
from hf_mingpt.evaluation.answer_page import describe_reason
from hf_mingpt.evaluation.calibration import Answer, ask
from hf_mingpt.hub.loading import find_run, load_calibration, load_run
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import flag
from hf_mingpt.system.launching import join_processes
from hf_mingpt.system.wording import percent


@dataclass(frozen=True, kw_only=True)
class AskRecipe:
    questions: tuple[str, ...] = flag((), "Questions, or names to ask about.", formerly="names")
    model_name_or_path: str | None = flag(None, "Run folder or Hub name. None: the run of `make demo`.")
    train_file: str | None = flag(
        None, "The text that the model was trained on: shows the line that a question is about.", formerly="corpus_file"
    )
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    use_cpu: bool = flag(False, "Stay on the CPU.")

    def __post_init__(self):
        if not self.questions:
            raise ValueError(
                'No question: give one or a name, as in `ask.py "Ada Byron" --model_name_or_path runs/demo/finetuned`.'
            )


def main() -> None:
    recipe = parse_recipe(AskRecipe, positionals=("questions",))
    with user_errors():
        run = find_run(recipe.model_name_or_path)
        model, tokenizer = load_run(run, recipe.revision)
        calibration = load_calibration(run, recipe.revision)
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        model.to(join_processes(use_cpu=recipe.use_cpu).device).eval()
        answers = ask(model, tokenizer, recipe.questions, calibration)
    lines = find_documents([answer.question for answer in answers], documents, [answer.answer for answer in answers])
    for answer, line in zip(answers, lines, strict=True):
        is_name = len(calibration.templates) == 1 and answer.name in recipe.questions
        print(describe(answer, line, calibration.threshold, answer.name if is_name else answer.question))


def describe(answer: Answer, line: str | None, threshold: float, asked: str) -> str:
    """Formats an answer in two to four lines."""
    reply = f"{answer.answer} ({percent(answer.probability)} likely to be correct)"
    if not answer.confident:
        below = f"below the threshold of {100 * threshold:.4g}%"
        reply = f"I don't know ({answer.answer} is {percent(answer.probability)} likely to be correct, {below})"
    alternatives = ", ".join(f"{other} {percent(probability)}" for other, probability in answer.alternatives)
    text = f"{asked}: {reply}\n    alternatives: {alternatives}"
    if not answer.template:
        text += "\n    note: the run was not calibrated on questions like this one: the probability is a guess"
    if reason := describe_reason(answer):
        text += f"\n    why: {reason}"
    return text + (f"\n    text: {line}" if line else "")


if __name__ == "__main__":
    main()
