"""Converts checkpoints: from the CS224n assignment, from karpathy/minGPT, and from and to GPT-2.

Weights are only renamed, split and transposed, so nothing is rounded. The weight renaming of transformers is not used:
once registered, it would make every save write the foreign names, even that of a new model.

References: CS224n assignment 5, `model.py` and `attention.py`; karpathy/minGPT `mingpt/model.py`; transformers
`models/gpt2`.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GPT2Config, GPT2LMHeadModel

from .configuration_mingpt import MinGPTConfig
from .modeling_mingpt import MinGPTForCausalLM

Weights = dict[str, torch.Tensor]

# our name, with N for the index of the block: the name of the other code
_ASSIGNMENT = {
    "model.embed_tokens.weight": "tok_emb.weight",
    "model.embed_positions.weight": "pos_emb",
    "model.layers.N.input_layernorm": "blocks.N.ln1",
    "model.layers.N.post_attention_layernorm": "blocks.N.ln2",
    "model.layers.N.self_attn.q_proj": "blocks.N.attn.query",
    "model.layers.N.self_attn.k_proj": "blocks.N.attn.key",
    "model.layers.N.self_attn.v_proj": "blocks.N.attn.value",
    "model.layers.N.self_attn.o_proj": "blocks.N.attn.proj",
    "model.layers.N.self_attn.score_weight": "blocks.N.attn.w2",
    "model.layers.N.self_attn.score_bias": "blocks.N.attn.b2",
    "model.layers.N.mlp.up_proj": "blocks.N.mlp.0",
    "model.layers.N.mlp.down_proj": "blocks.N.mlp.2",
    "model.norm": "ln_f",
    "lm_head.weight": "head.weight",
}
_SYNTHESIZER = _ASSIGNMENT | {"model.layers.N.self_attn.q_proj": "blocks.N.attn.w1"}
_GPT2 = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.embed_positions.weight": "transformer.wpe.weight",
    "model.layers.N.input_layernorm": "transformer.h.N.ln_1",
    "model.layers.N.post_attention_layernorm": "transformer.h.N.ln_2",
    "model.layers.N.self_attn.qkv_proj": "transformer.h.N.attn.c_attn",
    "model.layers.N.self_attn.o_proj": "transformer.h.N.attn.c_proj",
    "model.layers.N.mlp.up_proj": "transformer.h.N.mlp.c_fc",
    "model.layers.N.mlp.down_proj": "transformer.h.N.mlp.c_proj",
    "model.norm": "transformer.ln_f",
    "lm_head.weight": "lm_head.weight",
}
_SAVE_ALL = "save the whole model.state_dict() of one model"
_TRANSPOSED_IN_GPT2 = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")  # transformers' Conv1D
_BUFFERS = re.compile(r"\.attn\.(mask|bias|masked_bias|rope_cache)$")  # masks and tables, computed when needed

# our field of the configuration: the field of GPT-2
_GPT2_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "hidden_dropout": "resid_pdrop",
    "layer_norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "tie_word_embeddings": "tie_word_embeddings",
}


def from_state_dict(weights: Mapping[str, torch.Tensor], num_attention_heads: int | None = None) -> MinGPTForCausalLM:
    """Builds a model from a state_dict that the assignment's code or minGPT saved.

    Args:
        weights: A state_dict of the assignment (`tok_emb.weight`, `blocks.0.attn.key.weight`, ...), with dot-product
            attention and learned positions or RoPE, or with the synthesizer; or one of minGPT
            (`transformer.wte.weight`, ...).
        num_attention_heads: Number of attention heads, which the weights do not show, except for the synthesizer.
            Required for minGPT. None means 8 for the assignment.

    Raises:
        ValueError: If the state_dict is of other code, is incomplete, or has an unknown name or a value that is not
            finite; or if the number of heads is missing or does not fit.
    """
    if not (isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)):
        raise ValueError("The checkpoint is not a state_dict: save model.state_dict().")
    if "tok_emb.weight" in weights:
        return _from_assignment(weights, num_attention_heads)
    if "transformer.wte.weight" in weights:
        return _from_mingpt(weights, num_attention_heads)
    raise ValueError(
        f"The weights ({', '.join(sorted(weights)[:3])}, ...) are of unknown code: expected 'tok_emb.weight' of the "
        "CS224n assignment or 'transformer.wte.weight' of minGPT."
    )


def from_gpt2(gpt2: GPT2LMHeadModel) -> MinGPTForCausalLM:
    """Builds a minGPT model that computes the same as a GPT-2 model.

    Raises:
        ValueError: If the GPT-2 has cross attention or another scaling of attention, or a weight is not finite.
    """
    for field, usual in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }.items():
        if getattr(gpt2.config, field) != usual:
            raise ValueError(f"{field} is {not usual} in this GPT-2, but minGPT supports only {usual}.")
    fields: dict[str, Any] = {ours: getattr(gpt2.config, theirs) for ours, theirs in _GPT2_FIELDS.items()}
    weights = {n: w.T if _TRANSPOSED_IN_GPT2.search(n) else w for n, w in gpt2.state_dict().items()}
    return _build(_configure(fields), _split_qkv(_rename(weights, _GPT2)), _GPT2)


def to_gpt2(model: MinGPTForCausalLM) -> GPT2LMHeadModel:
    """Builds a GPT-2 model that computes the same as a minGPT model, for tools that support GPT-2 only.

    Raises:
        ValueError: If the model has RoPE or the synthesizer, which GPT-2 does not have, or a weight is not finite.
    """
    kind = (model.config.attention_type, model.config.position_embedding_type)
    if kind != ("dot_product", "learned"):
        raise ValueError(
            f"A model with {' and '.join(map(repr, kind))} cannot be a GPT-2: it needs 'dot_product' and 'learned'."
        )
    fields: dict[str, Any] = {theirs: getattr(model.config, ours) for ours, theirs in _GPT2_FIELDS.items()}
    gpt2 = GPT2LMHeadModel(GPT2Config(**fields))
    gpt2.to(model.dtype)  # type: ignore[arg-type]
    weights = _rename(_join_qkv(model.state_dict()), _reverse(_GPT2))
    gpt2.load_state_dict({n: w.T if _TRANSPOSED_IN_GPT2.search(n) else w for n, w in weights.items()})
    return gpt2.eval()


def _from_assignment(weights: Mapping[str, torch.Tensor], num_attention_heads: int | None) -> MinGPTForCausalLM:
    names = _SYNTHESIZER if any(".attn.w1." in name for name in weights) else _ASSIGNMENT
    rope_caches = [tensor for name, tensor in weights.items() if name.endswith(".attn.rope_cache")]
    positions = "pos_emb" in weights
    weights = _rename(weights, names)
    if positions == bool(rope_caches):
        both, also = ("both", "and") if positions else ("neither", "nor")
        raise ValueError(
            f"The weights have {both} 'pos_emb' (learned positions) {also} 'rope_cache' (RoPE): {_SAVE_ALL}."
        )
    vocab_size, width = _matrix(weights, "model.embed_tokens.weight", names).shape
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_attention_heads": 8 if num_attention_heads is None else num_attention_heads,
        "num_hidden_layers": _count_layers(weights),
    }
    if names is _SYNTHESIZER:
        head_dim = len(_matrix(weights, "model.layers.0.self_attn.score_weight", names))
        fields |= {"attention_type": "synthesizer", "num_attention_heads": width // head_dim}
        if width % head_dim or num_attention_heads not in (None, width // head_dim):
            raise ValueError(
                f"num_attention_heads {num_attention_heads} does not fit the synthesizer's 'w2', whose head dimension "
                f"of {head_dim} divides the hidden size {width} into {width / head_dim:g} heads."
            )
        for name in [name for name in weights if ".score_" in name]:
            # The assignment's matrix has no column for the last position: its scores are unknown, and become 0.
            columns = weights[name].transpose(0, -1)
            weights[name] = torch.cat((columns, columns.new_zeros(1, *columns.shape[1:])))
    if positions:
        weights["model.embed_positions.weight"] = weights["model.embed_positions.weight"].squeeze(0)
        fields["max_position_embeddings"] = len(_matrix(weights, "model.embed_positions.weight", names))
    else:
        fields |= {"position_embedding_type": "rope", "max_position_embeddings": len(rope_caches[0])}
    config = _configure(fields)
    if rope_caches:
        for name in [n for n in weights if ".q_proj." in n or ".k_proj." in n]:
            weights[name] = _pairs_to_halves(weights[name], config.num_attention_heads)
    return _build(config, weights, names)


def _pairs_to_halves(projection: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorders the outputs of each head for RoPE, which rotates (2i, 2i + 1) there and (i, i + hs/2) here."""
    heads = projection.unflatten(0, (num_heads, -1, 2))  # (nh, hs / 2, 2, ...)
    return heads.transpose(1, 2).reshape(projection.shape)


def _from_mingpt(weights: Mapping[str, torch.Tensor], num_attention_heads: int | None) -> MinGPTForCausalLM:
    if num_attention_heads is None:
        raise ValueError("The weights of minGPT do not show the number of attention heads: give num_attention_heads.")
    weights = _split_qkv(_rename(weights, _GPT2))
    vocab_size, width = _matrix(weights, "model.embed_tokens.weight", _GPT2).shape
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": _count_layers(weights),
        "max_position_embeddings": len(_matrix(weights, "model.embed_positions.weight", _GPT2)),
        "hidden_act": "gelu_new",
    }
    return _build(_configure(fields), weights, _GPT2)


def _configure(fields: dict[str, Any]) -> MinGPTConfig:
    try:
        return MinGPTConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def _rename(weights: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> Weights:
    """Renames weights from the values of `names` to its keys, and drops buffers.

    Raises:
        ValueError: If a name is unknown, or its value is not a tensor of finite floating-point numbers.
    """
    renamed: Weights = {}
    for name, tensor in weights.items():
        if _BUFFERS.search(name):
            continue
        if (new := _translate(name, names)) is None:
            raise ValueError(f"Weight {name!r} is unknown: the checkpoint is not of the expected code.")
        if not (isinstance(tensor, torch.Tensor) and tensor.is_floating_point()):
            raise ValueError(f"Weight {name!r} is not a tensor of floating-point numbers: save model.state_dict().")
        if not tensor.isfinite().all():
            raise ValueError(f"Weight {name!r} is not finite: use an earlier checkpoint.")
        renamed[new] = tensor
    return renamed


def _translate(name: str, names: Mapping[str, str]) -> str | None:
    """Renames one weight from a value of `names` to its key; None if the name is unknown."""
    general = re.sub(r"\.\d+\.", ".N.", name, count=1)
    new = next((a + general[len(b) :] for a, b in names.items() if (general + ".").startswith(b + ".")), None)
    layer = re.search(r"\.(\d+)\.", name)
    return new.replace(".N.", f".{layer[1]}.") if new and layer else new


def _reverse(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def _split_qkv(weights: Weights) -> Weights:
    """Splits each joint projection (3 C, ...) into those of queries, keys and values."""
    split: Weights = {}
    for name, tensor in weights.items():
        parts = dict(zip("qkv", tensor.chunk(3), strict=True)) if ".qkv_proj." in name else {"": tensor}
        split |= {name.replace("qkv_proj", f"{letter}_proj"): part for letter, part in parts.items()}
    return split


def _join_qkv(weights: Weights) -> Weights:
    joined: Weights = {}
    for name, tensor in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            joined[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            joined[name] = tensor
    return joined


def _matrix(weights: Weights, name: str, names: Mapping[str, str]) -> torch.Tensor:
    if name not in weights or weights[name].ndim != 2:
        raise ValueError(f"The weights lack the matrix {_translate(name, _reverse(names))!r}: {_SAVE_ALL}.")
    return weights[name]


def _count_layers(weights: Weights) -> int:
    layers = {int(name.split(".")[2]) for name in weights if name.startswith("model.layers.")}
    if layers != set(range(len(layers))) or not layers:
        first = min(set(range(len(layers) + 1)) - layers)
        raise ValueError(f"The weights lack block {first} (counted from 0): {_SAVE_ALL}.")
    return len(layers)


def _build(config: MinGPTConfig, weights: Weights, names: Mapping[str, str]) -> MinGPTForCausalLM:
    """Builds the model with exactly these weights. Messages name them as the values of `names` do."""
    model = MinGPTForCausalLM(config)
    expected = model.state_dict()
    for what, those in (
        ("lack", expected.keys() - weights.keys()),
        ("have an extra", weights.keys() - expected.keys()),
        ("have another shape of", {n for n, w in weights.items() if n in expected and expected[n].shape != w.shape}),
    ):
        if those:
            ours = min(those)
            joint = re.sub(r"\.[qkv]_proj\b", ".qkv_proj", ours) if names is _GPT2 else ours
            raise ValueError(f"The weights {what} {_translate(joint, _reverse(names))!r}: {_SAVE_ALL}.")
    model.to(functools.reduce(torch.promote_types, {tensor.dtype for tensor in weights.values()}))  # type: ignore[arg-type]
    model.load_state_dict(weights)
    return model.eval()
