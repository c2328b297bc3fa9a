"""Ensembles: which answer is chosen."""

from types import SimpleNamespace

import numpy as np
import pytest

from hf_mingpt.evaluation import ensemble
from hf_mingpt.evaluation.confidence import score_answers
from hf_mingpt.evaluation.ensemble import ensemble_answers

from ..conftest import small_model
from ..data.texts import by_code_point

QUESTIONS = ["Where was Ada born?", "Where was Zoë Quist born?"]


@pytest.fixture(scope="module")
def runs(tokenizer):
    return [(small_model(variant, vocab_size=len(tokenizer)), tokenizer) for variant in ("learned", "rope")]


def test_the_answer_with_the_greatest_mean_probability_is_chosen(runs):
    places = ["London", "Bonn", "A"]
    probabilities = np.exp([score_answers(*run, QUESTIONS, places) for run in runs])
    for first, second in (("London", "Bonn"), ("A", "London"), ("Bonn", "A")):
        chosen = ensemble_answers(runs, QUESTIONS, [[first] * 2, [second] * 2])
        for i, answer in enumerate(chosen):
            either = [places.index(first), places.index(second)]
            assert answer == places[max(either, key=lambda k: probabilities[:, i, k].sum())]
    chosen = ensemble_answers([*runs, runs[0]], QUESTIONS, [[place] * 2 for place in places])
    weighted = 2 * probabilities[0] + probabilities[1]
    assert chosen == [places[k] for k in weighted.argmax(axis=1)]


def test_a_confident_model_outweighs_an_unsure_one(runs, monkeypatch):
    probabilities = {id(runs[0][0]): [0.9, 0.05], id(runs[1][0]): [1e-6, 0.06]}  # of Bonn and Rome
    monkeypatch.setattr(ensemble, "score_answers", lambda model, *_: np.log([probabilities[id(model)]]))
    assert ensemble_answers(runs, QUESTIONS[:1], [["Bonn"], ["Rome"]]) == ["Bonn"]


def test_a_phrasing_counts_like_a_model(runs, monkeypatch):
    """In it, "[MASK]" stands for the mask token of the tokenizer."""
    probabilities = {QUESTIONS[0]: [0.5, 0.4], "Ada. in ⁇, ": [0.1, 0.3]}  # of Bonn and Rome
    monkeypatch.setattr(ensemble, "score_answers", lambda model, tokenizer, texts, _: np.log([probabilities[texts[0]]]))
    places = [["Bonn"], ["Rome"]]
    assert ensemble_answers(runs[:1], QUESTIONS[:1], places) == ["Bonn"]
    assert ensemble_answers(runs[:1], QUESTIONS[:1], places, phrasings=[["Ada. in [MASK], "]]) == ["Rome"]


def test_an_answer_that_cannot_be_scored_is_chosen_last(runs):
    too_long = "Lon" * 11
    for other in ("", too_long):
        assert ensemble_answers(runs, QUESTIONS, [[other] * 2, ["Bonn"] * 2]) == ["Bonn", "Bonn"]
    assert ensemble_answers(runs, QUESTIONS, [["", ""], [too_long] * 2]) == ["", ""]


class TestByHand:
    """Stand-ins for models, with a table of probabilities."""

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def score_answers(model, tokenizer, questions, answers):
            calls.append((questions, answers))
            return np.log([[model.table[answer] for answer in answers]])

        monkeypatch.setattr(ensemble, "score_answers", score_answers)
        return calls

    def models(self, *tables, sizes=(48, 48)):
        return [
            (SimpleNamespace(table=table, config=SimpleNamespace(max_position_embeddings=size)), by_code_point)
            for table, size in zip(tables, sizes, strict=False)
        ]

    def test_each_answer_is_scored_once_in_the_order_of_the_models(self, calls):
        runs = self.models({"Rome": 0.3, "Oslo": 0.2}, {"Rome": 0.1, "Oslo": 0.25})
        assert ensemble_answers(runs, ["Q1", "Q2"], [["Rome", "Oslo"], ["Oslo", "Oslo"]]) == ["Oslo", "Oslo"]
        assert calls == [(["Q1"], ["Rome", "Oslo"])] * 2  # no scores where all models agree

    def test_ties_go_to_the_first_model(self, calls):
        runs = self.models({"Rome": 0.25, "Oslo": 0.25}, {"Rome": 0.25, "Oslo": 0.25})
        assert ensemble_answers(runs, ["Q"], [["Oslo"], ["Rome"]]) == ["Oslo"]

    @pytest.mark.parametrize(("sizes", "chosen"), [((12, 20), "x" * 7), ((20, 11), "Rome"), ((11, 20), "Rome")])
    def test_the_shortest_context_decides_what_fits(self, calls, sizes, chosen):
        """A question of 3 characters and two MASKs leave 7 of 12."""
        runs = self.models({"Rome": 0.1, "x" * 7: 0.4}, {"Rome": 0.1, "x" * 7: 0.4}, sizes=sizes)
        assert ensemble_answers(runs, ["Qu?"], [["Rome"], ["x" * 7]]) == [chosen]

    def test_an_answer_may_have_one_character(self, calls):
        runs = self.models({"Rome": 0.1, "x": 0.4}, {"Rome": 0.1, "x": 0.4})
        assert ensemble_answers(runs, ["Qu?"], [["Rome"], ["x"]]) == ["x"]
        assert ensemble_answers(runs, ["Qu?"], [[""], ["x"]]) == ["x"]
