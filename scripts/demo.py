"""Asks a minGPT in the browser where a person was born: answer, calibrated probability, alternatives, attention map.

    pip install -c constraints.txt -e ".[demo]"
    python scripts/demo.py runs/fast --train_file wiki.txt --questions_file birth_dev.tsv

The run (a folder or a Hub name) needs a calibration.json (scripts/calibrate.py). With --train_file, the page shows the
line about the person. With --questions_file, it offers examples that the model answers correctly and wrongly, beside
invented names. The page is on 127.0.0.1 and loads nothing from other hosts; scripts/push_to_hub.py makes a Space of it.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from hf_mingpt.data.birthplaces import name_asked, question_about
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import Calibration, ask
from hf_mingpt.evaluation.markup import escape_html, escape_markdown
from hf_mingpt.evaluation.report import find_biographies
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
        None, "The text that the model was trained on: shows the line about the person.", formerly="corpus_file"
    )
    questions_file: str | None = flag(None, "TSV of questions with answers, for examples.")
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
        for question, _ in questions:
            name_asked(question)  # raises a ValueError if it does not ask for a birthplace
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
    """Chooses names to try: some that the model answers correctly, some wrongly, and some invented."""
    sample = random.Random(0).sample(questions, min(CHECKED_FOR_EXAMPLES, len(questions)))
    kinds: dict[str, list[str]] = {"correct": [], "wrong": [], "invented": calibration.unknown_names[:NUM_EXAMPLES]}
    for question, prediction in zip(sample, answer_questions(model, tokenizer, sample), strict=True):
        kind = kinds["correct" if is_exact_match(prediction, str(question.answer)) else "wrong"]
        if len(kind) < NUM_EXAMPLES:
            kind.append(name_asked(question.question))
    return kinds


def build_page(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    documents: Sequence[str],
    examples: dict[str, list[str]],
) -> "gradio.Blocks":
    """Builds the page: from a name to answer, probability, alternatives, line of the text and attention map."""
    import gradio

    def respond(name: str):
        try:
            (answer,) = ask(model, tokenizer, [name.strip()], calibration)
            attention = draw_attention(explain(model, tokenizer, name.strip()))
        except ValueError as error:
            raise gradio.Error(escape_html(str(error))) from error
        place, likely = escape_markdown(answer.place), f"{percent(answer.probability)} likely to be correct"
        (line,) = find_biographies([Question(question_about(name.strip()), None)], documents)
        below = f"below the threshold of {100 * calibration.threshold:.4g}%"
        return (
            f"## {place}\n{likely}." if answer.confident else f"## I don't know\n{place} is {likely}, {below}.",
            dict(answer.alternatives),
            line
            or ("No line is about this name." if documents else "Give --train_file to show the line about a name."),
            attention,
        )

    with gradio.Blocks(title="Ask a minGPT") as page:
        gradio.Markdown(
            "# Where was ... born?\nA small Transformer answers from its weights, without access to a text."
        )
        with gradio.Row():
            name = gradio.Textbox(label="Name", placeholder="Albert Einstein", scale=4, elem_id="name")
            button = gradio.Button("Ask", variant="primary", scale=1, elem_id="ask")
        for kind, names in examples.items():
            if names:
                gradio.Examples([[example] for example in names], inputs=name, label=f"Try: {kind}")
        with gradio.Row():
            answer = gradio.Markdown(elem_id="answer")
            alternatives = gradio.Label(
                label="Alternatives, with their probabilities among the known places",
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


if __name__ == "__main__":
    main()
