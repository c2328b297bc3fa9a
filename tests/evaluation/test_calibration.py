import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_mingpt.evaluation import calibration as calibration_module
from hf_mingpt.evaluation.calibration import (
    Calibration,
    Confidence,
    ConfidenceFeatures,
    ask,
    check_right_and_wrong,
    compute_confidence,
    fit_calibration,
    log_odds,
    score_answers,
)
from hf_mingpt.evaluation.scoring import wilson_interval
from hf_mingpt.hub.loading import load_calibration
from hf_mingpt.tokenization_mingpt import MASK

from ..conftest import small_model

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
        found = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], places=PLACES, unknown_names=["Ada"])
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
        together = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], **options)
        alone = [
            compute_confidence(model, tokenizer, [q], [p], **options)
            for q, p in zip(QUESTIONS, ["Bonn", "Rome"], strict=True)
        ]
        alone = Confidence.join(alone)
        for one, other in zip((*together.signs, together.shares), (*alone.signs, alone.shares), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def draw_signs(number: int, seed: int = 0) -> tuple[ConfidenceFeatures, np.ndarray, np.ndarray]:
    """Signs, whether the answers are right, and the true probability of that."""
    rng = np.random.default_rng(seed)
    signs = ConfidenceFeatures(-rng.exponential(2, number), rng.exponential(1, number), rng.normal(3, 4, number))
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
        calibration = fit_calibration(ConfidenceFeatures(*np.zeros((3, 4))), np.array([True, False, False, False]))
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


class TestByHand:
    """Scores from a table in the place of a model's."""

    TABLE = {  # noqa: RUF012
        "Where was Ada born?": {"Rome": 0.5, "Oslo": 0.25, "Lima": 0.125, "Bath": 0.0625, "Kiel": 0.01},
        "Where was Bo born?": {"Rome": 0.05, "Oslo": 0.1, "Lima": 0.05, "Bath": 0.1, "Kiel": 0.2},
        "Where was Xu born?": {"Rome": 0.2, "Oslo": 0.1, "Lima": 0.1, "Bath": 0.1, "Kiel": 0.1},
        "Where was Yi born?": {"Rome": 0.4, "Oslo": 0.3, "Lima": 0.1, "Bath": 0.1, "Kiel": 0.3},
    }
    known = ("Where was Ada born?", "Where was Bo born?")
    endless = "a" * 28  # of 48 characters a question takes 19, and two marks

    @pytest.fixture
    def table(self, monkeypatch):
        def score_answers(model, tokenizer, questions, answers, progress=False):
            assert len(set(answers)) == len(answers)
            rows = [[self.TABLE[question][answer] for answer in answers] for question in questions]
            return np.log(np.array(rows))

        monkeypatch.setattr(calibration_module, "score_answers", score_answers)

    def judge(self, predictions, unknown_names=("Xu", "Yi")) -> Confidence:
        model = small_model("learned")
        options = {"places": ["Rome", "Oslo", "Lima"], "unknown_names": unknown_names}
        return compute_confidence(model, None, self.known, predictions, **options)

    def test_signs(self, table):
        """The usual probability of Rome is (0.2 + 0.4) / 2, and of Kiel, which is no place, (0.1 + 0.3) / 2."""
        signs, shares = self.judge(["Rome", "Kiel"])
        np.testing.assert_allclose(signs.log_odds, np.log([0.5 / 0.5, 0.2 / 0.8]))
        np.testing.assert_allclose(signs.contrast, np.log([0.5 / 0.3, 0.2 / 0.2]), atol=1e-12)
        np.testing.assert_allclose(shares, [[4 / 7, 2 / 7, 1 / 7], [1 / 4, 1 / 2, 1 / 4]])
        expected = [-sum(p * math.log(p) for p in row) for row in shares]
        np.testing.assert_allclose(signs.entropy, expected)

    def test_an_answer_of_one_character_is_one(self, table, monkeypatch):
        for probability, question in zip((0.25, 0.1, 0.2, 0.3), self.TABLE, strict=True):
            monkeypatch.setitem(self.TABLE, question, {**self.TABLE[question], "x": probability})
        signs, _ = self.judge(["x", "Rome"])
        np.testing.assert_allclose(signs.log_odds, np.log([0.25 / 0.75, 0.05 / 0.95]))
        np.testing.assert_allclose(signs.contrast, np.log([0.25 / 0.25, 0.05 / 0.3]), atol=1e-12)

    @pytest.mark.parametrize("unusable", ["", endless])
    def test_an_answer_that_cannot_be_scored_speaks_least_for_itself(self, table, unusable):
        signs, _ = self.judge([unusable, "Kiel"])
        np.testing.assert_allclose(signs.log_odds, np.log([0.01 / 0.99, 0.2 / 0.8]))
        np.testing.assert_allclose(signs.contrast, [0, np.log(0.2 / 0.2)], atol=1e-12)
        signs, _ = self.judge([unusable, unusable])
        np.testing.assert_allclose(signs.log_odds, np.log([0.125 / 0.875, 0.05 / 0.95]))
        assert signs.contrast.tolist() == [0, 0]

    def test_the_longest_question_decides_what_has_an_end(self, table, monkeypatch):
        """ "Where was Ada born?" leaves 48 - 2 - 19 characters, and one about a longer unknown name fewer."""
        for name, fits in (("Xu", True), ("Longest", False)):
            answer = "a" * 27
            for question in (*self.known, "Where was Xu born?", "Where was Longest born?"):
                monkeypatch.setitem(self.TABLE, question, {"Rome": 0.1, "Oslo": 0.2, "Lima": 0.3, answer: 0.05})
            signs, _ = self.judge([answer, "Rome"], unknown_names=[name])
            assert signs.log_odds[0] == pytest.approx(math.log(0.05 / 0.95 if fits else 0.1 / 0.9))

    def test_certainty_of_one_place(self, table, monkeypatch):
        monkeypatch.setitem(self.TABLE, self.known[0], {"Rome": 1.0, "Oslo": 1e-320, "Lima": 1e-320})
        signs, _ = compute_confidence(
            small_model("learned"),
            None,
            self.known[:1],
            ["Rome"],
            places=["Rome", "Oslo", "Lima"],
            unknown_names=["Xu"],
        )
        assert signs.entropy == pytest.approx(0)
        assert signs.log_odds == pytest.approx(math.log(1e6), rel=1e-6)

    def test_probability(self):
        weights = {"log_odds": 0.5, "entropy": -1.0, "contrast": 2.0}
        calibration = Calibration(
            weights=weights, bias=0.25, threshold=0.5, places=[], unknown_names=[], fitted_on=2
        )  # fmt: skip
        signs = ConfidenceFeatures(np.array([1.0, -2.0]), np.array([0.5, 0.0]), np.array([0.25, 1.0]))
        expected = [1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(-1.25))]
        np.testing.assert_allclose(calibration.probability(signs), expected)

    def test_runners_up(self, table, monkeypatch):
        weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
        values = {"weights": weights, "bias": 0.0, "fitted_on": 9, "unknown_names": ["Xu", "Yi"]}
        monkeypatch.setattr(
            calibration_module, "questions_about", lambda names, _: [f"Where was {name} born?" for name in names]
        )
        monkeypatch.setattr(calibration_module, "answer_questions", lambda *_: ["Rome", "Kiel"])
        places = ["Bath", "Lima", "Rome", "Oslo"]
        calibration = Calibration(threshold=0.5, places=places, **values)
        ada, bo = ask(small_model("learned"), None, ["Ada", "Bo"], calibration)
        total = 0.9375
        assert ada[:4] == ("Ada", "Rome", pytest.approx(0.5), True)  # at the threshold
        assert [place for place, _ in ada.runners_up] == ["Oslo", "Lima", "Bath"]
        assert [share for _, share in ada.runners_up] == pytest.approx([0.25 / total, 0.125 / total, 0.0625 / total])
        assert bo[:4] == ("Bo", "Kiel", pytest.approx(0.2), False)
        assert {place for place, _ in bo.runners_up[:2]} == {"Bath", "Oslo"}
        assert len(bo.runners_up) == 3


class TestFitting:
    @pytest.mark.parametrize("number", [50, 400])
    def test_is_a_logistic_regression_on_standardised_signs(self, number):
        signs, right, _ = draw_signs(number)
        values, (others, _, _) = np.stack(signs, axis=1), draw_signs(30, seed=1)
        regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(values, right)
        calibration = fit_calibration(signs, right, places=["Rome"], unknown_names=["Xu"])
        expected = regression.predict_proba(np.stack(others, axis=1))[:, 1]
        np.testing.assert_allclose(calibration.probability(others), expected, rtol=1e-9)
        assert (calibration.fitted_on, calibration.places, calibration.unknown_names) == (number, ["Rome"], ["Xu"])

    @pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.9, 0.97])
    def test_the_lowest_threshold_that_is_right_often_enough(self, accuracy):
        signs, right, _ = draw_signs(300)
        calibration = fit_calibration(signs, right, answer_accuracy=accuracy)
        surest_first = sorted(zip(calibration.probability(signs).tolist(), right.tolist(), strict=True), reverse=True)
        enough = [
            probability
            for n, (probability, _) in enumerate(surest_first, start=1)
            if sum(is_exact_match for _, is_exact_match in surest_first[:n]) / n >= accuracy
        ]
        assert calibration.threshold == max(0.5, enough[-1])
        assert fit_calibration(signs, right) == fit_calibration(signs, right, answer_accuracy=0.8, false_answers=0.1)

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
    def test_so_many_invented_names_may_be_answered(self, share):
        """As many as keep the upper end of Wilson's interval under the share; of the others even the surest is not."""
        signs, right, _ = draw_signs(400)
        invented, _, _ = draw_signs(120, seed=2)
        calibration = fit_calibration(signs, right, of_invented=invented, answer_accuracy=0, false_answers=share)
        allowed = max((k for k in range(121) if wilson_interval(k, 120)[1] <= share), default=0)
        surest = sorted(calibration.probability(invented).tolist(), reverse=True)
        assert surest[allowed] > 0.5
        assert calibration.threshold == math.nextafter(surest[allowed], 1)

    def test_all_of_them_may_be(self):
        signs, right, _ = draw_signs(400)
        invented = ConfidenceFeatures(*np.full((3, 30), [[0.0], [0.0], [50.0]]))  # all of them surely known
        calibration = fit_calibration(signs, right, of_invented=invented, answer_accuracy=0, false_answers=1.0)
        assert calibration.threshold == 0.5

    def test_nothing_to_tell_apart(self):
        check_right_and_wrong(np.array([True, False]))
        for right, said in (([False] * 3, "0 of 3 answers are right"), ([True], "1 of 1 answers are right")):
            with pytest.raises(ValueError, match=said):
                check_right_and_wrong(np.array(right))


def test_what_speaks_for_certain_answers():
    expected = [math.log(p / (1 - p)) for p in (1e-9, 0.3, 0.999)]
    np.testing.assert_allclose(log_odds(np.log([1e-9, 0.3, 0.999])), expected, rtol=1e-9)
    assert log_odds(np.array([-0.05]), least_doubt=0.1) == pytest.approx(-0.05 - math.log(1 - math.exp(-0.1)))


class TestGroups:
    @torch.no_grad()
    @pytest.mark.parametrize("at_once", [1, 2, 3, 64])
    def test_answers_are_scored_in_groups(self, tokenizer, monkeypatch, at_once):
        monkeypatch.setattr(calibration_module, "_ANSWERS_AT_ONCE", at_once)
        model, places = small_model("rope", vocab_size=len(tokenizer)), ["London", "Bo", "A", "Ada Byron", "in"]
        scores = score_answers(model, tokenizer, QUESTIONS, places)
        assert scores.dtype == np.float64
        for i, question in enumerate(QUESTIONS):
            for k, place in enumerate(places):
                ids = tokenizer(f"{question}{MASK}{place}{MASK}", return_tensors="pt")["input_ids"]
                logits = torch.log_softmax(model(ids, use_cache=False).logits[0, :-1].double(), dim=-1)
                each = logits.gather(-1, ids[0, 1:, None])[len(question) :]
                assert scores[i, k] == pytest.approx(float(each.sum()), abs=1e-4)

    @torch.no_grad()
    def test_question_and_answer_may_fill_the_block(self, tokenizer):
        model = small_model("learned", vocab_size=len(tokenizer))
        room = 48 - 2 - len(QUESTIONS[0])
        assert score_answers(model, tokenizer, QUESTIONS[:1], ["a" * room]).shape == (1, 1)
        with pytest.raises(ValueError, match="leaves no room"):
            score_answers(model, tokenizer, QUESTIONS[:1], ["a" * (room + 1)])
