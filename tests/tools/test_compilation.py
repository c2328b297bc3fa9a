"""Compiled and exported models compute the same logits."""

import shutil

import pytest
import torch
from transformers import GenerationConfig, StaticCache
from transformers.integrations.executorch import convert_and_export_with_cache

from .logits import assert_same, tools


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_a_graph_break(model, ids):
    expected = model(ids).logits
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_same(compiled(ids).logits, expected)
    model.train()
    loss = compiled(ids, labels=ids).loss
    loss.backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_compiled_decoding_with_a_static_cache(model, ids):
    torch._dynamo.reset()
    step = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=40)
    prompt, length = ids[:, :-4], ids.shape[1] - 4
    model(prompt, cache=cache, use_cache=True)
    for position in range(length, ids.shape[1]):
        token, position_ids = ids[:, position : position + 1], torch.full((1, 1), position)
        logits = step(token, position_ids=position_ids, cache=cache, use_cache=True).logits
        assert_same(logits[:, -1], model(ids[:, : position + 1]).logits[:, -1])


@tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_inductor(model, ids):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    torch._dynamo.reset()
    assert_same(torch.compile(model, fullgraph=True)(ids).logits, model(ids).logits)


@tools
@torch.no_grad()
def test_flex_attention(model, ids):
    if shutil.which("g++") is None:
        pytest.skip("flex attention on a CPU needs a C++ compiler")
    expected = model(ids).logits
    model.set_attn_implementation("flex_attention")
    assert_same(model(ids).logits, expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_exports(model, ids):
    length = torch.export.Dim("length", min=2, max=48)
    program = torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False}, dynamic_shapes={"input_ids": {1: length}, "use_cache": None}
    )
    for shorter in (ids, ids[:, :9]):
        assert_same(program.module()(input_ids=shorter, use_cache=False).logits, model(shorter).logits)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_exports_decoding_with_a_static_cache(model, ids):
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 40}
    )
    step = convert_and_export_with_cache(model).module()
    for position in range(ids.shape[1]):
        logits = step(input_ids=ids[:1, position : position + 1], cache_position=torch.tensor([position]))
    assert_same(logits[:, -1], model(ids[:1]).logits[:, -1])
