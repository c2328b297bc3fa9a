"""Asks a minGPT in the browser: answer, calibrated probability, alternatives, attention map.

    pip install -c constraints.txt -e ".[demo]"
    python scripts/demo.py runs/fast --train_file wiki.txt --questions_file birth_dev.tsv

The run (a folder or a Hub name) needs a calibration.json (scripts/calibrate.py). With --train_file, the page shows the
line that a question is about. With --questions_file, it offers examples that the model answers correctly and wrongly,
beside invented names. The page is on 127.0.0.1 and loads nothing from other hosts; scripts/push_to_hub.py makes a Space
of it.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions
from hf_mingpt.data.subjects import find_documents, match
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import Answer, Calibration, ask
from hf_mingpt.evaluation.markup import escape_html, escape_markdown
from hf_mingpt.evaluation.scoring import is_exact_match
from hf_mingpt.hub.loading import load_calibration, load_run
from hf_mingpt.interpretability.figures import draw_attention
from hf_mingpt.interpretability.logit_lens import explain
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.system.wording import percent

if TYPE_CHECKING:
    import gradio

NUM_EXAMPLES = 3  # of each kind
CHECKED_FOR_EXAMPLES = 100  # questions


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    train_file: str | None = flag(
        None, "The text that the model was trained on: shows the line that a question is about.", formerly="corpus_file"
    )
    questions_file: str | None = flag(None, "TSV or Hub dataset of questions with answers, for examples.")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    port: int = flag(7860, "Port of the page on 127.0.0.1.")

    def __post_init__(self):
        check_least(self, 0, "port")


def main() -> None:
    recipe = parse_recipe(DemoRecipe, positionals=("model_name_or_path",))
    with user_errors():
        if find_spec("gradio") is None:
            raise ValueError('gradio is not installed: pip install -c constraints.txt -e ".[demo]".')
        questions = read_questions(recipe.questions_file, answers=True) if recipe.questions_file else []
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        calibration = load_calibration(recipe.model_name_or_path, recipe.revision)
    model.eval()
    examples = choose_examples(model, tokenizer, questions, calibration)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    page = build_page(model, tokenizer, calibration, documents, examples)
    fonts = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["monospace"],
    }  # the default ones come from another host
    theme = import_module("gradio").themes.Default(**fonts)
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")  # a Space sets it
    page.launch(server_name=host, server_port=recipe.port, theme=theme, ssr_mode=False, footer_links=[])


def choose_examples(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], calibration: Calibration
) -> dict[str, list[str]]:
    """Chooses questions to try: some that the model answers correctly, some wrongly, and some about invented names.

    If the calibration knows only one kind of question, its names stand for the questions.
    """
    sample = random.Random(0).sample(questions, min(CHECKED_FOR_EXAMPLES, len(questions)))
    invented = calibration.unknown_names[:NUM_EXAMPLES]
    kinds: dict[str, list[str]] = {"correct": [], "wrong": [], "invented": invented}
    if len(calibration.templates) > 1:
        kinds["invented"] = [calibration.templates[0].fill(name) for name in invented]
    for question, prediction in zip(sample, answer_questions(model, tokenizer, sample), strict=True):
        kind = kinds["correct" if is_exact_match(prediction, str(question.answer)) else "wrong"]
        if len(kind) < NUM_EXAMPLES:
            template = match(question.question, calibration.templates)
            is_name = template and len(calibration.templates) == 1
            kind.append(str(template.subject_of(question.question)) if is_name else question.question)
    return kinds


def build_page(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    documents: Sequence[str],
    examples: dict[str, list[str]],
) -> "gradio.Blocks":
    """Builds the page: from a question or a name to answer, probability, alternatives, line and attention map.

    A bare name that several questions can be about gets the answers to all of them, and the rest of the page is about
    the first.
    """
    import gradio

    def respond(text: str):
        try:
            answers = ask(model, tokenizer, [text.strip()], calibration)
            attention = draw_attention(explain(model, tokenizer, answers[0].question))
        except ValueError as error:
            raise gradio.Error(escape_html(str(error))) from error
        (line,) = find_documents([answers[0].question], documents)
        return (
            "\n\n".join(describe(answer, calibration.threshold, with_question=len(answers) > 1) for answer in answers),
            dict(answers[0].alternatives),
            line or ("No line is about this." if documents else "Give --train_file to show the line about a name."),
            attention,
        )

    kinds = [escape_markdown(str(template)) for template in calibration.templates]
    with gradio.Blocks(title="Ask a minGPT") as page:
        gradio.Markdown(f"# {' '.join(kinds)}\nA small Transformer answers from its weights, without access to a text.")
        with gradio.Row():
            name = gradio.Textbox(label="Question or name", scale=4, elem_id="name")
            button = gradio.Button("Ask", variant="primary", scale=1, elem_id="ask")
        for kind, names in examples.items():
            if names:
                gradio.Examples([[example] for example in names], inputs=name, label=f"Try: {kind}")
        with gradio.Row():
            answer = gradio.Markdown(elem_id="answer")
            alternatives = gradio.Label(
                label="Alternatives, with their probabilities among the known answers",
                show_heading=False,
                elem_id="alternatives",
            )
        line = gradio.Textbox(label="What the text says", interactive=False, elem_id="line")
        gradio.Markdown(
            "### Attention maps\nHow much each character of the answer attends to the characters before it."
        )
        attention = gradio.Plot(show_label=False, elem_id="attention")
        gradio.on([button.click, name.submit], respond, name, [answer, alternatives, line, attention])
    return page


def describe(answer: Answer, threshold: float, *, with_question: bool) -> str:
    """Formats an answer in Markdown."""
    text, likely = escape_markdown(answer.answer), f"{percent(answer.probability)} likely to be correct"
    below = f"below the threshold of {100 * threshold:.4g}%"
    reply = f"## {text}\n{likely}." if answer.confident else f"## I don't know\n{text} is {likely}, {below}."
    if not answer.template:
        reply += " The model was not calibrated on questions like this one: the probability is a guess."
    return f"{escape_markdown(answer.question)}\n{reply}" if with_question else reply


if __name__ == "__main__":
    main()
