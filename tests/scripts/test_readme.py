"""What is written is true: commands name scripts and flags that exist, links lead somewhere, checksums hold."""

import ast
import doctest
import hashlib
import re
import runpy
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import hf_mingpt
from hf_mingpt.hub.cards import write_card
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary
from hf_mingpt.training.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS

from ..conftest import TEXT, small_model

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("scripts/**/*.md")])
PAGES += sorted(ROOT.glob("benchmarks/*.md"))
RESULTS = sorted(ROOT.glob("benchmarks/results/*.md"))  # their commands are those of their day
CARDS = sorted(ROOT.glob("docs/cards/*/README.md"))
SCRIPTS = sorted(ROOT.glob("scripts/*.py"))
FORMER = {
    f"--{name}"
    for path in [*SCRIPTS, *ROOT.glob("hf_mingpt/**/recipe*.py")]
    for name in re.findall(r'formerly="(\w+)"', path.read_text(encoding="utf-8"))
}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The scripts that a text calls, each with its flags; a command goes on after a backslash."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"scripts/((?!test_)\w+\.py)((?: +(?:--\w+|[^\s`-][^\s`]*|-\d\S*))*)", text)
    return [(name, re.findall(r"--\w+", rest)) for name, rest in found]


@pytest.fixture(scope="module")
def flags():
    """The flags of each script, from its --help."""
    known = {}

    def of(name: str, capsys, monkeypatch) -> set[str]:
        if name not in known:
            monkeypatch.setattr(sys, "argv", [name, "--help"])
            with pytest.raises(SystemExit):
                runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
            known[name] = set(re.findall(r"--\w+", capsys.readouterr().out))
        return known[name]

    return of


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_commands_exist(page, flags, capsys, monkeypatch):
    for name, used in commands(page.read_text(encoding="utf-8")):
        assert (ROOT / "scripts" / name).is_file(), name
        former = FORMER if page.name == "LOG.md" or page in CARDS else set()  # they say what was run
        assert set(used) <= flags(name, capsys, monkeypatch) | former, name


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_presets_exist(page):
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    known = {"pretrain": PRETRAIN_PRESETS, "finetune": FINETUNE_PRESETS}
    for script, rest in re.findall(r"scripts/(pretrain|finetune)\.py([^\n]*)", text):
        for name in re.findall(r"--preset ([\w-]+)", rest):
            former = {preset.formerly for preset in known[script].values()} if page in CARDS else set()
            assert name in {*known[script], *former}, name


def test_commands_are_found():
    text = (
        "accelerate launch scripts/pretrain.py --train_file a.txt \\\n    --seed 1 --x y\n`scripts/sample.py --greedy`"
    )
    assert commands(text) == [("pretrain.py", ["--train_file", "--seed", "--x"]), ("sample.py", ["--greedy"])]
    assert len(commands((ROOT / "README.md").read_text())) >= 5


def prose(page: Path) -> str:
    """A page without its code fences."""
    return re.sub(r"^ *(```|~~~).*?^ *\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*?) *$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose(page)):
        if target.startswith("http"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"


def test_anchors_are_githubs():
    assert "2026-11-26-the-pieces-of-fast-as-it-is-now-and-a-test-that-ended-in-an-abort" in anchors(
        ROOT / "docs/LOG.md"
    )


def test_the_commands_of_the_readme_run_in_order():
    """What a command reads below runs/ has been written by a command before it, or by `make demo`."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    written: set[str] = set()
    for line in lines:
        if line.startswith("make demo"):
            written |= {f"runs/demo/{name}" for name in ("data", "pretrained", "finetuned", "without-pretraining")}
            continue
        output = re.findall(r"--output_dir (runs/\S+)", line)
        for path in set(re.findall(r" (runs/\S+)", line)) - set(output):
            assert any(path == folder or path.startswith(f"{folder}/") for folder in written), line
        written.update(output)
    assert len(written) > 8


def test_every_script_and_module_is_on_the_map():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tables = {
        place: set(re.findall(r"`(\w+)\.py`", rows))
        for place, rows in re.findall(
            r"^\|[^|\n]*`((?:hf_mingpt|hf_mingpt/\w+)/)`.*?\n((?:\|.*\n)+)", page, flags=re.MULTILINE
        )
    }
    wings = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("hf_mingpt/*/__init__.py")}
    assert set(tables) == {"hf_mingpt/", *wings}
    for place, modules in tables.items():
        assert modules == {path.stem for path in (ROOT / place).glob("*.py")} - {"__init__"}, place
    for script in SCRIPTS:
        assert f"| `{script.name}` |" in page


def test_every_module_is_in_the_reference():
    pages = [path.read_text(encoding="utf-8") for path in ROOT.glob("docs/api/*.md")]
    listed = [name for page in pages for name in re.findall(r"^::: ([\w.]+)$", page, flags=re.MULTILINE)]
    modules = [*ROOT.glob("hf_mingpt/*.py"), *ROOT.glob("hf_mingpt/*/*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules if path.stem != "__init__"}
    assert sorted(listed) == sorted(names)
    public = (ROOT / "docs/api/README.md").read_text(encoding="utf-8")
    assert [name for name in hf_mingpt.__all__ if f"`{name}`" not in public] == []


def test_promises_have_their_tests():
    named = set(re.findall(r"`([Tt]est_?\w+)(?:\.py)?`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8")))
    tests = [(path.stem, path.read_text(encoding="utf-8")) for path in ROOT.glob("tests/**/*.py")]
    found = {name for stem, text in tests for name in (stem, *re.findall(r"(?:def|class) ([Tt]est\w+)", text))}
    files = re.findall(r"`((?:tests/)?\w+/test_\w+\.py)`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    assert named <= found
    assert [name for name in files if not (ROOT / "tests" / name.removeprefix("tests/")).is_file()] == []


def test_checksums_of_the_data():
    listed = re.findall(r"\| (\S+) \| .* \| (\d+) \| `([0-9a-f]{64})` \|", (ROOT / "data/README.md").read_text())
    assert len(listed) == 4
    for name, lines, digest in listed:
        content = (ROOT / "data/generated" / name).read_bytes()
        assert content.count(b"\n") == int(lines)
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.parent.name)
def test_cards_are_what_the_hub_takes(card):
    loaded = ModelCard.load(card)  # raises if the metadata is not valid
    assert loaded.data.license == "mit"
    (result,) = loaded.data.eval_results
    assert f"| model | {result.metric_value:.1%} |" in loaded.text
    for heading in ("Results", "Calibration", "Limits", "Out-of-scope use"):
        assert f"\n## {heading}\n" in loaded.text
    assert not re.search(r"/(home|root|tmp|Users)/", loaded.text)


def test_there_are_cards():
    assert [card.parent.name for card in CARDS] == ["closed_book", "generated"]


SNIPPETS = {
    page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES
}
TEMPLATE = ROOT / "model_card.md"  # its snippet is one when it is rendered
NAMES = ("runs/demo/finetuned", "closed_book", "generated")  # of runs, in the snippets


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A calibrated run, whose model has learned nothing, in all the places where the snippets look for one."""
    home = tmp_path_factory.mktemp("snippets")
    run = home / "run"
    run.mkdir()
    names = "Suna Heistow Klimir Romeral Ada Byron"
    tokenizer = build_tokenizer(build_vocabulary([[TEXT, names]]), 64)
    write_json(run / "recipe.json", {"kind": "FinetuneRecipe", "model_name_or_path": "-", "questions_file": "t.tsv"})
    record = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}
    model = small_model("rope", vocab_size=len(tokenizer), max_position_embeddings=64)
    save_run(run, model, tokenizer, {**record, "command": "-"}, stop_at_mask=True)
    weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
    names = {"places": ["London", "Bo"], "unknown_names": ["Zoë Byron"]}
    write_json(run / "calibration.json", {"weights": weights, "bias": 0.0, "threshold": 0.5, "fitted_on": 9, **names})
    (home / "data").symlink_to(ROOT / "data")
    for name in NAMES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).symlink_to(run)
    return run


@pytest.mark.parametrize("page", [page for page in PAGES if SNIPPETS[page] and page != TEMPLATE], ids=str)
def test_every_snippet_runs(page, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.parent)
    for snippet in SNIPPETS[page]:
        exec(compile(snippet, str(page), "exec"), {})


@pytest.mark.parametrize("kind", ["FinetuneRecipe", "PretrainRecipe"])
def test_the_snippet_of_every_card_runs(kind, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.parent)
    recipe = {"kind": kind, "model_name_or_path": "-", "train_file": "t.tsv", "objective": "span_corruption"}
    write_json(tiny_run / "recipe.json", recipe)
    (snippet,) = re.findall(r"```python\n(.*?)```", write_card(tiny_run, "closed_book").text, flags=re.DOTALL)
    found: dict = {}
    exec(compile(snippet, kind, "exec"), found)
    assert isinstance(found["answer" if kind == "FinetuneRecipe" else "text"], str)


def test_no_snippet_is_overlooked():
    """Every fence is of commands, of text, or of Python that runs."""
    for page in PAGES:
        opened = re.findall(r"^ *(?:```|~~~)(.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
        assert set(opened) <= {"", "sh", "python"}, page
        assert opened.count("python") == len(SNIPPETS[page]), page
        assert ">>>" not in page.read_text(encoding="utf-8"), page
    assert sum(map(len, SNIPPETS.values())) >= 5


def test_examples_of_docstrings_hold():
    examples = 0
    for path in [*ROOT.glob("hf_mingpt/**/*.py"), *SCRIPTS]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        for text in (text for text in texts if ">>>" in text):
            test = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)
            assert doctest.DocTestRunner().run(test).failed == 0
            examples += len(test.examples)
    assert examples >= 4
