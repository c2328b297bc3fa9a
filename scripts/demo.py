"""Asks a minGPT in the browser: where was somebody born, is that retrieved or guessed, and what did it look at?

    pip install -c constraints.txt -e ".[demo]"
    python scripts/demo.py runs/fast --train_file wiki.txt --questions_file birth_dev.tsv

The run, a folder or a Hub name, needs a calibration.json (scripts/calibrate.py). With a corpus, the line about the
person is shown; with questions and their answers, some that the model has right and wrong are offered as examples,
beside invented names. The page is on 127.0.0.1 and needs no other host.
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
            name_asked(question)  # says which asks for no birthplace
        documents = load_texts(recipe.train_file)["text"][:] if recipe.train_file else []
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        calibration = load_calibration(recipe.model_name_or_path, recipe.revision)
    model.eval()
    examples = choose_examples(model, tokenizer, questions, calibration)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    page = build_page(model, tokenizer, calibration, documents, examples)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # the usual ones come from another host
    theme = import_module("gradio").themes.Default(**fonts)
    page.launch(server_name="127.0.0.1", server_port=recipe.port, theme=theme, ssr_mode=False, footer_links=[])


def choose_examples(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], calibration: Calibration
) -> dict[str, list[str]]:
    """Names to try: some whose answers are right, some whose answers are wrong, and some that nobody has."""
    some = random.Random(0).sample(questions, min(CHECKED_FOR_EXAMPLES, len(questions)))
    kinds: dict[str, list[str]] = {"right": [], "wrong": [], "invented": calibration.unknown_names[:NUM_EXAMPLES]}
    for question, prediction in zip(some, answer_questions(model, tokenizer, some), strict=True):
        kind = kinds["right" if is_exact_match(prediction, str(question.answer)) else "wrong"]
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
    """The page: a name in; the answer, how far to trust it, the runners-up, the text, and attention out."""
    import gradio

    def respond(name: str):
        try:
            (answer,) = ask(model, tokenizer, [name.strip()], calibration)
            looks = draw_attention(explain(model, tokenizer, name.strip()))
        except ValueError as error:
            raise gradio.Error(escape_html(str(error))) from error
        verdict = "retrieved" if answer.retrieved else "a guess: the honest answer is “I don't know”"
        (line,) = find_biographies([Question(question_about(name.strip()), None)], documents)
        return (
            f"## {escape_markdown(answer.place)}\n{answer.probability:.0%} likely to be right: {verdict}.",
            dict(answer.runners_up),
            line or ("No line is about this name." if documents else "No corpus was given."),
            looks,
        )

    with gradio.Blocks(title="Ask a minGPT") as page:
        gradio.Markdown("# Where was ... born?\nA small Transformer answers from what its weights have kept of a text.")
        with gradio.Row():
            name = gradio.Textbox(label="Name", placeholder="Albert Einstein", scale=4, elem_id="name")
            button = gradio.Button("Ask", variant="primary", scale=1, elem_id="ask")
        for kind, names in examples.items():
            if names:
                gradio.Examples([[example] for example in names], inputs=name, label=f"Try: {kind}")
        with gradio.Row():
            answer = gradio.Markdown(elem_id="answer")
            others = gradio.Label(
                label="Other places, and the model's share for each", show_heading=False, elem_id="others"
            )
        line = gradio.Textbox(label="What the text says", interactive=False, elem_id="line")
        gradio.Markdown(
            "### Attention\nFor each character of the answer, the attention weights of the characters before it."
        )
        looks = gradio.Plot(show_label=False, elem_id="looks")
        gradio.on([button.click, name.submit], respond, name, [answer, others, line, looks])
    return page


if __name__ == "__main__":
    main()
