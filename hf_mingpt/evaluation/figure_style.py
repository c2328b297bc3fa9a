"""The style of every figure: matplotlib rcParams, to be used as `with rc_context(FIGURE_STYLE):`.

The first two colors differ in lightness, and every color comes with a line style, so that figures work in greyscale.
"""

from typing import Any

FIGURE_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib and has the characters ⁇, ␣ and ⏎
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
