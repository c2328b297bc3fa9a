"""Figures of an explanation: the logit lens and attention maps, all on one color scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..evaluation.figures import FIGURE_STYLE
from ..evaluation.markup import show_invisible
from ..tokenization_mingpt import MASK
from .logit_lens import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {**FIGURE_STYLE, "axes.grid": False, "figure.dpi": 110}
TICKS = (0, 0.05, 0.2, 0.5, 1)  # of the color scale
DARK = 0.35  # a cell over this has white text
MASK_NOTE = f"boxed {MASK}: the MASK token"


def draw_logit_lens(explanation: Explanation) -> "Figure":
    """Draws the probability of each token of the answer after each layer, and the most probable token."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layers, tokens = explanation.probabilities.shape
    widest = max(len(token) for row in (explanation.tokens, *explanation.top_tokens) for token in row)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(6.5, 2.8 + (0.4 + 0.1 * widest) * tokens), 1.9 + 0.42 * layers))
        axis = figure.subplots()
        image = axis.imshow(explanation.probabilities.numpy(), aspect="auto", **_scale())
        for layer, top_tokens in enumerate(explanation.top_tokens):
            for position, token in enumerate(top_tokens):
                dark = explanation.probabilities[layer, position] > DARK
                text = axis.text(position, layer, _visible(token), ha="center", va="center", color="w" if dark else "k")
                _box(text, token)
        _name_tokens(axis, explanation.tokens[explanation.answer_start :], "x")
        axis.set_yticks(range(layers), ["embeddings", *(f"layer {number}" for number in range(1, layers))])
        axis.set(title="Logit lens: the most probable token after each layer")
        axis.set(xlabel=f"token of the answer ({MASK_NOTE})")
        figure.colorbar(image, ax=axis, label="probability of the\nanswer's token", ticks=TICKS)
        _draw_once(figure)
    return figure


def draw_attention(explanation: Explanation) -> "Figure":
    """Draws the attention when each token of the answer is predicted: a map per layer, the mean of its heads."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    weights = explanation.answer_attentions.mean(dim=1)  # (L, A, T)
    layers, tokens, length = weights.shape
    with rc_context(STYLE):
        figure = Figure(figsize=(max(7.0, 1.8 + 0.22 * length), 1.4 + layers * (0.45 + 0.17 * tokens)))
        figure.suptitle("Attention maps: the tokens of the answer")
        axes = figure.subplots(layers, 1, squeeze=False, sharex=True)[:, 0]
        for layer, axis in enumerate(axes):
            image = axis.imshow(weights[layer].numpy(), aspect="auto", **_scale())
            axis.axvline(explanation.answer_start - 0.5, color="0.4", linestyle=":")
            axis.set(title=f"Layer {layer + 1}, mean of the heads", ylabel="predicted")
            _name_tokens(axis, explanation.tokens[explanation.answer_start :], "y")
        _name_tokens(axes[-1], explanation.tokens, "x")
        axes[-1].set_xlabel(f"attended token; right of the dotted line: the answer ({MASK_NOTE})")
        figure.colorbar(image, ax=axes, label="attention weight", ticks=TICKS, pad=0.01, aspect=40)
        _draw_once(figure)
    return figure


def draw_heads(explanation: Explanation) -> "Figure":
    """Draws the whole attention map of every head: a row per layer, a column per head."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    layers, heads, length, _ = explanation.attentions.shape
    with rc_context(STYLE):
        figure = Figure(figsize=(1.8 + 1.7 * heads, 1.3 + 1.8 * layers))
        figure.suptitle("Attention maps: every head")
        axes = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
        for layer in range(layers):
            for head in range(heads):
                axis = axes[layer, head]
                image = axis.imshow(explanation.attentions[layer, head].numpy(), **_scale())
                axis.axvline(explanation.answer_start - 0.5, color="0.4", linestyle=":", linewidth=0.8)
                axis.set(title=f"head {head + 1}" if not layer else None)
                axis.set(ylabel=f"layer {layer + 1}" if not head else None)
                axis.set_xticks([0, length - 1])
                axis.set_yticks([0, length - 1])
        figure.supxlabel("index of the attended token (key); right of the dotted line: the answer", fontsize=10)
        figure.supylabel("index of the attending token (query)", fontsize=10)
        figure.colorbar(image, ax=axes, label="attention weight", ticks=TICKS, pad=0.01, aspect=40)
        _draw_once(figure)
    return figure


def _scale() -> dict[str, Any]:
    """The color scale of all maps: small values can be told apart, and equal colors mean equal values everywhere."""
    from matplotlib.colors import PowerNorm

    return {"cmap": "Blues", "norm": PowerNorm(0.5, vmin=0, vmax=1)}


def _name_tokens(axis: "Axes", tokens: Sequence[str], direction: str) -> None:
    places, labels = range(len(tokens)), [_visible(token) for token in tokens]
    long = max(map(len, tokens)) > 1
    if direction == "x":
        axis.set_xticks(places, labels, rotation=90 if long else 0)
        ticks = axis.get_xticklabels()
    else:
        axis.set_yticks(places, labels, fontsize=8)
        ticks = axis.get_yticklabels()
    for tick, token in zip(ticks, tokens, strict=True):
        _box(tick, token)


def _box(text: Any, token: str) -> None:
    """Frames MASK, whose glyph looks like two question marks: it is one token."""
    if token == MASK:
        text.set_bbox({"boxstyle": "round,pad=0.15", "facecolor": "w", "edgecolor": "0.3", "linewidth": 0.8})
        text.set(color="k", fontsize=8)


def _visible(token: str) -> str:
    spelled = token.replace(" ", "␣").replace("\n", "⏎")
    return show_invisible(spelled) or spelled


def _draw_once(figure: "Figure") -> None:
    """Lays the figure out and makes its ticks while the style is in force."""
    figure.draw_without_rendering()
