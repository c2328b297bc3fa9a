"""Logit lens and attention maps: in which layer an answer appears, and which characters the model attends to.

The logit lens applies the model's own final norm and head to the hidden states of each layer. The attention maps are
those that transformers records.

Shapes: L layers, nh heads, T characters of question and answer, A characters of the answer, closing MASK included, V
tokens of the vocabulary.

Reference: nostalgebraist 2020, interpreting GPT: the logit lens.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data.questions import Question
from ..evaluation.answering import answer_questions, questions_about
from ..evaluation.markup import show_invisible
from ..tokenization_mingpt import MASK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Explanation(NamedTuple):
    """Logit lens and attention maps of one answer.

    text: `question MASK answer MASK`, T characters; without the closing MASK if the answer fills the context.
    answer_start: the index of the first character of the answer.
    attentions: (L, nh, T, T), the weights with which each query (dimension 2) attends to each key (dimension 3).
    probabilities: (L + 1, A), logit lens: the probability of each character of the answer, after the embeddings and
        after each layer.
    top_characters: L + 1 strings of A characters, logit lens: the most probable character in each position.
    """

    text: str
    answer_start: int
    attentions: torch.Tensor
    probabilities: torch.Tensor
    top_characters: list[str]

    @property
    def answer(self) -> str:
        """The answer without the closing MASK."""
        return self.text[self.answer_start :].removesuffix(MASK)

    @property
    def answer_attentions(self) -> torch.Tensor:
        """(L, nh, A, T), the weights when each character of the answer is predicted."""
        return self.attentions[:, :, self.answer_start - 1 : -1]


@torch.inference_mode()
def explain(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> Explanation:
    """Answers the question where a person was born, and records attention maps and hidden states.

    Args:
        model: a model in evaluation mode. Its attention implementation is "eager" during the call, because the others
            do not return weights.
        tokenizer: the tokenizer of the model.
        name: the name of the person.

    Raises:
        ValueError: if the name has a character that is not in the vocabulary, or is too long for the context.
    """
    (question,) = questions_about([name], tokenizer)
    (answer,) = answer_questions(model, tokenizer, [Question(question, None)])
    text = (question + MASK + answer + MASK)[: model.config.max_position_embeddings]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(text))], device=model.device)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        outputs = model(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    finally:
        model.set_attn_implementation(implementation)
    start = len(question) + 1
    *layers, last = (states[0, start - 1 : -1] for states in outputs.hidden_states)  # the last ones are normalized
    normalized = torch.stack([*(model.model.norm(states) for states in layers), last])
    probabilities = model.lm_head(normalized).float().softmax(dim=-1)  # (L + 1, A, V)
    answer_ids = ids[0, start:].expand(len(normalized), -1)
    top_characters = ["".join(tokenizer.convert_ids_to_tokens(row)) for row in probabilities.argmax(dim=-1).tolist()]
    return Explanation(
        text,
        start,
        torch.stack([weights[0] for weights in outputs.attentions]).float().cpu(),
        probabilities.gather(-1, answer_ids[..., None])[..., 0].cpu(),
        top_characters,
    )


def draw_logit_lens(explanation: Explanation) -> "Figure":
    """The probability of each character of the answer, layer by layer, and what each layer would have written."""
    from matplotlib.figure import Figure

    layers, characters = explanation.probabilities.shape
    figure = Figure(figsize=(max(6.0, 2.5 + 0.55 * characters), 1.6 + 0.5 * layers), layout="constrained", dpi=110)
    axis = figure.subplots()
    image = axis.imshow(explanation.probabilities.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for layer, characters_of_layer in enumerate(explanation.top_characters):
        for place, character in enumerate(characters_of_layer):
            dark = explanation.probabilities[layer, place] > 0.5
            axis.text(place, layer, _visible(character), ha="center", va="center", color="w" if dark else "k")
    _name_characters(axis, explanation.text[explanation.answer_start :])
    axis.set_yticks(range(layers), ["embeddings", *(f"layer {number}" for number in range(1, layers))])
    axis.set(title="What each layer would write", xlabel="character of the answer")
    figure.colorbar(image, ax=axis, label="probability of the answer's character")
    return figure


def draw_attention(explanation: Explanation) -> "Figure":
    """What is looked at when each character of the answer is written: a map a layer, the mean of its heads."""
    from matplotlib.figure import Figure

    looks = explanation.answer_attentions.mean(dim=1)  # (L, A, T)
    layers, characters, length = looks.shape
    size = (max(7.0, 1.5 + 0.24 * length), 0.9 + layers * (0.6 + 0.24 * characters))
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    for layer, axis in enumerate(figure.subplots(layers, 1, squeeze=False)[:, 0]):
        image = axis.imshow(looks[layer].numpy(), cmap="Blues", vmin=0, aspect="auto")
        _name_characters(axis, explanation.text)
        axis.set_yticks(range(characters), [_visible(c) for c in explanation.text[explanation.answer_start :]])
        axis.axvline(explanation.answer_start - 0.5, color="0.5", linestyle=":")
        axis.set(title=f"Layer {layer + 1}, mean of the heads", ylabel="to be written")
        figure.colorbar(image, ax=axis, label="weight", pad=0.01)
    axis.set_xlabel("looked at")
    return figure


def draw_heads(explanation: Explanation) -> "Figure":
    """The whole attention map of every head: a row a layer, a column a head."""
    from matplotlib.figure import Figure

    layers, heads, length, _ = explanation.attentions.shape
    figure = Figure(figsize=(1.0 + 1.7 * heads, 0.8 + 1.8 * layers), layout="constrained", dpi=110)
    axes = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    for layer in range(layers):
        for head in range(heads):
            axis = axes[layer, head]
            axis.imshow(explanation.attentions[layer, head].sqrt().numpy(), cmap="Blues", vmin=0, vmax=1)
            axis.axvline(explanation.answer_start - 0.5, color="0.5", linestyle=":", linewidth=0.8)
            axis.set(title=f"head {head + 1}" if not layer else None, ylabel=f"layer {layer + 1}" if not head else None)
            axis.set_xticks([0, length - 1])
            axis.set_yticks([0, length - 1])
    figure.supxlabel("place looked at")
    figure.supylabel("place that looks")
    return figure


def _name_characters(axis: "Axes", text: str) -> None:
    axis.set_xticks(range(len(text)), [_visible(character) for character in text])


def _visible(character: str) -> str:
    return {" ": "␣", "\n": "⏎"}.get(character) or show_invisible(character) or character
