"""Explores attention with the function that the model uses: the figures and numbers of docs/attention.md.

    python scripts/explore_attention.py --output_dir docs/attention

Writes a picture for each claim, and attention.json with its numbers. Half a minute.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_mingpt.interpretability.attention_exploration import (
    average_noisy_keys,
    average_two,
    copy_one,
    guess_among_shown,
    recover,
    share_of_stretched_key,
    train_recall,
)
from hf_mingpt.system.command_line import accidents, parse_recipe
from hf_mingpt.system.fields import check_least, flag
from hf_mingpt.system.writing import write_json, written_aside

STYLES = ("-", "--", ":", "-.")
ALPHA = 1e-8  # noise that is as good as none
BETA = 10.0


@dataclass(frozen=True, kw_only=True)
class ExploreRecipe:
    output_dir: str = flag("runs/attention", "Where the pictures and attention.json go.")
    training_steps: int = flag(300, "Steps of the two models that learn to recall.")
    seeds: int = flag(3, "Runs of each of them.")

    def __post_init__(self):
        check_least(self, 1, "training_steps", "seeds")


def main() -> None:
    recipe = parse_recipe(ExploreRecipe)
    folder = Path(recipe.output_dir)
    draw: dict[str, Callable[[Figure], dict]] = {
        "copying": draw_copying,
        "recovery": draw_recovery,
        "fragility": draw_fragility,
        "two-heads": draw_variance,
        "recall": lambda figure: draw_recall(figure, recipe.training_steps, recipe.seeds),
    }
    numbers = {}
    for name, function in draw.items():
        figure = Figure(figsize=(10, 4), layout="constrained", dpi=110)
        numbers[name] = function(figure)
        for axis in figure.axes:
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
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
    places = torch.arange(copying.weights.shape[1])
    for number, gap in enumerate((0, 2, 6)):
        (row,) = copying.weights[gaps == gap]
        weights.bar(
            places + 0.27 * (number - 1),
            row,
            width=0.27,
            label=f"gap {gap}",
            color=f"C{number}",
            hatch=("/", ".", None)[number],
        )
    weights.set(title="Weights: a categorical distribution", xlabel="key", ylabel="weight")
    weights.legend(frameon=False)
    error.semilogy(gaps, copying.bound, STYLES[1], color="0.4", label="bound: weight of the others x distance")
    error.semilogy(gaps, copying.error, STYLES[0], color="C0", label="measured")
    error.set(title="The output copies a value", xlabel="gap of the products", ylabel="distance from the value")
    error.legend(frameon=False)
    return {f"error at gap {gap}": float(copying.error[gaps == gap]) for gap in (0, 5, 10, 20)}


def draw_recovery(figure: Figure) -> dict:
    """What a projection and what a transpose give back of one vector of a sum, and the mean of two values."""
    projection, transpose, average = figure.subplots(1, 3)
    numbers = {}
    for number, orthonormal_columns in enumerate((True, False)):
        kind = "orthonormal columns" if orthonormal_columns else "any columns"
        back = recover(orthonormal_columns=orthonormal_columns)
        marker = {"marker": "o+"[number], "color": f"C{number}", "label": kind, "linestyle": "none", "markersize": 8}
        projection.plot(back.vector, back.by_projection, **marker)
        transpose.plot(back.coordinates, back.by_transpose, **marker)
        numbers[f"projection, {kind}: largest error"] = float((back.by_projection - back.vector).abs().max())
        numbers[f"transpose, {kind}: largest error"] = float((back.by_transpose - back.coordinates).abs().max())
    projection.set(
        title="A (A'A)$^{-1}$A' (v$_a$ + v$_b$)", xlabel="component of v$_a$", ylabel="component that comes back"
    )
    transpose.set(title="A' (v$_a$ + v$_b$)", xlabel="coordinate of v$_a$ in A", ylabel="coordinate that comes back")
    for axis in (projection, transpose):
        axis.axline((0, 0), slope=1, color="0.5", linewidth=1, linestyle=":")
        axis.legend(frameon=False, fontsize=8)
    betas = torch.linspace(0, 20, 41, dtype=torch.float64)
    error = average_two(betas)
    average.semilogy(betas, error)
    average.set(title="Query β (k$_a$ + k$_b$)", xlabel="β", ylabel="distance from the mean of v$_a$ and v$_b$")
    return numbers | {f"mean of two, beta {beta}: error": float(error[betas == beta]) for beta in (5, 10, 20)}


def draw_fragility(figure: Figure) -> dict:
    """The share of v_a in one head's output: against the length of its key, and its distribution beside two heads'."""
    against, distribution = figure.subplots(1, 2)
    noisy = average_noisy_keys(BETA, ALPHA, stretched=True)
    lengths = torch.linspace(float(noisy.length.min()), float(noisy.length.max()), 200, dtype=torch.float64)
    against.plot(
        noisy.length, noisy.one_head, ".", color="C0", alpha=0.3, markersize=4, label="one head, a sample each"
    )
    against.plot(lengths, share_of_stretched_key(lengths, BETA), "--", color="k", label="1 / (1 + exp(β (1 - γ)))")
    against.set(
        title=f"One head, β = {BETA:g}", xlabel="γ, length of k$_a$ along µ$_a$", ylabel="share of v$_a$ in the output"
    )
    against.legend(frameon=False)
    _draw_histograms(distribution, {"one head": noisy.one_head, "two heads": noisy.two_heads})
    distribution.set(title="Over samples of the keys", xlabel="share of v$_a$ in the output", ylabel="share of samples")
    distribution.legend(frameon=False)
    usable = noisy.length > 0.5
    error = noisy.one_head - share_of_stretched_key(noisy.length, BETA)
    return {
        "one head within 0.1 of 0 or 1": _share(((noisy.one_head - 0.5).abs() > 0.4).tolist()),
        "two heads within 0.1 of 1/2": _share(((noisy.two_heads - 0.5).abs() < 0.1).tolist()),
        "closed form, largest error for lengths over 1/2": float(error[usable].abs().max()),
    }


def _draw_histograms(axis: Axes, kinds: dict[str, torch.Tensor]) -> None:
    for number, (name, shares) in enumerate(kinds.items()):
        counts, edges = torch.histogram(shares, 40, range=(0.0, 1.0))
        axis.stairs(counts / len(shares), edges, label=name, linestyle=STYLES[number], linewidth=2)


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
            kind = "stretched" if stretched else "even"
            for heads, spread in (
                ("one head", [fragility.spread_of_one for fragility in noisy]),
                ("two heads", [fragility.spread_of_two for fragility in noisy]),
            ):
                style = {"marker": "os"[heads == "two heads"], "linestyle": STYLES[number], "markersize": 4}
                axis.plot(values, spread, label=f"{heads}, {kind} keys", color=f"C{heads == 'two heads':d}", **style)
                if values is betas:
                    numbers[f"variance of {heads}, {kind} keys, beta {BETA:g}"] = spread[betas.index(int(BETA))]
    by_beta.set(title=f"α = {ALPHA:g}", xlabel="β", ylabel="variance of the output", yscale="log", ylim=(1e-8, 2))
    by_alpha.set(title=f"β = {BETA:g}", xlabel="α", xscale="log")
    by_beta.legend(frameon=False, fontsize=8)
    return numbers


def draw_recall(figure: Figure, steps: int, seeds: int) -> dict:
    """One layer of each kind learns to give the token after the earlier occurrence of the present one."""
    axis = figure.subplots()
    numbers = {}
    every = max(1, steps // 30)
    for number, attention_type in enumerate(("dot_product", "synthesizer")):
        runs = [train_recall(attention_type, steps=steps, every=every, seed=seed) for seed in range(seeds)]
        for run in runs:
            places = range(0, every * len(run), every)
            axis.plot(places, run, STYLES[number], color=f"C{number}", label=attention_type if run is runs[0] else None)
        numbers[f"{attention_type}, {seeds} seeds: right at the end"] = [round(run[-1], 3) for run in runs]
    numbers["a guess among the answers shown so far"] = chance = guess_among_shown()
    axis.axhline(chance, color="0.3", linestyle=":", label="a guess among the answers shown so far")
    axis.set(title="Recall, one layer", xlabel="training step", ylabel="right answers", ylim=(0, 1.03))
    axis.legend(frameon=False)
    return numbers


if __name__ == "__main__":
    main()
