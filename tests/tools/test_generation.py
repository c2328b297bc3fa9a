"""Ways to generate beyond those of tests/plugin/test_modeling.py."""

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from ..conftest import small_model
from .logits import tools


def test_other_ways_to_generate(model, ids):
    greedy = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assistant = small_model("learned", vocab_size=model.config.vocab_size, num_hidden_layers=1)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assisted = model.generate(ids[:1], assistant_model=assistant, **options)
    assert assisted.tolist() == greedy[:1].tolist()
    looked_up = model.generate(ids[:1], prompt_lookup_num_tokens=2, **options)
    assert looked_up.tolist() == greedy[:1].tolist()
    for cache in ("dynamic", "static"):
        assert model.generate(ids, cache_implementation=cache, **options).tolist() == greedy.tolist(), cache
    chunked = model.generate(ids, prefill_chunk_size=4, **options)
    assert chunked.tolist() == greedy.tolist()
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, **options)
    assert beams.shape == (4, ids.shape[1] + 8)


def test_generate_batch(variant, model, ids):
    """Continuous batching with a paged cache."""
    if variant == "synthesizer":
        pytest.skip("refused: test_modeling.py")
    options = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [ids[0].tolist(), ids[1, :7].tolist()]
    done = model.generate_batch(
        prompts, generation_config=options, continuous_batching_config=ContinuousBatchingConfig(num_blocks=16)
    )
    for prompt, output in zip(prompts, done.values(), strict=True):
        alone = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
        assert output.generated_tokens == alone[0, len(prompt) :].tolist()


@tools
def test_quantized_cache(model, ids):
    pytest.importorskip("hqq")
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    int8 = {"backend": "hqq", "nbits": 8, "axis_key": 1, "axis_value": 1, "q_group_size": 8, "residual_length": 4}
    written = model.generate(ids, cache_implementation="quantized", cache_config=int8, **options)
    assert (written == model.generate(ids, **options)).float().mean() > 0.9
