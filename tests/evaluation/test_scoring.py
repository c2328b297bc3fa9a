"""Metrics: accuracy, intervals, baselines and calibration."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from hf_mingpt import METRIC_FOLDER
from hf_mingpt.data.questions import Question, read_questions, write_questions
from hf_mingpt.evaluation.report import build_report, format_page, format_table
from hf_mingpt.evaluation.scoring import (
    accuracy,
    baselines,
    bootstrap_intervals,
    calibration_error,
    calibration_metrics,
    file_record,
    risk_by_coverage,
    wilson_interval,
)


def test_the_metric_loads_offline():
    metric = evaluate.load(METRIC_FOLDER)
    scores = metric.compute(predictions=["Rome", "rome", "Paris ", ""], references=["Rome", "Rome", "Paris", "Oslo"])
    assert scores == {"accuracy": 0.5, "correct": 2, "total": 4}  # white space around an answer does not count
    for prediction in ("Rome", "Oslo"):
        metric.add(prediction=prediction, reference="Rome")
    assert metric.compute()["accuracy"] == 0.5


def test_wilson_interval():
    low, high = wilson_interval(77, 500)  # the reference run of the assignment; figures from the closed form
    assert (low, high) == pytest.approx((0.1250, 0.1882), abs=5e-4)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == pytest.approx(1)


def test_baselines():
    train = [Question("a", "Rome"), Question("b", "Oslo"), Question("c", "Rome")]
    scores = baselines(train, [Question("", place) for place in ("Rome", "London", "Bonn", "Bern")])
    assert {name: row["accuracy"] for name, row in scores.items()} == {
        "most frequent (Rome)": 0.25,
        "always London": 0.25,
    }
    assert baselines(None, [Question("", "Rome")]) == {}
    assert "| most frequent (Rome) | 25.0% | 1 of 4 |" in format_table(scores)
    assert accuracy(["a"], ["a"])["interval_95"] == [0.2065, 1.0]


def test_each_kind_of_question_has_its_most_frequent_answer():
    births = [Question(f"Where was A{i} born?", place) for i, place in enumerate(("Oslo", "Rome", "Rome"))]
    trades = [Question(f"What does B{i} do?", trade) for i, trade in enumerate(["poet"] * 4 + ["baker"])]
    asked = [Question("Where was C born?", "Rome"), Question("What does C do?", "poet"), Question("Who is C?", "poet")]
    assert {name: row["correct"] for name, row in baselines([*births, *trades], asked).items()} == {
        "most frequent (Rome, poet)": 3
    }
    assert list(baselines([*births, *trades], asked[:1])) == ["most frequent (Rome)"]


REFERENCE = """\
Where was Ada born?\tLondon
Where was Bo born?\t Rome
Where was Cy born?\tOslo\u00a0
Where was Di born?\tNew York
"""


def evaluate_places(lines: list[str], predicted_places: list[str]) -> int:
    """The reference evaluation, rewritten: it strips both sides before it compares."""
    true_places = [line.strip().split("\t")[1].strip() for line in lines]
    return sum(place == predicted.strip() for place, predicted in zip(true_places, predicted_places, strict=True))


def test_answers_are_compared_as_the_reference_does(tmp_path):
    """In the metric, and wherever correct answers are counted."""
    (tmp_path / "q.tsv").write_text(REFERENCE, encoding="utf-8")
    questions = read_questions(tmp_path / "q.tsv", answers=True)
    references = [question.answer for question in questions]
    predictions = ["London ", "Rome", "\tOslo\n", "NewYork"]
    expected = evaluate_places(REFERENCE.splitlines(), predictions)
    assert expected == 3
    assert accuracy(predictions, references)["correct"] == expected
    assert evaluate.load(METRIC_FOLDER).compute(predictions=predictions, references=references)["correct"] == expected
    report = build_report(
        questions, predictions, np.array([0.9, 0.8, 0.7, 0.6]), threshold=0.5, invented_probability=np.array([0.1]),
        train=[Question("q", " London ")] * 5, documents=["Bo. Bo was born in Rome .", "Cy. Oslo"], context_length=64,
    )  # fmt: skip
    assert len(report["probabilities"]["correct"]) == expected
    assert report["accuracy_by"]["the answer"]["frequent"] == {"correct": 1, "total": 1}
    assert report["accuracy_by"]["the document"]["says it within the context"] == {"correct": 2, "total": 2}
    assert ", correct:" not in format_page(report, title="t").split("## Most probable wrong")[0]
    assert baselines([Question("q", "Rome "), Question("r", " Rome"), Question("s", "Bonn")], questions) == {
        "most frequent (Rome)": accuracy(["Rome"] * 4, references),
        "always London": accuracy(["London"] * 4, references),
    }


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ([], [], "no answers to compare"),
        (["a"], ["a", "b"], "1 prediction and 2 references"),
        (["a", "b"], ["a", None], "Reference 2 is None"),
        ([None, "b"], ["a", "b"], "Prediction 1 is None"),
        ([7], ["7"], "Prediction 1 is 7"),
    ],
)
def test_bad_predictions_are_an_error(predictions, references, said):
    with pytest.raises(ValueError, match=said):
        accuracy(predictions, references)


def test_bad_predictions_are_an_error_of_the_metric():
    metric = evaluate.load(METRIC_FOLDER)
    for predictions, references, said in (
        ([], [], "no answers to compare"),
        (["a"], ["a", "b"], "number of predictions"),
        (["a", "b"], ["a", None], "Reference 2 is None"),
    ):
        with pytest.raises(ValueError, match=said):
            metric.compute(predictions=predictions, references=references)
    assert metric.compute(predictions=["a", "b"], references=["a", "c"])["accuracy"] == 0.5


def test_the_table_and_the_file_record(tmp_path):
    rows = {"ours": accuracy(["a", "b", "b"], ["a", "b", "c"]), "theirs": accuracy(["c"], ["a"])}
    assert rows["ours"] == {"accuracy": 2 / 3, "correct": 2, "total": 3, "interval_95": [0.2077, 0.9385]}
    assert format_table(rows).splitlines() == [
        "| | accuracy | correct | 95 % interval |",
        "|---|---|---|---|",
        "| ours | 66.7% | 2 of 3 | 20.8% to 93.8% |",
        "| theirs | 0.0% | 0 of 1 | 0.0% to 79.3% |",
    ]
    (tmp_path / "a.txt").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_record(tmp_path / "a.txt", []) == {"file": "a.txt", "bytes": 3, "sha256": digest}


def test_a_dataset_on_the_hub_has_the_record_of_a_file_with_its_questions(tmp_path):
    questions = [Question("Where?", "Rome"), Question("When?", "1815")]
    write_questions(tmp_path / "a.tsv", questions)
    record = file_record(tmp_path / "a.tsv", questions)
    assert file_record("you/people:dev", questions) == {**record, "file": "you/people:dev"}


class TestCalibrationMetrics:
    probability = np.array([0.95, 0.9, 0.6, 0.3, 0.2])
    correct = np.array([True, True, False, True, False])

    def test_scores(self):
        scores = calibration_metrics(self.probability, self.correct, threshold=0.5)
        assert scores["auroc"] == pytest.approx(5 / 6)  # one of six correct-wrong pairs is in the wrong order
        assert scores["brier"] == pytest.approx((0.05**2 + 0.1**2 + 0.6**2 + 0.7**2 + 0.2**2) / 5)
        # one bin for the first two, one each for the others
        assert scores["expected_calibration_error"] == pytest.approx((0.075 * 2 + 0.6 + 0.7 + 0.2) / 5)
        assert risk_by_coverage(self.probability, self.correct) == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
        assert scores["area_under_risk_coverage"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
        assert scores["accuracy_at_50_percent"] == 1
        assert (scores["coverage"], scores["accuracy_of_given_answers"]) == pytest.approx((0.6, 2 / 3))

    def test_agree_with_scikit_learn(self):
        rng = np.random.default_rng(0)
        for number in (2, 9, 400):
            probability, correct = rng.random(number).round(1), np.arange(number) % 3 > 0  # with ties
            scores = calibration_metrics(probability, correct, threshold=0.5)
            assert scores["auroc"] == pytest.approx(roc_auc_score(correct, probability), rel=1e-14)
            assert scores["brier"] == pytest.approx(brier_score_loss(correct, probability), rel=1e-14)

    def test_all_correct(self):
        scores = calibration_metrics(self.probability, np.ones(5, dtype=bool), threshold=1.0)
        assert scores["auroc"] is None
        assert scores["accuracy_of_given_answers"] is None

    def test_intervals_contain_the_score(self):
        rng = np.random.default_rng(0)
        probability = rng.random(300)
        correct = rng.random(300) < probability
        scores = calibration_metrics(probability, correct, 0.5)
        intervals = bootstrap_intervals(probability, correct, 0.5, resamples=200)
        assert intervals.keys() == scores.keys()
        for name in scores.keys() - {"expected_calibration_error"}:  # which grows with repeated questions
            low, high = intervals[name]
            assert low <= scores[name] <= high
            assert high - low < 0.3


class TestMetricsByHand:
    def test_bins_are_tenths(self):
        probability = np.array([0.0, 0.05, 0.1, 0.99, 1.0])
        correct = np.array([False, True, False, True, True])
        error, curve = calibration_error(probability, correct)
        assert [part["number"] for part in curve] == [2, 1, 2]
        assert [part["accuracy"] for part in curve] == [0.5, 0, 1]
        assert [part["probability"] for part in curve] == pytest.approx([0.025, 0.1, 0.995])
        assert error == pytest.approx((0.475 * 2 + 0.1 + 0.005 * 2) / 5)

    def test_accuracy_of_the_most_probable(self):
        """The first, third and fifth of twenty answers are wrong; 10 % are two answers, 30 % six, 50 % ten."""
        probability = np.linspace(0.95, 0.05, 20)
        correct = ~np.isin(np.arange(20), [0, 2, 4])
        scores = calibration_metrics(probability, correct, threshold=probability[3])
        accuracies = [scores[f"accuracy_at_{n}_percent"] for n in (10, 20, 30, 50)]
        assert accuracies == pytest.approx([1 / 2, 2 / 4, 3 / 6, 7 / 10])
        assert (scores["coverage"], scores["accuracy_of_given_answers"]) == (
            4 / 20,
            2 / 4,
        )  # one is at the threshold
        assert calibration_metrics(probability[:3], correct[:3], 0.5)["accuracy_at_10_percent"] == 0  # one at least

    def test_ties_keep_their_order(self):
        risk = risk_by_coverage(np.array([0.5, 0.9, 0.5, 0.5]), np.array([False, True, True, True]))
        assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])

    def test_all_wrong(self):
        scores = calibration_metrics(np.array([0.2, 0.4]), np.array([False, False]), threshold=0.4)
        assert (scores["auroc"], scores["accuracy_of_given_answers"], scores["coverage"]) == (None, 0, 0.5)

    def test_intervals_are_bootstrap_quantiles(self):
        probability, correct = TestCalibrationMetrics.probability, TestCalibrationMetrics.correct
        rng = np.random.default_rng(3)
        drawn = [rng.integers(0, 5, 5) for _ in range(40)]
        coverages = [float(np.mean(probability[draw] >= 0.5)) for draw in drawn]
        intervals = bootstrap_intervals(probability, correct, 0.5, resamples=40, seed=3)
        assert intervals["coverage"] == np.quantile(coverages, [0.025, 0.975]).round(4).tolist()
        assert bootstrap_intervals(probability, np.ones(5, dtype=bool), 2.0, resamples=2)["auroc"] is None
        assert bootstrap_intervals(probability, correct, 0.5) == bootstrap_intervals(
            probability, correct, 0.5, resamples=1000, seed=0
        )

    def test_undefined_metrics_are_left_out(self):
        """One correct and one wrong answer: half of the resamples have no auroc, the others have 1."""
        intervals = bootstrap_intervals(np.array([0.9, 0.1]), np.array([True, False]), 0.5, resamples=50)
        assert intervals["auroc"] == [1, 1]
