"""`hf-mingpt COMMAND` does what the script does, and says what it was called."""

import json
import re
import subprocess
import sys
from unittest import mock

import pytest

from hf_mingpt import __version__, cli
from hf_mingpt.system.commands import SCRIPTS

from .conftest import ROOT, script_environment
from .processes import run_python, run_ranks

MODULE = ["-m", "hf_mingpt.cli"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/hf-mingpt", *map(str, arguments)])
        code = 0
        with mock.patch.dict(sys.modules), mock.patch("sys.excepthook"):
            try:
                cli.main()
            except SystemExit as stop:
                code = stop.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_list_has_every_script_with_its_first_line(call, arguments):
    code, out, _ = call(*arguments)
    assert code == 0
    for path in SCRIPTS.glob("*.py"):
        first = path.read_text(encoding="utf-8").partition('"""')[2].partition("\n")[0].removesuffix('"""')
        assert f"  {first}\n" in out
    assert re.search("\n  evaluate +Evaluates a minGPT", out)
    assert re.search("\n  path +Prints where a file", out)


def test_the_list_imports_no_torch():
    code = (
        "import sys; from hf_mingpt.cli import main; main(); print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=script_environment())
    assert done.stdout.splitlines()[-1] == "False False"


def test_the_version(call):
    assert call("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pretrian", "'pretrian' is unknown: did you mean pretrain?"),
        ("push_to_hup", "'push_to_hup' is unknown: did you mean push_to_hub?"),
        ("--train_file", "'--train_file' is unknown: choose one of ask, calibrate,"),
    ],
)
def test_an_unknown_command_gets_one_sentence(call, word, said):
    code, out, err = call(word)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"hf-mingpt: {said}")


@pytest.mark.parametrize("name", ["split", "split_questions", "split-questions", "split_questions.py"])
def test_a_script_has_all_its_names(call, name, tmp_path):
    code, out, err = call(name, "--questions_file", tmp_path / "none.tsv", "--output_dir", tmp_path / "folds")
    assert (code, out) == (2, "")
    assert err.startswith("hf-mingpt split: No file at ")


def test_help_is_about_the_command(call):
    code, out, _ = call("pretrain", "--help")
    assert code == 0
    assert out.startswith("usage: hf-mingpt pretrain [FILE.yaml]")
    assert "accelerate launch -m hf_mingpt.cli pretrain --train_file wiki.txt" in out
    assert "scripts/" not in out


def test_a_missing_extra_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = 'hf-mingpt explain: matplotlib is not installed: pip install "hf_mingpt[plot]".\n'
    assert call("explain", "run", "Ada Byron") == (2, "", sentence)


def test_files_of_the_package_are_found(call):
    assert call("path") == (0, f"{SCRIPTS}\n", "")
    assert call("path", "fsdp2.yaml") == (0, f"{SCRIPTS / 'accelerate/fsdp2.yaml'}\n", "")
    assert call("path", "lm_eval") == (0, f"{SCRIPTS / 'lm_eval'}\n", "")
    code, _, err = call("path", "fsdp.yaml")
    assert (code, err) == (2, "hf-mingpt: 'fsdp.yaml' is unknown: did you mean fsdp2.yaml?\n")


def test_names_below_scripts_are_unique():
    names = [path.name for path in SCRIPTS.rglob("*") if "__pycache__" not in path.parts]
    assert len(set(names)) == len(names)


def test_a_run_records_the_command(text_file, tmp_path):
    train = ["--train_file", text_file, "--max_steps", 1, "--model_preset", "gpt-nano", "--use_cpu"]
    train += ["--output_dir", tmp_path / "run"]
    done = run_python(*MODULE, "pretrain", *train, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert record["command"].startswith("hf-mingpt pretrain --train_file lines.txt --max_steps 1 ")
    assert "hf-mingpt pretrain --train_file lines.txt" in (tmp_path / "run/README.md").read_text(encoding="utf-8")


def test_processes_of_a_launcher_train_together(text_file, tmp_path):
    train = ["--train_file", text_file, "--max_steps", 1, "--model_preset", "gpt-nano", "--use_cpu"]
    done = run_ranks(2, *MODULE, "pretrain", *train, "--output_dir", tmp_path / "run", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["num_processes"] == 2
