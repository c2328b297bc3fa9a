"""Draws the figures of the README and of docs/ from the numbers that stand beside them.

    python benchmarks/figures.py

Writes docs/results.png (from RESULTS, each number of ours with its command in benchmarks/results/), docs/facts/*.png
and docs/scaling.png (from the JSON files of the same names), and docs/cards/*/calibration.png (from report.json there).
study.py, exposure.py and scaling.py draw what they measure with the same functions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from exposure_figure import draw_exposure
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, ScalarFormatter

from hf_mingpt.evaluation.figures import FIGURE_STYLE, draw_calibration
from hf_mingpt.evaluation.scoring import wilson_interval

DOCS = Path(__file__).parent.parent / "docs"


class Bar(NamedTuple):
    """The accuracies of one variant: one value a seed.

    total: the number of questions, which gives a single run its 95 % interval; None for no interval.
    """

    accuracies: Sequence[float]
    source: str = "ours"
    total: int | None = None
    note: str = ""  # in place of the number of runs


BAR_STYLES: dict[str, dict[str, Any]] = {
    "ours": {"facecolor": "#8fb3dc", "edgecolor": "#1b4f8f"},
    "published": {"facecolor": "w", "edgecolor": "0.45", "hatch": "////"},
    "baseline": {"facecolor": "w", "edgecolor": "0.35", "hatch": "...."},
}
SEED: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": "k", "markersize": 2.5}
BEHIND = {"facecolor": "w", "edgecolor": "none", "pad": 1.5}  # a heading


def _run(correct: int) -> Bar:
    return Bar([correct / 500], total=500)


def _seeds(*correct: int) -> Bar:
    return Bar([number / 500 for number in correct], total=500)


def _published(accuracy: float, note: str = "") -> Bar:
    return Bar([accuracy], "published", note=note or "published")


RESULTS: dict[str, dict[str, Bar]] = {
    "No model": {"always London": Bar([0.05], "baseline", note="25 of 500")},
    "Finetuning only": {
        "RoPE, not pretrained": _run(18),
        "not pretrained, reference run": _published(0.016),
    },
    "Span corruption, then finetuning (the assignment)": {
        "synthesizer": _run(59),
        "synthesizer, reference run": _published(0.092),
        "synthesizer, median of public runs": _published(0.123),
        "learned positions": _run(163),
        "learned positions, reference run": _published(0.154),
        "learned positions, median of public runs": _published(0.230, "74 runs"),
        "RoPE": _run(182),
        "RoPE, median of public runs": _published(0.320, "19 runs"),
        "RoPE, best public run": _published(0.404, "best of 19"),
    },
    "Salient span masking with questions mixed in, RoPE": {
        "any name, 240 epochs": _run(404),
        "training answers, 50 epochs": _seeds(403, 414, 412),
        "training answers, 100 epochs": _seeds(429, 427, 432),
        # seeds 3 to 7, 11 to 14, and 3 again on another machine
        "learned policy, short contexts, 18 epochs": Bar(
            [n / 500 for n in (402, 410, 418, 406, 409, 378, 388, 411, 423, 414)], total=500, note="10 runs"
        ),
        "learned policy, 50 epochs": _seeds(435, 433, 438),
        "learned policy, 80 epochs": _seeds(440, 446, 439),
        "listwise policy, title prefixes, 18 epochs (closed_book)": Bar(
            [n / 500 for n in (460, 459, 455, 459, 464, 459, 467, 458, 461, 462)], total=500, note="10 runs"
        ),
        "listwise policy, title prefixes, 50 epochs": _run(463),
    },
    "Ensembles of these, and one model distilled from them": {
        "ensemble of 5 runs of 18 epochs": Bar([452 / 500], total=500, note="5 runs"),
        "distilled from these 5 runs": _run(451),
        "ensemble of 3 runs of 50 epochs": Bar([451 / 500], total=500, note="3 runs"),
        "ensemble of 10 runs of closed_book": Bar([464 / 500], total=500, note="10 runs"),
    },
}


def main() -> None:
    draw_accuracies(
        RESULTS,
        DOCS / "results.png",
        title="Closed-book birthplace questions: exact match on dev",
        subtitle="500 questions; 3.3 million parameters; ours: two CPU cores, no dev label seen in training",
    )
    study = json.loads((DOCS / "facts" / "invented.json").read_text(encoding="utf-8"))
    groups = {
        group: {variant: seeds_of(runs) for variant, runs in variants.items()}
        for group, variants in study["groups"].items()
    }
    draw_accuracies(
        groups,
        DOCS / "facts" / "invented.png",
        title=study["title"],
        subtitle=study["subtitle"],
        baseline=study["baseline"],
    )
    scaling = json.loads((DOCS / "scaling.json").read_text(encoding="utf-8"))
    draw_scaling(scaling, DOCS / "scaling.png")
    exposure = json.loads((DOCS / "facts" / "exposure.json").read_text(encoding="utf-8"))
    draw_exposure(exposure, DOCS / "facts" / "exposure.png")
    for card in DOCS.glob("cards/*/report.json"):
        report = json.loads(card.read_text(encoding="utf-8"))
        draw_calibration(report["calibration"], card.with_name("calibration.png"))


def seeds_of(runs: Mapping[str, Any]) -> Bar:
    """The bar of a variant's counts of correct answers, one a seed, out of `total` questions each."""
    return Bar([correct / runs["total"] for correct in runs["correct"]], total=runs["total"])


def draw_accuracies(
    groups: Mapping[str, Mapping[str, Bar]], path: Path, *, title: str, subtitle: str, baseline: str | None = None
) -> Figure:
    """Draws a bar a variant in groups: its mean, its seeds or the interval of a single run, and both in figures.

    Args:
        groups: variants by name, in groups by heading.
        baseline: the variant whose mean is drawn as a line across all bars.
    """
    rows: list[tuple[str, Bar | None]] = []
    for heading, variants in groups.items():
        rows += [(heading, None), *variants.items()]
    with rc_context(FIGURE_STYLE):
        lines = 1 + subtitle.count("\n")
        figure = Figure(figsize=(9, 1.5 + 0.2 * lines + 0.25 * len(rows)))
        figure.suptitle(title + "\n" * lines, x=0.01, ha="left")
        figure.text(0.01, 1 - 0.36 / figure.get_figheight(), subtitle, va="top", fontsize=9)
        axis = figure.subplots()
        for place, (heading, bar) in enumerate(rows):
            if bar:
                _draw_bar(axis, place, bar)
            else:
                axis.text(0.01, place + 0.1, heading, va="center", fontsize=9, fontweight="bold", bbox=BEHIND)
        bars = [bar for _, bar in rows if bar]
        sources = dict.fromkeys(bar.source for bar in bars)
        handles: list[Any] = (
            [Patch(label=source, **BAR_STYLES[source]) for source in sources] if len(sources) > 1 else []
        )
        if any(len(bar.accuracies) > 1 for bar in bars):
            handles.append(Line2D([], [], label="one seed", **SEED))
        if any(_has_interval(bar) for bar in bars):
            handles.append(Line2D([], [], color="k", linewidth=1, label="single run: 95 % interval"))
        if baseline is not None:
            line = {"color": "k", "linestyle": "--", "linewidth": 1, "label": f"mean of: {baseline}"}
            (bar,) = (bar for name, bar in rows if bar and name == baseline)
            handles.append(axis.axvline(mean(bar.accuracies), zorder=0.5, **line))
        axis.set_yticks(*zip(*((place, name) for place, (name, bar) in enumerate(rows) if bar), strict=True))
        axis.tick_params(axis="y", length=0)
        axis.set(xlabel="exact match", xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
        axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(False, axis="y")
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, borderpad=0.8)
        figure.savefig(path)
    return figure


def _has_interval(bar: Bar) -> bool:
    return len(bar.accuracies) == 1 and bar.total is not None


def _draw_bar(axis: Axes, place: int, bar: Bar) -> None:
    average = mean(bar.accuracies)
    axis.barh(place, average, height=0.74, linewidth=0.8, **BAR_STYLES[bar.source])
    if len(bar.accuracies) > 1:
        apart = 0.6 / len(bar.accuracies)
        axis.plot(bar.accuracies, [place - 0.3 + apart * (i + 0.5) for i in range(len(bar.accuracies))], **SEED)
    elif bar.total:
        axis.plot(wilson_interval(round(average * bar.total), bar.total), [place] * 2, "-", color="k", linewidth=1)
    runs = bar.note or (f"{len(bar.accuracies)} seeds" if len(bar.accuracies) > 1 else "1 run")
    beside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 9}
    axis.text(1.1, place, f"{average:.1%}", ha="right", **beside)
    axis.text(1.12, place, runs, ha="left", color="0.3", **beside)


def draw_scaling(results: Mapping[str, Any], path: Path) -> Figure:
    """Draws time and memory of one forward and backward pass against each of the four sizes, both in logarithms.

    Args:
        results: of scaling.py: a list of points for each size, and "length with sdpa".
    """
    labels = {
        "hidden_size": "hidden size",
        "num_hidden_layers": "layers",
        "rows": "sequences per micro-batch",
        "length": "tokens per sequence",
    }
    with rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(12, 6.4))
        figure.suptitle(
            f"Cost of one forward and backward pass: bf16, {results['cores']} CPU cores\n\n", x=0.01, ha="left"
        )
        figure.text(
            0.01,
            0.945,
            "Where not varied: hidden size 256, 4 layers, 32 sequences of 64 tokens, eager attention; where the length "
            "varies: 2,048 tokens in all.\nEach point is the median of 7 passes in a process of its own; the memory is "
            "what the passes add to the peak.",
            va="top",
            fontsize=9,
        )
        axes = figure.subplots(2, 4, sharex="col", sharey="row")
        for (time_axis, memory_axis), (name, label) in zip(axes.T, labels.items(), strict=True):
            curves = {"eager attention": (results[name], "o")}
            if name == "length":
                curves["SDPA"] = (results["length with sdpa"], "s")
            for axis, measured in ((time_axis, "milliseconds"), (memory_axis, "megabytes_of_the_passes")):
                for attention, (points, marker) in curves.items():
                    sizes = [point[name] for point in points]
                    axis.plot(sizes, [point[measured] for point in points], marker=marker, label=attention)
                axis.set(xscale="log", yscale="log")
                axis.set_xticks(sizes, [str(size) for size in sizes], minor=False, fontsize=9)
                axis.minorticks_off()
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter(ScalarFormatter())
                axis.yaxis.set_minor_formatter(NullFormatter())
            time_axis.tick_params(labelbottom=True)
            memory_axis.set_xlabel(label)
        axes[0, 0].set_ylabel("time (ms)")
        axes[1, 0].set_ylabel("memory (MB)")
        axes[0, -1].legend()
        axes[1, -1].legend()
        figure.savefig(path)
    return figure


if __name__ == "__main__":
    main()
