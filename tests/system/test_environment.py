"""A missing git, home folder, cache or UTF-8 locale changes nothing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets.config
import evaluate
import pytest
from safetensors.torch import load_file

from hf_mingpt.data.loading import load_texts
from hf_mingpt.evaluation import scoring
from hf_mingpt.hub import records
from hf_mingpt.system import command_line, writing
from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.training.recipes import PretrainRecipe

from ..conftest import LINES, ROOT, script_environment

NOWHERE = Path("/proc/nowhere")  # no user can create a file there, not even root
SOURCES = sorted(path for folder in ("hf_mingpt", "scripts", "benchmarks") for path in ROOT.glob(f"{folder}/**/*.py"))


def test_a_run_needs_no_git_home_cache_or_utf8(tmp_path, text_file):
    """Nor a writable working directory."""
    text_file.write_text("Zoë Quist. Zoë Quist was born in Ålesund\n" * 8, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    bare = script_environment(PATH=str(tmp_path / "bin"), HOME=str(NOWHERE), LC_ALL="C", PYTHONUTF8="0")
    bare |= {"PYTHONCOERCECLOCALE": "0", "ACCELERATE_MIXED_PRECISION": "no"}
    bare = {name: value for name, value in bare.items() if not name.startswith("HF_") and "CACHE" not in name}
    folder = tmp_path / "run"
    script = [ROOT / "scripts/pretrain.py", "--train_file", text_file, "--output_dir", folder, "--max_steps", "1"]
    script += ["--model_preset", "gpt-nano", "--per_device_train_batch_size", "4", "--logging_steps", "1"]
    command = list(map(str, [sys.executable, *script]))
    done = subprocess.run(command, env=bare, cwd="/proc", capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (record["commit"], record["mixed_precision"]) == (None, "no")
    assert load_file(folder / "model.safetensors")
    assert "ë" in (folder / "tokenizer.json").read_text(encoding="utf-8")


def test_a_cache_that_is_not_writable_is_replaced(monkeypatch, text_file):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", NOWHERE)
    assert load_texts(str(text_file))["text"][:] == LINES
    for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setattr(evaluate.config, name, NOWHERE)
    assert scoring.accuracy(["London", "Rome"], ["London", "Paris"])["accuracy"] == 0.5


def test_a_writable_cache_is_used(tmp_path):
    assert writing.writable_cache(tmp_path / "new" / "cache") == tmp_path / "new" / "cache"
    assert list((tmp_path / "new" / "cache").iterdir()) == []


def test_the_recorded_commit_is_that_of_this_code_or_none(monkeypatch, tmp_path):
    git = ["git", "-C", str(tmp_path)]
    (tmp_path / "site-packages" / "hf_mingpt").mkdir(parents=True)
    subprocess.run([*git, "init", "--quiet"], check=True)
    author = ["-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, *author, "commit", "--quiet", "--allow-empty", "--message", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    (tmp_path / "hf_mingpt").mkdir()
    monkeypatch.setattr(records, "_PACKAGE", tmp_path / "hf_mingpt")
    assert records.run_record()["commit"] == head[:7]
    monkeypatch.setattr(records, "_PACKAGE", tmp_path / "site-packages" / "hf_mingpt")
    assert records.run_record()["commit"] is None
    monkeypatch.setattr(records, "_PACKAGE", tmp_path / "hf_mingpt")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.run_record()["commit"] is None


def test_a_tilde_is_expanded_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "r.yaml").write_text("train_file: ~/t.txt\nvocabulary_file: ~/v.txt\n")
    recipe = parse_recipe(PretrainRecipe, argv=["~/r.yaml", "--output_dir=~/out", "--resume_from_checkpoint", "~/c"])
    paths = (recipe.train_file, recipe.vocabulary_file, recipe.output_dir, recipe.resume_from_checkpoint)
    assert paths == tuple(str(tmp_path / name) for name in ("t.txt", "v.txt", "out", "c"))


def test_text_of_a_command_line_is_utf8_in_any_locale(monkeypatch, capsys):
    typed = "Zoë ⁇".encode()
    assert command_line.as_text("Zoë ⁇") == "Zoë ⁇"
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    assert command_line.as_text(typed.decode("ascii", "surrogateescape")) == "Zoë ⁇"
    assert command_line.as_text("Zoë, of a YAML file") == "Zoë, of a YAML file"
    with pytest.raises(SystemExit, match="2"):
        parse_recipe(
            PretrainRecipe, argv=["--train_file", "t", "--output_dir", typed.decode("ascii", "surrogateescape")]
        )
    assert "cannot be decoded in this locale: set PYTHONUTF8=1" in capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_every_file_is_opened_as_utf8_and_no_check_is_an_assert(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"line {node.lineno}: python -O would drop it"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        binary = any(isinstance(word, ast.Constant) and "b" in str(word.value) for word in node.args)
        by_number = ast.unparse(node.func) == "os.open"
        is_method = isinstance(node.func, ast.Attribute)  # our own functions write UTF-8
        if (name in ("read_text", "write_text") and is_method) or (name == "open" and not binary and not by_number):
            assert "encoding" in given, f"line {node.lineno}"
        assert "text" not in given or name not in ("run", "Popen", "check_output"), f"line {node.lineno}"
