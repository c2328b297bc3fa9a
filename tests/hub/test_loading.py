"""Loading restores what was saved, refuses what is damaged, and runs no code of the repository."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from hf_mingpt.hub.loading import find_demo_data, find_run, load_run, read_metrics
from hf_mingpt.hub.pushing import push_run

from ..conftest import SCRIPTS, small_model
from ..processes import run_python


def test_a_vocabulary_fits_the_model_which_may_have_more_tokens(run_folder):
    small_model("rope", vocab_size=999).save_pretrained(run_folder)
    assert load_run(str(run_folder))[0].config.vocab_size == 999
    small_model("rope", vocab_size=9).save_pretrained(run_folder)
    with pytest.raises(ValueError, match="the model 9: use the tokenizer"):
        load_run(str(run_folder))


def test_another_architecture_is_refused_where_fields_of_ours_are_changed(tmp_path):
    """As finetuning does, which sets the dropout."""
    config = GPT2Config(
        n_embd=8, n_layer=1, n_head=2, n_positions=8, vocab_size=9, bos_token_id=None, eos_token_id=None
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is not a minGPT: convert it first, with scripts/convert_checkpoint\.py"):
        load_run(str(tmp_path), embedding_dropout=0.1)


UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda weights: weights.pop(UP), f"its weights lack {UP}"),
        (lambda weights: weights.update(more=torch.zeros(2)), "have the unknown more"),
        (lambda weights: weights.update({UP: torch.zeros(3, 3)}), f"another shape in {UP}"),
    ],
    ids=["missing", "extra", "another shape"],
)
def test_the_weights_must_match_the_model(run_folder, damage, said):
    weights = load_file(run_folder / "model.safetensors")
    damage(weights)
    save_file(weights, run_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=re.escape(said)):
        load_run(str(run_folder))


@pytest.mark.parametrize("content", [b"", b"no tensors " * 9, None])
def test_damaged_weights_are_an_error(run_folder, content):
    path = run_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ValueError, match="its weights are damaged"):
        load_run(str(run_folder))


def test_the_run_of_make_demo_is_found_if_none_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert find_run("owner/name") == "owner/name"
    with pytest.raises(FileNotFoundError, match=r"name a run, or make that one with scripts/run_demo\.py"):
        find_run(None)
    run = tmp_path / "runs/demo/finetuned"
    (run.parent / "data").mkdir(parents=True)
    run.mkdir()
    (run / "calibration.json").touch()
    (run.parent / "data/biographies.txt").touch()
    assert (find_run(None), capsys.readouterr().out) == ("runs/demo/finetuned", "Run: runs/demo/finetuned\n")
    assert (find_demo_data("biographies.txt"), find_demo_data("x")) == ("runs/demo/data/biographies.txt", None)


def test_a_missing_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="No run folder at"):
        load_run(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"it lacks config\.json"):
        push_run(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, '{"model_type": "gpt"}'])
def test_a_damaged_config_is_an_error(run_folder, content):
    (run_folder / "config.json").write_text(content)
    with pytest.raises((ValueError, OSError), match=str(run_folder)) as error:
        load_run(str(run_folder))
    assert len(str(error.value).splitlines()) == 1


def test_a_weights_header_with_too_large_a_size_is_an_error(run_folder):
    weights = run_folder / "model.safetensors"
    weights.write_bytes((2**60).to_bytes(8, "little") + weights.read_bytes()[8:])
    with pytest.raises(ValueError, match="weights are damaged"):
        load_run(str(run_folder))


def spoil(folder: Path, file: str, **changes) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **changes}))


class TestLoading:
    """Loading restores what was saved, and runs no code of the repository."""

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_weights_that_are_not_finite_are_an_error(self, run_folder, bad):
        weights = load_file(run_folder / "model.safetensors")
        weights[UP][1, 2] = bad
        save_file(weights, run_folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=re.escape(f"its weights are not finite in {UP} (1 in all)")):
            load_run(str(run_folder))

    @pytest.mark.parametrize("heads", [0, -4, 5])
    def test_heads_that_do_not_divide_the_width_are_an_error(self, run_folder, heads):
        spoil(run_folder, "config.json", num_attention_heads=heads)
        with pytest.raises(ValueError, match=re.escape(f"{run_folder}: ") + f".*num_attention_heads {heads}"):
            load_run(str(run_folder))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_weights_of_a_smaller_dtype_are_loaded_as_float32(self, run_folder, dtype):
        model, _ = load_run(str(run_folder))
        smaller = model.to(dtype)
        smaller.save_pretrained(run_folder)
        loaded, _ = load_run(str(run_folder))
        assert all(weight.dtype == torch.float32 for weight in loaded.state_dict().values())
        assert all(torch.equal(w, loaded.state_dict()[n].to(dtype)) for n, w in smaller.state_dict().items())

    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("script", ["sample.py", "convert_checkpoint.py", "finetune.py"])
    def test_code_of_a_repository_never_runs_and_never_prompts(self, tmp_path, tokenizer, file, script):
        """Whatever is on standard input."""
        folder, owned = tmp_path / "stranger", tmp_path / "owned"
        small_model("learned", vocab_size=len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "evil.py").write_text(f"open({str(owned)!r}, 'w').close()\n")
        if file == "config.json":
            spoil(folder, file, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
        else:
            spoil(folder, file, tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": ["evil.T", None]})
        (tmp_path / "t.tsv").write_text("Where was Ada born?\tLondon\n")
        flags = {
            "sample.py": ["--model_name_or_path", folder],
            "convert_checkpoint.py": ["--checkpoint", folder, "--to", "gpt2", "--output_dir", tmp_path / "out"],
            "finetune.py": ["--model_name_or_path", folder, "--questions_file", tmp_path / "t.tsv", "--use_cpu"],
        }[script]
        flags += ["--output_dir", tmp_path / "out"] if script == "finetune.py" else []
        done = run_python(SCRIPTS / script, *flags, input="y\n" * 99)
        assert (done.returncode, owned.exists(), (tmp_path / "out").exists()) == (2, False, False), done.stderr
        assert "y/N" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        last = done.stderr.splitlines()[-1]
        assert str(folder) in last
        assert "code" in last

    def test_code_beside_a_mingpt_does_not_run(self, run_folder):
        """The classes come from the package; auto_map is ignored."""
        (run_folder / "modeling_mingpt.py").write_text("raise RuntimeError('this was run')\n")
        (run_folder / "configuration_mingpt.py").write_text("raise RuntimeError('this was run')\n")
        load_run(str(run_folder))


class TestMetrics:
    """The metrics that plot_run.py reads from run folders."""

    LINE = '{"step": 1, "loss": 2.5, "learning_rate": 0.1}\n'

    def write(self, folder, content):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text(content)
        return folder

    def test_folders_with_one_name_get_distinct_labels(self, tmp_path):
        folders = [
            self.write(tmp_path / name, self.LINE.replace("2.5", f"{i}.5"))
            for i, name in enumerate(("a/x", "b/x", "y"))
        ]
        losses = {label: lines[0]["loss"] for label, lines in read_metrics(folders).items()}
        assert losses == {"a/x": 0.5, "b/x": 1.5, "y": 2.5}

    def test_an_incomplete_last_line_is_left_out(self, tmp_path):
        folder = self.write(tmp_path / "x", self.LINE + self.LINE[:20])
        assert read_metrics([folder]) == {"x": [json.loads(self.LINE)]}

    def test_evaluations_have_metrics_of_their_own(self, tmp_path):
        line = '{"step": 1, "epoch": 0.1, "eval_loss": 2.0, "eval_accuracy": 0.5}'
        folder = self.write(tmp_path / "x", f"{self.LINE}{line}\n")
        assert read_metrics([folder])["x"][1] == json.loads(line)

    @pytest.mark.parametrize(
        "line",
        [
            '{"step": 1, "eval_loss": null}',
            "{",
            "[]",
            "{}",
            '{"step": 1, "loss": "low", "learning_rate": 0.1}',
            "[" * 100_000,
        ],
    )
    def test_a_damaged_line_is_an_error_with_its_number(self, tmp_path, line):
        folder = self.write(tmp_path / "x", f"{self.LINE}{line}\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
            read_metrics([folder])
