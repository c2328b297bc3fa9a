"""Logit lens and attention maps: in which layer an answer appears, and which tokens the model attends to.

The logit lens applies the model's own final norm and head to the hidden states of each layer. The attention maps are
those that transformers records.

Shapes: L layers, nh heads, T tokens of question and answer, A tokens of the answer, closing MASK included, V tokens of
the vocabulary. The tokens of a character tokenizer are characters.

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
from ..system.wording import quote
from ..tokenization_mingpt import MASK, SpecialTokens, decode_each, tokenize


class Explanation(NamedTuple):
    """Logit lens and attention maps of one answer.

    tokens: `question MASK answer MASK`, the text of T tokens; without the closing MASK if the answer fills the context.
        MASK is "⁇" with every tokenizer.
    answer_start: the index of the first token of the answer.
    attentions: (L, nh, T, T), the weights with which each query (dimension 2) attends to each key (dimension 3).
    probabilities: (L + 1, A), logit lens: the probability of each token of the answer, after the embeddings and after
        each layer.
    top_tokens: L + 1 sequences of A texts, logit lens: the most probable token in each position.
    """

    tokens: Sequence[str]
    answer_start: int
    attentions: torch.Tensor
    probabilities: torch.Tensor
    top_tokens: Sequence[Sequence[str]]

    @property
    def question(self) -> str:
        """The question without the MASK that ends it."""
        return "".join(self.tokens[: self.answer_start - 1]).strip()

    @property
    def answer(self) -> str:
        """The answer without the closing MASK."""
        return "".join(self.tokens[self.answer_start :]).removesuffix(MASK).strip()

    @property
    def answer_attentions(self) -> torch.Tensor:
        """(L, nh, A, T), the weights when each token of the answer is predicted."""
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
        ValueError: if a bare name has several questions, or the text has a character that is not in the vocabulary, or
            is too long for the context.
    """
    question, *others = questions_about([text], tokenizer, templates)
    if others:
        raise ValueError(f"{quote(text)} is a name that {1 + len(others)} questions can be about: write {question!r}.")
    (answer,) = answer_questions(model, tokenizer, [Question(question, None)])
    mask_id = SpecialTokens.of(tokenizer).mask_id
    question_ids, answer_ids = tokenize([question, answer], tokenizer)["input_ids"]
    sequence = [*question_ids, mask_id, *answer_ids, mask_id][: model.config.max_position_embeddings]
    ids = torch.tensor([sequence], device=model.device)
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        outputs = model(ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    finally:
        model.set_attn_implementation(implementation)
    start = len(question_ids) + 1
    *layers, last = (states[0, start - 1 : -1] for states in outputs.hidden_states)  # the last ones are normalized
    normalized = torch.stack([*(model.model.norm(states) for states in layers), last])
    probabilities = model.lm_head(normalized).float().softmax(dim=-1)  # (L + 1, A, V)

    def texts(token_ids: list[int]) -> list[str]:
        decoded = decode_each(token_ids, tokenizer)
        return [MASK if i == mask_id else text for i, text in zip(token_ids, decoded, strict=True)]

    return Explanation(
        texts(sequence),
        start,
        torch.stack([weights[0] for weights in outputs.attentions]).float().cpu(),
        probabilities.gather(-1, ids[0, start:].expand(len(normalized), -1)[..., None])[..., 0].cpu(),
        [texts(row) for row in probabilities.argmax(dim=-1).tolist()],
    )
