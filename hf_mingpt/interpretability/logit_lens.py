"""Logit lens and attention maps: in which layer an answer appears, and which characters the model attends to.

The logit lens applies the model's own final norm and head to the hidden states of each layer. The attention maps are
those that transformers records.

Shapes: L layers, nh heads, T characters of question and answer, A characters of the answer, closing MASK included, V
tokens of the vocabulary.

Reference: nostalgebraist 2020, interpreting GPT: the logit lens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import BIRTHPLACE
from ..data.questions import Question
from ..data.subjects import Template
from ..evaluation.answering import answer_questions, questions_about
from ..tokenization_mingpt import MASK


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
def explain(
    model: Any, tokenizer: PreTrainedTokenizerBase, text: str, templates: Sequence[Template] = (BIRTHPLACE,)
) -> Explanation:
    """Answers a question, and records attention maps and hidden states.

    Args:
        model: a model in evaluation mode. Its attention implementation is "eager" during the call, because the others
            do not return weights.
        tokenizer: the tokenizer of the model.
        text: a question, or a bare name.
        templates: of the questions about a bare name.

    Raises:
        ValueError: if a bare name has several questions, or the text has a character that is not in the vocabulary, or is too long for the context.
    """
    question, *others = questions_about([text], tokenizer, templates)
    if others:
        raise ValueError(f"{text!r} is a name that {1 + len(others)} questions can be about: write {question!r}.")
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
