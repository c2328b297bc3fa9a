"""Log-probabilities of answers, and confidence features."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_mingpt.data.subjects import Template
from hf_mingpt.evaluation import confidence as confidence_module
from hf_mingpt.evaluation.confidence import (
    Comparison,
    Confidence,
    compute_confidence,
    log_odds,
    score_answers,
    score_names,
)
from hf_mingpt.tokenization_mingpt import MASK

from ..conftest import small_model
from ..data.texts import by_code_point

QUESTIONS = ["Where was Ada born?", "Where was Zoë Quist born?"]
CANDIDATES = ["London", "Bonn", "A", "Ada Byron"]
FORMS = [Template("", ". in [MASK]"), Template("", ". [MASK], ")]
ABOUT_ADA = Comparison(candidates=CANDIDATES, unknown_names=["Ada"])


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer)).eval()


class TestScores:
    @torch.no_grad()
    def test_scores_are_log_probabilities_of_answer_and_mask(self, model, tokenizer):
        scores = score_answers(model, tokenizer, QUESTIONS, CANDIDATES)
        for i, question in enumerate(QUESTIONS):
            for k, answer in enumerate(CANDIDATES):
                ids = tokenizer(f"{question}{MASK}{answer}{MASK}", return_tensors="pt")["input_ids"]
                logits = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
                each = logits.gather(-1, ids[0, 1:, None])[len(question) :]
                assert scores[i, k] == pytest.approx(float(each.sum()), abs=1e-4)

    def test_an_answer_that_does_not_fit_is_an_error(self, model, tokenizer):
        with pytest.raises(ValueError, match=r"Question 1, .* leaves no room"):
            score_answers(model, tokenizer, QUESTIONS, ["a" * 30])


class TestNames:
    @torch.no_grad()
    def test_each_token_but_the_first_counts(self, model, tokenizer):
        names = ["Ada", "Zoë Quist", "B"]
        scores = score_names(model, tokenizer, names)
        assert scores.dtype == np.float64
        for name, score in zip(names, scores, strict=True):
            ids = tokenizer(name, return_tensors="pt")["input_ids"]
            logits = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
            assert score == pytest.approx(float(logits.gather(-1, ids[0, 1:, None]).sum()), abs=1e-4)

    def test_any_number_of_names_of_any_length(self, model, tokenizer):
        names = ["Ada" * 40, *["Bo", "Ada Byron"] * 50]
        scores = score_names(model, tokenizer, names)
        np.testing.assert_allclose(scores[1:3], score_names(model, tokenizer, names[1:3]), atol=1e-4)
        np.testing.assert_allclose(scores[1:], np.tile(scores[1:3], 50), atol=1e-4)
        assert scores[0] == pytest.approx(score_names(model, tokenizer, [names[0][:48]])[0], abs=1e-4)

    def test_a_question_without_a_name_has_none(self, model, tokenizer):
        asked, predictions = [QUESTIONS[0], "Who is Ada?"], ["Bonn", "Rome"]
        found = compute_confidence(model, tokenizer, asked, predictions, ABOUT_ADA, names=True).features
        assert found.name_log_probability[0] == pytest.approx(score_names(model, tokenizer, ["Ada"])[0], abs=1e-4)
        assert np.isnan(found.name_log_probability[1])


class TestConfidence:
    def test_definitions(self, model, tokenizer):
        found = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], ABOUT_ADA)
        assert found.candidate_probabilities.shape == (2, 4)
        assert found.candidate_probabilities[0].sum() == pytest.approx(1)  # Rome is no candidate
        assert (found.features.entropy >= 0).all()
        ada, zoe = score_answers(model, tokenizer, QUESTIONS, ["Bonn", "Rome"])
        chosen = np.exp([ada[0], zoe[1]])
        assert found.features.log_odds == pytest.approx(np.log(chosen / (1 - chosen)), abs=1e-4)
        assert found.features.contrast == pytest.approx(
            [0, zoe[1] - ada[1]], abs=1e-4
        )  # the unknown name was asked about

    def test_an_answer_that_is_no_candidate_takes_its_part_of_the_probability(self, model, tokenizer):
        comparison = replace(ABOUT_ADA, candidates=["Rome", "Bonn"])
        found = compute_confidence(model, tokenizer, QUESTIONS, ["Oslo", "Bonn"], comparison)
        scores = np.exp(score_answers(model, tokenizer, QUESTIONS, ["Rome", "Bonn", "Oslo"]))
        expected = [scores[0, :2] / scores[0].sum(), scores[1, :2] / scores[1, :2].sum()]
        np.testing.assert_allclose(found.candidate_probabilities, expected, rtol=1e-4)

    def test_masked_forms_ask_for_the_same_answer(self, model, tokenizer):
        without = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], ABOUT_ADA).features
        assert list(without.present()) == ["log_odds", "entropy", "contrast"]
        asked = [QUESTIONS[0], "Who is Ada?"]  # which has no masked form
        comparison = replace(ABOUT_ADA, masked_forms=[FORMS])
        found = compute_confidence(model, tokenizer, asked, ["Bonn", "Rome"], comparison).features
        masked = score_answers(model, tokenizer, [f"Ada. in {MASK}", f"Ada. {MASK}, "], ["Bonn"])
        assert found.masked_log_odds == pytest.approx([log_odds(masked).mean(), found.log_odds[1]], abs=1e-4)

    def test_certainty_has_finite_log_odds(self):
        assert log_odds(np.log([0.5, 0.9])) == pytest.approx(np.log([1, 9]))
        assert log_odds(np.zeros(1)) == pytest.approx(np.log(1e6), rel=1e-6)

    def test_features_do_not_depend_on_other_questions(self, model, tokenizer):
        comparison = Comparison(candidates=CANDIDATES, unknown_names=["Byron", "Bo"], masked_forms=[FORMS])
        together = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], comparison, names=True)
        alone = [
            compute_confidence(model, tokenizer, [q], [p], comparison, names=True)
            for q, p in zip(QUESTIONS, ["Bonn", "Rome"], strict=True)
        ]
        for i, one in enumerate(alone):
            one_by_one, all_at_once = (np.stack(list(found.features.present().values())) for found in (one, together))
            np.testing.assert_allclose(one_by_one[:, 0], all_at_once[:, i], atol=1e-4)
            np.testing.assert_allclose(one.candidate_probabilities[0], together.candidate_probabilities[i], atol=1e-4)


class TestByHand:
    """Scores come from a table instead of a model."""

    TABLE = {  # noqa: RUF012
        "Where was Ada born?": {"Rome": 0.5, "Oslo": 0.25, "Lima": 0.125, "Bath": 0.0625, "Kiel": 0.01},
        "Where was Bo born?": {"Rome": 0.05, "Oslo": 0.1, "Lima": 0.05, "Bath": 0.1, "Kiel": 0.2},
        "Where was Xu born?": {"Rome": 0.2, "Oslo": 0.1, "Lima": 0.1, "Bath": 0.1, "Kiel": 0.1},
        "Where was Yi born?": {"Rome": 0.4, "Oslo": 0.3, "Lima": 0.1, "Bath": 0.1, "Kiel": 0.3},
    }
    known = ("Where was Ada born?", "Where was Bo born?")
    too_long = "a" * 28  # a question of 19 characters and two MASKs leave 27 of 48

    @pytest.fixture
    def table(self, monkeypatch):
        def score_answers(model, tokenizer, questions, answers, progress=False):
            assert len(set(answers)) == len(answers)
            rows = [[self.TABLE[question][answer] for answer in answers] for question in questions]
            return np.log(np.array(rows))

        monkeypatch.setattr(confidence_module, "score_answers", score_answers)

    def confidence(self, predictions, unknown_names=("Xu", "Yi")) -> Confidence:
        model = small_model("learned")
        comparison = Comparison(candidates=["Rome", "Oslo", "Lima"], unknown_names=list(unknown_names))
        return compute_confidence(model, by_code_point, self.known, predictions, comparison)

    def test_definitions(self, table):
        """Over unknown names, the mean probability of Rome is (0.2 + 0.4) / 2, and of Kiel (0.1 + 0.3) / 2."""
        features, distributions = self.confidence(["Rome", "Kiel"])
        np.testing.assert_allclose(features.log_odds, np.log([0.5 / 0.5, 0.2 / 0.8]))
        np.testing.assert_allclose(features.contrast, np.log([0.5 / 0.3, 0.2 / 0.2]), atol=1e-12)
        np.testing.assert_allclose(distributions, [[4 / 7, 2 / 7, 1 / 7], [1 / 8, 1 / 4, 1 / 8]])  # Kiel: 1 / 2
        expected = [-sum(p * math.log(p) for p in row) for row in ([4 / 7, 2 / 7, 1 / 7], [1 / 4, 1 / 2, 1 / 4])]
        np.testing.assert_allclose(features.entropy, expected)

    def test_an_answer_may_have_one_character(self, table, monkeypatch):
        for probability, question in zip((0.25, 0.1, 0.2, 0.3), self.TABLE, strict=True):
            monkeypatch.setitem(self.TABLE, question, {**self.TABLE[question], "x": probability})
        features, _ = self.confidence(["x", "Rome"])
        np.testing.assert_allclose(features.log_odds, np.log([0.25 / 0.75, 0.05 / 0.95]))
        np.testing.assert_allclose(features.contrast, np.log([0.25 / 0.25, 0.05 / 0.3]), atol=1e-12)

    @pytest.mark.parametrize("unusable", ["", too_long])
    def test_an_answer_that_cannot_be_scored_gets_the_lowest_score(self, table, unusable):
        features, _ = self.confidence([unusable, "Kiel"])
        np.testing.assert_allclose(features.log_odds, np.log([0.01 / 0.99, 0.2 / 0.8]))
        np.testing.assert_allclose(features.contrast, [0, np.log(0.2 / 0.2)], atol=1e-12)
        features, _ = self.confidence([unusable, unusable])
        np.testing.assert_allclose(features.log_odds, np.log([0.125 / 0.875, 0.05 / 0.95]))
        assert features.contrast.tolist() == [0, 0]

    def test_the_longest_question_decides_what_fits(self, table, monkeypatch):
        """ "Where was Ada born?" leaves 48 - 2 - 19 characters; a longer unknown name leaves fewer."""
        for name, fits in (("Xu", True), ("Longest", False)):
            answer = "a" * 27
            for question in (*self.known, "Where was Xu born?", "Where was Longest born?"):
                monkeypatch.setitem(self.TABLE, question, {"Rome": 0.1, "Oslo": 0.2, "Lima": 0.3, answer: 0.05})
            features, _ = self.confidence([answer, "Rome"], unknown_names=[name])
            assert features.log_odds[0] == pytest.approx(math.log(0.05 / 0.95 if fits else 0.1 / 0.9))

    def test_certainty_about_one_candidate(self, table, monkeypatch):
        monkeypatch.setitem(self.TABLE, self.known[0], {"Rome": 1.0, "Oslo": 1e-320, "Lima": 1e-320})
        comparison = Comparison(candidates=["Rome", "Oslo", "Lima"], unknown_names=["Xu"])
        model = small_model("learned")
        features, _ = compute_confidence(model, by_code_point, self.known[:1], ["Rome"], comparison)
        assert features.entropy == pytest.approx(0)
        assert features.log_odds == pytest.approx(math.log(1e6), rel=1e-6)


def test_log_odds():
    expected = [math.log(p / (1 - p)) for p in (1e-9, 0.3, 0.999)]
    np.testing.assert_allclose(log_odds(np.log([1e-9, 0.3, 0.999])), expected, rtol=1e-9)
    assert log_odds(np.array([-0.05]), eps=0.1) == pytest.approx(-0.05 - math.log(1 - math.exp(-0.1)))


class TestBatches:
    @torch.no_grad()
    @pytest.mark.parametrize("per_batch", [1, 2, 3, 64])
    def test_answers_are_scored_in_batches(self, tokenizer, monkeypatch, per_batch):
        monkeypatch.setattr(confidence_module, "_ANSWERS_PER_BATCH", per_batch)
        model, answers = small_model("rope", vocab_size=len(tokenizer)), ["London", "Bo", "A", "Ada Byron", "in"]
        scores = score_answers(model, tokenizer, QUESTIONS, answers)
        assert scores.dtype == np.float64
        for i, question in enumerate(QUESTIONS):
            for k, answer in enumerate(answers):
                ids = tokenizer(f"{question}{MASK}{answer}{MASK}", return_tensors="pt")["input_ids"]
                logits = torch.log_softmax(model(ids, use_cache=False).logits[0, :-1].double(), dim=-1)
                each = logits.gather(-1, ids[0, 1:, None])[len(question) :]
                assert scores[i, k] == pytest.approx(float(each.sum()), abs=1e-4)

    @torch.no_grad()
    def test_question_and_answer_may_fill_the_context(self, tokenizer):
        model = small_model("learned", vocab_size=len(tokenizer))
        room = 48 - 2 - len(QUESTIONS[0])
        assert score_answers(model, tokenizer, QUESTIONS[:1], ["a" * room]).shape == (1, 1)
        with pytest.raises(ValueError, match="leaves no room"):
            score_answers(model, tokenizer, QUESTIONS[:1], ["a" * (room + 1)])
