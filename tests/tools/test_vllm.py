"""What vLLM's backend for transformers models asks of a model that is not its own: its documented list, and its calls.

vLLM itself needs a GPU or a build of its own. Its documentation ("Writing custom models") lists the properties; its
backend, which this file imitates, builds the base model without weights, exchanges linear layers by the plan for tensor
parallelism, and passes the tokens of all requests as one sequence to an attention function that keeps the cache.
"""

import json
import re

import pytest
import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..conftest import small_model
from .logits import assert_same


class Attention:
    """A layer's attention with its cache: tokens (T, nh * hs) of several requests, each appended to its own cache."""

    def __init__(self, num_heads: int, head_size: int, requests: dict[str, int]):
        self.shape, self.scale = (num_heads, head_size), head_size**-0.5
        self.requests = requests  # the number of tokens of each request in this step
        self.cache: dict[str, list[torch.Tensor]] = {}

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        parts = [x.view(-1, *self.shape).split(list(self.requests.values())) for x in (query, key, value)]
        outputs = []
        for request, q, *new in zip(self.requests, *parts, strict=True):
            past = self.cache.get(request)
            self.cache[request] = k, v = [torch.cat(x) for x in zip(past, new, strict=True)] if past else new
            causal = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
            heads = (x.transpose(0, 1) for x in (q, k, v))
            attended = nn.functional.scaled_dot_product_attention(*heads, attn_mask=causal, scale=self.scale)
            outputs.append(attended.transpose(0, 1))
        return torch.cat(outputs).flatten(1)  # (T, nh * hs)


def attend(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
    layer = attention_instances[module.layer_idx]
    layer.scale = float(scaling)
    tokens = query.shape[-2]
    return layer.forward(*(x.transpose(1, 2).reshape(tokens, -1) for x in (query, key, value))), None


@pytest.fixture(autouse=True)
def vllm_attention(monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "vllm", attend)


@pytest.fixture
def base(model):
    """The base model, as the backend builds it: from the configuration, on the meta device, and then with weights."""
    config = model.config
    assert config.get_text_config() is config
    config._attn_implementation = "vllm"
    with torch.device("meta"):
        empty = AutoModel.from_config(config)
    assert type(empty.get_decoder()) is type(empty)
    assert empty.is_backend_compatible()
    return model.model


def test_properties_that_are_asked_for(folder, model, base):
    written = json.loads((folder / "config.json").read_text())
    assert written["auto_map"]["AutoModel"] == "modeling_mingpt.MinGPTModel"
    assert all(getattr(module, "is_causal", True) for module in base.modules())  # False would mean an encoder
    assert [module.layer_idx for module in base.modules() if hasattr(module, "layer_idx")] == [0, 1]
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings", "vocab_size"):
        assert isinstance(getattr(model.config, name), int), name
    assert model.config.head_dim * model.config.num_attention_heads == model.config.hidden_size
    assert base.get_input_embeddings() is base.embed_tokens
    base.set_input_embeddings(nn.Embedding(5, 32))
    assert base.embed_tokens.num_embeddings == 5


def test_plans_name_every_layer(variant, model, base):
    """Patterns as the backend reads them: of the tensor parallel plan as regular expressions on qualified names."""
    plan = {f"model.{name}": style for name, style in base.tp_plan.items()}
    linear = {f"model.{name}" for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    styles = {name: [style for pattern, style in plan.items() if re.fullmatch(pattern, name)] for name in linear}
    rowwise = {name for name in linear if name.endswith(("o_proj", "down_proj"))}
    assert styles == {name: ["rowwise" if name in rowwise else "colwise"] for name in linear}
    assert list(base._pp_plan) == ["embed_tokens", "layers", "norm"]
    lists = [name for name, module in base.named_children() if isinstance(module, nn.ModuleList)]
    assert lists == ["layers"]
    beside = {name for name, module in base.named_children() if list(module.parameters())} - set(base._pp_plan)
    assert beside == (set() if variant == "rope" else {"embed_positions"})


def test_weights_have_the_names_of_the_modules(model, base):
    """`model.` is the base model, `lm_head` is beside it, and no tensor is saved twice."""
    assert base.base_model_prefix == "model"
    names = {f"model.{name}" for name in base.state_dict()}
    assert set(model.state_dict()) == {*names, "lm_head.weight"}
    assert model.lm_head.bias is None


@torch.no_grad()
def test_requests_of_different_lengths_share_a_sequence(variant, model, base, ids):
    """Prefill of two requests, then steps of decoding, with a third one beside them: the logits of each alone."""
    if variant == "synthesizer":
        with pytest.raises(ValueError, match="vLLM needs keys with the dimension of the values"):
            base(ids[:1], position_ids=torch.arange(ids.shape[1])[None], attention_instances={}, use_cache=False)
        return
    alone = small_model(variant, vocab_size=model.config.vocab_size)
    texts = {"first": ids[0], "second": ids[1, :9], "third": ids[1, 5:]}
    done = dict.fromkeys(texts, 0)
    step: dict[str, int] = {}
    layers = {i: Attention(4, 8, step) for i in range(2)}
    for sizes in ({"first": 12, "second": 7}, {"first": 1, "second": 1, "third": 10}, {"third": 3, "first": 2}):
        step.clear()
        step.update(sizes)
        tokens = torch.cat([texts[name][done[name] : done[name] + size] for name, size in sizes.items()])
        positions = torch.cat([torch.arange(done[name], done[name] + size) for name, size in sizes.items()])
        hidden, *_ = base(
            input_ids=tokens[None],
            inputs_embeds=None,
            use_cache=False,
            position_ids=positions[None],
            attention_instances=layers,
            return_dict=False,
        )
        assert hidden.shape == (1, len(tokens), 32)
        for (name, size), logits in zip(
            sizes.items(), model.lm_head(hidden[0]).split(list(sizes.values())), strict=True
        ):
            done[name] += size
            assert_same(logits, alone(texts[name][None, : done[name]]).logits[0, -size:])
