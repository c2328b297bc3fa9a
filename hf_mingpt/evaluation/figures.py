"""The style that all figures share, and the calibration figure.

matplotlib is imported only where something is drawn: the package works without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..system.wording import count
from .scoring import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# rcParams, for `with rc_context(FIGURE_STYLE):`. The first three colors differ in lightness, and each color has a line
# style of its own, so that figures can be read in greyscale.
FIGURE_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, and has ⁇, ␣ and ⏎
    "figure.constrained_layout.use": True,
    "figure.dpi": 120,
    "savefig.dpi": "figure",
    "axes.prop_cycle": "cycler('color', ['#1b4f8f', '#e08a1e', '#4d4d4d', '#7fb8ad'])"
    " + cycler('linestyle', ['-', '--', ':', '-.'])",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": "medium",
    "axes.titleweight": "bold",
    "figure.titlesize": "large",
    "figure.titleweight": "bold",
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
NUM_BARS = 20  # of the histogram
BAND_POINTS = 200  # at which the interval of a curve is computed


def draw_calibration(report: Mapping[str, Any], path: str | Path) -> "Figure":
    """Draws reliability with its intervals, accuracy by coverage, and the probabilities of each kind of answer.

    Args:
        report: what `build_report` returns.
        path: the picture to write, .png or .svg.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(13, 4.6))
        questions = len(report["risk_by_coverage"])
        asked = f"{count(questions, 'question')} and {count(report['invented_names'], 'invented name')}"
        figure.suptitle(f"Calibration: {asked}")
        reliability, coverage, histogram = figure.subplots(1, 3)
        _draw_reliability(reliability, report)
        _draw_coverage(coverage, report)
        _draw_probabilities(histogram, report)
        for axis in (reliability, coverage, histogram):
            for direction in (axis.xaxis, axis.yaxis):
                direction.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.savefig(path)
    return figure


def _draw_reliability(axis: "Axes", report: Mapping[str, Any]) -> None:
    bins = report["reliability"]
    error = report["scores"]["expected_calibration_error"]
    probabilities, accuracies = [part["probability"] for part in bins], [part["accuracy"] for part in bins]
    intervals = [wilson_interval(round(part["accuracy"] * part["number"]), part["number"]) for part in bins]
    axis.plot([0, 1], [0, 1], color="0.5", linestyle=":", label="perfect calibration")
    axis.vlines(probabilities, *zip(*intervals, strict=True), color="C0", linewidth=1.2, label="95 % interval")
    axis.plot(probabilities, accuracies, "o-", color="C0", label="answers, in bins of 10 points")
    # the counts stand under the middle of their bins: the mean probabilities of two bins may be close
    for part in bins:
        middle = (min(int(part["probability"] * 10), 9) + 0.5) / 10
        axis.text(middle, -0.1, f"{part['number']:,}", ha="center", va="center", fontsize=8)
    axis.text(-0.02, -0.1, "n", ha="center", va="center", fontsize=8, fontstyle="italic")
    axis.axhline(-0.05, color="0.8", linewidth=0.8, linestyle="-")
    axis.set(xlim=(-0.04, 1.04), ylim=(-0.15, 1.3), yticks=np.linspace(0, 1, 6))
    axis.set(title=f"Reliability (calibration error {error:.3f})", xlabel="confidence", ylabel="accuracy of the bin")
    axis.legend(loc="upper left", fontsize=9)


def _draw_coverage(axis: "Axes", report: Mapping[str, Any]) -> None:
    accuracy = 1 - np.array(report["risk_by_coverage"])
    total, scores = len(accuracy), report["scores"]
    numbers = np.unique(np.linspace(1, total, BAND_POINTS).round().astype(int))
    band = [wilson_interval(round(accuracy[number - 1] * number), int(number)) for number in numbers]
    filled: dict[str, Any] = {"color": "C0", "alpha": 0.2, "linewidth": 0, "label": "95 % interval"}
    low, high = zip(*band, strict=True)
    axis.fill_between(numbers / total, low, high, **filled)
    axis.plot(np.arange(1, total + 1) / total, accuracy, color="C0", label="most confident answers")
    axis.axvline(scores["coverage"], color="k", linestyle="--", linewidth=1)
    lines = [f"threshold {report['threshold']:.4g}:", f"coverage {scores['coverage']:.1%}"]
    if scores["accuracy_of_given_answers"] is not None:
        lines.append(f"accuracy {scores['accuracy_of_given_answers']:.1%}")
    side = "right" if scores["coverage"] > 0.5 else "left"
    axis.text(scores["coverage"], 0.3, "\n".join(f" {line} " for line in lines), ha=side, va="bottom", fontsize=9)
    axis.set(title="Accuracy by coverage", xlabel="coverage: questions answered, most confident first")
    axis.set(xlim=(-0.02, 1.02), ylim=(0, 1.05), ylabel="accuracy of the answers")
    axis.legend(loc="lower left" if side == "right" else "lower right", fontsize=9)


def _draw_probabilities(axis: "Axes", report: Mapping[str, Any]) -> None:
    edges, highest = np.linspace(0, 1, NUM_BARS + 1), 0.0
    kinds = ("correct answers", "wrong answers", "invented names")
    styles = ("-", "--", ":")
    for i, values in enumerate(report["probabilities"].values()):
        if values:
            fractions = np.histogram(values, edges)[0] / len(values)
            highest = max(highest, fractions.max())
            style: dict[str, Any] = {"linestyle": styles[i], "color": f"C{i}", "linewidth": 2}
            axis.stairs(fractions, edges, label=f"{kinds[i]} (n = {len(values):,})", **style)
    threshold, auroc = report["threshold"], report["scores"]["auroc"]
    axis.axvline(threshold, ymax=0.8, color="k", linestyle="--", linewidth=1)  # the legend is above it
    side = "right" if threshold > 0.5 else "left"
    axis.text(threshold, 1.1 * highest, f" threshold {threshold:.3g} ", ha=side, va="center", fontsize=9)
    title = "Confidence" if auroc is None else f"Confidence (AUROC {auroc:.3f})"
    axis.set(title=title, xlabel="confidence", ylabel="fraction of the answers of its kind")
    axis.set(xlim=(-0.02, 1.02), ylim=(0, highest * 1.45))
    axis.legend(loc="upper left", fontsize=9)
