"""An answer on a page: why it has its probability, in words, and the HTML that demo.py and explain_answer.py share."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..system.wording import percent
from .calibration import Answer
from .markup import escape_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SURE, _RARE = 0.5, 10.0  # the model's own probability; how many times that about an invented name

STYLE = """
.answer { border: 1px solid #8888; border-left: 6px solid #2a7d4f; border-radius: 4px; padding: 0.75rem 1rem; }
.answer.abstains { border-left-color: #b35c00; border-left-style: double; }
.answer p { margin: 0.25rem 0; overflow-wrap: break-word; }
.answer .reply { font-size: 1.6rem; font-weight: 600; line-height: 1.25; }
.answer .bar { position: relative; height: 0.6rem; margin: 0.4rem 0; background: #8883; border-radius: 3px; }
.answer .bar i { display: block; height: 100%; background: #2a7d4f; border-radius: 3px; }
.answer.abstains .bar i { background: #b35c00; }
.answer .bar b { position: absolute; top: -0.25rem; bottom: -0.25rem; width: 2px; background: currentColor; }
.answer table { width: 100%; border-collapse: collapse; margin: 0.75rem 0 0; font-size: 0.9rem; }
.answer table, .answer tr { border: 0 !important; }
.answer tr > * { border: 0; border-top: 1px solid #8884; padding: 0.2rem 0.75rem 0.2rem 0; text-align: left; }
.wide { overflow-x: auto; }
.wide svg { max-width: none; height: auto; }
@media (max-width: 700px) { .wide::before { content: "Scroll the figure sideways."; font-size: 0.9rem; opacity: 0.7; } }
"""


def describe_visit(threshold: float) -> str:
    """What a visitor needs to know about the page, in three sentences."""
    return (
        "This small Transformer was trained on a text that it no longer sees: it answers from its weights. "
        "Each answer comes with the probability that it is correct, which was measured on questions that the model was "
        f"not trained on. If the probability is below {100 * threshold:.4g}%, the model says “I don't know” instead of "
        "an answer."
    )


def describe_reason(answer: Answer) -> str | None:
    """Why an answer has its probability, in words; None without features."""
    if answer.features is None:
        return None
    with np.errstate(over="ignore"):
        own = 1 / (1 + np.exp(-np.float64(answer.features.log_odds)))
        elsewhere = own / np.exp(np.float64(answer.features.contrast))
    sure, rare = own >= _SURE, own >= _RARE * elsewhere
    own, elsewhere = percent(float(own)), percent(float(min(elsewhere, 1)))
    manner = f"itself is sure ({own})" if sure else f"itself hesitates ({own})"
    joint = "and" if sure == rare else "but"
    contrast = "says it far less often" if rare else "says it nearly as often"
    unknown = "" if answer.known >= _SURE else f"The model does not know the name {answer.name}. "
    return f"{unknown}The model {manner}, {joint} {contrast} about invented names ({elsewhere})."


def is_same_answer(said: str, answer: str) -> bool:
    """Whether a model says an answer again in another form of the question, and then perhaps more.

    A model that was pretrained with span corruption ends what it says somewhere, not with the answer: in
    "Trevora. Heistow taught", the answer is "Trevora". "New York" is another answer than "New".
    """
    said, answer = said.strip(), answer.strip()
    return bool(re.fullmatch(r"(\s*[.,;:!?()].*)?", said.removeprefix(answer), re.DOTALL)) and said.startswith(answer)


def render_answer(answer: Answer, threshold: float, others: Sequence[tuple[str, str]] = ()) -> str:
    """Renders an answer as HTML, for pages with `STYLE`.

    Args:
        answer: with its probability.
        threshold: of the calibration.
        others: other forms of the question, and the model's answers to them.
    """
    probability = f"{percent(answer.probability)} likely to be correct"
    reply = f"<p class='reply'>{escape_html(answer.answer)}</p>"
    likely = f"<p>{probability}.</p>"
    if not answer.confident:
        reply = "<p class='reply'>I don't know</p>"
        below = f"below the threshold of {100 * threshold:.4g}%"
        likely = f"<p>The best guess, {escape_html(answer.answer)}, is {probability}, {below}.</p>"
    filled, mark = 100 * answer.probability, min(100 * threshold, 99.6)
    bar = (
        f"<div class='bar' aria-hidden='true'><i style='width:{filled:.1f}%'></i><b style='left:{mark:.1f}%'></b></div>"
    )
    reasons = [describe_reason(answer)]
    if not answer.template:
        reasons.append("The model was not calibrated on questions like this one: the probability is a guess.")
    forms = [(answer.question, answer.answer), *others]
    if others:
        agree = all(is_same_answer(said, answer.answer) for _, said in others)
        reasons.append(f"Asked in other forms, it gives {'the same answer' if agree else 'other answers'}.")
    return "".join(
        [
            f"<section class='answer{'' if answer.confident else ' abstains'}'>",
            f"<p>{escape_html(answer.question)}</p>{reply}{likely}{bar}",
            *(f"<p>{escape_html(reason)}</p>" for reason in reasons if reason),
            _table(("Form of the question", "Answer"), forms) if others else "",
            _table(
                ("Other answers", "Probability among the known ones"),
                [(other, percent(p)) for other, p in answer.alternatives],
            ),
            "</section>",
        ]
    )


def render_figure(figure: "Figure") -> str:
    """Renders a figure as part of a page with `STYLE`: on a narrow screen, one scrolls it sideways."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    picture = buffer.getvalue()
    return f"<div class='wide' tabindex='0'>{picture[picture.index('<svg') :]}</div>"


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    cells = ["".join(f"<td>{escape_html(cell)}</td>" for cell in row) for row in rows]
    first = "".join(f"<th scope='col'>{cell}</th>" for cell in head)
    return f"<table><tr>{first}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
