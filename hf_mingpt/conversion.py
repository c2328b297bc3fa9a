"""Foreign weights: checkpoints of the CS224n code and of karpathy/minGPT in; GPT-2 in and out.

Beside hub in the flow; needs configuration and modeling only. Every step renames, splits or transposes, so nothing is
rounded. The library's own renaming on loading does not fit: with it registered, every save, also that of a fresh model,
would write the foreign names.

References: CS224n assignment 5, `model.py` and `attention.py`; karpathy/minGPT `mingpt/model.py`; transformers
`models/gpt2`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from .configuration_mingpt import MinGPTConfig
from .modeling_mingpt import MinGPTForCausalLM

Weights = dict[str, torch.Tensor]

# our name, in which N is the block: the foreign one
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
_TRANSPOSED_IN_GPT2 = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")  # transformers' Conv1D
_BUFFERS = re.compile(r"\.attn\.(mask|bias|masked_bias|rope_cache)$")  # masks and tables, which are computed here

# our field of the configuration: GPT-2's
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
    """Makes a model from what `torch.save(model.state_dict())` wrote in the assignment's code or in minGPT's.

    Args:
        weights: the assignment's (`tok_emb.weight`, `blocks.0.attn.key.weight`, ...: dot products with learned
            positions or with RoPE, or the synthesizer), or minGPT's (`transformer.wte.weight`, ...).
        num_attention_heads: cannot be seen from the weights, except the synthesizer's. None: 8, as in the assignment;
            minGPT's need it.

    Raises:
        ValueError: if the weights are neither's, or a name among them is unknown, or the number of heads is missing.
    """
    weights = {name: tensor for name, tensor in weights.items() if not _BUFFERS.search(name)}
    if "tok_emb.weight" in weights:
        return _from_assignment(weights, num_attention_heads)
    if "transformer.wte.weight" in weights:
        return _from_mingpt(weights, num_attention_heads)
    raise ValueError(
        f"These weights ({', '.join(sorted(weights)[:3])}, ...) are of no known code: expected 'tok_emb.weight' of the "
        "CS224n assignment or 'transformer.wte.weight' of minGPT."
    )


def from_gpt2(gpt2: GPT2LMHeadModel) -> MinGPTForCausalLM:
    """Makes the minGPT with the same weights, which computes the same.

    Raises:
        ValueError: if the GPT-2 scales its attention in a way that minGPT has not.
    """
    for field, usual in {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }.items():
        if getattr(gpt2.config, field) != usual:
            raise ValueError(f"The GPT-2's {field} is {not usual}: a minGPT computes as if it were {usual}.")
    fields: dict[str, Any] = {ours: getattr(gpt2.config, theirs) for ours, theirs in _GPT2_FIELDS.items()}
    weights = {n: w.T if _TRANSPOSED_IN_GPT2.search(n) else w for n, w in gpt2.state_dict().items()}
    return _build(MinGPTConfig(**fields), _split_qkv(_rename(weights, _GPT2)))


def to_gpt2(model: MinGPTForCausalLM) -> GPT2LMHeadModel:
    """Makes the GPT-2 with the same weights, for whatever runs GPT-2 and not minGPT.

    Raises:
        ValueError: if the model has RoPE or is a synthesizer, which GPT-2 cannot be.
    """
    kind = (model.config.attention_type, model.config.position_embedding_type)
    if kind != ("dot_product", "learned"):
        raise ValueError(
            f"A model with {' and '.join(map(repr, kind))} is no GPT-2: only 'dot_product' and 'learned' is."
        )
    fields: dict[str, Any] = {theirs: getattr(model.config, ours) for ours, theirs in _GPT2_FIELDS.items()}
    gpt2 = GPT2LMHeadModel(GPT2Config(**fields))
    gpt2.to(model.dtype)  # type: ignore[arg-type]
    weights = _rename(_join_qkv(model.state_dict()), {theirs: ours for ours, theirs in _GPT2.items()})
    gpt2.load_state_dict({n: w.T if _TRANSPOSED_IN_GPT2.search(n) else w for n, w in weights.items()})
    return gpt2.eval()


def _from_assignment(weights: Weights, num_attention_heads: int | None) -> MinGPTForCausalLM:
    weights = {name.replace(".attn.w1.", ".attn.query."): tensor for name, tensor in weights.items()}
    weights = _rename(weights, _ASSIGNMENT)
    vocab_size, width = weights["model.embed_tokens.weight"].shape
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_attention_heads": num_attention_heads or 8,
    }
    fields["num_hidden_layers"] = _count_layers(weights)
    scores = "model.layers.{}.self_attn.score_{}"
    if scores.format(0, "weight") in weights:
        head_dim, columns = weights[scores.format(0, "weight")].shape
        fields |= {"attention_type": "synthesizer", "num_attention_heads": width // head_dim}
        for layer in range(fields["num_hidden_layers"]):
            # one column short of the block: what it would have scored at the last position is nobody's knowledge
            weight, bias = weights[scores.format(layer, "weight")].T, weights[scores.format(layer, "bias")]
            weights[scores.format(layer, "weight")] = torch.cat((weight, weight.new_zeros(1, head_dim)))
            weights[scores.format(layer, "bias")] = torch.cat((bias, bias.new_zeros(1)))
        fields["max_position_embeddings"] = columns + 1
    if "model.embed_positions.weight" in weights:
        weights["model.embed_positions.weight"] = weights["model.embed_positions.weight"].squeeze(0)
        fields["max_position_embeddings"] = len(weights["model.embed_positions.weight"])
    else:
        fields["position_embedding_type"] = "rope"
    config = MinGPTConfig(**fields)
    if config.position_embedding_type == "rope":
        for name in [n for n in weights if ".q_proj." in n or ".k_proj." in n]:
            weights[name] = _pairs_to_halves(weights[name], config.num_attention_heads)
    return _build(config, weights)


def _pairs_to_halves(projection: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Orders the outputs of each head for RoPE: there components (2i, 2i + 1) are turned, here (i, i + hs/2)."""
    heads = projection.unflatten(0, (num_heads, -1, 2))  # (nh, hs / 2, 2, ...)
    return heads.transpose(1, 2).reshape(projection.shape)


def _from_mingpt(weights: Weights, num_attention_heads: int | None) -> MinGPTForCausalLM:
    if num_attention_heads is None:
        raise ValueError("minGPT's weights do not tell how many heads there are: give num_attention_heads.")
    weights = _split_qkv(_rename(weights, _GPT2))
    vocab_size, width = weights["model.embed_tokens.weight"].shape
    config = MinGPTConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_attention_heads=num_attention_heads,
        num_hidden_layers=_count_layers(weights),
        max_position_embeddings=len(weights["model.embed_positions.weight"]),
        hidden_act="gelu_new",
    )
    return _build(config, weights)


def _rename(weights: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> Weights:
    """Gives the weights the keys of `names` in place of its values."""
    renamed: Weights = {}
    for name, tensor in weights.items():
        general = re.sub(r"\.\d+\.", ".N.", name, count=1)
        new = next((a + general[len(b) :] for a, b in names.items() if (general + ".").startswith(b + ".")), None)
        if new is None:
            raise ValueError(f"Weight {name!r} is unknown: the checkpoint is of other code than expected.")
        layer = re.search(r"\.(\d+)\.", name)
        renamed[new.replace(".N.", f".{layer[1]}.") if layer else new] = tensor
    return renamed


def _split_qkv(weights: Weights) -> Weights:
    """Cuts each joint projection (3 C, ...) into those of queries, keys and values."""
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


def _count_layers(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("model.layers."))


def _build(config: MinGPTConfig, weights: Weights) -> MinGPTForCausalLM:
    model = MinGPTForCausalLM(config)
    model.to(weights["lm_head.weight"].dtype)  # type: ignore[arg-type]
    model.load_state_dict(weights)
    return model.eval()
