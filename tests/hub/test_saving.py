import json
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import hf_mingpt.modeling_mingpt
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.records import run_record
from hf_mingpt.hub.run_folders import check_destination
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.training.recipes import FinetuneRecipe

from ..conftest import VARIANTS, small_model
from ..processes import run_python
from .conftest import RECORD


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
    tokenizer = load_run(str(run_folder))[1]
    asked = tokenizer.apply_chat_template(chat, tokenize=False)
    assert asked == "Where was Ada born?⁇"
    trained = [{"role": "user", "content": "Where was Ada born?"}, {"role": "assistant", "content": "London"}]
    assert tokenizer.apply_chat_template(trained, tokenize=False) == "Where was Ada born?⁇London⁇"
    assert tokenizer.apply_chat_template(trained[1:], tokenize=False) == "London⁇"
    generation = json.loads((run_folder / "generation_config.json").read_text())
    assert (generation["max_new_tokens"], generation["eos_token_id"]) == (32, 1)
    assert generation["do_sample"] is False
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)


def test_the_record_has_no_folders(monkeypatch, tmp_path):
    argv = [f"{tmp_path}/scripts/ask.py", "Ada Byron", "--run", f"{tmp_path}/fast", f"--text={tmp_path}/t", "a/b=c"]
    monkeypatch.setattr(sys, "argv", argv)
    assert run_record()["command"] == "ask.py 'Ada Byron' --run fast --text=t a/b=c"


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
