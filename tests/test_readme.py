"""What is written is true: commands name scripts and flags that exist, links lead somewhere, checksums hold."""

import hashlib
import re
import runpy
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_mingpt.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("scripts/**/*.md")])
PAGES += sorted([*ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/cards/*/*.md")])
CARDS = sorted(ROOT.glob("docs/cards/*/README.md"))
SCRIPTS = sorted(ROOT.glob("scripts/*.py"))


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The scripts that a text calls, each with its flags; a command goes on after a backslash."""
    text = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"scripts/(\w+\.py)((?: +(?:--\w+|[^\s`-][^\s`]*|-\d\S*))*)", text)
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
        assert set(used) <= flags(name, capsys, monkeypatch), name


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda path: path.name)
def test_presets_exist(page):
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    known = {"pretrain": PRETRAIN_PRESETS, "finetune": FINETUNE_PRESETS}
    for script, rest in re.findall(r"scripts/(pretrain|finetune)\.py([^\n]*)", text):
        for name in re.findall(r"--preset ([\w-]+)", rest):
            assert name in known[script], name


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
    tests = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*.py")}
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
    for heading in ("Results", "How far to trust an answer", "Limits", "What it must not be used for"):
        assert f"\n## {heading}\n" in loaded.text
    assert not re.search(r"/(home|root|tmp|Users)/", loaded.text)


def test_there_are_cards():
    assert [card.parent.name for card in CARDS] == ["fast", "generated"]
