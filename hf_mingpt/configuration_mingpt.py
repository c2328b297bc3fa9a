# trf-ignore: TRF028 (the license is MIT: LICENSE). TRF057 below: outside its tree, transformers' @auto_docstring fails.
"""minGPT model configuration.

This file is part of the remote code of a run: it imports only huggingface_hub and transformers.

References: karpathy/minGPT `mingpt/model.py` (aliases and named sizes), transformers `models/llama` (field names).
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class MinGPTConfig(PreTrainedConfig):  # trf-ignore: TRF057
    """Configuration of a minGPT model.

    The defaults are the model of Stanford CS224n, assignment 5, with 3,323,392 parameters. The names of minGPT
    (`n_layer`, `n_head`, `n_embd`, `block_size`, ...) work as aliases.

    Args:
        vocab_size: Vocabulary size. 256 is that of the assignment's corpus.
        hidden_size: Dimension of the hidden states (`C`).
        intermediate_size: Dimension of the MLP. `None` means `4 * hidden_size`.
        num_hidden_layers: Number of Transformer blocks.
        num_attention_heads: Number of attention heads (`nh`). It must divide `hidden_size`.
        max_position_embeddings: Context length: the longest sequence, in tokens, that the model is made for.
        attention_type: `"dot_product"` or `"synthesizer"`, the dense synthesizer (Tay et al. 2020, arXiv:2005.00743).
        position_embedding_type: `"learned"` or, with `"dot_product"`, `"rope"` (Su et al. 2021, arXiv:2104.09864).
        rope_parameters: Parameters of RoPE, as in other models of transformers. Defaults to
            `{"rope_type": "default", "rope_theta": 10000.0}`. With learned positions the attribute does not exist,
            because transformers takes its presence for RoPE.
        hidden_act: Activation function of the MLP. `"gelu"` is the exact GELU.
        embedding_dropout: Dropout probability of the embeddings.
        attention_dropout: Dropout probability of the attention weights.
        hidden_dropout: Dropout probability of the outputs of attention and MLP, before they are added to the residual
            stream.
        layer_norm_eps: Epsilon of the layer normalizations.
        initializer_range: Standard deviation of the initial weights.
        use_cache: Whether the model returns its key-value cache.
        pad_token_id: Id of the padding token.
        bos_token_id: Id of the beginning-of-sequence token. The character tokenizer has none.
        eos_token_id: Id of the end-of-sequence token, or a list of ids.
        tie_word_embeddings: Whether the language modeling head shares the weights of the token embedding.
    """

    model_type = "mingpt"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # the name in transformers 5.24, and in 5.23
    attribute_map = {
        "n_embd": "hidden_size",
        "n_inner": "intermediate_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "block_size": "max_position_embeddings",
        "embd_pdrop": "embedding_dropout",
        "attn_pdrop": "attention_dropout",
        "resid_pdrop": "hidden_dropout",
    }
    base_model_tp_plan = {
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    max_position_embeddings: int = 128
    attention_type: Literal["dot_product", "synthesizer"] = "dot_product"
    position_embedding_type: Literal["learned", "rope"] = "learned"
    hidden_act: str = "gelu"
    embedding_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    hidden_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        rope_parameters = kwargs.pop("rope_parameters", None)
        if self.position_embedding_type == "rope":
            self.rope_parameters = rope_parameters
        super().__post_init__(**kwargs)  # also resolves the aliases and completes rope_parameters
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.attention_type == "synthesizer":  # all heads share the score weights, and there are no keys
            self.base_model_tp_plan = {k: v for k, v in self.base_model_tp_plan.items() if "k_proj" not in k}
            self.base_model_tp_plan["layers.*.self_attn"] = "replicated_with_grad_allreduce"

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Saves the configuration with an `auto_map` of all classes. transformers maps only the class that is saved."""
        modeling = "modeling_mingpt.MinGPT"
        self.auto_map = {
            "AutoConfig": "configuration_mingpt.MinGPTConfig",
            "AutoModel": f"{modeling}Model",
            "AutoModelForCausalLM": f"{modeling}ForCausalLM",
            "AutoModelForSequenceClassification": f"{modeling}ForSequenceClassification",
            "AutoModelForTokenClassification": f"{modeling}ForTokenClassification",
        }
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @property
    def head_dim(self) -> int:
        """Dimension of an attention head (`hs`)."""
        return self.hidden_size // self.num_attention_heads

    def validate_architecture(self):
        """Raises a ValueError if fields are incompatible. `@strict` runs it after construction."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}: "
                "change one of them."
            )
        if self.position_embedding_type == "rope":
            if self.attention_type == "synthesizer":
                raise ValueError("'rope' needs keys, which attention_type 'synthesizer' does not have: use 'learned'.")
            if self.head_dim % 2 != 0:
                raise ValueError(f"RoPE needs an even head dimension, not {self.head_dim}: change hidden_size.")


MinGPTConfig.register_for_auto_class()  # so that save_pretrained copies this file

__all__ = ["MinGPTConfig"]
