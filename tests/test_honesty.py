import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from hf_mingpt.honesty import (
    Calibration,
    Judgement,
    Signs,
    ask,
    fit_calibration,
    judge_answers,
    log_odds,
    score_answers,
)
from hf_mingpt.hub import load_calibration
from hf_mingpt.tokenization_mingpt import MASK

from .conftest import small_model

QUESTIONS = ["Where was Ada born?", "Where was Zoë Quist born?"]
PLACES = ["London", "Bonn", "A", "Ada Byron"]


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer)).eval()


class TestScores:
    @torch.no_grad()
    def test_are_the_log_probabilities_of_the_whole_text(self, model, tokenizer):
        scores = score_answers(model, tokenizer, QUESTIONS, PLACES)
        for i, question in enumerate(QUESTIONS):
            for k, place in enumerate(PLACES):
                ids = tokenizer(f"{question}{MASK}{place}{MASK}", return_tensors="pt")["input_ids"]
                logits = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
                each = logits.gather(-1, ids[0, 1:, None])[len(question) :]
                assert scores[i, k] == pytest.approx(float(each.sum()), abs=1e-4)

    def test_what_does_not_fit_is_an_error(self, model, tokenizer):
        with pytest.raises(ValueError, match=r"Question 1, .* leaves no room"):
            score_answers(model, tokenizer, QUESTIONS, ["a" * 30])


class TestJudgement:
    def test_signs(self, model, tokenizer):
        found = judge_answers(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], places=PLACES, unknown_names=["Ada"])
        assert found.shares.shape == (2, 4)
        np.testing.assert_allclose(found.shares.sum(axis=1), 1)
        assert (found.signs.entropy >= 0).all()
        ada, zoe = score_answers(model, tokenizer, QUESTIONS, ["Bonn", "Rome"])
        chosen = np.exp([ada[0], zoe[1]])
        assert found.signs.log_odds == pytest.approx(np.log(chosen / (1 - chosen)), abs=1e-4)
        assert found.signs.contrast == pytest.approx([0, zoe[1] - ada[1]], abs=1e-4)  # the unknown name was asked about

    def test_certainty_is_a_finite_sign(self):
        assert log_odds(np.log([0.5, 0.9])) == pytest.approx(np.log([1, 9]))
        assert log_odds(np.zeros(1)) == pytest.approx(np.log(1e6), rel=1e-6)

    def test_do_not_depend_on_the_other_questions(self, model, tokenizer):
        options = {"places": PLACES, "unknown_names": ["Byron", "Bo"]}
        together = judge_answers(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], **options)
        alone = [
            judge_answers(model, tokenizer, [q], [p], **options)
            for q, p in zip(QUESTIONS, ["Bonn", "Rome"], strict=True)
        ]
        alone = Judgement.join(alone)
        for one, other in zip((*together.signs, together.shares), (*alone.signs, alone.shares), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def draw_signs(number: int, seed: int = 0) -> tuple[Signs, np.ndarray, np.ndarray]:
    """Signs, whether the answers are right, and the true probability of that."""
    rng = np.random.default_rng(seed)
    signs = Signs(-rng.exponential(2, number), rng.exponential(1, number), rng.normal(3, 4, number))
    probability = 1 / (1 + np.exp(-(1 + 0.8 * signs.log_odds - 0.5 * signs.entropy + 0.4 * signs.contrast)))
    return signs, rng.random(number) < probability, probability


class TestCalibration:
    def test_finds_the_probability(self):
        signs, right, _ = draw_signs(4000)
        calibration = fit_calibration(signs, right, answer_accuracy=0.9)
        others, others_right, truth = draw_signs(20_000, seed=1)
        probability = calibration.probability(others)
        assert np.abs(probability - truth).max() < 0.08
        given = probability >= calibration.threshold
        assert others_right[given].mean() == pytest.approx(0.9, abs=0.02)
        assert 0.1 < given.mean() < 0.9

    def test_survives_a_file(self):
        signs, right, _ = draw_signs(100)
        calibration = fit_calibration(signs, right)
        again = Calibration(**json.loads(json.dumps(asdict(calibration))))
        assert again == calibration
        np.testing.assert_array_equal(again.probability(signs), calibration.probability(signs))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"weights": {"log_probability": 1.0, "entropy": 0.0, "contrast": 0.0}}, "weighs log_probability, entropy"),
            ({"fitted": 3}, "unexpected keyword argument 'fitted'"),
        ],
    )
    def test_one_of_another_version_is_an_error(self, tmp_path, changed, message):
        signs, right, _ = draw_signs(100)
        (tmp_path / "calibration.json").write_text(json.dumps({**asdict(fit_calibration(signs, right)), **changed}))
        with pytest.raises(ValueError, match=f"calibration.json is no calibration of this version: .*{message}"):
            load_calibration(str(tmp_path))

    def test_nothing_to_tell_apart_is_an_error(self):
        signs, _, _ = draw_signs(10)
        with pytest.raises(ValueError, match="10 of 10 answers are right"):
            fit_calibration(signs, np.ones(10, dtype=bool))

    def test_what_is_more_likely_wrong_is_a_guess_however_good_the_others_are(self):
        signs, right, _ = draw_signs(400)
        assert fit_calibration(signs, right, answer_accuracy=0.01).threshold == 0.5

    def test_few_invented_names_are_answered(self):
        signs, right, _ = draw_signs(400)
        invented, _, _ = draw_signs(50, seed=2)
        for share, answered in ((0.0, 0), (0.1, 0), (0.2, 4), (1.0, 50)):  # of 50; 5 would be 4.3 to 21.4 %
            calibration = fit_calibration(signs, right, of_invented=invented, answer_accuracy=0, false_answers=share)
            probability = calibration.probability(invented)
            given = (probability >= calibration.threshold).sum()
            assert given == min(answered, (probability >= 0.5).sum())

    def test_an_accuracy_out_of_reach_means_no_answers(self):
        calibration = fit_calibration(Signs(*np.zeros((3, 4))), np.array([True, False, False, False]))
        assert calibration.threshold == 1.0


class TestAsking:
    @pytest.fixture
    def calibration(self):
        weights = {"log_odds": 0.1, "entropy": -0.2, "contrast": 0.3}
        values = {"weights": weights, "bias": 1.0, "fitted_on": 9, "places": PLACES, "unknown_names": ["Byron"]}
        return Calibration(threshold=0.5, **values)

    def test_answers(self, model, tokenizer, calibration):
        first, second = ask(model, tokenizer, ["Ada", "Zoë Quist"], calibration)
        assert (first.name, second.name) == ("Ada", "Zoë Quist")
        assert first.retrieved == (first.probability >= 0.5)
        assert first.place not in dict(first.runners_up)
        shares = [share for _, share in second.runners_up]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert ask(model, tokenizer, ["Zoë Quist"], calibration)[0].probability == pytest.approx(second.probability)

    def test_an_unknown_character_is_an_error(self, model, tokenizer, calibration):
        with pytest.raises(ValueError, match=r"'X': character 11, 'X' .* other letters"):
            ask(model, tokenizer, ["Ada", "X"], calibration)


class TestCalibrationFile:
    """A value that no calibration can have is refused on loading."""

    good = asdict(
        Calibration(
            weights={"log_odds": 0.1, "entropy": -0.2, "contrast": 0.3},
            bias=1.0,
            threshold=0.5,
            places=["London"],
            unknown_names=["Bo Ek"],
            fitted_on=9,
        )
    )

    def load(self, folder, content):
        (folder / "calibration.json").write_text(content, encoding="utf-8")
        return load_calibration(str(folder))

    def test_a_good_one_is_loaded(self, tmp_path):
        assert asdict(self.load(tmp_path, "\ufeff" + json.dumps(self.good))) == self.good

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"threshold": 1.5}, "threshold is 1.5, which is no probability"),
            ({"threshold": -0.1}, "threshold is -0.1, which is no probability"),
            ({"threshold": float("nan")}, "threshold is nan, which is no finite number"),
            ({"bias": float("inf")}, "bias is inf, which is no finite number"),
            ({"bias": "1"}, "bias is '1', which is no finite number"),
            ({"bias": None}, "bias is None, which is no finite number"),
            ({"weights": {**good["weights"], "entropy": True}}, "entropy is True, which is no finite number"),
            ({"weights": {**good["weights"], "entropy": 10**400}}, "entropy is 1000.*which is no finite number"),
            ({"weights": [1, 2, 3]}, r"weighs \[1, 2, 3\]"),
            ({"places": "London"}, "places are no list of texts"),
            ({"places": ["London", 1]}, "places are no list of texts"),
            ({"places": []}, "has no places"),
            ({"places": ["a", "b", "a"]}, "One of its places is there twice"),
            ({"places": ["a⁇"]}, "is a mark of the data format"),
            ({"unknown_names": []}, "no unknown names"),
            ({"unknown_names": [" "]}, "unknown_names are no list of texts"),
            ({"fitted_on": -1}, "fitted on -1 questions"),
            ({"fitted_on": 2.5}, r"fitted on 2\.5 questions"),
        ],
    )
    def test_an_impossible_value_is_named(self, tmp_path, changed, message):
        with pytest.raises(ValueError, match=f"calibration.json is no calibration of this version: .*{message}"):
            self.load(tmp_path, json.dumps({**self.good, **changed}))

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, '{"bias": 1, "bias": 2}', "1" * 5_000])
    def test_what_is_none_is_named(self, tmp_path, content):
        with pytest.raises(ValueError, match=r"calibration\.json is no calibration of this version"):
            self.load(tmp_path, content)
