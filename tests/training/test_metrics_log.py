"""What run.json keeps of metrics.jsonl."""

import json
import math

import pytest

from hf_mingpt.training.metrics_log import summarize_log

from .small_runs import small_recipe

BEST = {"validation_ratio": 0.5, "eval_steps": 2, "load_best_model_at_end": True}


def summary(folder, losses, **changes):
    """The summary of a run that is evaluated every two steps, with these losses."""
    records = [{"step": 4, "loss": 3.0, "seconds": 1.23}, {"step": 8, "loss": 2.0, "seconds": 2.34}]
    records += [{"step": 2 * number, "eval_loss": loss} for number, loss in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return summarize_log(small_recipe(folder, **{**BEST, **changes}))


@pytest.mark.parametrize(
    ("changes", "step", "best_step"),
    [
        ({}, 4, 4),  # the first of equal ones
        ({"greater_is_better": True}, 8, 8),
        ({"load_best_model_at_end": False}, 10, 4),
    ],
)
def test_the_summary_is_of_the_weights_that_the_run_ends_with(tmp_path, changes, step, best_step):
    losses = [5.0, 1.0, 1.0, 6.0, 3.0]
    found = summary(tmp_path, losses, **changes)
    validation = {"step": step, "eval_loss": losses[step // 2 - 1]}
    assert found == {"training_seconds": 2.3, "best_step": best_step, "validation": validation}


def test_a_value_that_is_not_a_number_is_not_the_best(tmp_path):
    assert summary(tmp_path, [math.nan, 3.0, 2.0, math.nan])["best_step"] == 6
    assert summary(tmp_path, [math.nan, math.nan])["best_step"] == 4  # no weights are the best: the last ones


def test_a_damaged_log_has_an_empty_summary(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert summarize_log(small_recipe(tmp_path)) == {"training_seconds": 0.0}
