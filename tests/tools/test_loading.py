"""transformers loads, resizes and wraps the model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TorchAoConfig, pipeline

from hf_mingpt import load_run

from .logits import PROMPT, assert_same, tools


def test_pipelines(folder):
    write = pipeline("text-generation", model=str(folder))
    (written,) = write(PROMPT, max_new_tokens=5, do_sample=False)
    assert written["generated_text"].startswith(PROMPT)
    assert len(write([PROMPT, "Zoë"], max_new_tokens=5, batch_size=2)) == 2
    (features,) = pipeline("feature-extraction", model=str(folder))(PROMPT)
    assert torch.tensor(features).shape == (len(PROMPT), 32)


def test_loads_on_every_road(model, ids, tmp_path):
    """Sharded, by device_map, in another dtype, and through the meta device, where buffers must be made anew."""
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    expected = model(ids).logits
    for options in ({}, {"device_map": "auto"}, {"dtype": "auto"}, {"low_cpu_mem_usage": True}):
        assert_same(AutoModelForCausalLM.from_pretrained(tmp_path, **options)(ids).logits, expected)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(ids).logits.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.to_empty(device="cpu")
    empty.init_weights()
    assert torch.isfinite(empty(ids).logits).all()


def test_new_characters_resize_the_embeddings(model, tokenizer, ids, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    larger = AutoTokenizer.from_pretrained(tmp_path)
    assert larger.add_tokens(["Ж", "ß"]) == 2
    expected = model(ids).logits.detach()
    model.resize_token_embeddings(len(larger))
    logits = model(ids).logits
    assert logits.shape[-1] == len(larger) == model.config.vocab_size
    assert_same(logits[..., :-2], expected)
    new = larger("Жaß", return_tensors="pt").input_ids
    assert new.shape == (1, 3)
    assert larger.decode(new[0]) == "Жaß"
    model(new, labels=new).loss.backward()


@tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_quantization_config_of_torchao(model, folder, ids, tmp_path):
    """int8 weights: near the logits of float32; saved and loaded again, the same logits and the same answers."""
    quantization = pytest.importorskip("torchao.quantization")
    int8 = TorchAoConfig(quant_type=quantization.Int8WeightOnlyConfig(version=2))
    quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=int8)
    assert isinstance(quantized.model.layers[0].mlp.up_proj.weight, quantization.Int8Tensor)
    logits, expected = quantized(ids).logits, model(ids).logits
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()
    quantized.save_pretrained(tmp_path / "int8")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "int8")
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path / "int8"), load_run(str(tmp_path / "int8"))[0]):
        assert torch.equal(again(ids).logits, logits)
        options = {"max_new_tokens": 12, "do_sample": False}
        assert again.generate(ids, **options).tolist() == quantized.generate(ids, **options).tolist()
