"""Draws what models know against the number of times that they read it, from the curves of exposure.py."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from hf_mingpt.evaluation.figures import FIGURE_STYLE

SUBTITLE = (
    "SSM: salient span masking. Exact match on birthplaces of people without a training question (baseline: 4 %). "
    "Each point is a pretraining of its own, or the mean of its seeds."
)
LIMITS = {1000: 2, 100: 1}  # bits per parameter after so many exposures, Allen-Zhu and Li 2024, arXiv:2404.05405
STYLES = list(zip(("#1b4f8f", "#e08a1e", "#4d4d4d", "#7fb8ad", "k"), "osD^v", strict=True))  # color and marker

Curve = Mapping[str, Any]


def draw_exposure(curves: Sequence[Curve], path: Path) -> Figure:
    """Draws accuracy by masking policy, accuracy by people and size, and bits per parameter.

    Args:
        curves: from exposure.py. The panel of policies has the people and the size that most policies share.
    """
    curves = [curve for curve in curves if not curve["one_run"]]
    learned = [curve for curve in curves if "learned" in curve["policy"]]
    ((shared, _),) = Counter((curve["people"], curve["parameters"]) for curve in curves).most_common(1)
    of_policies = [curve for curve in curves if (curve["people"], curve["parameters"]) == shared]
    exposures = sorted({point["exposures"] for curve in curves for point in curve["points"]})
    with rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(13, 5.2))
        figure.suptitle("What a model knows after it has read about each person so many times\n\n", x=0.01, ha="left")
        figure.text(0.01, 0.93, SUBTITLE, va="top", fontsize=9)
        policies, sizes, capacity = figure.subplots(1, 3)
        for place, curve in enumerate(of_policies):
            draw_accuracy(policies, curve, curve["policy"], place, "-")
        policies.set_title("Policies: {:,} people, {:,} parameters".format(*shared))
        for curve, place, line in with_styles(learned):
            name = f"{curve['people']:,}; {curve['parameters']:,}"
            draw_accuracy(sizes, curve, name, place, line)
            color, marker = STYLES[place % len(STYLES)]
            known = [(p["exposures"], max(p["bits_per_parameter"], 0) or np.nan) for p in curve["points"]]
            there_are = curve["people"] * curve["prior_bits"] / curve["parameters"]
            label = f"of {there_are:.2g}" if np.isfinite(known).all(axis=1).any() else None
            capacity.plot(*np.array(known).T, color=color, marker=marker, linestyle=line, label=label)
        sizes.set_title("People and sizes: SSM of the learned policy")
        capacity.set(title="Capacity: the same runs", ylabel="bits known per parameter", ylim=(0.01, 4), yscale="log")
        capacity.yaxis.set_major_formatter(ScalarFormatter())
        for number, bits in LIMITS.items():
            capacity.axhline(bits, color="0.6", linestyle=":", linewidth=1)
            label = f"Allen-Zhu and Li: {number:,} exposures"
            capacity.text(exposures[0], bits * 1.07, label, color="0.3", fontsize=8)
        for axis in (policies, sizes, capacity):
            axis.set_xscale("log", base=2)
            axis.set_xticks(exposures, [f"{number:,}" for number in exposures])
            axis.minorticks_off()
            axis.set(xlabel="exposures of each person", xlim=(exposures[0] / 1.2, exposures[-1] * 1.2))
        for axis in (policies, sizes):
            for label, face in (("masked form", "0.4"), ("question", "w")):
                axis.plot([], [], linestyle="none", marker="o", color="0.4", markerfacecolor=face, label=label)
            axis.set(ylabel="exact match", ylim=(0, 1.03))
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axis, place, title in (
            (policies, "upper left", None),
            (sizes, "upper left", "people; parameters"),
            (capacity, (0.03, 0.45), "of what there is to know"),
        ):
            axis.legend(loc=place, title=title, fontsize=8, title_fontsize=8)
        figure.savefig(path)
    return figure


def with_styles(curves: Sequence[Curve]) -> list[tuple[Curve, int, str]]:
    """Each curve with the rank of its size, for color and marker, and a line for its number of people."""
    sizes, people = (sorted({curve[name] for curve in curves}) for name in ("parameters", "people"))
    return [(c, sizes.index(c["parameters"]), "-:"[people.index(c["people"]) > 0]) for c in curves]


def draw_accuracy(axis: Axes, curve: Curve, name: str, place: int, line: str) -> None:
    """Draws accuracy against exposures: filled markers for the masked form, open ones for the question."""
    color, marker = STYLES[place % len(STYLES)]
    exposures = [point["exposures"] for point in curve["points"]]
    for form, face, label in (("masked", color, name), ("question", "w", None)):
        means = [mean(point[form]["accuracies"]) for point in curve["points"]]
        axis.plot(exposures, means, color=color, linestyle=line, marker=marker, markerfacecolor=face, label=label)
