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
    check_both_outcomes,
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
CANDIDATES = ["London", "Bonn", "A", "Ada Byron"]


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


class TestConfidence:
    def test_definitions(self, model, tokenizer):
        found = compute_confidence(
            model, tokenizer, QUESTIONS, ["Bonn", "Rome"], candidates=CANDIDATES, unknown_names=["Ada"]
        )
        assert found.candidate_probabilities.shape == (2, 4)
        np.testing.assert_allclose(found.candidate_probabilities.sum(axis=1), 1)
        assert (found.features.entropy >= 0).all()
        ada, zoe = score_answers(model, tokenizer, QUESTIONS, ["Bonn", "Rome"])
        chosen = np.exp([ada[0], zoe[1]])
        assert found.features.log_odds == pytest.approx(np.log(chosen / (1 - chosen)), abs=1e-4)
        assert found.features.contrast == pytest.approx(
            [0, zoe[1] - ada[1]], abs=1e-4
        )  # the unknown name was asked about

    def test_certainty_has_finite_log_odds(self):
        assert log_odds(np.log([0.5, 0.9])) == pytest.approx(np.log([1, 9]))
        assert log_odds(np.zeros(1)) == pytest.approx(np.log(1e6), rel=1e-6)

    def test_features_do_not_depend_on_other_questions(self, model, tokenizer):
        options = {"candidates": CANDIDATES, "unknown_names": ["Byron", "Bo"]}
        together = compute_confidence(model, tokenizer, QUESTIONS, ["Bonn", "Rome"], **options)
        alone = [
            compute_confidence(model, tokenizer, [q], [p], **options)
            for q, p in zip(QUESTIONS, ["Bonn", "Rome"], strict=True)
        ]
        alone = Confidence.join(alone)
        for one, other in zip(
            (*together.features, together.candidate_probabilities),
            (*alone.features, alone.candidate_probabilities),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, atol=1e-4)


def draw_features(number: int, seed: int = 0) -> tuple[ConfidenceFeatures, np.ndarray, np.ndarray]:
    """Random features, whether the answers are correct, and the true probability of that."""
    rng = np.random.default_rng(seed)
    features = ConfidenceFeatures(-rng.exponential(2, number), rng.exponential(1, number), rng.normal(3, 4, number))
    probability = 1 / (1 + np.exp(-(1 + 0.8 * features.log_odds - 0.5 * features.entropy + 0.4 * features.contrast)))
    return features, rng.random(number) < probability, probability


class TestCalibration:
    def test_recovers_the_true_probability(self):
        features, correct, _ = draw_features(4000)
        calibration = fit_calibration(features, correct, target_accuracy=0.9)
        others, others_correct, truth = draw_features(20_000, seed=1)
        probability = calibration.probability(others)
        assert np.abs(probability - truth).max() < 0.08
        given = probability >= calibration.threshold
        assert others_correct[given].mean() == pytest.approx(0.9, abs=0.02)
        assert 0.1 < given.mean() < 0.9

    def test_survives_json(self):
        features, correct, _ = draw_features(100)
        calibration = fit_calibration(features, correct)
        again = Calibration(**json.loads(json.dumps(asdict(calibration))))
        assert again == calibration
        np.testing.assert_array_equal(again.probability(features), calibration.probability(features))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (
                {"weights": {"log_probability": 1.0, "entropy": 0.0, "contrast": 0.0}},
                "weights are of log_probability, entropy",
            ),
            ({"fitted": 3}, "unexpected keyword argument 'fitted'"),
        ],
    )
    def test_a_calibration_of_another_version_is_an_error(self, tmp_path, changed, message):
        features, correct, _ = draw_features(100)
        (tmp_path / "calibration.json").write_text(
            json.dumps({**asdict(fit_calibration(features, correct)), **changed})
        )
        with pytest.raises(ValueError, match=f"calibration.json is not a calibration of this version: .*{message}"):
            load_calibration(str(tmp_path))

    def test_only_correct_answers_are_an_error(self):
        features, _, _ = draw_features(10)
        with pytest.raises(ValueError, match="10 of 10 answers are correct"):
            fit_calibration(features, np.ones(10, dtype=bool))

    def test_the_threshold_is_at_least_one_half(self):
        features, correct, _ = draw_features(400)
        assert fit_calibration(features, correct, target_accuracy=0.01).threshold == 0.5

    def test_the_false_answer_rate_is_limited(self):
        features, correct, _ = draw_features(400)
        invented, _, _ = draw_features(50, seed=2)
        for rate, answered in ((0.0, 0), (0.1, 0), (0.2, 4), (1.0, 50)):  # of 50; 5 would be 4.3 to 21.4 %
            calibration = fit_calibration(
                features, correct, invented_features=invented, target_accuracy=0, max_false_answer_rate=rate
            )
            probability = calibration.probability(invented)
            given = (probability >= calibration.threshold).sum()
            assert given == min(answered, (probability >= 0.5).sum())

    def test_an_unreachable_accuracy_means_abstention(self):
        calibration = fit_calibration(ConfidenceFeatures(*np.zeros((3, 4))), np.array([True, False, False, False]))
        assert calibration.threshold == 1.0


class TestAsking:
    @pytest.fixture
    def calibration(self):
        weights = {"log_odds": 0.1, "entropy": -0.2, "contrast": 0.3}
        values = {"weights": weights, "bias": 1.0, "fitted_on": 9, "candidates": CANDIDATES, "unknown_names": ["Byron"]}
        return Calibration(threshold=0.5, **values)

    def test_answers(self, model, tokenizer, calibration):
        first, second = ask(model, tokenizer, ["Ada", "Zoë Quist"], calibration)
        assert (first.name, second.name) == ("Ada", "Zoë Quist")
        assert first.confident == (first.probability >= 0.5)
        assert first.place not in dict(first.alternatives)
        probabilities = [probability for _, probability in second.alternatives]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert ask(model, tokenizer, ["Zoë Quist"], calibration)[0].probability == pytest.approx(second.probability)

    def test_an_unknown_character_is_an_error(self, model, tokenizer, calibration):
        with pytest.raises(ValueError, match=r"'X': character 11, 'X' .* other letters"):
            ask(model, tokenizer, ["Ada", "X"], calibration)


class TestCalibrationFile:
    """Loading refuses impossible values."""

    good = asdict(
        Calibration(
            weights={"log_odds": 0.1, "entropy": -0.2, "contrast": 0.3},
            bias=1.0,
            threshold=0.5,
            candidates=["London"],
            unknown_names=["Bo Ek"],
            fitted_on=9,
        )
    )

    def load(self, folder, content):
        (folder / "calibration.json").write_text(content, encoding="utf-8")
        return load_calibration(str(folder))

    def test_a_good_file_is_loaded(self, tmp_path):
        assert asdict(self.load(tmp_path, "\ufeff" + json.dumps(self.good))) == self.good

    def test_a_file_of_an_earlier_version_gives_the_same_probabilities(self, tmp_path):
        """Its candidates were called places."""
        calibration = self.load(
            tmp_path,
            """{
              "weights": {"log_odds": 0.5, "entropy": -1.0, "contrast": 0.25},
              "bias": -0.5,
              "threshold": 0.62,
              "places": ["London", "Ålesund"],
              "unknown_names": ["Bo Ek", "Zoë Lund"],
              "fitted_on": 421
            }""",
        )
        assert calibration.candidates == ["London", "Ålesund"]
        assert (calibration.threshold, calibration.unknown_names) == (0.62, ["Bo Ek", "Zoë Lund"])
        features = ConfidenceFeatures(np.array([2.0, -1.0]), np.array([0.5, 1.0]), np.array([4.0, 0.0]))
        np.testing.assert_allclose(calibration.probability(features), [0.7310585786300049, 0.11920292202211755])

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"threshold": 1.5}, "threshold is 1.5, which is not a probability"),
            ({"threshold": -0.1}, "threshold is -0.1, which is not a probability"),
            ({"threshold": float("nan")}, "threshold is nan, which is not a finite number"),
            ({"bias": float("inf")}, "bias is inf, which is not a finite number"),
            ({"bias": "1"}, "bias is '1', which is not a finite number"),
            ({"bias": None}, "bias is None, which is not a finite number"),
            ({"weights": {**good["weights"], "entropy": True}}, "entropy is True, which is not a finite number"),
            ({"weights": {**good["weights"], "entropy": 10**400}}, "entropy is 1000.*which is not a finite number"),
            ({"weights": [1, 2, 3]}, r"weights are of \[1, 2, 3\]"),
            ({"places": ["London"]}, "unexpected keyword argument 'places'"),
            ({"candidates": "London"}, "candidates are not a list of strings"),
            ({"candidates": ["London", 1]}, "candidates are not a list of strings"),
            ({"candidates": []}, "has no candidates"),
            ({"candidates": ["a", "b", "a"]}, "One of its candidates occurs twice"),
            ({"candidates": ["a⁇"]}, "is a mark of the data format"),
            ({"unknown_names": []}, "no unknown names"),
            ({"unknown_names": [" "]}, "unknown_names are not a list of strings"),
            ({"fitted_on": -1}, "fitted_on is -1"),
            ({"fitted_on": 2.5}, r"fitted_on is 2\.5"),
        ],
    )
    def test_an_impossible_value_is_an_error(self, tmp_path, changed, message):
        with pytest.raises(ValueError, match=f"calibration.json is not a calibration of this version: .*{message}"):
            self.load(tmp_path, json.dumps({**self.good, **changed}))

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, '{"bias": 1, "bias": 2}', "1" * 5_000])
    def test_a_file_of_another_kind_is_an_error(self, tmp_path, content):
        with pytest.raises(ValueError, match=r"calibration\.json is not a calibration of this version"):
            self.load(tmp_path, content)


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

        monkeypatch.setattr(calibration_module, "score_answers", score_answers)

    def confidence(self, predictions, unknown_names=("Xu", "Yi")) -> Confidence:
        model = small_model("learned")
        options = {"candidates": ["Rome", "Oslo", "Lima"], "unknown_names": unknown_names}
        return compute_confidence(model, None, self.known, predictions, **options)

    def test_definitions(self, table):
        """Over unknown names, the mean probability of Rome is (0.2 + 0.4) / 2, and of Kiel (0.1 + 0.3) / 2."""
        features, distributions = self.confidence(["Rome", "Kiel"])
        np.testing.assert_allclose(features.log_odds, np.log([0.5 / 0.5, 0.2 / 0.8]))
        np.testing.assert_allclose(features.contrast, np.log([0.5 / 0.3, 0.2 / 0.2]), atol=1e-12)
        np.testing.assert_allclose(distributions, [[4 / 7, 2 / 7, 1 / 7], [1 / 4, 1 / 2, 1 / 4]])
        expected = [-sum(p * math.log(p) for p in row) for row in distributions]
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
        features, _ = compute_confidence(
            small_model("learned"),
            None,
            self.known[:1],
            ["Rome"],
            candidates=["Rome", "Oslo", "Lima"],
            unknown_names=["Xu"],
        )
        assert features.entropy == pytest.approx(0)
        assert features.log_odds == pytest.approx(math.log(1e6), rel=1e-6)

    def test_probability(self):
        weights = {"log_odds": 0.5, "entropy": -1.0, "contrast": 2.0}
        calibration = Calibration(
            weights=weights, bias=0.25, threshold=0.5, candidates=[], unknown_names=[], fitted_on=2
        )  # fmt: skip
        features = ConfidenceFeatures(np.array([1.0, -2.0]), np.array([0.5, 0.0]), np.array([0.25, 1.0]))
        expected = [1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(-1.25))]
        np.testing.assert_allclose(calibration.probability(features), expected)

    def test_alternatives(self, table, monkeypatch):
        weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
        values = {"weights": weights, "bias": 0.0, "fitted_on": 9, "unknown_names": ["Xu", "Yi"]}
        monkeypatch.setattr(
            calibration_module, "questions_about", lambda names, _: [f"Where was {name} born?" for name in names]
        )
        monkeypatch.setattr(calibration_module, "answer_questions", lambda *_: ["Rome", "Kiel"])
        candidates = ["Bath", "Lima", "Rome", "Oslo"]
        calibration = Calibration(threshold=0.5, candidates=candidates, **values)
        ada, bo = ask(small_model("learned"), None, ["Ada", "Bo"], calibration)
        total = 0.9375
        assert ada[:4] == ("Ada", "Rome", pytest.approx(0.5), True)  # at the threshold
        assert [place for place, _ in ada.alternatives] == ["Oslo", "Lima", "Bath"]
        assert [p for _, p in ada.alternatives] == pytest.approx([0.25 / total, 0.125 / total, 0.0625 / total])
        assert bo[:4] == ("Bo", "Kiel", pytest.approx(0.2), False)
        assert {place for place, _ in bo.alternatives[:2]} == {"Bath", "Oslo"}
        assert len(bo.alternatives) == 3


class TestFitting:
    @pytest.mark.parametrize("number", [50, 400])
    def test_is_a_logistic_regression_on_standardized_features(self, number):
        features, correct, _ = draw_features(number)
        values, (others, _, _) = np.stack(features, axis=1), draw_features(30, seed=1)
        regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(values, correct)
        calibration = fit_calibration(features, correct, candidates=["Rome"], unknown_names=["Xu"])
        expected = regression.predict_proba(np.stack(others, axis=1))[:, 1]
        np.testing.assert_allclose(calibration.probability(others), expected, rtol=1e-9)
        assert (calibration.fitted_on, calibration.candidates, calibration.unknown_names) == (number, ["Rome"], ["Xu"])

    @pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.9, 0.97])
    def test_the_lowest_threshold_with_enough_accuracy(self, accuracy):
        features, correct, _ = draw_features(300)
        calibration = fit_calibration(features, correct, target_accuracy=accuracy)
        descending = sorted(
            zip(calibration.probability(features).tolist(), correct.tolist(), strict=True), reverse=True
        )
        enough = [
            probability
            for n, (probability, _) in enumerate(descending, start=1)
            if sum(is_exact_match for _, is_exact_match in descending[:n]) / n >= accuracy
        ]
        assert calibration.threshold == max(0.5, enough[-1])
        assert fit_calibration(features, correct) == fit_calibration(
            features, correct, target_accuracy=0.8, max_false_answer_rate=0.1
        )

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
    def test_the_threshold_keeps_the_false_answer_rate(self, rate):
        """The upper end of Wilson's interval stays within the limit; all other invented names get no answer."""
        features, correct, _ = draw_features(400)
        invented, _, _ = draw_features(120, seed=2)
        calibration = fit_calibration(
            features, correct, invented_features=invented, target_accuracy=0, max_false_answer_rate=rate
        )
        allowed = max((k for k in range(121) if wilson_interval(k, 120)[1] <= rate), default=0)
        descending_invented = sorted(calibration.probability(invented).tolist(), reverse=True)
        assert descending_invented[allowed] > 0.5
        assert calibration.threshold == math.nextafter(descending_invented[allowed], 1)

    def test_no_limit_on_false_answers(self):
        features, correct, _ = draw_features(400)
        invented = ConfidenceFeatures(*np.full((3, 30), [[0.0], [0.0], [50.0]]))  # all with great contrast
        calibration = fit_calibration(
            features, correct, invented_features=invented, target_accuracy=0, max_false_answer_rate=1.0
        )
        assert calibration.threshold == 0.5

    def test_both_outcomes_are_required(self):
        check_both_outcomes(np.array([True, False]))
        for correct, said in (([False] * 3, "0 of 3 answers are correct"), ([True], "1 of 1 answers are correct")):
            with pytest.raises(ValueError, match=said):
                check_both_outcomes(np.array(correct))


def test_log_odds():
    expected = [math.log(p / (1 - p)) for p in (1e-9, 0.3, 0.999)]
    np.testing.assert_allclose(log_odds(np.log([1e-9, 0.3, 0.999])), expected, rtol=1e-9)
    assert log_odds(np.array([-0.05]), eps=0.1) == pytest.approx(-0.05 - math.log(1 - math.exp(-0.1)))


class TestBatches:
    @torch.no_grad()
    @pytest.mark.parametrize("per_batch", [1, 2, 3, 64])
    def test_answers_are_scored_in_batches(self, tokenizer, monkeypatch, per_batch):
        monkeypatch.setattr(calibration_module, "_ANSWERS_PER_BATCH", per_batch)
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
