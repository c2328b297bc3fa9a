"""The wheel and the sdist, built and checked, and the experiment by the command `hf-mingpt` alone: `make test-wheel`.

The environment of the command is a new one. It sees the packages of this one, but not the checkout, and the wheel comes
before them.
"""

import html.parser
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest

from hf_mingpt import __version__

ROOT = Path(__file__).parents[2]
ADDRESS = "https://forge.example/owner/hf_mingpt"
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
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def built_with_address(tmp_path_factory):
    """The same with the project's public address."""
    return build(ROOT, tmp_path_factory.mktemp("addressed"), address=ADDRESS)


def build(tree: Path, folder: Path, address: str = "") -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, tree]
    subprocess.run(command, check=True, env={**os.environ, "HF_MINGPT_URL": address})
    return folder


def metadata_of(folder: Path) -> tuple[Message, Message]:
    """The metadata of the wheel, and of the sdist, of a folder."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    name = f"hf_mingpt-{__version__}"
    with zipfile.ZipFile(wheel) as files, tarfile.open(source) as sources:
        texts = [files.read(f"{name}.dist-info/METADATA"), sources.extractfile(f"{name}/PKG-INFO").read()]
    of_wheel, of_source = map(BytesParser().parsebytes, texts)
    return of_wheel, of_source


def addresses_in(metadata: Message) -> list[str]:
    """What the description links to or shows, as a registry renders it."""
    found = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.extend(value for name, value in attributes if name in ("href", "src"))

    from readme_renderer.markdown import render

    Reader().feed(render(metadata.get_payload(decode=True).decode()))
    return found


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


def test_the_registry_takes_the_files(built, built_with_address):
    files = [*built.iterdir(), *built_with_address.iterdir()]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)


def test_the_metadata_has_the_address_that_the_build_is_given(built_with_address):
    for metadata in metadata_of(built_with_address):
        urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
        assert list(urls) == ["Homepage", "Source", "Documentation", "Changelog", "Issues"]
        assert all(url.startswith(ADDRESS) for url in urls.values())
        found = addresses_in(metadata)
        assert f"{ADDRESS}/raw/v{__version__}/docs/results.png" in found
        assert [address for address in found if not address.startswith(("https://", "#"))] == []
        assert "Dynamic" not in metadata


def test_without_an_address_the_metadata_has_no_urls_and_the_readme_as_it_is(built):
    for metadata in metadata_of(built):
        assert "Project-URL" not in metadata
        assert "docs/results.png" in addresses_in(metadata)
        assert metadata["Description-Content-Type"] == "text/markdown"
        assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text(encoding="utf-8")
        assert "Dynamic" not in metadata


def test_a_source_distribution_builds_the_same_metadata_again(built_with_address, tmp_path):
    (source,) = built_with_address.glob("*.tar.gz")
    with tarfile.open(source) as files:
        files.extractall(tmp_path, filter="data")
    again = build(tmp_path / f"hf_mingpt-{__version__}", tmp_path / "again")
    assert [*map(str, metadata_of(again))] == [*map(str, metadata_of(built_with_address))]


def test_an_address_that_cannot_be_published_ends_the_build_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", tmp_path, ROOT]
    environment = {**os.environ, "HF_MINGPT_URL": "forge.example/x"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode
    assert "HF_MINGPT_URL: 'forge.example/x' is no address of a project: give the https address" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not [*tmp_path.iterdir()]


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
