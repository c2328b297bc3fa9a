import json
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_mingpt.conversion import from_gpt2, from_state_dict, to_gpt2
from hf_mingpt.tokenization_mingpt import build_vocabulary

from ..conftest import TEXT, run_script, small_model

WIDTH, HEADS, BLOCK = 32, 8, 48


class AssignmentAttention(nn.Module):
    """The three attention variants of the assignment, reimplemented with its weight names."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, head = kind, WIDTH // HEADS
        if kind == "synthesizer":
            self.w1 = nn.Linear(WIDTH, WIDTH)
            self.w2 = nn.Parameter(torch.randn(head, BLOCK - 1))
            self.b2 = nn.Parameter(torch.randn(BLOCK - 1))
        else:
            self.key, self.query = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.ones(1, 1, BLOCK, BLOCK).tril())
        if kind == "rope":
            self.register_buffer("rope_cache", torch.zeros(BLOCK, head // 2, 2))

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        def rotated(y):  # neighboring components are a complex number
            angles = torch.arange(y.shape[-2])[:, None] * 10000.0 ** (-torch.arange(0, y.shape[-1], 2) / y.shape[-1])
            pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
            return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

        length = x.shape[1]
        if self.kind == "synthesizer":
            scores = heads(self.w1(x).relu()) @ self.w2[:, :length] + self.b2[:length]
        else:
            q, k = heads(self.query(x)), heads(self.key(x))
            q, k = (rotated(q), rotated(k)) if self.kind == "rope" else (q, k)
            scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, -1e10)
        return self.proj((scores.softmax(-1) @ heads(self.value(x))).transpose(1, 2).flatten(-2))


class AssignmentBlock(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.ln1, self.ln2, self.attn = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), AssignmentAttention(kind)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class AssignmentModel(nn.Module):
    def __init__(self, kind: str, vocab_size: int):
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, WIDTH)
        self.pos_emb = nn.Parameter(torch.randn(1, BLOCK, WIDTH)) if kind != "rope" else None
        self.blocks = nn.Sequential(*(AssignmentBlock(kind) for _ in range(2)))
        self.ln_f, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocab_size, bias=False)

    def forward(self, ids):
        x = self.tok_emb(ids)
        x = x if self.pos_emb is None else x + self.pos_emb[:, : ids.shape[1]]
        return self.head(self.ln_f(self.blocks(x)))


@pytest.fixture(params=["vanilla", "rope", "synthesizer"])
def assignment(request):
    torch.manual_seed(0)
    return AssignmentModel(request.param, len(build_vocabulary([[TEXT]])))


def assert_same(logits: torch.Tensor, expected: torch.Tensor):
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_assignment_checkpoint_has_the_same_logits(assignment):
    model = from_state_dict(assignment.state_dict(), num_attention_heads=HEADS)
    ids = torch.randint(2, model.config.vocab_size, (2, BLOCK - 1))
    assert_same(model(ids).logits, assignment(ids))
    greedy = ids[:, :10]
    for _ in range(12):
        greedy = torch.cat((greedy, assignment(greedy)[:, -1:].argmax(-1)), dim=1)
    written = model.generate(ids[:, :10], max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert written.tolist() == greedy.tolist()


def gpt2(**changes) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, **changes)).eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": False, "activation_function": "gelu"}, {"n_inner": 50}]
)
def test_from_gpt2_and_back(changes):
    source = gpt2(**changes)
    model = from_gpt2(source)
    ids = torch.randint(0, 60, (2, 30))
    assert_same(model(ids).logits, source(ids).logits)
    assert model.generate(ids, do_sample=False).tolist() == source.generate(ids, do_sample=False).tolist()
    back = to_gpt2(model)
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in source.state_dict().items())
    assert back.config.tie_word_embeddings == source.config.tie_word_embeddings


@torch.no_grad()
def test_a_mingpt_checkpoint_has_the_same_logits():
    """minGPT has the weight names of GPT-2, matrices that are not transposed, and causal masks among the weights."""
    source = gpt2(tie_word_embeddings=False)
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {n: w.T if n.endswith(matrices) else w for n, w in source.state_dict().items()}
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
    ids = torch.randint(0, 60, (2, 30))
    assert_same(from_state_dict(weights, num_attention_heads=4)(ids).logits, source(ids).logits)


def test_unsupported_weights_are_refused():
    with pytest.raises(ValueError, match="unknown code"):
        from_state_dict({"wte": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'blocks.0.attn.bucket'"):
        from_state_dict({"tok_emb.weight": torch.zeros(2, 8), "blocks.0.attn.bucket": torch.zeros(1)})
    with pytest.raises(ValueError, match="num_attention_heads"):
        from_state_dict({"transformer.wte.weight": torch.zeros(2, 8)})
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx is True"):
        from_gpt2(gpt2(scale_attn_by_inverse_layer_idx=True))
    with pytest.raises(ValueError, match="cannot be a GPT-2"):
        to_gpt2(small_model("rope"))


def convert(*flags) -> subprocess.CompletedProcess:
    return run_script("convert_checkpoint.py", *flags)


@torch.no_grad()
def test_script_converts_a_checkpoint_of_the_assignment(tmp_path, assignment):
    torch.save(assignment.state_dict(), tmp_path / "a.params")
    (tmp_path / "wiki.txt").write_text(TEXT)
    flags = ["--checkpoint", tmp_path / "a.params", "--output_dir", tmp_path / "run"]
    assert "give vocabulary_file" in convert(*flags).stderr
    done = convert(*flags, "--vocabulary_file", tmp_path / "wiki.txt")
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    ids = tokenizer(TEXT[:20], return_tensors="pt").input_ids
    assert_same(AutoModelForCausalLM.from_pretrained(tmp_path / "run")(ids).logits, assignment(ids))
    assert "not empty" in convert(*flags, "--vocabulary_file", tmp_path / "wiki.txt").stderr


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"tok_emb.weight": Malicious()}, "evil.params")
    Path("noise.params").write_bytes(b"noise")
    for name in ("evil.params", "noise.params"):
        done = convert("--checkpoint", name, "--output_dir", "run", "--tokenizer_name", "x")
        assert (done.returncode, "is refused" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    assert not Path("owned").exists()


@torch.no_grad()
def test_script_exports_to_gpt2_and_back(tmp_path, tokenizer):
    model = small_model("learned", vocab_size=len(tokenizer))
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    for source, target, kind in (("run", "gpt2", "gpt2"), ("gpt2", "again", "mingpt")):
        done = convert("--checkpoint", tmp_path / source, "--output_dir", tmp_path / target, "--to", kind)
        assert done.returncode == 0, done.stderr
    ids = tokenizer(TEXT[:20], return_tensors="pt").input_ids
    assert_same(GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2")(ids).logits, model(ids).logits)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


def mingpt_weights() -> dict[str, torch.Tensor]:
    source = gpt2(tie_word_embeddings=False)
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {n: w.T.clone() if n.endswith(matrices) else w.clone() for n, w in source.state_dict().items()}


class TestIncompleteWeights:
    """A missing, extra, misshapen or non-finite weight is named in the error. No weight is ever initialized instead."""

    def test_every_tensor_of_the_assignment_is_needed(self, assignment):
        weights = assignment.state_dict()
        for name in weights:
            if not name.endswith((".mask", ".rope_cache")):
                rest = {other: tensor for other, tensor in weights.items() if other != name}
                with pytest.raises(ValueError, match=re.escape(name.removesuffix(".weight"))):
                    from_state_dict(rest)

    def test_every_tensor_of_mingpt_is_needed(self):
        weights = mingpt_weights()
        for name in weights:
            rest = {other: tensor for other, tensor in weights.items() if other != name}
            with pytest.raises(ValueError, match=re.escape(name)):
                from_state_dict(rest, num_attention_heads=4)

    def test_a_block_in_the_middle_is_needed(self, assignment):
        weights = {name.replace("blocks.1.", "blocks.2."): w for name, w in assignment.state_dict().items()}
        with pytest.raises(ValueError, match="lack block 1 "):
            from_state_dict(weights)
        without = {name: w for name, w in weights.items() if not name.startswith("blocks.")}
        without |= {name: w for name, w in weights.items() if name.endswith("rope_cache")}
        with pytest.raises(ValueError, match="lack block 0 "):
            from_state_dict(without)

    def test_position_embeddings_must_be_unambiguous(self):
        vanilla = AssignmentModel("vanilla", 40).state_dict()
        rope = AssignmentModel("rope", 40).state_dict()
        assert from_state_dict(rope).config.max_position_embeddings == BLOCK
        del vanilla["pos_emb"]
        with pytest.raises(ValueError, match=r"neither 'pos_emb' \(learned positions\) nor 'rope_cache'"):
            from_state_dict(vanilla)
        with pytest.raises(ValueError, match="both 'pos_emb'"):
            from_state_dict({**rope, "pos_emb": torch.zeros(1, BLOCK, WIDTH)})

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_weights_that_are_not_finite_are_refused(self, assignment, bad):
        for name, weight in assignment.state_dict().items():
            if not name.endswith((".mask", ".rope_cache")):
                value = weight.view(-1)[-1].clone()
                weight.view(-1)[-1] = bad
                with pytest.raises(ValueError, match=re.escape(f"{name!r} is not finite")):
                    from_state_dict(assignment.state_dict())
                weight.view(-1)[-1] = value

    def test_weights_that_are_not_finite_are_refused_from_and_to_gpt2(self):
        source, model = gpt2(), small_model("learned")
        source.transformer.h[1].mlp.c_fc.weight.data[0, 0] = torch.nan
        with pytest.raises(ValueError, match=r"'transformer.h.1.mlp.c_fc.weight' is not finite"):
            from_gpt2(source)
        model.model.norm.bias.data[0] = torch.inf
        with pytest.raises(ValueError, match=r"'model.norm.bias' is not finite"):
            to_gpt2(model)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"blocks.0.mlp.0.weight": torch.zeros(3, 3)}, "have another shape of 'blocks.0.mlp.0.weight'"),
            ({"blocks.0.mlp.0.more": torch.zeros(3)}, "have an extra 'blocks.0.mlp.0.more'"),
            ({"tok_emb.weight": torch.zeros(3)}, "lack the matrix 'tok_emb.weight'"),
            ({"ln_f.bias": 3}, "'ln_f.bias' is not a tensor"),
            ({"ln_f.bias": torch.zeros(WIDTH, dtype=torch.long)}, "'ln_f.bias' is not a tensor of floating-point"),
        ],
    )
    def test_weights_that_do_not_fit_are_refused(self, change, said):
        with pytest.raises(ValueError, match=re.escape(said)):
            from_state_dict(AssignmentModel("vanilla", 40).state_dict() | change)

    @pytest.mark.parametrize("weights", [[1, 2], torch.zeros(2), {1: torch.zeros(2)}, None])
    def test_anything_but_a_state_dict_is_refused(self, weights):
        with pytest.raises(ValueError, match=r"save model\.state_dict\(\)"):
            from_state_dict(weights)

    @pytest.mark.parametrize("heads", [0, -4, 5, 33])
    def test_heads_must_divide_the_width(self, heads):
        for weights in (AssignmentModel("vanilla", 40).state_dict(), mingpt_weights()):
            with pytest.raises(ValueError, match=f"num_attention_heads {heads}"):
                from_state_dict(weights, num_attention_heads=heads)

    def test_the_synthesizer_shows_its_number_of_heads(self):
        weights = AssignmentModel("synthesizer", 40).state_dict()
        assert from_state_dict(weights).config.num_attention_heads == HEADS
        with pytest.raises(ValueError, match="num_attention_heads 4 does not fit"):
            from_state_dict(weights, num_attention_heads=4)
        weights |= {f"blocks.{i}.attn.w2": torch.zeros(5, BLOCK - 1) for i in range(2)}
        with pytest.raises(ValueError, match=r"head dimension of 5 divides the hidden size 32 into 6\.4 heads"):
            from_state_dict(weights)

    def test_no_weight_is_rounded(self):
        """Even if one tensor has a lower precision than the others."""
        weights = AssignmentModel("vanilla", 40).state_dict()
        weights["head.weight"] = weights["head.weight"].bfloat16()
        model = from_state_dict(weights)
        assert torch.equal(model.model.embed_tokens.weight, weights["tok_emb.weight"])
        assert torch.equal(model.lm_head.weight, weights["head.weight"].float())

    @pytest.mark.parametrize("kind", ["gpt2", "mingpt"])
    @pytest.mark.parametrize("damage", ["missing", "extra", "another shape", "not finite"])
    def test_a_folder_with_other_weights_is_refused(self, tmp_path, tokenizer, kind, damage):
        """transformers would warn, and initialize the weights at random."""
        source = gpt2() if kind == "gpt2" else small_model("learned", vocab_size=len(tokenizer))
        source.save_pretrained(tmp_path / "source")
        tokenizer.save_pretrained(tmp_path / "source")
        path = tmp_path / "source" / "model.safetensors"
        weights = load_file(path)
        name = min(name for name in weights if "mlp" in name and name.endswith("weight"))
        if damage == "missing":
            del weights[name]
        elif damage == "extra":
            weights[f"{name}_more"] = torch.zeros(2)
        else:
            weights[name] = torch.zeros(3, 3) if damage == "another shape" else weights[name] * torch.nan
        save_file(weights, path, metadata={"format": "pt"})
        flags = ["--checkpoint", tmp_path / "source", "--to", "mingpt" if kind == "gpt2" else "gpt2"]
        done = convert(*flags, "--output_dir", tmp_path / "out")
        assert (done.returncode, name in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("heads", [0, 5])
    def test_a_folder_whose_heads_do_not_divide_is_refused(self, tmp_path, tokenizer, heads):
        model = small_model("learned", vocab_size=len(tokenizer))
        model.save_pretrained(tmp_path / "source")
        tokenizer.save_pretrained(tmp_path / "source")
        config = json.loads((tmp_path / "source/config.json").read_text())
        (tmp_path / "source/config.json").write_text(json.dumps({**config, "num_attention_heads": heads}))
        done = convert("--checkpoint", tmp_path / "source", "--to", "gpt2", "--output_dir", tmp_path / "out")
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
        assert f"num_attention_heads {heads}" in done.stderr.splitlines()[-1]
