"""An answer on a page: the reason of its probability, the abstention, and texts of other people."""

import re

import numpy as np
import pytest

from hf_mingpt.evaluation.answer_page import describe_reason, render_answer
from hf_mingpt.evaluation.calibration import Answer
from hf_mingpt.evaluation.confidence import ConfidenceFeatures


def an_answer(own=0.9, elsewhere=0.01, **changes) -> Answer:
    features = ConfidenceFeatures(np.log(own / (1 - own)), 0.0, np.log(own / elsewhere))
    answer = Answer("Where was Ada born?", "Rome", 0.95, True, [("Oslo", 0.25)], features=features)
    return answer._replace(**changes)


@pytest.mark.parametrize(
    ("own", "elsewhere", "reason"),
    [
        (0.9, 0.01, "The model itself is sure (90%), and says it far less often about invented names (1%)."),
        (0.9, 0.6, "The model itself is sure (90%), but says it nearly as often about invented names (60%)."),
        (0.2, 0.01, "The model itself hesitates (20%), but says it far less often about invented names (1%)."),
        (0.2, 0.1, "The model itself hesitates (20%), and says it nearly as often about invented names (10%)."),
    ],
)
def test_the_reason_compares_the_models_own_probability_with_that_for_invented_names(own, elsewhere, reason):
    assert describe_reason(an_answer(own, elsewhere)) == reason


def test_a_name_that_the_model_does_not_know_is_a_reason():
    assert describe_reason(an_answer(known=0.4)).startswith("The model does not know the name Ada. The model itself is")
    assert describe_reason(an_answer(known=0.6)) == describe_reason(an_answer())


def test_an_answer_that_cannot_be_scored_has_a_reason_too():
    features = ConfidenceFeatures(-1e4, 0.0, 0.0)
    assert "hesitates (under 1%)" in describe_reason(an_answer(features=features))
    assert describe_reason(an_answer(features=None)) is None


def test_the_page_shows_an_answer_or_an_abstention():
    given, withheld = render_answer(an_answer(), 0.9), render_answer(an_answer(probability=0.5, confident=False), 0.9)
    assert "<p class='reply'>Rome</p><p>95% likely to be correct.</p>" in given
    assert "abstains" not in given
    assert "<p class='reply'>I don&#x27;t know</p>" in withheld.replace("n't", "n&#x27;t")
    assert "<p>The best guess, Rome, is 50% likely to be correct, below the threshold of 90%.</p>" in withheld
    assert "class='answer abstains'" in withheld
    assert "Oslo" in given
    assert "Asked in other forms" not in given
    assert "the probability is a guess" in render_answer(an_answer(template=None), 0.9)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Rome", "the same answer"),
        ("Rome . Ada taught", "the same answer"),  # after span corruption, a model says more
        ("Rome, Ada Byron", "the same answer"),
        ("Oslo", "other answers"),
        ("Rome Square", "other answers"),
        ("Romeville, Ada", "other answers"),
        ("Rome-on-Sea", "other answers"),
        (", Oslo", "other answers"),
        ("", "other answers"),
    ],
)
def test_other_forms_agree_or_not(said, verdict):
    page = render_answer(an_answer(), 0.9, [("Ada. in ⁇, ", f" {said}")])
    assert f"Asked in other forms, it gives {verdict}." in page
    assert "<td>Ada. in ⁇,</td>" in page


def test_texts_of_other_people_are_no_markup():
    page = render_answer(an_answer(question="<b>?", answer="<i>"), 0.9, [("<u>", "<s>")])
    assert not re.search("<(b|i|u|s)>", page.replace("<i style", ""))
