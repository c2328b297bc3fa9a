"""Continuing from a model: a longer context is transformers' RoPE scaling, and embeddings grow."""

import pytest
import torch

from hf_mingpt.tokenization_mingpt import build_tokenizer
from hf_mingpt.training.continuing import lengthen_context, resize_embeddings

from ..conftest import VARIANTS, small_model
from .small_runs import have_same_weights

IDS = torch.arange(2, 32)[None]


def test_linear_scaling_interpolates_positions():
    """At twice the length, every other position is one of the old ones."""
    model = small_model("rope")
    longer = lengthen_context(model, 96).eval()
    assert longer.config.max_position_embeddings == 96
    expected = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 48}
    assert longer.config.rope_parameters == expected
    assert have_same_weights(model, longer)
    places = torch.arange(30)[None]
    with torch.no_grad():
        ours = longer(input_ids=IDS, position_ids=2 * places).logits
        torch.testing.assert_close(ours, model(input_ids=IDS, position_ids=places).logits)
        assert not torch.allclose(longer(input_ids=IDS).logits, ours)


def test_dynamic_scaling_changes_nothing_within_the_old_length():
    model = small_model("rope")
    longer = lengthen_context(model, 96, "dynamic").eval()
    with torch.no_grad():
        torch.testing.assert_close(longer(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_the_configuration_records_the_scaling(tmp_path):
    longer = lengthen_context(small_model("rope"), 72, "yarn")
    longer.save_pretrained(tmp_path)
    loaded = type(longer).from_pretrained(tmp_path).eval()
    assert loaded.config.rope_parameters["rope_type"] == "yarn"
    assert loaded.config.rope_parameters["factor"] == 1.5
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, longer.eval()(input_ids=IDS).logits)
    again = lengthen_context(loaded, 96)
    assert again.config.rope_parameters["factor"] == 2.0  # of the original length
    assert again.config.rope_parameters["original_max_position_embeddings"] == 48


def test_dropout_and_the_rest_of_the_configuration_stay():
    model = small_model("rope", hidden_dropout=0.25)
    assert lengthen_context(model, 96).config.hidden_dropout == 0.25


@pytest.mark.parametrize("length", [None, 48])
def test_the_same_length_is_the_same_model(variant, length):
    model = small_model(variant)
    assert lengthen_context(model, length) is model


def test_what_cannot_be_lengthened_is_refused_with_a_remedy():
    for variant in VARIANTS.keys() - {"rope"}:
        with pytest.raises(ValueError, match="over the 48 learned positions of the model: give block_size 48 or less"):
            lengthen_context(small_model(variant), 49)
    with pytest.raises(ValueError, match="max_position_embeddings 47 is under the model's 48: give block_size 47"):
        lengthen_context(small_model("rope"), 47)
    with pytest.raises(ValueError, match="rope_type 'yarn' needs a max_position_embeddings over the model's 48"):
        lengthen_context(small_model("rope"), 48, "yarn")


def test_embeddings_grow_with_the_tokenizer(variant):
    model = small_model(variant)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    letters = list(map(chr, range(97, 97 + 38)))
    resize_embeddings(model, build_tokenizer(["□", "⁇", *letters[:35]], 48))
    assert model.config.vocab_size == 37
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    resize_embeddings(model, build_tokenizer(["□", "⁇", *letters], 48))
    assert model.config.vocab_size == 40
    for name, weight in model.state_dict().items():
        assert torch.equal(weight[:37] if "embed_tokens" in name or "lm_head" in name else weight, before[name])
    assert model.get_input_embeddings().weight[37:].std() > 0
