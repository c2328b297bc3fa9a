"""Explains an answer of a minGPT: an HTML page with its logit lens and its attention maps.

    python scripts/explain_answer.py runs/fast "Where was Albert Einstein born?" --output_file runs/fast/einstein.html
    python scripts/explain_answer.py runs/fast "Albert Einstein"

The run is a folder or a Hub name. A bare name gets the question that the run was calibrated on; without a calibration,
the question about a birthplace. The page contains its pictures and loads nothing.
"""

import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hf_mingpt.data.birthplaces import BIRTHPLACE
from hf_mingpt.data.subjects import Template
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


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>{question}</title>
<style>
body {{ font-family: "DejaVu Sans", sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
    line-height: 1.5; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{question} {answer}</h1>
<p>Answer of <code>{run}</code>, with a probability of {probability}. All figures share one color scale. ⁇ is the MASK
token, which ends the question and the answer; a box marks it as one token.</p>
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
        explanation = explain(model.eval(), tokenizer, recipe.question, find_question_templates(recipe))
    with accidents():
        write_text(output, render(explanation, recipe.model_name_or_path))
    print(f"{explanation.question} {explanation.answer}\nWrote {output}.")


def find_question_templates(recipe: ExplainRecipe) -> list[Template]:
    try:
        return load_calibration(recipe.model_name_or_path, recipe.revision).templates
    except FileNotFoundError:
        return [BIRTHPLACE]


def render(explanation: Explanation, run: str) -> str:
    """Renders the page."""
    return PAGE.format(
        question=escape_html(explanation.question),
        answer=escape_html(explanation.answer),
        run=escape_html(name_apart([run])[0]),
        probability=percent(explanation.probabilities[-1].prod(), 1),
        logit_lens=as_svg(draw_logit_lens(explanation)),
        attention=as_svg(draw_attention(explanation)),
        heads=as_svg(draw_heads(explanation)),
    )


def as_svg(figure: Figure) -> str:
    """Renders a figure as an element of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


if __name__ == "__main__":
    main()
