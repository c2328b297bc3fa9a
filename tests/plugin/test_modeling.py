import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DynamicCache,
    StaticCache,
)

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM, MinGPTModel
from hf_mingpt.conversion import to_gpt2
from hf_mingpt.modeling_mingpt import CACHE

from ..conftest import NO_DROPOUT, small_config, small_model


def random_ids(model, *shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, model.config.vocab_size, shape, generator=generator)


class TestParityWithGPT2:
    @pytest.fixture
    def models(self):
        torch.manual_seed(0)
        ours = MinGPTForCausalLM(MinGPTConfig(initializer_range=0.1)).eval()
        return ours, to_gpt2(ours)

    def test_logits(self, models):
        ours, gpt2 = models
        ids = random_ids(ours, 4, 128)
        with torch.no_grad():
            difference = (ours(ids).logits - gpt2(ids).logits).abs().max()
        assert difference < 1e-5

    def test_loss_and_gradient(self, models):
        ours, gpt2 = models
        ids = random_ids(ours, 2, 40)
        labels = ids.masked_fill(torch.arange(40) < 9, -100)
        losses = [model(ids, labels=labels).loss for model in (ours, gpt2)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        for loss in losses:
            loss.backward()
        ours_grad, gpt2_grad = ours.model.embed_tokens.weight.grad, gpt2.transformer.wte.weight.grad
        torch.testing.assert_close(ours_grad, gpt2_grad, rtol=1e-4, atol=1e-6)

    def test_greedy_ids(self, models):
        ours, gpt2 = models
        ids = random_ids(ours, 3, 20)
        options = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(ours.generate(ids, **options), gpt2.generate(ids, **options))


def synthesizer_reference(layer, x: torch.Tensor) -> torch.Tensor:
    """softmax(relu(x A + b1) B + b2) V for each head, in float64, as in the assignment."""
    x, (batch, length, width) = x.double(), x.shape
    nh, hs = width // layer.head_dim, layer.head_dim

    def part(linear):
        return (x @ linear.weight.double().T + linear.bias.double()).view(batch, length, nh, hs).transpose(1, 2)

    scores = part(layer.q_proj).relu() @ layer.score_weight.double().T[:, :length] + layer.score_bias.double()[:length]
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    y = (scores.softmax(-1) @ part(layer.v_proj)).transpose(1, 2).reshape(batch, length, width)
    return y @ layer.o_proj.weight.double().T + layer.o_proj.bias.double()


def test_synthesizer_matches_its_formula():
    model = small_model("synthesizer")
    layer = model.model.layers[0].self_attn
    torch.nn.init.normal_(layer.score_weight)
    torch.nn.init.normal_(layer.score_bias)
    seen = {}
    layer.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    layer.register_forward_hook(lambda *call: seen.update(y=call[-1][0]))
    with torch.no_grad():
        model(random_ids(model, 2, 20))
        torch.testing.assert_close(seen["y"].double(), synthesizer_reference(layer, seen["x"]), rtol=0, atol=1e-5)


def test_synthesizer_scores_depend_on_one_token():
    """The attention weights of the first layer at a position change only with the token at that position."""
    model = small_model("synthesizer")
    model.set_attn_implementation("eager")
    ids = random_ids(model, 1, 10)
    changed = ids.clone()
    changed[0, 3] = 2 if ids[0, 3] != 2 else 3
    with torch.no_grad():
        before, after = (model(x, output_attentions=True).attentions[0] for x in (ids, changed))
    same = (before == after).all(-1).all(1)[0]
    assert same.tolist() == [place != 3 for place in range(10)]


def test_rope_rotates_pairs_by_position():
    """Compares with complex numbers in float64: theta_i = 10000^(-2(i - 1) / d), as in the assignment."""
    from hf_mingpt.modeling_mingpt import MinGPTRotaryEmbedding, apply_rotary

    config = small_config("rope")
    x = torch.randn(1, 4, 12, config.head_dim)
    cos, sin = MinGPTRotaryEmbedding(config)(x, torch.arange(12)[None])
    half = config.head_dim // 2
    rotation = torch.polar(
        torch.ones(12, half, dtype=torch.float64),
        torch.arange(12.0)[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) * 2 / config.head_dim),
    )
    expected = torch.complex(x[..., :half].double(), x[..., half:].double()) * rotation  # (B, nh, T, hs / 2)
    rotated = apply_rotary(x.transpose(1, 2), cos, sin).transpose(1, 2).double()
    torch.testing.assert_close(rotated, torch.cat((expected.real, expected.imag), -1), rtol=0, atol=1e-5)


def test_rope_depends_on_relative_positions():
    model = small_model("rope")
    ids = random_ids(model, 1, 12)
    positions = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids, position_ids=positions).logits, model(ids, position_ids=positions + 30).logits, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_causal(variant, attention, training):
    model = small_model(variant).train(training)
    model.set_attn_implementation(attention)
    model.config.use_cache = False
    ids = random_ids(model, 1, 16)
    changed = ids.clone()
    changed[0, 10:] = (changed[0, 10:] - 1) % 35 + 2
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :10], after[:, :10], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 10:], after[:, 10:])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_generation_with_and_without_the_cache_gives_identical_tokens(variant, attention):
    model = small_model(variant)
    model.set_attn_implementation(attention)
    ids = random_ids(model, 3, 9)
    for options in ({"do_sample": False}, {"do_sample": False, "num_beams": 3}):
        options |= {"max_new_tokens": 25, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(model.generate(ids, **options), model.generate(ids, use_cache=False, **options))


def test_generation_with_static_and_dynamic_cache_gives_identical_tokens(variant):
    model = small_model(variant)
    ids = random_ids(model, 2, 9)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    static = model.generate(ids, cache_implementation="static", disable_compile=True, **options)
    assert torch.equal(static, model.generate(ids, **options))


@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
def test_synthesizer_caches_values_only(kind):
    model = small_model("synthesizer")
    cache = kind(config=model.config, **({"max_cache_len": 20} if kind is StaticCache else {}))
    for ids in (random_ids(model, 2, 9), random_ids(model, 2, 1)):
        model(ids, cache=cache, use_cache=True)
    for layer in cache.layers:
        assert layer.keys is layer.values
        assert layer.values.shape[:2] == (2, 4)
    assert cache.get_seq_length() == 10


def test_sampling_is_reproducible(variant):
    model = small_model(variant)
    ids = random_ids(model, 2, 5)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(model.generate(ids, do_sample=True, max_new_tokens=20, attention_mask=torch.ones_like(ids)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_left_padding_does_not_change_generation(variant, attention):
    model = small_model(variant)
    model.set_attn_implementation(attention)
    prompts = [random_ids(model, 1, length, seed=length) for length in (3, 11, 7)]
    padded = torch.cat([F.pad(prompt, (11 - prompt.shape[1], 0)) for prompt in prompts])
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 2):
        together = model.generate(padded, attention_mask=(padded != 0).long(), num_beams=beams, **options)
        for row, prompt in zip(together, prompts, strict=True):
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), num_beams=beams, **options)
            assert torch.equal(row[11:], alone[0, prompt.shape[1] :])


def test_eager_and_sdpa_give_the_same_logits(variant):
    model = small_model(variant)
    ids = random_ids(model, 2, 20)
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    logits = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with torch.no_grad():
            logits.append(model(ids, attention_mask=mask).logits[mask.bool()])
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


def test_auto_classes_load_a_saved_model(variant, tmp_path):
    model = small_model(variant)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "configuration_mingpt.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_mingpt.py",
    ]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MinGPTConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), MinGPTModel)
    ids = random_ids(model, 2, 10)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_initial_weights(variant):
    torch.manual_seed(0)
    model = MinGPTForCausalLM(small_config(variant, hidden_size=256, num_hidden_layers=4))
    block = model.model.layers[2]
    assert block.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.self_attn.o_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.self_attn.v_proj.bias.abs().max() == 0
    assert block.input_layernorm.weight.min() == 1
    if variant == "synthesizer":
        assert 0 < block.self_attn.score_weight.abs().max() <= 1e-3
        assert block.self_attn.score_bias.abs().max() == 0


def test_num_items_in_batch_normalizes_the_loss(variant):
    model = small_model(variant, **NO_DROPOUT)
    ids = random_ids(model, 4, 12)
    whole = model(ids, labels=ids).loss
    parts = [model(part, labels=part, num_items_in_batch=4 * 11).loss for part in ids.chunk(2)]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_an_input_past_the_learned_positions_is_refused(training):
    model = small_model("learned").train(training)
    with pytest.raises(ValueError, match="48 learned positions"):
        model(random_ids(model, 1, 49))
    model = small_model("rope").train(training)
    assert model(random_ids(model, 1, 49)).logits.shape[1] == 49


def test_generation_past_the_learned_positions_is_refused(variant):
    model = small_model(variant)
    ids = random_ids(model, 1, 40)
    assert model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None).shape == (1, 48)
    if variant == "rope":
        assert model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=None).shape == (1, 50)
    else:
        with pytest.raises(ValueError, match="48 learned positions"):
            model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=None)


def test_classification_heads_learn(variant):
    config = small_config(variant, num_labels=3)
    ids = torch.randint(5, config.vocab_size, (4, 12))
    for auto_class, labels in (
        (AutoModelForSequenceClassification, torch.tensor([0, 1, 2, 0])),
        (AutoModelForTokenClassification, ids % 3),
    ):
        torch.manual_seed(0)
        model = auto_class.from_config(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(40):
            loss = model(ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.1


class TestCache:
    """The cache is called `past_key_values` in transformers 5.23 and `cache` in 5.24. Both names work."""

    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    @pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
    def test_either_name(self, variant, name):
        model = small_model(variant)
        ids = random_ids(model, 2, 12)
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            parts = [model(part, **{name: cache}, use_cache=True) for part in ids.split((7, 1, 4), dim=1)]
            whole = model(ids, use_cache=False)
        torch.testing.assert_close(torch.cat([part.logits for part in parts], 1), whole.logits, rtol=0, atol=1e-5)
        assert cache.get_seq_length() == 12
        assert parts[-1][CACHE] is cache
        assert CACHE not in whole

    @pytest.mark.parametrize("head", [AutoModelForSequenceClassification, AutoModelForTokenClassification])
    @pytest.mark.parametrize("name", ["cache", "past_key_values"])
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_either_name_in_a_classification_head(self, variant, head, name):
        model = head.from_config(small_config(variant, num_labels=3, initializer_range=0.3)).eval()
        ids = torch.randint(5, 37, (2, 12))
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            first, last = (model(part, **{name: cache}, use_cache=True).logits for part in ids.split((11, 1), dim=1))
            whole = model(ids).logits
        torch.testing.assert_close(last, whole if whole.dim() == 2 else whole[:, 11:], rtol=0, atol=1e-5)
        assert not torch.allclose(last, model(ids[:, 11:]).logits if last.dim() == 2 else first[:, :1], atol=1e-3)

    def test_both_names_are_refused(self, variant):
        model = small_model(variant)
        caches = {name: DynamicCache(config=model.config) for name in ("cache", "past_key_values")}
        with pytest.raises(TypeError, match="give one of them"):
            model(random_ids(model, 1, 3), **caches)

    def test_generation_embeds_each_token_once(self, variant):
        model = small_model(variant)
        lengths = []
        model.model.embed_tokens.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
        model.generate(random_ids(model, 2, 9), max_new_tokens=5, do_sample=False, eos_token_id=None)
        assert lengths == [9, 1, 1, 1, 1]

    @pytest.mark.filterwarnings("ignore")
    def test_gradient_checkpointing_does_not_fill_it_twice(self, variant):
        model = small_model(variant).train()
        ids = random_ids(model, 2, 9)
        expected = model(ids, labels=ids).loss
        model.gradient_checkpointing_enable()
        cache = DynamicCache(config=model.config)
        loss = model(ids, labels=ids, cache=cache).loss
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert cache.get_seq_length() == 0


@pytest.mark.parametrize("name", ["kv_cache", "past", "attn_mask", "token_type_ids", "cache_position"])
@pytest.mark.parametrize(
    "auto_class",
    [AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification],
)
def test_an_unknown_argument_is_an_error(auto_class, name):
    model = auto_class.from_config(small_config("learned"))
    ids = torch.randint(5, 37, (1, 4))
    with pytest.raises(TypeError, match=f"does not know the argument {name}: leave it out"):
        model(ids, **{name: None})


@pytest.mark.parametrize("use_cache", [None, False])  # None: the configuration says True
def test_positions_separate_packed_sequences(variant, use_cache):
    """`cu_seq_lens_q`, which only flash attention reads, and `seq_idx` are refused without positions."""
    model = small_model(variant)
    parts = [random_ids(model, 1, length, seed=length) for length in (5, 8)]
    positions = torch.cat([torch.arange(5), torch.arange(8)])[None]
    flash = {"cu_seq_lens_q": torch.tensor([0, 5, 13]), "max_length_q": 8}
    indices = torch.tensor([[0] * 5 + [1] * 8], dtype=torch.int32)
    with torch.no_grad():
        packed = model(
            torch.cat(parts, 1), position_ids=positions, use_cache=use_cache, seq_idx=indices, **flash
        ).logits
        alone = torch.cat([model(part).logits for part in parts], 1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)
    for given in (flash, {"seq_idx": indices}):
        with pytest.raises(ValueError, match="needs position_ids"):
            model(torch.cat(parts, 1), **given)


def test_early_exit_gives_the_tokens_of_greedy_decoding(variant):
    """The first layer proposes tokens, the whole model accepts or replaces them."""
    model = small_model(variant)
    ids = random_ids(model, 1, 9)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    layers = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda layer, *_: layers.append(layer.self_attn.layer_idx))
    written = model.generate(ids, assistant_early_exit=1, **options)
    assert layers.count(0) > layers.count(1) > 0
    assert torch.equal(written, model.generate(ids, **options))


def test_the_synthesizer_refuses_continuous_batching():
    model = small_model("synthesizer")
    with pytest.raises(ValueError, match="use generate"):
        model.generate_batch([[2, 3, 4]])
