"""Asks a minGPT in the browser: answer, calibrated probability with its reason, other answers, attention map.

    pip install -c constraints.txt -e ".[demo]"
    python scripts/demo.py runs/closed_book --train_file wiki.txt --questions_file birth_dev.tsv
    python scripts/demo.py

The run (a folder or a Hub name) needs a calibration.json (scripts/calibrate.py). Without a name, it is the run of
`make demo`, with its data. With --train_file, the page shows the line that a question is about. With --questions_file,
it offers examples that the model answers correctly and wrongly, beside invented names. If the run was calibrated with
its text, each question is also asked in its masked forms. The page is on 127.0.0.1 and loads nothing from other hosts;
scripts/push_to_hub.py makes a Space of it.
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
from hf_mingpt.evaluation.answer_page import STYLE, describe_visit, render_answer, render_figure
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import Calibration, ask, ask_in_masked_forms
from hf_mingpt.evaluation.markup import escape_html
from hf_mingpt.evaluation.scoring import is_exact_match
from hf_mingpt.hub.loading import find_demo_data, find_run, load_calibration, load_run
from hf_mingpt.interpretability.figures import draw_attention
from hf_mingpt.interpretability.logit_lens import explain
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag

if TYPE_CHECKING:
    import gradio

NUM_EXAMPLES = 3  # of each kind
CHECKED_FOR_EXAMPLES = 100  # questions


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    model_name_or_path: str | None = flag(None, "Run folder or Hub name. None: the run of `make demo`, with its data.")
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
        run, text, questions_file = recipe.model_name_or_path, recipe.train_file, recipe.questions_file
        if run is None:
            run = find_run(None)
            text, questions_file = (
                text or find_demo_data("biographies.txt"),
                questions_file or find_demo_data("birth_dev.tsv"),
            )
        questions = read_questions(questions_file, answers=True) if questions_file else []
        documents = load_texts(text)["text"][:] if text else []
        model, tokenizer = load_run(run, recipe.revision)
        calibration = load_calibration(run, recipe.revision)
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
    page.launch(server_name=host, server_port=recipe.port, theme=theme, css=STYLE, ssr_mode=False, footer_links=[])


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
    """Builds the page: from a question, a name or a masked form to answer, probability, reason, line and attention map.

    A bare name that several questions can be about gets the answers to all of them, and the rest of the page is about
    the first.
    """
    import gradio

    def respond(text: str):
        try:
            answers = ask(model, tokenizer, [text.strip()], calibration)
            figure = draw_attention(explain(model, tokenizer, answers[0].question))
        except ValueError as error:
            raise gradio.Error(escape_html(str(error))) from error
        (line,) = find_documents([answers[0].question], documents, [answers[0].answer])
        cards = [
            render_answer(a, calibration.threshold, ask_in_masked_forms(model, tokenizer, a, calibration))
            for a in answers
        ]
        return (
            "".join(cards),
            line or ("No line is about this." if documents else "Give --train_file to show the line about a name."),
            render_figure(figure),
        )

    suggested = calibration.templates[0].fill(calibration.unknown_names[0])
    with gradio.Blocks(title="Ask a minGPT") as page:
        gradio.Markdown(f"# Ask a minGPT\n{describe_visit(calibration.threshold)}", elem_id="visit")
        with gradio.Row():
            name = gradio.Textbox(
                label="Question, name, or sentence with a gap",
                info="A gap is written [MASK], as in “Ada Byron was born in [MASK].”",
                placeholder=suggested,
                scale=4,
                min_width=320,
                autofocus=True,
                elem_id="name",
            )
            button = gradio.Button("Ask", variant="primary", scale=1, min_width=100, elem_id="ask")
        for kind, names in examples.items():
            if names:
                gradio.Examples([[example] for example in names], inputs=name, label=f"Try: {kind}")
        answer = gradio.HTML(elem_id="answer")
        line = gradio.Textbox(label="What the text says", interactive=False, lines=2, elem_id="line")
        gradio.Markdown(
            "### Attention maps\nHow much each character of the answer attends to the characters before it."
        )
        attention = gradio.HTML(elem_id="attention")
        outputs = [answer, line, attention]
        gradio.on([button.click, name.submit], respond, name, outputs, api_name="respond")
    return page


if __name__ == "__main__":
    main()
