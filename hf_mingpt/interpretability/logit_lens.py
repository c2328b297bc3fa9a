"""Explanation: what a model looks at while it answers, and from which layer on it knows.

After evaluation in the flow. Attention is what the model itself computes (transformers' recorded attentions); what a
layer knows is read by the model's own last norm and head.

Shapes: L layers, nh heads, T characters of question and answer, A characters of the answer, the MASK that ends it
included.

Reference: nostalgebraist 2020, interpreting GPT: the logit lens.
"""

from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..data.questions import Question
from ..evaluation.answering import answer_questions, questions_about
from ..tokenization_mingpt import MASK


class Explanation(NamedTuple):
    """How a model came to an answer.

    text: `question MASK answer MASK`, T characters; without the last MASK if the answer fills the block.
    answer_start: where in it the answer begins.
    attentions: (L, nh, T, T), the weights of each character (third) on those up to it (fourth).
    probabilities: (L + 1, A), of the characters of the answer, as read from the embeddings and from each layer.
    favourites: L + 1 strings of A characters, the likeliest where each of the answer is read.
    """

    text: str
    answer_start: int
    attentions: torch.Tensor
    probabilities: torch.Tensor
    favourites: list[str]

    @property
    def answer(self) -> str:
        """Without the MASK that ends it."""
        return self.text[self.answer_start :].removesuffix(MASK)

    @property
    def looks(self) -> torch.Tensor:
        """(L, nh, A, T), what is looked at when each character of the answer is to be written."""
        return self.attentions[:, :, self.answer_start - 1 : -1]


@torch.inference_mode()
def explain(model: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> Explanation:
    """Asks where somebody was born, and records what happens.

    Args:
        model: in evaluation mode; its attention is "eager" meanwhile, which alone keeps its weights.

    Raises:
        ValueError: if the name has a character that the model does not know, or is too long for its block.
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
    *layers, last = (states[0, start - 1 : -1] for states in outputs.hidden_states)  # the last has passed the norm
    read = torch.stack([*(model.model.norm(states) for states in layers), last])
    probabilities = model.lm_head(read).float().softmax(dim=-1)  # (L + 1, A, V)
    wanted = ids[0, start:].expand(len(read), -1)
    favourites = ["".join(tokenizer.convert_ids_to_tokens(row)) for row in probabilities.argmax(dim=-1).tolist()]
    return Explanation(
        text,
        start,
        torch.stack([weights[0] for weights in outputs.attentions]).float().cpu(),
        probabilities.gather(-1, wanted[..., None])[..., 0].cpu(),
        favourites,
    )
