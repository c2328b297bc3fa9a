import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_mingpt.data.birthplaces import BIRTHPLACE
from hf_mingpt.data.subjects import Template
from hf_mingpt.evaluation import calibration as calibration_module
from hf_mingpt.evaluation.calibration import (
    Answer,
    Calibration,
    ask,
    ask_in_masked_forms,
    check_both_outcomes,
    fit_calibration,
)
from hf_mingpt.evaluation.confidence import Comparison, Confidence, ConfidenceFeatures
from hf_mingpt.evaluation.scoring import wilson_interval
from hf_mingpt.hub.loading import load_calibration

from ..conftest import small_model

CANDIDATES = ["London", "Bonn", "A", "Ada Byron"]
NAMES = Comparison(candidates=["Rome"], unknown_names=["Xu"])


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer)).eval()


def draw_features(number: int, seed: int = 0) -> tuple[ConfidenceFeatures, np.ndarray, np.ndarray]:
    """Random features, whether the answers are correct, and the true probability of that."""
    rng = np.random.default_rng(seed)
    features = ConfidenceFeatures(-rng.exponential(2, number), rng.exponential(1, number), rng.normal(3, 4, number))
    probability = 1 / (1 + np.exp(-(1 + 0.8 * features.log_odds - 0.5 * features.entropy + 0.4 * features.contrast)))
    return features, rng.random(number) < probability, probability


class TestCalibration:
    def test_recovers_the_true_probability(self):
        features, correct, _ = draw_features(4000)
        calibration = fit_calibration(features, correct, NAMES, target_accuracy=0.9)
        others, others_correct, truth = draw_features(20_000, seed=1)
        probability = calibration.probability(others)
        assert np.abs(probability - truth).max() < 0.08
        given = probability >= calibration.threshold
        assert others_correct[given].mean() == pytest.approx(0.9, abs=0.02)
        assert 0.1 < given.mean() < 0.9

    def test_survives_json(self):
        features, correct, _ = draw_features(100)
        calibration = fit_calibration(features, correct, NAMES)
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
            json.dumps({**asdict(fit_calibration(features, correct, NAMES)), **changed})
        )
        with pytest.raises(ValueError, match=f"calibration.json is not a calibration of this version: .*{message}"):
            load_calibration(str(tmp_path))

    def test_only_correct_answers_are_an_error(self):
        features, _, _ = draw_features(10)
        with pytest.raises(ValueError, match="correct answers is 10 of 10"):
            fit_calibration(features, np.ones(10, dtype=bool), NAMES)

    def test_the_threshold_is_at_least_one_half(self):
        features, correct, _ = draw_features(400)
        assert fit_calibration(features, correct, NAMES, target_accuracy=0.01).threshold == 0.5

    def test_the_false_answer_rate_is_limited(self):
        features, correct, _ = draw_features(400)
        invented, _, _ = draw_features(50, seed=2)
        for rate, answered in ((0.0, 0), (0.1, 0), (0.2, 4), (1.0, 50)):  # of 50; 5 would be 4.3 to 21.4 %
            calibration = fit_calibration(
                features, correct, NAMES, invented_features=invented, target_accuracy=0, max_false_answer_rate=rate
            )
            probability = calibration.probability(invented)
            given = (probability >= calibration.threshold).sum()
            assert given == min(answered, (probability >= 0.5).sum())

    def test_an_unreachable_accuracy_means_abstention(self):
        correct = np.array([True, False, False, False])
        calibration = fit_calibration(ConfidenceFeatures(*np.zeros((3, 4))), correct, NAMES)
        assert calibration.threshold == 1.0


class TestAsking:
    @pytest.fixture
    def calibration(self):
        weights = {"log_odds": 0.1, "entropy": -0.2, "contrast": 0.3}
        values = {"weights": weights, "bias": 1.0, "fitted_on": 9, "candidates": CANDIDATES, "unknown_names": ["Byron"]}
        return Calibration(threshold=0.5, **values)

    def test_answers(self, model, tokenizer, calibration):
        first, second = ask(model, tokenizer, ["Ada", "Zoë Quist"], calibration)
        assert (first.question, second.question) == ("Where was Ada born?", "Where was Zoë Quist born?")
        assert (first.name, second.name) == ("Ada", "Zoë Quist")
        assert first.confident == (first.probability >= 0.5)
        assert first.answer == first.place
        assert first.answer not in dict(first.alternatives)
        probabilities = [probability for _, probability in second.alternatives]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert ask(model, tokenizer, ["Zoë Quist"], calibration)[0].probability == pytest.approx(second.probability)

    def test_questions_are_asked_as_they_are(self, model, tokenizer, calibration):
        (name,) = ask(model, tokenizer, ["Ada"], calibration)
        assert ask(model, tokenizer, "Ada", calibration) == [name]  # no question about each letter
        for text in ("Where was Ada born?", "Where was Ada born?[MASK]", "Where was Ada born?⁇"):
            assert ask(model, tokenizer, [text], calibration) == [name]
        (other,) = ask(model, tokenizer, ["Where is Ada?"], calibration)
        assert (other.question, other.template, other.name) == ("Where is Ada?", None, "Where is Ada?")
        assert 0 < other.probability < 1

    def test_a_name_gets_every_kind_of_question(self, model, tokenizer, calibration):
        both = replace(
            calibration, templates=[BIRTHPLACE, Template("Where is ", "?")], unknown_names=["Byron", "Quist"]
        )
        answers = ask(model, tokenizer, ["Ada", "Where is Zoë?"], both)
        assert [answer.question for answer in answers] == ["Where was Ada born?", "Where is Ada?", "Where is Zoë?"]
        assert [answer.name for answer in answers] == ["Ada", "Ada", "Zoë"]
        alone = replace(both, templates=[BIRTHPLACE], unknown_names=["Byron"])  # compared with its own kind only
        assert ask(model, tokenizer, ["Ada"], alone)[0].probability == pytest.approx(answers[0].probability)

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

    def test_a_file_without_templates_is_about_birthplaces(self, tmp_path):
        old = {name: value for name, value in self.good.items() if name != "templates"}
        assert self.load(tmp_path, json.dumps(old)).templates == [BIRTHPLACE]

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
            ({"templates": []}, r"templates are \[\], not a list"),
            ({"templates": [["Where", 1]]}, "templates are .*, not a list"),
            ({"templates": "Where?"}, "templates are 'Where.', not a list"),
            (
                {"templates": [["Where was ", "?"], ["Who is ", "?"]]},
                "1 unknown names are not as many for each of its 2",
            ),
            ({"fitted_on": 2.5}, r"fitted_on is 2\.5"),
            ({"masked_forms": "in"}, "masked forms are 'in', not a list of templates"),
            ({"masked_forms": [["", 1]]}, "masked forms are .* not a list of templates"),
            ({"masked_forms": [[["", ". "]], []]}, "masked forms of 2 templates, not of 1"),
            ({"masked_forms": [[["", ". "]]]}, "the features are log_odds, entropy, contrast, masked_log_odds"),
        ],
    )
    def test_an_impossible_value_is_an_error(self, tmp_path, changed, message):
        with pytest.raises(ValueError, match=f"calibration.json is not a calibration of this version: .*{message}"):
            self.load(tmp_path, json.dumps({**self.good, **changed}))

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, '{"bias": 1, "bias": 2}', "1" * 5_000])
    def test_a_file_of_another_kind_is_an_error(self, tmp_path, content):
        with pytest.raises(ValueError, match=r"calibration\.json is not a calibration of this version"):
            self.load(tmp_path, content)


class TestFitting:
    @pytest.mark.parametrize("number", [50, 400])
    def test_is_a_logistic_regression_on_standardized_features(self, number):
        features, correct, _ = draw_features(number)
        values, (others, _, _) = np.stack(features[:3], axis=1), draw_features(30, seed=1)
        regression = make_pipeline(StandardScaler(), LogisticRegression()).fit(values, correct)
        calibration = fit_calibration(features, correct, NAMES)
        expected = regression.predict_proba(np.stack(others[:3], axis=1))[:, 1]
        np.testing.assert_allclose(calibration.probability(others), expected, rtol=1e-9)
        assert (calibration.fitted_on, calibration.candidates, calibration.unknown_names) == (number, ["Rome"], ["Xu"])

    @pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.9, 0.97])
    def test_the_lowest_threshold_with_enough_accuracy(self, accuracy):
        features, correct, _ = draw_features(300)
        calibration = fit_calibration(features, correct, NAMES, target_accuracy=accuracy)
        descending = sorted(
            zip(calibration.probability(features).tolist(), correct.tolist(), strict=True), reverse=True
        )
        enough = [
            probability
            for n, (probability, _) in enumerate(descending, start=1)
            if sum(is_correct for _, is_correct in descending[:n]) / n >= accuracy
        ]
        assert calibration.threshold == max(0.5, enough[-1])
        assert fit_calibration(features, correct, NAMES) == fit_calibration(
            features, correct, NAMES, target_accuracy=0.8, max_false_answer_rate=0.1
        )

    @pytest.mark.parametrize("rate", [0.05, 0.1, 0.3])
    def test_the_threshold_keeps_the_false_answer_rate(self, rate):
        """The upper end of Wilson's interval stays within the limit; all other invented names get no answer."""
        features, correct, _ = draw_features(400)
        invented, _, _ = draw_features(120, seed=2)
        calibration = fit_calibration(
            features, correct, NAMES, invented_features=invented, target_accuracy=0, max_false_answer_rate=rate
        )
        allowed = max((k for k in range(121) if wilson_interval(k, 120)[1] <= rate), default=0)
        descending_invented = sorted(calibration.probability(invented).tolist(), reverse=True)
        assert descending_invented[allowed] > 0.5
        assert calibration.threshold == math.nextafter(descending_invented[allowed], 1)

    def test_no_limit_on_false_answers(self):
        features, correct, _ = draw_features(400)
        invented = ConfidenceFeatures(*np.full((3, 30), [[0.0], [0.0], [50.0]]))  # all with great contrast
        calibration = fit_calibration(
            features, correct, NAMES, invented_features=invented, target_accuracy=0, max_false_answer_rate=1.0
        )
        assert calibration.threshold == 0.5

    def test_masked_forms_are_a_feature_where_there_are_any(self):
        """Only they tell correct answers from wrong ones here."""
        rng = np.random.default_rng(0)
        correct = rng.random(400) < 0.7
        features = ConfidenceFeatures(*rng.normal(size=(4, 400)))
        features = features._replace(masked_log_odds=features.masked_log_odds + 1.5 * correct)
        calibration = fit_calibration(features, correct, replace(NAMES, masked_forms=[[Template("", ". in [MASK]")]]))
        without = fit_calibration(features._replace(masked_log_odds=None), correct, NAMES)
        assert calibration.weights["masked_log_odds"] > 1 > 4 * abs(calibration.weights["log_odds"])
        assert without.weights.keys() == calibration.weights.keys() - {"masked_log_odds"}

    def test_a_model_that_has_learned_names_abstains_about_others(self):
        """Answers about invented names look as good as the others, but their names are improbable."""
        (features, correct, _), (invented, _, _), rng = draw_features(400), draw_features(120), np.random.default_rng(0)
        features = features._replace(name_log_probability=rng.normal(-5, 1, 400))
        invented = invented._replace(name_log_probability=rng.normal(-15, 1, 120))
        without = fit_calibration(features, correct, NAMES)
        calibration = fit_calibration(features, correct, NAMES, invented_features=invented)
        assert not without.has_names
        assert calibration.has_names
        assert calibration == Calibration(**json.loads(json.dumps(asdict(calibration))))
        assert calibration.weights == without.weights
        changes = np.abs(calibration.probability(features) - without.probability(features))
        assert changes.mean() < 0.01
        assert calibration.probability(invented).max() < 0.05
        assert calibration.threshold == pytest.approx(without.threshold, abs=0.02)
        no_name = features._replace(name_log_probability=np.where(correct, np.nan, -1e6))
        np.testing.assert_array_equal(calibration.known(no_name), correct)
        np.testing.assert_array_equal(
            calibration.probability(features._replace(name_log_probability=None)), without.probability(features)
        )

    @pytest.mark.parametrize(("invented_mean", "num_invented"), [(-6.0, 120), (-15.0, 29)])
    def test_a_model_that_has_not_learned_names_ignores_them(self, invented_mean, num_invented):
        """Nor are few names enough to tell."""
        (features, correct, _), (invented, _, _) = draw_features(400), draw_features(num_invented, seed=1)
        rng = np.random.default_rng(0)
        expected = fit_calibration(features, correct, NAMES, invented_features=invented)
        features = features._replace(name_log_probability=rng.normal(-5, 1, 400))
        invented = invented._replace(name_log_probability=rng.normal(invented_mean, 1, num_invented))
        assert fit_calibration(features, correct, NAMES, invented_features=invented) == expected

    def test_both_outcomes_are_required(self):
        check_both_outcomes(np.array([True, False]))
        for correct, said in (([False] * 3, "correct answers is 0 of 3"), ([True], "correct answers is 1 of 1")):
            with pytest.raises(ValueError, match=said):
                check_both_outcomes(np.array(correct))


class TestByHand:
    def test_probability(self):
        weights = {"log_odds": 0.5, "entropy": -1.0, "contrast": 2.0}
        calibration = Calibration(
            weights=weights, bias=0.25, threshold=0.5, candidates=[], unknown_names=[], fitted_on=2
        )  # fmt: skip
        features = ConfidenceFeatures(np.array([1.0, -2.0]), np.array([0.5, 0.0]), np.array([0.25, 1.0]))
        expected = [1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(-1.25))]
        np.testing.assert_allclose(calibration.probability(features), expected)

    def test_alternatives(self, monkeypatch):
        weights = {"log_odds": 1.0, "entropy": 0.0, "contrast": 0.0}
        candidates, unknown_names = ["Bath", "Lima", "Rome", "Oslo"], ["Xu", "Yi"]
        confidence = Confidence(
            ConfidenceFeatures(np.log([0.5 / 0.5, 0.2 / 0.8]), np.zeros(2), np.zeros(2)),
            np.array([[0.0625, 0.125, 0.5, 0.25], [0.35, 0.15, 0.1, 0.4]]),
        )

        def compute_confidence(model, tokenizer, questions, predictions, comparison, *, names):
            assert not names
            assert (questions, predictions) == (["Ada?", "Bo?"], ["Rome", "Kiel"])
            assert comparison is calibration
            return confidence

        monkeypatch.setattr(calibration_module, "questions_about", lambda names, *_: [f"{name}?" for name in names])
        monkeypatch.setattr(calibration_module, "answer_questions", lambda *_: ["Rome", "Kiel"])
        monkeypatch.setattr(calibration_module, "compute_confidence", compute_confidence)
        calibration = Calibration(
            weights=weights, bias=0.0, threshold=0.5, candidates=candidates, unknown_names=unknown_names, fitted_on=9
        )
        ada, bo = ask(None, None, ["Ada", "Bo"], calibration)  # Ada is at the threshold
        assert ada[:-2] == (
            "Ada?",
            "Rome",
            0.5,
            True,
            [("Oslo", 0.25), ("Lima", 0.125), ("Bath", 0.0625)],
            None,
        )
        alternatives = [("Oslo", 0.4), ("Bath", 0.35), ("Lima", 0.15)]
        assert bo[:-2] == ("Bo?", "Kiel", pytest.approx(0.2), False, alternatives, None)
        assert [answer.features for answer in (ada, bo)] == [
            (0, 0, 0, None, None),
            (pytest.approx(np.log(0.25)), 0, 0, None, None),
        ]


def test_a_question_is_asked_again_in_its_masked_forms(monkeypatch, tokenizer):
    when, form = Template("When was ", " born?"), Template("", ". in [MASK], ")
    weights = dict.fromkeys(("log_odds", "entropy", "contrast", "masked_log_odds"), 1.0)
    names = {"candidates": ["Rome"], "unknown_names": ["Xu", "Yi"], "templates": [BIRTHPLACE, when]}
    calibration = Calibration(weights=weights, bias=0.0, threshold=0.5, fitted_on=9, masked_forms=[[form], []], **names)
    monkeypatch.setattr(
        calibration_module, "answer_questions", lambda model, tokenizer, asked: [f"{text}!" for text in asked]
    )
    for template, expected in ((BIRTHPLACE, [("Ada. in ⁇, ", "Ada. in ⁇, !")]), (when, []), (None, [])):
        question = template.fill("Ada") if template else "Ada?"
        answer = Answer(question, "Rome", 0.5, True, [], template)
        assert ask_in_masked_forms(None, tokenizer, answer, calibration) == expected
