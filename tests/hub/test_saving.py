import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import hf_mingpt.modeling_mingpt
from hf_mingpt.hub.cards import write_card
from hf_mingpt.hub.loading import load_run, read_metrics
from hf_mingpt.hub.pushing import push_run
from hf_mingpt.hub.run_folders import check_destination, run_record
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe

from ..conftest import SCRIPTS, VARIANTS, small_model
from ..processes import run_python

RECORD = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}


@pytest.fixture
def run_folder(tmp_path, tokenizer, variant):
    return save_small_run(tmp_path / f"run-{variant}", tokenizer, variant)


def save_small_run(folder, tokenizer, variant):
    folder.mkdir()
    recipe = FinetuneRecipe(model_name_or_path="runs/p", questions_file="t.tsv", output_dir=str(folder))
    write_json(folder / "recipe.json", {"kind": "FinetuneRecipe", **recipe.__dict__})
    model = small_model(variant, vocab_size=len(tokenizer))
    save_run(folder, model, tokenizer, {**RECORD, "command": "finetune.py"}, stop_at_mask=True)
    return folder


ASK = """
import sys, torch
{prepare}
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, {trust})
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # it has no code: do not ask
    ids = tokenizer("Where was Ada born?", return_tensors="pt")
    print(type(model).__module__, type(AutoModel.from_pretrained(folder, {trust})).__name__)
    print(model.generate(**ids, do_sample=False, max_new_tokens=20, eos_token_id=None).tolist())
"""


def in_a_fresh_process(code: str, folders: list[Path], tmp_path: Path) -> tuple[list[str], list[str]]:
    """Of each folder: where the classes are from, and what the model writes."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = run_python("-c", code, *folders, clean=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[::2], done.stdout.splitlines()[1::2]


def test_a_run_loads_with_and_without_the_package(tmp_path, tokenizer):
    folders = [save_small_run(tmp_path / f"run-{variant}", tokenizer, variant) for variant in VARIANTS]
    package, written = in_a_fresh_process(ASK.format(prepare="import hf_mingpt", trust=""), folders, tmp_path)
    hide = "sys.modules['hf_mingpt'] = None"
    code, alone = in_a_fresh_process(ASK.format(prepare=hide, trust="trust_remote_code=True"), folders, tmp_path)
    assert package == ["hf_mingpt.modeling_mingpt MinGPTModel"] * 3
    assert [module.startswith("transformers_modules.") for module in code] == [True] * 3
    assert alone == written
    ids = tokenizer("Where was Ada born?", return_tensors="pt")
    models = [load_run(str(folder))[0] for folder in folders]
    here = [model.generate(**ids, do_sample=False, max_new_tokens=20, eos_token_id=None) for model in models]
    assert written == [str(ids.tolist()) for ids in here]


def test_the_folder_is_self_describing(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "recipe.json"}
    assert names >= {"run.json", "README.md", "modeling_mingpt.py", "configuration_mingpt.py"}
    chat = [{"role": "user", "content": "Who?"}, {"role": "user", "content": " Where was Ada born? "}]
    asked = load_run(str(run_folder))[1].apply_chat_template(chat, tokenize=False)
    assert asked == "Where was Ada born?⁇"
    generation = json.loads((run_folder / "generation_config.json").read_text())
    assert (generation["max_new_tokens"], generation["eos_token_id"]) == (32, 1)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_the_card_has_results_and_valid_metadata(run_folder):
    row = {"accuracy": 0.5, "correct": 1, "total": 2, "interval_95": [0.1, 0.9]}
    questions = {"file": "dev.tsv", "bytes": 1, "sha256": "0" * 64}
    report = {
        "results": {"model": row, "always London": row},
        "questions": questions,
        "command": "c",
        "date": "2026-01-01",
    }
    write_json(run_folder / "report.json", report)
    card = write_card(run_folder, "someone/mingpt")
    assert card.data.eval_results[0].metric_value == 0.5
    reread = ModelCard.load(run_folder / "README.md")
    assert reread.data.pipeline_tag == "text-generation"
    assert "| always London | 50.0% | 1 of 2 |" in reread.text
    assert "Exact match on the 2 questions of" in reread.text
    assert "micro-batches x 1 process |" in reread.text
    assert "someone/mingpt" in reread.text
    assert "{{" not in reread.text
    assert "It invents places" in reread.text


def test_a_report_of_an_earlier_version_is_on_the_card(run_folder):
    """Its keys are honesty and right."""
    row = {"accuracy": 0.5, "correct": 1, "total": 2, "interval_95": [0.1, 0.9]}
    honesty = {
        "threshold": 0.5,
        "scores": {"auroc": 0.75},
        "intervals_95": {"auroc": [0.5, 1.0]},
        "invented_names": 20,
        "false_answers_on_invented_names": 0.05,
        "accuracy_by": {"the place": {"rare": {"right": 1, "total": 4}}},
    }
    questions = {"file": "dev.tsv", "bytes": 1, "sha256": "0" * 64}
    report = {"results": {"model": row}, "questions": questions, "command": "c", "date": "2026-01-01"}
    write_json(run_folder / "report.json", {**report, "honesty": honesty})
    old = write_card(run_folder).text
    assert "(honesty.png)" in old
    assert "| auroc | 0.750 | 0.500 to 1.000 |" in old
    assert "| rare | 25.0% | 4 |" in old
    honesty["accuracy_by"]["the place"]["rare"] = {"correct": 1, "total": 4}
    write_json(run_folder / "report.json", {**report, "calibration": honesty})
    assert write_card(run_folder).text == old.replace("honesty.png", "calibration.png")


def test_the_record_has_no_folders(monkeypatch, tmp_path):
    argv = [f"{tmp_path}/scripts/ask.py", "Ada Byron", "--run", f"{tmp_path}/fast", f"--text={tmp_path}/t", "a/b=c"]
    monkeypatch.setattr(sys, "argv", argv)
    assert run_record()["command"] == "ask.py 'Ada Byron' --run fast --text=t a/b=c"


@pytest.mark.parametrize(
    ("flags", "said", "used"),
    [
        ({}, "Finetune the model before use", "do_sample=True"),
        ({"objective": "causal"}, "Causal language modeling", "do_sample=True"),
        ({"questions_file": "q.tsv"}, "with span corruption", "Where was"),
        ({"questions_file": "q.tsv", "ssm_probability": 1.0}, "with salient span masking", "Where was"),
    ],
)
def test_the_card_says_what_a_pretrained_run_is_for(run_folder, flags, said, used):
    recipe = PretrainRecipe(train_file="t.txt", output_dir=str(run_folder), **flags)
    write_json(run_folder / "recipe.json", {"kind": "PretrainRecipe", **recipe.__dict__})
    text = write_card(run_folder).text
    assert said in text
    assert used in text


def test_a_vocabulary_fits_the_model_which_may_have_more_tokens(run_folder):
    small_model("rope", vocab_size=999).save_pretrained(run_folder)
    assert load_run(str(run_folder))[0].config.vocab_size == 999
    small_model("rope", vocab_size=9).save_pretrained(run_folder)
    with pytest.raises(ValueError, match="the model 9: use the tokenizer"):
        load_run(str(run_folder))


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


def test_a_missing_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="No run folder at"):
        load_run(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"it lacks config\.json"):
        push_run(tmp_path)


def test_an_output_folder_is_not_overwritten_unasked(tmp_path):
    (tmp_path / "precious").touch()
    values = {"model_name_or_path": "m", "questions_file": "t"}
    with pytest.raises(ValueError, match="--overwrite_output_dir"):
        check_destination(FinetuneRecipe(output_dir=str(tmp_path), **values))
    with pytest.raises(ValueError, match="is a file"):
        check_destination(FinetuneRecipe(output_dir=str(tmp_path / "precious"), **values))
    check_destination(FinetuneRecipe(output_dir=str(tmp_path), overwrite_output_dir=True, **values))
    assert (tmp_path / "precious").exists()


def test_saved_weights_are_loaded_unchanged(run_folder, tokenizer):
    variant = run_folder.name.removeprefix("run-")
    loaded = AutoModelForCausalLM.from_pretrained(run_folder).state_dict()
    for name, tensor in small_model(variant, vocab_size=len(tokenizer)).state_dict().items():
        assert torch.equal(tensor, loaded[name])


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


OPEN = """
import json, sys, torch
sys.modules["hf_mingpt"] = None  # as if it were not installed
import transformers
trusted = {"trust_remote_code": True}
for folder, *names in json.loads(sys.argv[2]):
    for name in names:
        model = getattr(transformers, name).from_pretrained(f"{sys.argv[1]}/{folder}", **trusted).eval()
        if name.endswith("CausalLM"):
            model.save_pretrained(f"{sys.argv[1]}/{folder}-again")
            options = {"do_sample": False, "max_new_tokens": 9, "eos_token_id": None}
            print(model.generate(torch.tensor([[5, 9, 7]]), **options).tolist())
        output = model(torch.tensor([[5, 9, 7, 11]]))
        print(folder, name, type(model).__module__.split(".")[0], repr(output[0].flatten()[-1].item()))
"""


class TestEveryWayOfSaving:
    """Whatever saves a model, its folder includes the code and loads without this package."""

    @pytest.fixture
    def folders(self, run_folder, tmp_path):
        from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

        model = AutoModelForCausalLM.from_pretrained(run_folder)
        model.save_pretrained(tmp_path / "saved")
        arguments = TrainingArguments(
            str(tmp_path / "trainer"), max_steps=1, save_steps=1, learning_rate=0.0, use_cpu=True, report_to="none",
            disable_tqdm=True,
        )  # fmt: skip
        rows = [{"input_ids": torch.tensor([5, 9, 7]), "labels": torch.tensor([5, 9, 7])}] * 2
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        (tmp_path / "trainer" / "checkpoint-1").rename(tmp_path / "checkpoint")
        AutoModelForSequenceClassification.from_pretrained(run_folder).save_pretrained(tmp_path / "classifier")
        return tmp_path

    def test_loads_anywhere(self, folders, run_folder):
        language_models = ["AutoModelForCausalLM", "AutoModel"]
        asked = [[run_folder.name, *language_models], ["saved", *language_models], ["checkpoint", *language_models]]
        asked += [["classifier", "AutoModelForSequenceClassification", "AutoModel"]]
        asked += [["saved-again", "AutoModelForCausalLM"]]  # saved without the package, too
        environment = {**os.environ, "HF_MODULES_CACHE": str(folders / "modules")}
        done = run_python("-c", OPEN, folders, json.dumps(asked), clean=True, env=environment)
        assert done.returncode == 0, done.stderr
        said = [line.split() for line in done.stdout.splitlines() if not line.startswith("[[")]
        assert {module for _, _, module, _ in said} == {"transformers_modules"}
        here = AutoModelForCausalLM.from_pretrained(run_folder)
        with torch.no_grad():
            logits = here(torch.tensor([[5, 9, 7, 11]])).logits
        for folder, name, _, last in said:
            if name == "AutoModelForCausalLM":
                assert float(last) == pytest.approx(logits[0, -1, -1].item(), abs=1e-5), folder
        assert len({last for _, name, _, last in said if name == "AutoModel"}) == 1
        written = here.generate(torch.tensor([[5, 9, 7]]), do_sample=False, max_new_tokens=9, eos_token_id=None)
        assert [line for line in done.stdout.splitlines() if line.startswith("[[")] == [str(written.tolist())] * 4
        for folder in ("saved", "checkpoint", "classifier"):
            with_package = AutoModel.from_pretrained(folders / folder, trust_remote_code=False)
            assert type(with_package).__module__ == "hf_mingpt.modeling_mingpt"

    def test_a_saved_config_names_the_code_beside_it(self, tmp_path):
        config = small_model("rope").config
        config.auto_map = {"AutoModel": "someone/else--modeling_mingpt.MinGPTModel"}
        config.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
        assert {value.partition(".")[0] for value in saved.values()} == {"configuration_mingpt", "modeling_mingpt"}
        assert {value.partition(".")[2] for value in saved.values()} <= set(dir(hf_mingpt.modeling_mingpt))
