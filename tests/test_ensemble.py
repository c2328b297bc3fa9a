"""Ensembles: whose answer is taken."""

import numpy as np
import pytest

from hf_mingpt import ensemble
from hf_mingpt.ensemble import choose_together
from hf_mingpt.honesty import score_answers

from .conftest import small_model

QUESTIONS = ["Where was Ada born?", "Where was Zoë Quist born?"]


@pytest.fixture(scope="module")
def runs(tokenizer):
    return [(small_model(variant, vocab_size=len(tokenizer)), tokenizer) for variant in ("learned", "rope")]


def test_the_answer_with_the_greatest_mean_probability_is_taken(runs):
    places = ["London", "Bonn", "A"]
    probabilities = np.exp([score_answers(*run, QUESTIONS, places) for run in runs])
    for first, second in (("London", "Bonn"), ("A", "London"), ("Bonn", "A")):
        chosen = choose_together(runs, QUESTIONS, [[first] * 2, [second] * 2])
        for i, answer in enumerate(chosen):
            either = [places.index(first), places.index(second)]
            assert answer == places[max(either, key=lambda k: probabilities[:, i, k].sum())]
    chosen = choose_together([*runs, runs[0]], QUESTIONS, [[place] * 2 for place in places])
    weighted = 2 * probabilities[0] + probabilities[1]
    assert chosen == [places[k] for k in weighted.argmax(axis=1)]


def test_one_that_is_sure_outweighs_one_that_is_not(runs, monkeypatch):
    probabilities = {id(runs[0][0]): [0.9, 0.05], id(runs[1][0]): [1e-6, 0.06]}  # of Bonn and Rome
    monkeypatch.setattr(ensemble, "score_answers", lambda model, *_: np.log([probabilities[id(model)]]))
    assert choose_together(runs, QUESTIONS[:1], [["Bonn"], ["Rome"]]) == ["Bonn"]


def test_what_is_empty_or_has_no_end_is_taken_last(runs):
    endless = "Lon" * 11
    for other in ("", endless):
        assert choose_together(runs, QUESTIONS, [[other] * 2, ["Bonn"] * 2]) == ["Bonn", "Bonn"]
    assert choose_together(runs, QUESTIONS, [["", ""], [endless] * 2]) == ["", ""]
