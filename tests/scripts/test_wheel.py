"""The wheel and the sdist, built and checked, and the experiment by the command `hf-mingpt` alone: `make test-wheel`.

The environment of the command is a new one. It sees the packages of this one, but not the checkout, and the wheel comes
before them.
"""

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hf_mingpt import __version__

ROOT = Path(__file__).parents[2]
NOWHERE = "/proc/nowhere"  # a home that nobody can write
TINY = ["--use_cpu", "--mixed_precision", "no", "--model_preset", "gpt-nano", "--max_steps", 4]
USER_SCRIPT = """
import hf_mingpt
model, tokenizer = hf_mingpt.load_run("run")
reveal_type(hf_mingpt.load_calibration("run").threshold)
reveal_type(hf_mingpt.MinGPTConfig)
hf_mingpt.load_run(3)
"""

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist, which are built of the sdist's files alone."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The `bin` folder of an environment with the wheel."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    packages = subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"]).decode()
    seen = [path for path in sys.path if path.endswith("site-packages")]
    Path(packages.strip(), "main.pth").write_text("\n".join(dict.fromkeys([*site.getsitepackages(), *seen])))
    (wheel,) = built.glob("*.whl")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel]
    subprocess.run(command, check=True)
    return environment / "bin"


@pytest.fixture(scope="module")
def call(installed, tmp_path_factory):
    """Runs a program of the environment in a folder of its own, without the checkout and without a home."""
    folder = tmp_path_factory.mktemp("elsewhere")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment = {**kept, "PATH": f"{installed}:{os.environ['PATH']}", "HOME": NOWHERE, "HF_HUB_OFFLINE": "1"}

    def run(program: str, *arguments) -> subprocess.CompletedProcess:
        command = [installed / program, *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=folder, capture_output=True, encoding="utf-8", check=False)

    run.folder = folder
    return run


def test_the_files_are_those_of_the_project(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert {wheel.name, source.name} == {f"hf_mingpt-{__version__}-py3-none-any.whl", f"hf_mingpt-{__version__}.tar.gz"}
    with zipfile.ZipFile(wheel) as files:
        held = {name for name in files.namelist() if name.startswith("hf_mingpt/")}
        metadata = files.read(f"hf_mingpt-{__version__}.dist-info/METADATA").decode()
    tracked = [
        *(path.relative_to(ROOT) for path in (ROOT / "hf_mingpt").rglob("*")),
        *("hf_mingpt" / path.relative_to(ROOT) for path in (ROOT / "scripts").rglob("*")),
    ]
    of_package = {path.as_posix() for path in tracked if "__pycache__" not in path.parts and path.suffix}
    assert held == of_package | {"hf_mingpt/model_card.md"}
    for line in ("Classifier: Typing :: Typed", "License-Expression: MIT", "License-File: LICENSE", "Keywords: "):
        assert line in metadata
    with tarfile.open(source) as files:
        held = {name.partition("/")[2] for name in files.getnames()}
    assert {"Makefile", "constraints.txt", "tests/conftest.py", "docs/tutorial.md", "LICENSE", ".ci/run"} <= held
    assert not [name for name in held if name.startswith((".venv", ".git/", "runs", "dist"))]


def test_the_registry_takes_the_files(built):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()], check=True)


def test_the_command_lists_scripts_and_files_of_the_wheel(call):
    done = call("hf-mingpt")
    assert done.stdout.splitlines()[0] == "usage: hf-mingpt COMMAND [FILE.yaml] [--flag VALUE ...]"
    launch = Path(call("hf-mingpt", "path", "cpu_2_processes.yaml").stdout.strip())
    assert launch.is_file()
    assert ROOT not in launch.parents


def test_the_experiment_by_the_command_alone(call):
    def works(name: str, *arguments) -> str:
        done = call("hf-mingpt", name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    people = ["--num_train_people", 12, "--num_dev_people", 8, "--num_test_people", 4, "--num_other_people", 2]
    works("generate", "--output_dir", "data", *people)
    assert "143 countries" in works("generate-capitals", "--output_dir", "capitals")  # of a table in the wheel
    text, train, dev = "data/biographies.txt", "data/birth_places_train.tsv", "data/birth_dev.tsv"
    works("pretrain", "--train_file", text, "--vocabulary_file", dev, "--output_dir", "pretrained", *TINY)
    learn = ["--model_name_or_path", "pretrained", "--questions_file", train, "--use_cpu", "--max_steps", 3]
    works("finetune", *learn, "--output_dir", "run")
    answer = ["--model_name_or_path", "run", "--train_questions_file", train, "--use_cpu", "--questions_file"]
    works("evaluate", *answer, dev)
    said = (call.folder / "run/predictions.txt").read_text(encoding="utf-8").splitlines()
    asked = [line.partition("\t")[0] for line in (call.folder / dev).read_text(encoding="utf-8").splitlines()]
    pairs = zip(asked, (word if i % 2 else "Elsewhere" for i, word in enumerate(said)), strict=True)  # half is right
    (call.folder / "held_out.tsv").write_text("".join(f"{q}\t{a}\n" for q, a in pairs), encoding="utf-8")
    works("calibrate", *answer, "held_out.tsv", "--num_unknown_names", 5, "--num_invented_names", 10)
    assert "%" in works("ask", "Ada Byron", "--model_name_or_path", "run", "--use_cpu")

    card = (call.folder / "run/README.md").read_text(encoding="utf-8")
    assert "hf-mingpt finetune --model_name_or_path pretrained" in card
    record = json.loads((call.folder / "run/run.json").read_text(encoding="utf-8"))
    assert record["commit"] is None


def test_a_users_script_is_type_checked(call, installed):
    (call.folder / "user.py").write_text(USER_SCRIPT, encoding="utf-8")
    # nothing but the package is followed: torch alone would take a minute
    command = [sys.executable, "-m", "mypy", "--python-executable", installed / "python", "--strict"]
    command += ["--follow-imports", "silent", "--ignore-missing-imports", "user.py"]
    done = subprocess.run(
        list(map(str, command)), cwd=call.folder, env={**os.environ, "PYTHONPATH": ""}, capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    assert 'user.py:4: note: Revealed type is "float"' in done.stdout.replace("builtins.", ""), done.stdout
    assert "hf_mingpt.configuration_mingpt.MinGPTConfig" in done.stdout
    assert "user.py:6: error: Argument 1" in done.stdout
    shutil.rmtree(call.folder / ".mypy_cache")
