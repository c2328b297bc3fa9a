"""Explains an answer of a minGPT: an HTML page with its probability, its logit lens and its attention maps.

    python scripts/explain_answer.py runs/closed_book "Where was Albert Einstein born?" --output_file einstein.html
    python scripts/explain_answer.py runs/closed_book "Albert Einstein"

The run is a folder or a Hub name. A bare name gets the question that the run was calibrated on. Without a calibration,
it is the question about a birthplace, and the page has no probability of being correct. The page contains its pictures
and loads nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib  # noqa: F401 (which the figures need: a missing extra is named before the work)

from hf_mingpt.data.birthplaces import BIRTHPLACE
from hf_mingpt.evaluation.answer_page import STYLE, describe_visit, render_answer, render_figure
from hf_mingpt.evaluation.calibration import Answer, Calibration, ask, ask_in_masked_forms
from hf_mingpt.evaluation.markup import escape_html
from hf_mingpt.hub.loading import load_calibration, load_run
from hf_mingpt.interpretability.figures import draw_attention, draw_heads, draw_logit_lens
from hf_mingpt.interpretability.logit_lens import Explanation, explain
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.files import name_apart
from hf_mingpt.system.wording import percent
from hf_mingpt.system.writing import write_text


@dataclass(frozen=True, kw_only=True)
class ExplainRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    question: str = required("Question, or name to ask about.", formerly="name")
    output_file: str = flag("explanation.html", "Page to write.")
    overwrite_output_dir: bool = flag(False, "Replace an existing page.", formerly="overwrite")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")


NOT_CALIBRATED = (
    "This small Transformer was trained on a text that it no longer sees: it answers from its weights. It was not "
    "calibrated, so nobody knows how often its answers are correct."
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{question}</title>
<style>
body {{ font-family: "DejaVu Sans", system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem;
    line-height: 1.5; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }}
{style}</style>
<h1>{question} {reply}</h1>
<p>{visit}</p>
{answer}
<p>Answer of <code>{run}</code>; the model itself gives it a probability of {probability}. All figures share one color
scale. ⁇ is the MASK token, which ends the question and the answer; a box marks it as one token.</p>
<h2>Logit lens</h2>
<p>The final norm and the output head are applied to the hidden states of each layer. A cell shows the most probable
token, and its shade the probability of the answer's own token. The last column, ⁇, ends the answer.</p>
{logit_lens}
<h2>Attention maps of the answer</h2>
<p>The weights with which each token of the answer attends to the tokens before it. The dotted line separates
the question from the answer.</p>
{attention}
<h2>Attention maps of all heads</h2>
<p>The weights between all tokens of the question and the answer.</p>
{heads}
</html>
"""


def main() -> None:
    recipe = parse_recipe(ExplainRecipe, positionals=("model_name_or_path", "question"))
    with user_errors():
        output = Path(recipe.output_file)
        if output.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{output} exists: choose another with --output_file, or give --overwrite_output_dir.")
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        calibration = find_calibration(recipe)
        templates = calibration.templates if calibration else [BIRTHPLACE]
        explanation = explain(model.eval(), tokenizer, recipe.question, templates)
        answer, forms = None, list[tuple[str, str]]()
        if calibration:
            (answer,) = ask(model, tokenizer, [explanation.question], calibration)
            forms = ask_in_masked_forms(model, tokenizer, answer, calibration)
    with accidents():
        write_text(output, render(explanation, recipe.model_name_or_path, answer, calibration, forms))
    print(f"{explanation.question} {explanation.answer}\nWrote {output}.")


def find_calibration(recipe: ExplainRecipe) -> Calibration | None:
    try:
        return load_calibration(recipe.model_name_or_path, recipe.revision)
    except FileNotFoundError:
        return None


def render(
    explanation: Explanation,
    run: str,
    answer: Answer | None,
    calibration: Calibration | None,
    forms: Sequence[tuple[str, str]] = (),
) -> str:
    """Renders the page; without a calibration, there is no probability of being correct.

    `forms` are other forms of the question, with the answers to them.
    """
    figures = {"logit_lens": draw_logit_lens, "attention": draw_attention, "heads": draw_heads}
    reply = explanation.answer if answer is None or answer.confident else "I don't know"
    return PAGE.format(
        style=STYLE,
        question=escape_html(explanation.question),
        reply=escape_html(reply),
        visit=describe_visit(calibration.threshold) if calibration else NOT_CALIBRATED,
        answer=render_answer(answer, calibration.threshold, forms) if answer and calibration else "",
        run=escape_html(name_apart([run])[0]),
        probability=percent(explanation.probabilities[-1].prod(), 1),
        **{name: render_figure(draw(explanation)) for name, draw in figures.items()},
    )


if __name__ == "__main__":
    main()
