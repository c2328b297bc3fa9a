"""Continuing from a model: its architecture in a longer context, and its embeddings for a larger vocabulary."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..tokenization_mingpt import vocabulary_size


def lengthen_context(model: PreTrainedModel, length: int | None, rope_type: str | None = None) -> PreTrainedModel:
    """Makes a model with a longer context, whose RoPE is scaled as transformers does it; the weights are the same.

    Args:
        model: A causal language model.
        length: Its new `max_position_embeddings`. None: as it is.
        rope_type: `rope_type` of transformers' `rope_parameters`: "linear", "dynamic" or "yarn". None: "linear".

    Raises:
        ValueError: If the context would become shorter, or the model has no RoPE.

    References: Chen et al. 2023 (linear), arXiv:2306.15595; Peng et al. 2023 (YaRN), arXiv:2309.00071.
    """
    now = model.config.max_position_embeddings
    if length is None or length == now:
        if rope_type:
            raise ValueError(f"rope_type {rope_type!r} needs a max_position_embeddings over the model's {now}.")
        return model
    if length < now:
        raise ValueError(
            f"max_position_embeddings {length} is under the model's {now}: give block_size {length} instead."
        )
    rope: dict[str, Any] | None = getattr(model.config, "rope_parameters", None)
    if rope is None:
        raise ValueError(
            f"max_position_embeddings {length} is over the {now} learned positions of the model: give block_size {now} "
            "or less, or continue from a model with RoPE."
        )
    original = rope.get("original_max_position_embeddings") or now
    rope = {**rope, "rope_type": rope_type or "linear", "factor": length / original}
    rope["original_max_position_embeddings"] = original
    fields = {**model.config.to_dict(), "max_position_embeddings": length, "rope_parameters": rope}
    longer = type(model)(type(model.config)(**fields))
    longer.load_state_dict(model.state_dict())
    return longer


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Resizes the embeddings of a model to its tokenizer, in place; transformers initializes the new ones.

    They are drawn from a normal distribution with the mean and the covariance of those that are there. A model that has
    more embeddings than its tokenizer has tokens keeps them. PAD may be new, so the configuration gets its id.
    """
    if (size := vocabulary_size(tokenizer)) > model.config.vocab_size:
        model.resize_token_embeddings(size)
    model.config.pad_token_id = tokenizer.pad_token_id
