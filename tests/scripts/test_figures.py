"""What the figures of the scripts show."""

import runpy
from pathlib import Path

import pytest
from matplotlib.text import Text

SCRIPTS = Path(__file__).parents[2] / "scripts"
ROW = {"accuracy": 0.75, "interval_95": [0.5, 0.9], "total": 40}


@pytest.fixture
def draw():
    return runpy.run_path(str(SCRIPTS / "plot_run.py"))["draw"]


def records(steps: int) -> list[dict]:
    return [{"step": 10 * (i + 1), "loss": 1 / (i + 1), "learning_rate": 1e-3} for i in range(steps)]


def test_a_run_with_one_logged_point_is_drawn_as_a_marker(draw, tmp_path):
    figure = draw({"short": records(1), "long": records(3)}, {}, tmp_path / "plot.png")
    for axis in figure.axes:
        short, long = axis.lines
        assert (list(short.get_xdata()), short.get_marker()) == ([10], "o")
        assert (list(long.get_xdata()), long.get_marker()) == ([10, 20, 30], "None")


def test_runs_axes_units_and_questions_are_named(draw, tmp_path):
    without_total = {key: value for key, value in ROW.items() if key != "total"}
    figure = draw({"a/run": records(2)}, {"a/run": ROW, "always London": without_total}, tmp_path / "plot.svg")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a/run"]
    labels = [(axis.get_title(), axis.get_xlabel(), axis.get_ylabel()) for axis in figure.axes]
    assert labels == [
        ("Training loss", "step (optimizer updates)", "nats per token"),
        ("Learning rate", "step (optimizer updates)", "learning rate"),
        ("Accuracy with its 95 % interval", "exact match", ""),
    ]
    shown = {text.get_text() for text in figure.findobj(Text)}
    assert {"75.0% (n = 40)", "75.0%", "a/run", "always London"} <= shown


def test_evaluations_have_circles_in_the_style_of_their_run(draw, tmp_path):
    evaluations = [{"step": step, "eval_loss": 2.0, "eval_accuracy": 0.5} for step in (10, 20)]
    figure = draw({"a": records(3), "b": records(3) + evaluations}, {}, tmp_path / "plot.png")
    losses, _, accuracies = figure.axes
    _, training, held_out = losses.lines
    assert (held_out.get_marker(), held_out.get_linestyle()) == ("o", training.get_linestyle())
    assert held_out.get_color() == training.get_color() == accuracies.lines[0].get_color()
    assert losses.get_title() == "Training loss, and held-out loss (circles)"


def test_many_runs_are_told_apart_without_color(draw, tmp_path):
    figure = draw({str(i): records(3) for i in range(4)}, {}, tmp_path / "plot.png")
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 4
