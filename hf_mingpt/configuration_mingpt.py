# trf-ignore: TRF028 (the licence is MIT: LICENSE). TRF057 below: outside its tree, transformers' @auto_docstring fails.
"""MinGPTConfig: the shape of a minGPT model, typed and validated.

First in the flow: everything reads it, it reads nothing of ours. The defaults are the model of Stanford CS224n,
assignment 5 (4 layers, 8 heads, width 256, block 128, 256 characters: 3,323,392 parameters).

References: karpathy/minGPT `mingpt/model.py` (names and named sizes), transformers `models/llama` (field names).
"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class MinGPTConfig(PreTrainedConfig):  # trf-ignore: TRF057
    """Configuration of a MinGPT model. minGPT's names (`n_layer`, `block_size`, ...) work as aliases.

    Args:
        vocab_size: Number of token ids; 256 is the vocabulary of the assignment's corpus.
        hidden_size: Width of the residual stream, `C`.
        intermediate_size: Width inside the MLP. `None` means `4 * hidden_size`.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Number of heads, `nh`; `hidden_size` must be a multiple of it.
        max_position_embeddings: The block: the longest sequence, in tokens, that the model was made for.
        attention_type: `"dot_product"`, or `"synthesizer"` (Tay et al. 2020, arXiv:2005.00743, the dense form).
        position_embedding_type: `"learned"`, or `"rope"` (Su et al. 2021, arXiv:2104.09864; only for `dot_product`).
        rope_parameters: As in transformers' own models; `{"rope_type": "default", "rope_theta": 10000.0}` if left out.
            There is no such attribute with learned positions: its presence says that there is RoPE.
        hidden_act: Activation of the MLP; `"gelu"` is the exact one.
        embedding_dropout: Dropout on the sum of the embeddings.
        attention_dropout: Dropout on the attention weights.
        hidden_dropout: Dropout on what attention and MLP add to the residual stream.
        layer_norm_eps: Added to the variance in every LayerNorm.
        initializer_range: Standard deviation of the initial weights.
        tie_word_embeddings: Whether the output head is the token embedding.
    """

    model_type = "mingpt"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # its names in transformers 5.24 and in 5.23
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
        super().__post_init__(**kwargs)  # also turns minGPT's names into ours, and completes rope_parameters
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.attention_type == "synthesizer":  # it has no keys, but score weights, which all heads share
            self.base_model_tp_plan = {k: v for k, v in self.base_model_tp_plan.items() if "k_proj" not in k}
            self.base_model_tp_plan["layers.*.self_attn"] = "replicated_with_grad_allreduce"

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Writes config.json with an `auto_map` of all classes; transformers names only the one that is saved."""
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
        """Width of one head, `hs`."""
        return self.hidden_size // self.num_attention_heads

    def validate_architecture(self):
        """Raises a ValueError where fields do not fit each other. Run by `@strict` after construction."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}: "
                "change one of them."
            )
        if self.position_embedding_type == "rope":
            if self.attention_type == "synthesizer":
                raise ValueError(
                    "'rope' rotates queries and keys, and attention_type 'synthesizer' has no keys: use 'learned'."
                )
            if self.head_dim % 2 != 0:
                raise ValueError(f"RoPE rotates pairs, but the head width is {self.head_dim}: make it even.")


MinGPTConfig.register_for_auto_class()  # every save copies this file

__all__ = ["MinGPTConfig"]
