# trf-ignore: TRF028 (the license is MIT: LICENSE). TRF057 below: outside its tree, transformers' @auto_docstring fails.
"""PyTorch minGPT model: a decoder-only Transformer with pre-layer normalization.

This file is part of the remote code of a run: it imports only torch, transformers and configuration_mingpt.

Shapes:

- B: batch size
- T: number of query positions
- S: number of key positions (T, plus the cached ones)
- C: hidden size
- nh: number of attention heads
- hs: head dimension, C / nh
- V: vocabulary size

References: https://github.com/karpathy/minGPT (the model); Su et al. 2021, arXiv:2104.09864 (RoPE); Tay et al. 2020,
arXiv:2005.00743 (synthesizer); transformers `models/llama/modeling_llama.py` (the interface of the library).
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_mingpt import MinGPTConfig

# The argument for the key-value cache is `past_key_values` until transformers 5.23 and `cache` since 5.24. The models
# here accept both names; masks, checkpointed layers and outputs get the name that the installed version expects.
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"

# The arguments that `forward` passes on in **kwargs, by their reader. Any other argument is an error: if transformers
# renames an argument again, the model fails instead of ignoring it.
PASSED_ON = {
    "capture_outputs": {"output_attentions", "output_hidden_states"},
    "the loss": {"num_items_in_batch", "shift_labels"},
    "the attention function": {"is_causal", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"},
    "generate, for stop strings": {"tokenizer"},
    "continuous batching": {"read_index", "write_index", "block_table", "logits_indices", "logits_processor_args"},
    "vLLM's attention function": {"attention_instances"},
    "position_ids, which say the same": {"seq_idx"},
}


def take_cache(cache: Cache | None, kwargs: dict[str, Any]) -> Cache | None:
    """Returns the cache, passed by either name. Raises a TypeError for unknown arguments."""
    past_key_values = kwargs.pop("past_key_values", None)
    if cache is not None and past_key_values is not None:
        raise TypeError("`cache` and `past_key_values` are two names of one argument: give one of them.")
    if past_key_values is not None and CACHE == "cache" and not torch.compiler.is_compiling():
        warnings.warn("`past_key_values` is deprecated: since transformers 5.24 it is `cache`.", FutureWarning, 3)
    if unknown := sorted(kwargs.keys() - set().union(*PASSED_ON.values())):
        raise TypeError(
            f"minGPT does not know the argument {', '.join(unknown)}: leave it out. If transformers passes it, this "
            "model file is too old for the installed transformers: update the file, or install an older transformers."
        )
    return past_key_values if cache is None else cache


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes softmax(query key^T * scaling + mask) value.

    Args:
        query: (B, nh, T, hs).
        key: (B, nh, S, hs).
        value: (B, nh, S, hs).
        attention_mask: Broadcastable to (B, nh, T, S), 0 or -inf.
        scaling: Factor on the scores.
        dropout: Dropout probability of the weights.

    Returns:
        The output (B, T, nh, hs) and the attention weights (B, nh, T, S).
    """
    weights = torch.matmul(query * scaling, key.transpose(-2, -1))  # (B, nh, T, S)
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1).to(value.dtype)  # softmax accumulates in float32
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value)  # (B, nh, T, hs)
    return output.transpose(1, 2).contiguous(), weights  # (B, T, nh, hs)


class MinGPTRotaryEmbedding(nn.Module):
    """Rotary position embedding: position p rotates pair i of a head by the angle p * theta^(-2i / hs)."""

    def __init__(self, config: MinGPTConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        compute = {"default": self.compute_default_rope_parameters, **ROPE_INIT_FUNCTIONS}[self.rope_type]
        inv_freq, self.attention_scaling = compute(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: MinGPTConfig, **kwargs) -> tuple[torch.Tensor, float]:
        """Computes the inverse frequencies (hs / 2,), and the scaling factor of cos and sin, which is 1."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim  # (hs / 2,)
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns cos and sin, each (B, T, hs), in the dtype and on the device of x. position_ids is (B, T)."""
        inv_freq = self.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = position_ids[..., None].float() * inv_freq  # (B, T, hs / 2)
        angles = torch.cat((angles, angles), dim=-1)  # (B, T, hs)
        return tuple((part * self.attention_scaling).to(x.dtype) for part in (angles.cos(), angles.sin()))


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (x_i, x_{i + hs/2}) of x (B, T, nh, hs) by the angles with cos and sin (B, T, hs)."""
    first, second = x.chunk(2, dim=-1)  # (B, T, nh, hs / 2)
    rotated = torch.cat((-second, first), dim=-1)  # (B, T, nh, hs)
    return x * cos.unsqueeze(2) + rotated * sin.unsqueeze(2)


class MinGPTAttention(nn.Module):
    """Multi-head causal self-attention. Subclasses compute queries, keys and values in `project`."""

    def __init__(self, config: MinGPTConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)  # (B, T, C) -> (B, T, nh, hs)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Maps hidden states (B, T, C) to (B, T, C). Also returns the weights (B, nh, T, S) of eager attention."""
        # query (B, nh, T, hs), key and value (B, nh, S, hs); query and key of the synthesizer have hs + 1 components
        query, key, value = self.project(hidden_states, position_embeddings, kwargs.pop(CACHE), kwargs)
        implementation = self.config._attn_implementation
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        kwargs = {**kwargs, "scaling": self.scaling, "dropout": self.attention_dropout if self.training else 0.0}
        output, weights = attention(self, query, key, value, attention_mask, **kwargs)  # (B, T, nh, hs)
        # vLLM's function returns (T, C), and under tensor parallelism there are fewer heads
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights  # (B, T, C)


class MinGPTDotProductAttention(MinGPTAttention):
    """Scaled dot-product attention. With RoPE, `position_embeddings` rotate queries and keys."""

    def __init__(self, config: MinGPTConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def project(self, hidden_states, position_embeddings, cache, kwargs):
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (self.split_heads(project(hidden_states)) for project in projections)  # (B, T, nh, hs)
        if position_embeddings is not None:
            query, key = apply_rotary(query, *position_embeddings), apply_rotary(key, *position_embeddings)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # (B, nh, T, hs)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)  # (B, nh, S, hs)
        return query, key, value


class MinGPTSynthesizerAttention(MinGPTAttention):
    """Dense synthesizer attention: softmax(relu(x A + b1) B + b2) V. The scores of a token depend on that token alone.

    Column s of B belongs to position s, so the columns of B act as keys that do not depend on the input, and any
    attention function for dot products applies; b2 is one more component of the keys. Only values are cached.
    """

    def __init__(self, config: MinGPTConfig, layer_idx: int):
        super().__init__(config, layer_idx)  # q_proj is A and b1
        self.scaling = 1.0
        self.score_weight = nn.Parameter(torch.empty(config.max_position_embeddings, self.head_dim))  # B^T
        self.score_bias = nn.Parameter(torch.empty(config.max_position_embeddings))  # b2

    def project(self, hidden_states, position_embeddings, cache, kwargs):
        if "attention_instances" in kwargs:
            raise ValueError(
                "vLLM needs keys with the dimension of the values, and those of the synthesizer are larger."
            )
        query = self.split_heads(self.q_proj(hidden_states).relu()).transpose(1, 2)  # (B, nh, T, hs)
        value = self.split_heads(self.v_proj(hidden_states)).transpose(1, 2)  # (B, nh, T, hs)
        # + 0 copies the length, which a static cache updates in place
        num_past = cache.get_seq_length(self.layer_idx) + 0 if cache is not None else 0
        if cache is not None:
            _, value = cache.update(value, value, self.layer_idx, kwargs=kwargs)  # (B, nh, S, hs)
            layer = cache.layers[self.layer_idx]
            layer.keys = layer.values  # there are no keys to cache: both names share one tensor
        # Positions of the keys: given for the T new tokens, counted back from them for cached ones. Clamped ones are
        # masked.
        position_ids = kwargs["position_ids"]  # (B or 1, T)
        steps = torch.arange(value.shape[-2], device=value.device) - num_past  # (S,)
        present = steps.clamp(0, position_ids.shape[-1] - 1)  # (S,)
        positions = position_ids[:, present] + steps - present  # (B or 1, S)
        positions = positions.clamp(0, self.config.max_position_embeddings - 1)
        key = torch.cat((self.score_weight, self.score_bias[:, None]), dim=-1)  # (max_position_embeddings, hs + 1)
        key = key[positions].to(query.dtype)  # (B or 1, S, hs + 1)
        key = key[:, None].expand(*value.shape[:-1], -1)  # (B, nh, S, hs + 1)
        return nn.functional.pad(query, (0, 1), value=1.0), key, value  # query (B, nh, T, hs + 1)


ATTENTION_CLASSES = {"dot_product": MinGPTDotProductAttention, "synthesizer": MinGPTSynthesizerAttention}


class MinGPTMLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: MinGPTConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.act_fn(self.up_proj(hidden_states))  # (B, T, intermediate_size)
        return self.down_proj(hidden_states)  # (B, T, C)


class MinGPTBlock(GradientCheckpointingLayer):
    """A Transformer block: attention and an MLP, each after a layer normalization and added to the residual stream."""

    def __init__(self, config: MinGPTConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ATTENTION_CLASSES[config.attention_type](config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MinGPTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + self.dropout(attended)  # (B, T, C)
        return hidden_states + self.dropout(self.mlp(self.post_attention_layernorm(hidden_states)))  # (B, T, C)


class MinGPTPreTrainedModel(PreTrainedModel):  # trf-ignore: TRF057
    """Weight initialization and the features that the library may use, for all minGPT models."""

    config: MinGPTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MinGPTBlock"]
    _skip_keys_device_placement = [CACHE]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MinGPTBlock, "attentions": MinGPTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, MinGPTSynthesizerAttention):
            init.uniform_(module.score_weight, -1e-3, 1e-3)
            init.zeros_(module.score_bias)


class MinGPTModel(MinGPTPreTrainedModel):  # trf-ignore: TRF057
    """The bare minGPT model, which outputs hidden states without any head on top."""

    def __init__(self, config: MinGPTConfig):
        super().__init__(config)
        learned, rope = config.position_embedding_type == "learned", config.position_embedding_type == "rope"
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        self.rotary_emb = MinGPTRotaryEmbedding(config) if rope else None
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([MinGPTBlock(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def check_positions(self, position_ids: torch.Tensor, length: int):
        """Raises a ValueError if the input exceeds the learned positions. In training only the length is checked.

        Reading `position_ids` would make the host wait for the device.
        """
        limit = self.config.max_position_embeddings
        can_read = not self.training and not torch.compiler.is_compiling()
        if length > limit or (can_read and bool(position_ids.max() >= limit)):
            raise ValueError(f"The input exceeds the {limit} learned positions (max_position_embeddings): shorten it.")

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Computes the hidden states.

        Args:
            input_ids: Token ids (B, T).
            attention_mask: (B, T), 1 for tokens and 0 for padding, or an additive mask (B, 1, T, S).
            position_ids: Positions of the tokens (B, T). They start again at 0 where sequences are packed.
            cache: Key-value cache of earlier tokens. It is updated in place.
            inputs_embeds: Embeddings (B, T, C), instead of `input_ids`.
            use_cache: Whether to return a cache.

        Returns:
            `last_hidden_state` (B, T, C), after the final layer normalization, and the cache.

        Raises:
            TypeError: If an argument is unknown.
            ValueError: If the input exceeds the learned positions, or arguments do not fit each other.
        """
        cache = take_cache(cache, kwargs)
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (B, T, C)
        if "read_index" in kwargs and CACHE == "past_key_values":
            kwargs["cache"], cache = cache, None  # a paged cache, which the attention function updates in 5.23
        given_cache = cache  # a new one is empty, and transformers looks for packed sequences only without a cache
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        packed = sorted({"cu_seq_lens_q", "seq_idx"} & kwargs.keys())
        if packed and position_ids is None:
            raise ValueError(f"{packed[0]} needs position_ids that start at 0 with each sequence: give both.")
        kwargs.pop("seq_idx", None)
        packing = position_ids  # only given ones may belong to packed sequences
        if packing is not None:  # a position that does not grow begins one; create_causal_mask takes a gap for one, too
            starts = packing.diff(prepend=packing[:, :1] - 1) < 1
            packing = torch.arange(packing.shape[1], device=packing.device) + 2 * starts.cumsum(1)
        length = inputs_embeds.shape[1] if position_ids is None else 0
        if position_ids is None:
            num_past = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + num_past).unsqueeze(0)
        if self.embed_positions is not None:
            self.check_positions(position_ids, length)
            inputs_embeds = inputs_embeds + self.embed_positions(position_ids)  # (B, T, C)
        hidden_states = self.dropout(inputs_embeds)
        causal_mask = None  # or (B, 1, T, S) if the attention function needs a mask
        unmasked = attention_mask is None and packing is None and given_cache is None
        # In training, sdpa needs no mask then, only its flag `is_causal`. Under torch.compile with torch before 2.13,
        # create_causal_mask returns a mask all the same, as for an export, and attention takes 2.4 times as long.
        sdpa = self.config._attn_implementation == "sdpa"  # trf-ignore: TRF051 (only the mask is left out)
        if not (self.training and unmasked and sdpa):
            causal_mask = create_causal_mask(
                self.config, hidden_states, attention_mask, position_ids=packing, **{CACHE: given_cache}
            )
        rotation = self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None

        for layer in self.layers[: self.config.num_hidden_layers]:  # an early exit lowers num_hidden_layers
            hidden_states = layer(  # (B, T, C)
                hidden_states,
                attention_mask=causal_mask,
                position_embeddings=rotation,
                position_ids=position_ids,
                use_cache=use_cache,
                **{CACHE: cache},
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})


class MinGPTForCausalLM(MinGPTPreTrainedModel, GenerationMixin):  # trf-ignore: TRF057
    """The minGPT model with a language modeling head on top."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}
    _fsdp_plan = {"lm_head": "keep_full_weight"}

    def __init__(self, config: MinGPTConfig):
        super().__init__(config)
        self.model = MinGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def init_continuous_batching(self, *args, **kwargs):
        """Starts continuous batching, as `generate_batch` does. Raises a ValueError for the synthesizer."""
        if self.config.attention_type == "synthesizer":
            raise ValueError(
                "Continuous batching (generate_batch) needs keys with the dimension of the values, and those of the "
                "synthesizer are larger: use generate."
            )
        return super().init_continuous_batching(*args, **kwargs)

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Computes the logits, and the loss if `labels` are given. See `MinGPTModel.forward` for other arguments.

        Args:
            labels: Token ids (B, T), not shifted: the model shifts them. Positions with -100 carry no loss.
            logits_to_keep: Number of last positions, or indices of the positions, for which logits are computed. 0
                computes all.

        Returns:
            `loss`, the mean cross entropy per label, in nats; `logits` (B, T or kept, V); the cache.
        """
        outputs: BaseModelOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))  # (B, T or kept, V)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )


class MinGPTForSequenceClassification(GenericForSequenceClassification, MinGPTPreTrainedModel):  # trf-ignore: TRF057
    """The minGPT model with a linear layer on the last token that is not padding. Its logits are (B, num_labels)."""

    def __init__(self, config: MinGPTConfig):
        # skips the generic __init__, which builds the base model with AutoModel: that does not know remote code
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = MinGPTModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()


class MinGPTForTokenClassification(GenericForTokenClassification, MinGPTPreTrainedModel):  # trf-ignore: TRF057
    """The minGPT model with a linear layer on every token. Its logits are (B, T, num_labels)."""

    def __init__(self, config: MinGPTConfig):
        super(GenericForTokenClassification, self).__init__(config)  # as above
        self.num_labels = config.num_labels
        self.model = MinGPTModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


# save_pretrained copies this file and configuration_mingpt beside the weights, so that they load without this package
for _class, _auto_class in (
    (MinGPTModel, "AutoModel"),
    (MinGPTForCausalLM, "AutoModelForCausalLM"),
    (MinGPTForSequenceClassification, "AutoModelForSequenceClassification"),
    (MinGPTForTokenClassification, "AutoModelForTokenClassification"),
):
    _class.register_for_auto_class(_auto_class)


__all__ = [
    "MinGPTForCausalLM",
    "MinGPTForSequenceClassification",
    "MinGPTForTokenClassification",
    "MinGPTModel",
    "MinGPTPreTrainedModel",
]
