"""Explains an answer of a minGPT: one HTML page with the logit lens and the attention maps.

    python scripts/explain_answer.py runs/fast "Albert Einstein" --output_file runs/fast/einstein.html

The run, a folder or a Hub name, and the person stand first. The page has its pictures inside and needs nothing else.
"""

import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hf_mingpt.evaluation.markup import escape_html
from hf_mingpt.hub.loading import load_run
from hf_mingpt.interpretability.figures import draw_attention, draw_heads, draw_logit_lens
from hf_mingpt.interpretability.logit_lens import Explanation, explain
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.files import name_apart
from hf_mingpt.system.writing import write_text


@dataclass(frozen=True, kw_only=True)
class ExplainRecipe:
    model_name_or_path: str = required("Run folder or Hub name.")
    name: str = required("The person.")
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
<p>Answered by <code>{run}</code>. {summary}</p>
<p>All figures share one color scale. ⁇ is the MASK token: one character, which ends the question and the answer.</p>
<h2>Logit lens</h2>
<p>The model's final norm and output head, applied to the hidden states after each layer. Each cell shows the most
probable character; its color is the probability of the character that the model answers in the end.</p>
{layers}
<h2>Attention maps of the answer</h2>
<p>The attention weights when each character of the answer is predicted, as the mean over the heads of a layer. The
dotted line separates the question from the answer.</p>
{looks}
<h2>Attention maps of every head</h2>
<p>The attention weights between all characters of question and answer.</p>
{heads}
</html>
"""


def main() -> None:
    recipe = parse_recipe(ExplainRecipe, positionals=("model_name_or_path", "name"))
    with user_errors():
        output = Path(recipe.output_file)
        if output.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{output} exists: choose another with --output_file, or give --overwrite_output_dir.")
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision)
        explanation = explain(model.eval(), tokenizer, recipe.name)
    with accidents():
        write_text(output, render(explanation, recipe.model_name_or_path))
    print(f"{explanation.text[: explanation.answer_start - 1]} {explanation.answer}\nWrote {output}.")


def render(explanation: Explanation, run: str) -> str:
    """The page."""
    return PAGE.format(
        question=escape_html(explanation.text[: explanation.answer_start - 1]),
        answer=escape_html(explanation.answer),
        run=escape_html(name_apart([run])[0]),
        summary=f"The product of its characters' probabilities is {explanation.probabilities[-1].prod():.1%}.",
        layers=as_svg(draw_logit_lens(explanation)),
        looks=as_svg(draw_attention(explanation)),
        heads=as_svg(draw_heads(explanation)),
    )


def as_svg(figure: Figure) -> str:
    """A figure as an element of a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


if __name__ == "__main__":
    main()
