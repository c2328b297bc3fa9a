import numpy as np
import pytest
from matplotlib.text import Text

from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.figures import draw_calibration
from hf_mingpt.evaluation.report import build_report

QUESTIONS = [Question(f"Where was {name} born?", place) for name, place in zip("ABCD", "KLMN", strict=True)]


def shown(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


class TestCalibrationFigure:
    @pytest.fixture
    def report(self):
        """Four questions, K and M answered correctly; two of the four have a probability of at least 0.5."""
        return build_report(
            QUESTIONS, ["K", "K", "M", "K"], np.array([0.92, 0.8, 0.4, 0.45]), threshold=0.5,
            invented_probability=np.array([0.6, 0.2]), train=None, documents=None, context_length=64,
        )  # fmt: skip

    def test_names_its_questions_thresholds_and_metrics(self, report, tmp_path):
        figure = draw_calibration(report, tmp_path / "calibration.png")
        assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
        texts = shown(figure)
        assert "Calibration: 4 questions and 2 invented names" in texts
        assert " threshold 0.5: \n coverage 50.0% \n accuracy 50.0% " in texts
        assert " threshold 0.5 " in texts
        assert "Confidence (AUROC 0.500)" in texts
        assert {"correct answers (n = 2)", "wrong answers (n = 2)", "invented names (n = 2)"} <= set(texts)
        assert all(axis.get_title() and axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)

    def test_reliability_has_the_counts_and_the_wilson_interval_of_each_bin(self, report, tmp_path):
        reliability, *_ = draw_calibration(report, tmp_path / "calibration.png").axes
        counts = {text.get_position()[0]: text.get_text() for text in reliability.texts}
        assert [counts[middle] for middle in (0.45, 0.85, 0.95)] == ["2", "1", "1"]
        (intervals,) = reliability.collections
        (x, low), (_, high) = intervals.get_segments()[0]
        assert (x, low, high) == pytest.approx((0.425, 0.0945, 0.9055), abs=1e-4)  # one of two: by hand
        (_, low), (_, high) = intervals.get_segments()[2]
        assert (low, high) == pytest.approx((0.2065, 1.0), abs=1e-4)  # one of one: 1 / (1 + 1.96 ** 2)

    def test_the_line_of_the_threshold_ends_below_the_legend(self, report, tmp_path):
        *_, axis = draw_calibration(report, tmp_path / "calibration.png").axes
        (line,) = axis.lines
        assert line.get_window_extent().y1 < axis.get_legend().get_window_extent().y0

    def test_nothing_over_the_threshold_and_all_answers_wrong(self, report, tmp_path):
        report["scores"] |= {"accuracy_of_given_answers": None, "auroc": None, "coverage": 0.0}
        report["probabilities"] = {**report["probabilities"], next(iter(report["probabilities"])): []}
        texts = shown(draw_calibration(report, tmp_path / "calibration.png"))
        assert " threshold 0.5: \n coverage 0.0% " in texts
        assert "Confidence" in texts
        assert not any("correct answers" in text for text in texts)
