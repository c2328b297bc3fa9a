"""Draws the accuracy of every arm of the experiment beside the published ones: the figure of the README.

    python benchmarks/arms.py docs/arms.png

The figures of our arms stand in results/, each with its command; those of others are the course's and of public runs.
"""

import sys

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

# exact match on the 500 dev questions: a number for each seed
ARMS: dict[str, tuple[str, list[float]]] = {
    "always London": ("no model", [0.050]),
    "without pretraining (reference)": ("published", [0.016]),
    "without pretraining, RoPE": ("ours", [0.036]),
    "synthesizer (reference)": ("published", [0.092]),
    "synthesizer (median of public runs)": ("published", [0.123]),
    "synthesizer": ("ours", [0.118]),
    "learned positions (reference)": ("published", [0.154]),
    "learned positions (median of public runs)": ("published", [0.230]),
    "learned positions": ("ours", [0.326]),
    "RoPE (median of public runs)": ("published", [0.320]),
    "RoPE (best public run)": ("published", [0.404]),
    "RoPE": ("ours", [0.364]),
    "clozes of any name, 240 epochs": ("ours", [0.808]),
    "clozes of training answers, 50 epochs": ("ours", [0.806, 0.828, 0.824]),
    "clozes of training answers, 100 epochs": ("ours", [0.858, 0.854, 0.864]),
    "clozes of what stands as they do, short contexts, 18 epochs": ("ours", [0.804, 0.820, 0.836, 0.812, 0.818]),
    "clozes of what stands as they do (fast), 50 epochs": ("ours", [0.870, 0.866, 0.876]),
    "clozes of what stands as they do, 80 epochs": ("ours", [0.880, 0.892, 0.878]),
}
STYLES = {
    "no model": {"facecolor": "0.75"},
    "published": {"facecolor": "#c7c7e2", "hatch": "//", "edgecolor": "0.35"},
    "ours": {"facecolor": "#1f5a9e"},
}


def main() -> None:
    (output,) = sys.argv[1:]
    figure = Figure(figsize=(9, 5), layout="constrained", dpi=120)
    axis = figure.subplots()
    for place, (kind, values) in enumerate(ARMS.values()):
        mean = sum(values) / len(values)
        axis.barh(place, mean, **STYLES[kind])
        if len(values) > 1:
            axis.plot(values, [place] * len(values), "o", color="k", markersize=4)
        axis.text(max(values) + 0.01, place, f"{mean:.1%}", va="center")
    axis.set_yticks(range(len(ARMS)), ARMS)
    axis.invert_yaxis()
    axis.set(xlabel="exact match on the 500 dev questions (points: seeds)", xlim=(0, 1))
    axis.xaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(handles=[Patch(label=kind, **style) for kind, style in STYLES.items()], frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_axisbelow(True)
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(output)


if __name__ == "__main__":
    main()
