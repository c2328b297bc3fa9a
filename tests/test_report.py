import numpy as np
import pytest

from hf_mingpt.birthplaces import Question
from hf_mingpt.report import (
    bootstrap_intervals,
    draw_honesty,
    find_biographies,
    format_page,
    report_honesty,
    risk_by_coverage,
    score_honesty,
    split_accuracy,
)


class TestHonesty:
    probability = np.array([0.95, 0.9, 0.6, 0.3, 0.2])
    right = np.array([True, True, False, True, False])

    def test_scores(self):
        scores = score_honesty(self.probability, self.right, threshold=0.5)
        assert scores["auroc"] == pytest.approx(5 / 6)  # of the six pairs of right and wrong, one is in the wrong order
        assert scores["brier"] == pytest.approx((0.05**2 + 0.1**2 + 0.6**2 + 0.7**2 + 0.2**2) / 5)
        # one bin for the first two, one each for the others
        assert scores["expected_calibration_error"] == pytest.approx((0.075 * 2 + 0.6 + 0.7 + 0.2) / 5)
        assert risk_by_coverage(self.probability, self.right) == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
        assert scores["area_under_risk_coverage"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
        assert scores["accuracy_at_50_percent"] == 1
        assert (scores["coverage"], scores["accuracy_of_given_answers"]) == pytest.approx((0.6, 2 / 3))

    def test_all_right(self):
        scores = score_honesty(self.probability, np.ones(5, dtype=bool), threshold=1.0)
        assert scores["auroc"] is None
        assert scores["accuracy_of_given_answers"] is None

    def test_intervals_hold_the_score(self):
        rng = np.random.default_rng(0)
        probability = rng.random(300)
        right = rng.random(300) < probability
        scores = score_honesty(probability, right, 0.5)
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
        return report_honesty(
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

    def test_is_a_page_with_a_picture(self, report, tmp_path):
        draw_honesty(report, tmp_path / "honesty.png")
        assert (tmp_path / "honesty.png").read_bytes().startswith(b"\x89PNG")
        page = format_page(report, title="Honesty")
        assert "| answers given to 2 invented names | 0.500 | |" in page
        assert "| says it too late | 0.0% | 1 |" in page
        assert f"- Where was Bo Ek born? **Bonn** (80%), but it was Oslo\n  > {TEXTS[1]}" in page
