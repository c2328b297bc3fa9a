"""Draws training runs: loss and learning rate from metrics.jsonl, accuracies from report.json.

python scripts/plot_run.py --runs runs/rope,runs/rope-answers --output_file runs/rope.png
"""

from dataclasses import dataclass
from pathlib import Path

from hf_mingpt.hub.loading import read_metrics
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.files import name_apart, parse_json, read_text
from hf_mingpt.system.writing import written_aside


@dataclass(frozen=True, kw_only=True)
class PlotRecipe:
    runs: str = required("Run folders, separated by commas.")
    output_file: str = required("Picture to write, .png or .svg.")
    overwrite_output_dir: bool = flag(False, "Replace an existing picture.", formerly="overwrite")


def main() -> None:
    recipe = parse_recipe(PlotRecipe)
    with user_errors():
        folders = [Path(run.strip()).expanduser() for run in recipe.runs.split(",")]
        output = Path(recipe.output_file)
        if output.suffix not in (".png", ".svg"):
            raise ValueError(f"output_file {output} must end in .png or .svg.")
        if output.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{output} exists: choose another, or give --overwrite_output_dir.")
        metrics, accuracies = read_metrics(folders), read_accuracies(folders)
    with accidents(), written_aside(output) as aside:
        draw(metrics, accuracies, aside)
    print(f"Wrote {output}.")


def read_accuracies(folders: list[Path]) -> dict[str, dict]:
    """The rows of the runs' reports: models by the names that tell their folders apart, each baseline once.

    A baseline that differs from one of the same name, being of other questions, is named with its run.
    """
    rows: dict[str, dict] = {}
    for label, folder in zip(name_apart(folders), folders, strict=True):
        path = folder / "report.json"
        if path.exists():
            for name, row in read_results(path).items():
                if name == "model":
                    rows[label] = row
                elif rows.setdefault(name, row) != row:
                    rows[f"{name}, {label}"] = row
    return rows


def read_results(path: Path) -> dict[str, dict]:
    content = parse_json(read_text(path), str(path))
    try:
        results = content["results"]
        for row in results.values():
            low, high = row["interval_95"]
            if not all(0 <= value <= 1 for value in (row["accuracy"], low, high)):
                raise ValueError("an accuracy is no fraction")
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no report of evaluate_birthplaces.py: {error}.") from error
    return results


def draw(metrics: dict[str, list[dict]], accuracies: dict[str, dict], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    plt.style.use("tableau-colorblind10")
    styles = ["-", "--", "-.", ":"]
    figure, axes = plt.subplots(1, 3 if accuracies else 2, figsize=(14 if accuracies else 9, 3.8), layout="constrained")
    for i, (name, records) in enumerate(metrics.items()):
        steps = [record["step"] for record in records]
        style = {"label": name, "linestyle": styles[i % len(styles)], "linewidth": 1.8}
        axes[0].plot(steps, [record["loss"] for record in records], **style)
        axes[1].plot(steps, [record["learning_rate"] for record in records], **style)
    axes[0].set(title="Training loss", xlabel="step", ylabel="nats per character", yscale="log")
    axes[1].set(title="Learning rate", xlabel="step", ylabel="learning rate of AdamW")
    axes[0].legend(fontsize=9)
    if accuracies:
        names, rows = list(accuracies), list(accuracies.values())
        values = [row["accuracy"] for row in rows]
        errors = [[max(0.0, v - r["interval_95"][0]) for v, r in zip(values, rows, strict=True)],
                  [max(0.0, r["interval_95"][1] - v) for v, r in zip(values, rows, strict=True)]]  # fmt: skip
        axes[2].barh(names, values, xerr=errors, capsize=4, color="C0")
        for place, (value, row) in enumerate(zip(values, rows, strict=True)):
            axes[2].text(row["interval_95"][1] + 0.02, place, f"{value:.1%}", va="center", fontsize=9)
        axes[2].invert_yaxis()
        axes[2].set(title="Accuracy, with 95 % interval", xlabel="exact match", xlim=(0, 1.15))
        axes[2].xaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=120)


if __name__ == "__main__":
    main()
