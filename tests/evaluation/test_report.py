import numpy as np
import pytest

from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.report import (
    bootstrap_intervals,
    build_report,
    calibration_error,
    calibration_metrics,
    find_biographies,
    format_metrics,
    format_page,
    risk_by_coverage,
    split_accuracy,
)


class TestHonesty:
    probability = np.array([0.95, 0.9, 0.6, 0.3, 0.2])
    right = np.array([True, True, False, True, False])

    def test_scores(self):
        scores = calibration_metrics(self.probability, self.right, threshold=0.5)
        assert scores["auroc"] == pytest.approx(5 / 6)  # of the six pairs of right and wrong, one is in the wrong order
        assert scores["brier"] == pytest.approx((0.05**2 + 0.1**2 + 0.6**2 + 0.7**2 + 0.2**2) / 5)
        # one bin for the first two, one each for the others
        assert scores["expected_calibration_error"] == pytest.approx((0.075 * 2 + 0.6 + 0.7 + 0.2) / 5)
        assert risk_by_coverage(self.probability, self.right) == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
        assert scores["area_under_risk_coverage"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
        assert scores["accuracy_at_50_percent"] == 1
        assert (scores["coverage"], scores["accuracy_of_given_answers"]) == pytest.approx((0.6, 2 / 3))

    def test_all_right(self):
        scores = calibration_metrics(self.probability, np.ones(5, dtype=bool), threshold=1.0)
        assert scores["auroc"] is None
        assert scores["accuracy_of_given_answers"] is None

    def test_intervals_hold_the_score(self):
        rng = np.random.default_rng(0)
        probability = rng.random(300)
        right = rng.random(300) < probability
        scores = calibration_metrics(probability, right, 0.5)
        intervals = bootstrap_intervals(probability, right, 0.5, resamples=200)
        assert intervals.keys() == scores.keys()
        for name in scores.keys() - {"expected_calibration_error"}:  # which grows when questions come twice
            low, high = intervals[name]
            assert low <= scores[name] <= high
            assert high - low < 0.3


TRAIN = [Question(f"Where was {name} born?", "Rome") for name in "abcde"] + [Question("Where was f born?", "Oslo")]
ASKED = [
    Question("Where was Ada Byron born?", "Rome"),
    Question("Where was Bo Ek born?", "Oslo"),
    Question("Where was Cy Young born?", "Gilmore"),
    Question("Where was Dee Dee born?", "Rome"),
]
TEXTS = [
    "Ada Byron. Ada Byron was born in Rome .",
    "Bo Ek. Bo Ek (born in 1903) became a painter of the sea, and died in Oslo .",
    "Cy Young. Cy Young played baseball .",
]


class TestReport:
    def test_the_text_is_found_by_its_title(self):
        assert find_biographies(ASKED, TEXTS) == [*TEXTS, None]
        initials = Question("Where was A. F. Kidd born?", "Bonn")
        assert find_biographies([initials], ["A. F. Ek. x", "A. F. Kidd. A. F. Kidd. y"]) == [
            "A. F. Kidd. A. F. Kidd. y"
        ]

    def test_accuracy_is_split_by_place_and_text(self):
        right = np.array([True, False, True, False])
        split = split_accuracy(ASKED, right, train=TRAIN, biographies=find_biographies(ASKED, TEXTS), block_size=64)
        assert split["the place"] == {
            "frequent": {"right": 1, "total": 2},
            "not in training answers": {"right": 1, "total": 1},
            "rare": {"right": 0, "total": 1},
        }
        assert split["the biography"] == {
            "does not say it": {"right": 1, "total": 2},
            "says it in the block": {"right": 1, "total": 1},
            "says it too late": {"right": 0, "total": 1},
        }
        without = split_accuracy(ASKED, right, train=TRAIN, biographies=None, block_size=64)
        assert without == {"the place": split["the place"]}
        assert split_accuracy(ASKED, right, train=None, biographies=None, block_size=64) == {}

    @pytest.fixture
    def report(self):
        return build_report(
            ASKED, ["Rome", "Bonn", "Gilmore", "Paris"], np.array([0.9, 0.8, 0.4, 0.1]), threshold=0.5,
            of_invented=np.array([0.6, 0.2]), train=TRAIN, documents=TEXTS, block_size=64,
        )  # fmt: skip

    def test_says_what_was_found(self, report):
        assert report["false_answers_on_invented_names"] == 0.5
        assert report["scores"]["accuracy_of_given_answers"] == 0.5
        assert [found["prediction"] for found in report["best"]] == ["Rome", "Gilmore"]
        assert [found["prediction"] for found in report["worst"]] == ["Bonn", "Paris"]
        assert report["worst"][0]["biography"] == TEXTS[1]
        assert report["probabilities"] == {"right": [0.9, 0.4], "wrong": [0.8, 0.1], "invented": [0.6, 0.2]}

    def test_is_a_page(self, report):
        page = format_page(report, title="Honesty")
        assert "| answers given to 2 invented names | 0.500 | |" in page
        assert "| says it too late | 0.0% | 1 |" in page
        assert f"- Where was Bo Ek born? **Bonn** (80%), but it was Oslo\n  > {TEXTS[1]}" in page


class TestScoresByHand:
    def test_bins_are_tenths(self):
        probability = np.array([0.0, 0.05, 0.1, 0.99, 1.0])
        right = np.array([False, True, False, True, True])
        error, curve = calibration_error(probability, right)
        assert [part["number"] for part in curve] == [2, 1, 2]
        assert [part["accuracy"] for part in curve] == [0.5, 0, 1]
        assert [part["probability"] for part in curve] == pytest.approx([0.025, 0.1, 0.995])
        assert error == pytest.approx((0.475 * 2 + 0.1 + 0.005 * 2) / 5)

    def test_accuracy_of_the_likeliest(self):
        """Of twenty answers the first, third and fifth are wrong; the surest 10 % are two, 30 % six, 50 % ten."""
        probability = np.linspace(0.95, 0.05, 20)
        right = ~np.isin(np.arange(20), [0, 2, 4])
        scores = calibration_metrics(probability, right, threshold=probability[3])
        accuracies = [scores[f"accuracy_at_{n}_percent"] for n in (10, 20, 30, 50)]
        assert accuracies == pytest.approx([1 / 2, 2 / 4, 3 / 6, 7 / 10])
        assert (scores["coverage"], scores["accuracy_of_given_answers"]) == (
            4 / 20,
            2 / 4,
        )  # one stands at the threshold
        assert calibration_metrics(probability[:3], right[:3], 0.5)["accuracy_at_10_percent"] == 0  # one at least

    def test_of_equally_likely_answers_the_first_comes_first(self):
        risk = risk_by_coverage(np.array([0.5, 0.9, 0.5, 0.5]), np.array([False, True, True, True]))
        assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])

    def test_all_wrong(self):
        scores = calibration_metrics(np.array([0.2, 0.4]), np.array([False, False]), threshold=0.4)
        assert (scores["auroc"], scores["accuracy_of_given_answers"], scores["coverage"]) == (None, 0, 0.5)

    def test_intervals_are_quantiles_of_questions_drawn_anew(self):
        probability, right = TestHonesty.probability, TestHonesty.right
        rng = np.random.default_rng(3)
        drawn = [rng.integers(0, 5, 5) for _ in range(40)]
        coverages = [float(np.mean(probability[draw] >= 0.5)) for draw in drawn]
        intervals = bootstrap_intervals(probability, right, 0.5, resamples=40, seed=3)
        assert intervals["coverage"] == np.quantile(coverages, [0.025, 0.975]).round(4).tolist()
        assert bootstrap_intervals(probability, np.ones(5, dtype=bool), 2.0, resamples=2)["auroc"] is None
        assert bootstrap_intervals(probability, right, 0.5) == bootstrap_intervals(
            probability, right, 0.5, resamples=1000, seed=0
        )

    def test_values_that_are_not_there_are_left_out(self):
        """With two answers, of which one is right, a half of the draws has no auroc; the others have 1."""
        intervals = bootstrap_intervals(np.array([0.9, 0.1]), np.array([True, False]), 0.5, resamples=50)
        assert intervals["auroc"] == [1, 1]


class TestSplitsByHand:
    def test_frequent_places_have_five_questions(self):
        train = [Question(str(n), "Rome") for n in range(5)] + [Question(str(n), "Oslo") for n in range(4)]
        asked = [Question("", place) for place in ("Rome", "Oslo", "Oslo", "Bonn")]
        right = np.array([True, True, False, False])
        assert split_accuracy(asked, right, train=train, biographies=None, block_size=48) == {
            "the place": {
                "frequent": {"right": 1, "total": 1},
                "not in training answers": {"right": 0, "total": 1},
                "rare": {"right": 1, "total": 2},
            }
        }

    def test_a_block_is_read_up_to_seven_eighths(self):
        """Of 48 characters 42: what ends with the 42nd is said, what ends behind it too late."""
        texts = ["x" * 38 + "Rome", "x" * 39 + "Rome", "Rome" + "x" * 60 + "Rome", None]
        split = split_accuracy(
            [Question("", "Rome")] * 4, np.ones(4, bool), train=None, biographies=texts, block_size=48
        )
        assert {part: counts["total"] for part, counts in split["the biography"].items()} == {
            "does not say it": 1,
            "says it in the block": 2,
            "says it too late": 1,
        }

    def test_namesakes_and_longer_names(self):
        asked = [Question(f"Where was {name} born?", "") for name in ("Ada", "Ada B. Ek", "Bo")]
        documents = ["Ada B. Ek. first", "Ada. x", "Ada. y", "Bo", "Cy. Bo. x"]
        assert find_biographies(asked, documents) == ["Ada. x", "Ada B. Ek. first", None]


class TestPageByHand:
    def report(self, number=12):
        asked = [Question(f"Where was {letter} born?", "Rome") for letter in "abcdefghijkl"[:number]]
        predictions = ["Rome" if i % 2 else "Oslo" for i in range(number)]
        probability = np.array([0.9 - 0.05 * i for i in range(number)])
        return build_report(
            asked, predictions, probability, threshold=0.7, of_invented=np.array([0.7, 0.69, 0.12346]), train=None,
            documents=None, block_size=48,
        )  # fmt: skip

    def test_five_of_each_kind_the_surest_first(self):
        report = self.report()
        assert [found["question"][10] for found in report["best"]] == list("bdfhj")
        assert [found["question"][10] for found in report["worst"]] == list("acegi")
        assert [found["probability"] for found in report["worst"]] == [0.9, 0.8, 0.7, 0.6, 0.5]
        assert report["best"][0] == {
            "question": "Where was b born?", "prediction": "Rome", "place": "Rome", "probability": 0.85,
            "biography": None,
        }  # fmt: skip
        assert (report["threshold"], report["invented_names"]) == (0.7, 3)
        assert report["false_answers_on_invented_names"] == pytest.approx(1 / 3)
        assert report["probabilities"]["invented"] == [0.7, 0.69, 0.1235]
        assert report["risk_by_coverage"][:3] == [1, 0.5, 0.6667]
        assert report["accuracy_by"] == {}

    def test_lines(self):
        page = format_page(self.report(), title="A title").splitlines()
        assert page[:3] == ["# A title", "", page[2]]
        assert "at least 0.70;" in page[2]
        assert "| coverage | 0.417 | 0.167 to 0.667 |" in page
        assert "| answers given to 3 invented names | 0.333 | |" in page
        best, worst = page.index("## Right, and surest"), page.index("## Wrong, and surest")
        assert page[best + 2] == "- Where was b born? **Rome** (85%)"
        assert page[worst + 2] == "- Where was a born? **Oslo** (90%), but it was Rome"
        assert (len(page) - worst, worst - best) == (7, 8)

    def test_what_is_not_there_is_none(self):
        honesty = {**self.report(), "accuracy_by": {"the place": {"rare": {"right": 1, "total": 8}}}}
        honesty["scores"] = {"auroc": None, "brier": 0.25}
        honesty["intervals_95"] = {"auroc": None, "brier": [0.0, 0.5]}
        assert format_metrics(honesty).splitlines()[2:] == [
            "| auroc | none |  |",
            "| brier | 0.250 | 0.000 to 0.500 |",
            "| answers given to 3 invented names | 0.333 | |",
            "",
            "| the place | right | of |",
            "|---|---|---|",
            "| rare | 12.5% | 8 |",
        ]
