"""Exporting: a run as ONNX, for onnxruntime and for transformers.js.

The graph has a cache: its inputs are the new tokens and the keys and values of earlier ones, and an empty cache for a
prompt. Names, shapes and folders are those of Optimum's exports, which transformers.js loads.

Reference: https://huggingface.co/docs/transformers.js/custom_usage.
"""

import json
from pathlib import Path

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from ..modeling_mingpt import CACHE
from ..system.writing import write_json, written_aside

ONNX_FILE = "onnx/model.onnx"
# transformers.js knows architectures by name, and reads from this one's configuration what the cache is like: the
# fields of MinGPTConfig. The graph itself can be anything.
KNOWN_AS = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}


class WithCache(nn.Module):
    """A model whose cache is a flat sequence of tensors: the key and the value (B, nh, S, hs) of each layer."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Maps ids and positions (B, T), a mask (B, S + T) and the cache to logits (B, T, V) and the new cache."""
        cache = DynamicCache(ddp_cache_data=list(zip(past[::2], past[1::2], strict=True)))
        outputs = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=True,
            **{CACHE: cache},
        )
        layers = outputs[CACHE].layers
        return outputs.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values))


def export_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Exports a model and its tokenizer into a folder that transformers.js loads.

    Args:
        model: a causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        folder: an existing folder.
    """
    config = model.config
    tokens, past = 3, 2  # example lengths, which stay variable
    shape = (2, config.num_attention_heads, past, config.head_dim)
    caches = tuple(torch.zeros(shape) for _ in range(2 * config.num_hidden_layers))
    ids = torch.zeros(2, tokens, dtype=torch.long)
    mask = torch.ones(2, past + tokens, dtype=torch.long)
    positions = torch.arange(past, past + tokens).expand(2, -1)
    pairs = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    # transformers.js makes an empty cache from these names
    lengths = ("sequence_length", "total_sequence_length", "sequence_length")
    (folder / ONNX_FILE).parent.mkdir(exist_ok=True)
    with written_aside(folder / ONNX_FILE) as aside:
        torch.onnx.export(
            WithCache(model),
            (ids, mask, positions, *caches),
            aside,
            input_names=["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{p}" for p in pairs)],
            output_names=["logits", *(f"present.{pair}" for pair in pairs)],
            dynamic_shapes=(
                *({0: "batch_size", 1: length} for length in lengths),
                tuple({0: "batch_size", 2: "past_sequence_length"} for _ in caches),
            ),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    tokenizer.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    fields = json.loads(config.to_json_string(use_diff=False))
    write_json(folder / "config.json", {name: v for name, v in fields.items() if name != "auto_map"} | KNOWN_AS)
