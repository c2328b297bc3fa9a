"""Draws training runs: losses, learning rate and held-out accuracy from metrics.jsonl, accuracies from report.json.

python scripts/plot_run.py --runs runs/rope,runs/rope-answers --output_file runs/rope.png
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mingpt.evaluation.figures import FIGURE_STYLE
from hf_mingpt.hub.loading import read_metrics
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.files import name_apart, parse_json, read_text
from hf_mingpt.system.writing import written_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class PlotRecipe:
    runs: str = required("Run folders, separated by commas.")
    output_file: str = required("Picture to write, .png or .svg.")
    overwrite_output_dir: bool = flag(False, "Replace an existing picture.", formerly="overwrite")


def main() -> None:
    recipe = parse_recipe(PlotRecipe)
    with user_errors():
        folders = [Path(name).expanduser() for run in recipe.runs.split(",") if (name := run.strip())]
        if not folders:
            raise ValueError(f"runs {recipe.runs!r} names no folder: give at least one.")
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
    """Reads the results of the reports: one row per model, named by its folder, and each baseline once.

    A baseline with other questions than one of the same name is named with its run.
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
                raise ValueError("an accuracy is not a fraction")
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a report of evaluate_birthplaces.py: {error}.") from error
    return results


def draw(metrics: dict[str, list[dict]], accuracies: dict[str, dict], output: Path) -> "Figure":
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    evaluated = any("eval_accuracy" in record for records in metrics.values() for record in records)
    columns = 2 + evaluated + bool(accuracies)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(4.7 * columns, 4 + 0.2 * max(0, len(metrics) - 4)))
        axes = figure.subplots(1, columns)
        for name, records in metrics.items():
            _draw_line(axes[0], records, "loss", label=name)
            line = axes[0].lines[-1]  # the style of the run
            style = {"color": line.get_color(), "linestyle": line.get_linestyle()}
            _draw_line(axes[0], records, "eval_loss", marker="o", **style)
            _draw_line(axes[1], records, "learning_rate", **style)
            if evaluated:
                _draw_line(axes[2], records, "eval_accuracy", marker="o", **style)
        held_out = any("eval_loss" in record for records in metrics.values() for record in records)
        title = "Training loss, and held-out loss (circles)" if held_out else "Training loss"
        axes[0].set(title=title, ylabel="nats per token", yscale="log")
        axes[1].set(title="Learning rate", ylabel="learning rate")
        if evaluated:
            axes[2].set(title="Accuracy of held-out questions", ylabel="exact match", ylim=(-0.03, 1.03))
            axes[2].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axis in axes[: 2 + evaluated]:
            axis.set_xlabel("step (optimizer updates)")
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if accuracies:
            _draw_accuracies(axes[-1], accuracies)
            axes[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=min(3, len(labels)), title="runs", fontsize=9)
        figure.savefig(output)
    return figure


def _draw_line(axis: "Axes", records: list[dict], column: str, **style: Any) -> None:
    points = [(record["step"], record[column]) for record in records if column in record]
    if points:
        marker = {"marker": "o"} if len(points) == 1 else {}  # a line of one point would not be seen
        axis.plot(*zip(*points, strict=True), linewidth=1.8, markersize=4, **{**style, **marker})


def _draw_accuracies(axis: "Axes", accuracies: dict[str, dict]) -> None:
    for place, row in enumerate(accuracies.values()):
        low, high = row["interval_95"]
        axis.barh(place, row["accuracy"], height=0.7, facecolor="#8fb3dc", edgecolor="#1b4f8f")
        axis.plot([low, high], [place, place], "-", color="k", linewidth=1)
        questions = f" (n = {row['total']:,})" if "total" in row else ""
        axis.text(
            max(high, row["accuracy"]) + 0.02, place, f"{row['accuracy']:.1%}{questions}", va="center", fontsize=9
        )
    axis.set_yticks(range(len(accuracies)), list(accuracies))
    axis.grid(False, axis="y")
    axis.set(title="Accuracy with its 95 % interval", xlabel="exact match")
    axis.set(xlim=(0, 1.45), xticks=[0, 0.25, 0.5, 0.75, 1], ylim=(max(len(accuracies), 4) - 0.4, -0.6))


if __name__ == "__main__":
    main()
