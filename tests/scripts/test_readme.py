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

from hf_mingpt.hub.cards import write_card
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary
from hf_mingpt.training.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS

from ..conftest import TEXT, small_model

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("scripts/**/*.md")])
PAGES += sorted([*ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/cards/*/*.md")])
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


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_every_script_and_module_is_on_the_map():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for script in SCRIPTS:
        assert f"`{script.name}`" in readme
    for module in ROOT.glob("hf_mingpt/*.py"):
        assert module.name == "__init__.py" or f"hf_mingpt/{module.name}`" in readme


def test_promises_have_their_tests():
    named = set(re.findall(r"`([Tt]est_?\w+)(?:\.py)?`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8")))
    tests = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py")}
    found = {*tests, *re.findall(r"(?:def|class) ([Tt]est\w+)", "".join(tests.values()))}
    assert len(named) > 20
    assert named <= found


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
    assert [card.parent.name for card in CARDS] == ["fast", "generated"]


SNIPPETS = {
    page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES
}
TEMPLATE = ROOT / "model_card.md"  # its snippet is one when it is rendered
NAMES = ("runs/demo/finetuned", "runs/fast", "fast", "generated")  # of runs, in the snippets


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A calibrated run, whose model has learnt nothing, in all the places where the snippets look for one."""
    home = tmp_path_factory.mktemp("snippets")
    run = home / "run"
    run.mkdir()
    tokenizer = build_tokenizer(build_vocabulary([[TEXT, "Where was Klimir Romeral born? Ada Nobody"]]), 64)
    write_json(run / "recipe.json", {"kind": "FinetuneRecipe", "model_name_or_path": "-", "questions_file": "t.tsv"})
    record = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}
    model = small_model("rope", vocab_size=len(tokenizer), max_position_embeddings=64)
    save_run(run, model, tokenizer, {**record, "command": "-"}, stop_at_mask=True)
    weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
    names = {"places": ["London", "Bo"], "unknown_names": ["Zoë Byron"]}
    write_json(run / "calibration.json", {"weights": weights, "bias": 0.0, "threshold": 0.5, "fitted_on": 9, **names})
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
    (snippet,) = re.findall(r"```python\n(.*?)```", write_card(tiny_run, "fast").text, flags=re.DOTALL)
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
        for text in [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]:
            test = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)
            assert doctest.DocTestRunner().run(test).failed == 0
            examples += len(test.examples)
    assert examples >= 4
