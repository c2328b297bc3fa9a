"""Texts about scripts are right for `python scripts/ask.py` and for `hf-mingpt ask`."""

import sys

import pytest

from hf_mingpt.system.commands import SCRIPTS, SHORT_NAMES, as_called, name_of, program_name, program_words

CHECKOUT = """\
    python scripts/split_questions.py --questions_file q.tsv
    accelerate launch --multi_gpu scripts/pretrain.py --train_file a.py
    pip install -c constraints.txt -e ".[demo]", `ask.py`, scripts/train_all.py, data/ask.py
    launch with scripts/accelerate/zero2.yaml; pip install -e ".[serve]\""""
INSTALLED = """\
    hf-mingpt split --questions_file q.tsv
    accelerate launch --multi_gpu -m hf_mingpt.cli pretrain --train_file a.py
    pip install "hf_mingpt[demo]", `hf-mingpt ask`, hf-mingpt train-all, data/ask.py
    launch with $(hf-mingpt path zero2.yaml); pip install "hf_mingpt[serve]\""""


@pytest.mark.parametrize(
    ("called", "words", "text"),
    [
        ("/home/ada/scripts/ask.py", ["ask.py"], CHECKOUT),
        ("/home/ada/hf-mingpt copy/ask.py", ["ask.py"], CHECKOUT),
        ("hf-mingpt copy/ask.py", ["ask.py"], CHECKOUT),
        ("hf-mingpt copy.py", ["hf-mingpt copy.py"], CHECKOUT),
        ("hf-mingpt ask", ["hf-mingpt", "ask"], INSTALLED),
        ("hf-mingpt train-tokenizer", ["hf-mingpt", "train-tokenizer"], INSTALLED),
    ],
)
def test_texts_are_about_what_was_called(monkeypatch, called, words, text):
    monkeypatch.setattr(sys, "argv", [called, "--greedy"])
    assert (program_words(), program_name()) == (words, " ".join(words))
    assert as_called(CHECKOUT) == text


def test_every_short_name_is_of_a_script_and_of_one_only():
    scripts = [path.stem for path in SCRIPTS.glob("*.py")]
    assert set(SHORT_NAMES) <= set(scripts)
    assert len({name_of(script) for script in scripts} | {"path"}) == len(scripts) + 1
