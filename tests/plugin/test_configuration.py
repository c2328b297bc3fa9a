import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_mingpt import MODEL_PRESETS, MinGPTConfig, MinGPTForCausalLM


def test_default_is_the_model_of_the_assignment():
    assert MinGPTForCausalLM(MinGPTConfig()).num_parameters() == 3_323_392


def test_names_of_mingpt_are_aliases():
    config = MinGPTConfig(n_layer=2, n_head=4, n_embd=64, block_size=32, attn_pdrop=0.2)
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (2, 4, 64)
    assert (config.max_position_embeddings, config.attention_dropout, config.head_dim) == (32, 0.2, 16)
    assert config.intermediate_size == 256


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "30"),
        ({"attention_type": "dense"}, "dense"),
        ({"position_embedding_type": "sinus"}, "sinus"),
        ({"attention_type": "synthesizer", "position_embedding_type": "rope"}, "synthesizer"),
        ({"position_embedding_type": "rope", "hidden_size": 24, "num_attention_heads": 8}, "even"),
        ({"hidden_size": "wide"}, "wide"),
    ],
)
def test_invalid_fields_are_reported(changes, said):
    with pytest.raises((StrictDataclassError, ValueError), match=said):
        MinGPTConfig(**changes)


def test_saving_and_loading(tmp_path):
    config = MinGPTConfig(position_embedding_type="rope", n_layer=3)
    config.save_pretrained(tmp_path)
    loaded = MinGPTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.rope_parameters["rope_theta"] == 10000.0
    assert not hasattr(MinGPTConfig(), "rope_parameters")  # transformers takes its presence for RoPE


def test_named_sizes_of_mingpt():
    """Parameters without position embedding and head, in millions, as karpathy/minGPT's comments count them."""
    sizes = {name: MinGPTConfig(**values) for name, values in MODEL_PRESETS.items()}
    assert sizes["assignment"].to_dict() == MinGPTConfig().to_dict()
    for name, millions in {"openai-gpt": 117, "gpt2": 124, "gpt2-medium": 350, "gpt2-xl": 1558}.items():
        config = sizes[name]
        blocks = config.num_hidden_layers * 12 * config.hidden_size**2
        embeddings = (config.vocab_size + config.max_position_embeddings) * config.hidden_size
        assert (blocks + embeddings) / 1e6 == pytest.approx(millions, rel=0.02)
    assert sizes["gpt-nano"].head_dim == 16
