"""Explores attention with the function that the model uses: the figures and numbers of docs/attention.md.

    python scripts/explore_attention.py --output_dir docs/attention

Writes a picture for each claim, and attention.json with its numbers. Half a minute.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import ClassVar

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_mingpt.evaluation.figures import FIGURE_STYLE
from hf_mingpt.interpretability.attention_exploration import (
    average_noisy_keys,
    average_two,
    chance_accuracy,
    copy_one,
    recover,
    train_recall,
    weight_of_stretched_key,
)
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag
from hf_mingpt.system.writing import check_output_folder, write_json, written_aside

STYLES = ("-", "--", ":", "-.")
ALPHA = 1e-8  # noise that is as good as none
BETA = 10.0
TRAINING_STEPS, SEEDS = 300, 3  # of the two models that learn to recall


@dataclass(frozen=True, kw_only=True)
class ExploreRecipe:
    output_dir: str = flag("runs/attention", "Where the pictures and attention.json go.")
    CONSTANTS: ClassVar = {"training_steps": TRAINING_STEPS, "seeds": SEEDS}


def main() -> None:
    recipe = parse_recipe(ExploreRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        check_output_folder(folder, overwrite=True)
    draw: dict[str, Callable[[Figure], dict]] = {
        "copying": draw_copying,
        "recovery": draw_recovery,
        "fragility": draw_fragility,
        "two-heads": draw_variance,
        "recall": lambda figure: draw_recall(figure, TRAINING_STEPS, SEEDS),
    }
    numbers = {}
    for name, function in draw.items():
        with rc_context(FIGURE_STYLE):
            figure = Figure(figsize=(10, 4.3))
            numbers[name] = function(figure)
            with accidents(), written_aside(folder / f"{name}.png") as aside:
                figure.savefig(aside)
        print(f"{name}: {numbers[name]}")
    with accidents():
        write_json(folder / "attention.json", numbers)
    print(f"Wrote {folder}.")


def draw_copying(figure: Figure) -> dict:
    """The weights as a distribution, and how far the output is from the value that is to be copied."""
    weights, error = figure.subplots(1, 2)
    gaps = torch.linspace(0, 20, 41, dtype=torch.float64)
    copying = copy_one(gaps)
    keys = copying.weights.shape[1]
    places = torch.arange(keys)
    for number, gap in enumerate((0, 2, 6)):
        (row,) = copying.weights[gaps == gap]
        style = {"facecolor": ("w", "#8fb3dc", "#1b4f8f")[number], "edgecolor": "k", "linewidth": 0.8}
        weights.bar(places + 0.27 * (number - 1), row, width=0.27, label=f"gap {gap}", **style)
    weights.set(
        title="The weights are a categorical distribution", xlabel="index of the key", ylabel="attention weight"
    )
    weights.legend(title="key 0 has the largest product", alignment="left")
    error.semilogy(gaps, copying.bound, STYLES[1], color="C1", label="bound: weight of the other keys × distance")
    error.semilogy(gaps, copying.error, STYLES[0], color="C0", label="measured")
    error.set(title="The output copies the value of key 0", xlabel="gap between its product q·k and the others'")
    error.set_ylabel("distance from the value (length 1)")
    error.legend()
    figure.suptitle(f"Attention copies a value: {keys} orthonormal keys, one draw")
    return {f"error at gap {gap}": float(copying.error[gaps == gap]) for gap in (0, 5, 10, 20)}


def draw_recovery(figure: Figure) -> dict:
    """What a projection and what a transpose give back of one vector of a sum, and the mean of two values."""
    projection, transpose, average = figure.subplots(1, 3)
    numbers = {}
    for number, orthonormal_columns in enumerate((True, False)):
        kind = "orthonormal columns" if orthonormal_columns else "any columns"
        back = recover(orthonormal_columns=orthonormal_columns)
        marker = {"marker": "o+"[number], "color": f"C{number}", "label": kind, "linestyle": "none"}
        marker |= {"markersize": (7, 10)[number], "markeredgewidth": (1, 2)[number]}
        projection.plot(back.vector, back.by_projection, **marker)
        transpose.plot(back.coordinates, back.by_transpose, **marker)
        numbers[f"projection, {kind}: largest error"] = float((back.by_projection - back.vector).abs().max())
        numbers[f"transpose, {kind}: largest error"] = float((back.by_transpose - back.coordinates).abs().max())
    projection.set(
        title="Projection A (AᵀA)⁻¹Aᵀ: always exact", xlabel="component of v$_a$", ylabel="recovered component"
    )
    transpose.set(
        title="Aᵀ: only if A is orthonormal", xlabel="coordinate of v$_a$ in A", ylabel="recovered coordinate"
    )
    for axis in (projection, transpose):
        axis.axline((0, 0), slope=1, color="0.5", linewidth=1, linestyle=":", label="exact")
    projection.legend(fontsize=9, loc="upper left")
    transpose.legend(fontsize=9, loc="lower right")
    betas = torch.linspace(0, 20, 41, dtype=torch.float64)
    error = average_two(betas)
    average.semilogy(betas, error)
    average.set(title="Query β (k$_a$ + k$_b$): the mean", xlabel="β", ylabel="distance from (v$_a$ + v$_b$) / 2")
    figure.suptitle("v$_a$ from v$_a$ + v$_b$: 16 components, 4 coordinates, one draw of each kind of A")
    return numbers | {f"mean of two, beta {beta}: error": float(error[betas == beta]) for beta in (5, 10, 20)}


def draw_fragility(figure: Figure) -> dict:
    """The share of v_a in one head's output: against the length of its key, and its distribution beside two heads'."""
    against, distribution = figure.subplots(1, 2)
    noisy = average_noisy_keys(BETA, ALPHA, stretched=True)
    lengths = torch.linspace(float(noisy.length.min()), float(noisy.length.max()), 200, dtype=torch.float64)
    against.plot(noisy.length, noisy.one_head, ".", color="C1", markersize=5, label="a sample")
    formula = "1 / (1 + exp(β (1 − γ)))"
    against.plot(lengths, weight_of_stretched_key(lengths, BETA), "--", color="k", linewidth=1.2, label=formula)
    against.set(
        title="One head", xlabel="γ, length of k$_a$ along µ$_a$ (mean 1)", ylabel="weight of v$_a$ in the output"
    )
    against.legend(loc="lower right", bbox_to_anchor=(1, 0.05), fontsize=9, handlelength=1.5)
    _draw_histograms(distribution, {"one head": noisy.one_head, "two heads": noisy.two_heads})
    distribution.set(title="One head and two", xlabel="weight of v$_a$ in the output", ylabel="fraction of the samples")
    distribution.legend(loc="upper right", bbox_to_anchor=(0.97, 1))
    samples = len(noisy.length)
    figure.suptitle(f"A key of varying length: {samples:,} samples, β = {BETA:g}, α = {ALPHA:g}")
    usable = noisy.length > 0.5
    error = noisy.one_head - weight_of_stretched_key(noisy.length, BETA)
    return {
        "one head within 0.1 of 0 or 1": _share(((noisy.one_head - 0.5).abs() > 0.4).tolist()),
        "two heads within 0.1 of 1/2": _share(((noisy.two_heads - 0.5).abs() < 0.1).tolist()),
        "closed form, largest error for lengths over 1/2": float(error[usable].abs().max()),
    }


def _draw_histograms(axis: Axes, kinds: dict[str, torch.Tensor]) -> None:
    for number, (name, shares) in enumerate(kinds.items()):
        counts, edges = torch.histogram(shares, 40, range=(0.0, 1.0))
        style = {"linestyle": STYLES[number], "color": f"C{number}", "linewidth": 2}
        axis.stairs(counts / len(shares), edges, label=name, **style)


def _share(values: Iterable[bool]) -> float:
    return mean(map(float, values))


def draw_variance(figure: Figure) -> dict:
    """The variance of the output of one head and of two, against beta and against alpha."""
    by_beta, by_alpha = figure.subplots(1, 2, sharey=True)
    betas = [1, 2, 3, 5, 7, 10, 15, 20, 30]
    alphas = [10.0**exponent for exponent in (-8, -6, -4, -3, -2.5, -2, -1.5, -1)]
    numbers = {}
    for axis, values, setting in (
        (by_beta, betas, lambda value: (value, ALPHA)),
        (by_alpha, alphas, lambda value: (BETA, value)),
    ):
        for number, stretched in enumerate((True, False)):
            noisy = [average_noisy_keys(*setting(value), stretched=stretched) for value in values]
            kind = "of varying length" if stretched else "with equal noise"
            for heads, spread in (
                ("one head", [fragility.variance_of_one for fragility in noisy]),
                ("two heads", [fragility.variance_of_two for fragility in noisy]),
            ):
                style = {"marker": "os"[heads == "two heads"], "linestyle": STYLES[number], "markersize": 5}
                axis.plot(values, spread, label=f"{heads}, keys {kind}", color=f"C{heads == 'two heads':d}", **style)
                if values is betas:
                    name = "stretched" if stretched else "even"
                    numbers[f"variance of {heads}, {name} keys, beta {BETA:g}"] = spread[betas.index(int(BETA))]
    by_beta.set(title=f"Against β, at α = {ALPHA:g}", xlabel="β, length of the query")
    by_beta.set(ylabel="variance, summed over components", yscale="log", ylim=(1e-8, 2))
    by_alpha.set(title=f"Against α, at β = {BETA:g}", xlabel="α, variance of a key's component", xscale="log")
    by_beta.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.3))
    samples = len(average_noisy_keys(BETA, ALPHA, stretched=True).length)
    figure.suptitle(f"Variance of the output of one head and of two: {samples:,} samples per point, values of length 1")
    return numbers


def draw_recall(figure: Figure, steps: int, seeds: int) -> dict:
    """One layer of each kind learns to give the token after the earlier occurrence of the present one."""
    axis = figure.subplots()
    numbers = {}
    every = max(1, steps // 30)
    for number, attention_type in enumerate(("dot_product", "synthesizer")):
        runs = [train_recall(attention_type, steps=steps, every=every, seed=seed) for seed in range(seeds)]
        label = f"{attention_type} ({seeds} seeds)"
        for run in runs:
            places = range(0, every * len(run), every)
            axis.plot(places, run, STYLES[number], color=f"C{number}", label=label if run is runs[0] else None)
        numbers[f"{attention_type}, {seeds} seeds: right at the end"] = [round(run[-1], 3) for run in runs]
    numbers["a guess among the answers shown so far"] = chance = chance_accuracy()
    label = f"chance: a guess among the answers shown so far ({chance:.2f})"
    axis.axhline(chance, color="k", linestyle=":", label=label)
    axis.set(title="Recall in one layer: accuracy on fresh batches of 64 sequences", xlabel="training step")
    axis.set(ylabel="accuracy", ylim=(0, 1.03), xlim=(0, None))
    axis.legend(loc="center right")
    return numbers


if __name__ == "__main__":
    main()
