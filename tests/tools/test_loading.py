"""transformers loads, resizes and wraps the model."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from .logits import PROMPT, assert_same


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
