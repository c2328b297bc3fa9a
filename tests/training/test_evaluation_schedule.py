"""Evaluations while a model trains: they change nothing, the best weights survive, and a run may stop early."""

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from hf_mingpt.training.evaluation_schedule import is_better
from hf_mingpt.training.loop import train

from ..conftest import small_model
from .small_runs import PowerCut, edit_state, have_same_weights, read_metrics, small_recipe, small_steps, train_small

FLAGS = {"dropout": 0.1, "optim": "muon", "lr_scheduler_type": "cosine", "max_steps": 10, "save_steps": 3}
FLAGS |= {"logging_steps": 4, "validation_ratio": 0.5, "eval_steps": 2}
BEST = {"load_best_model_at_end": True}


class Evaluate:
    """Evaluates like a careless function: it draws, generates, and returns the values that it was given.

    Without values, it returns the mean of the logits of a fixed text.
    """

    def __init__(self, values=()):
        self.values, self.weights = iter(values), []

    def __call__(self, model):
        assert not model.training
        torch.rand(3)
        ids = torch.arange(2, 12)[None]
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=True, pad_token_id=0)
            value = next(self.values, None) or model(input_ids=ids, labels=ids).loss.item()
        self.weights.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return {"eval_loss": value}, [{"prompt": "a", "prediction": "b", "reference": "c"}]


def run(folder, evaluate=None, **changes):
    """Trains a small model. Returns it, its losses and its evaluations by step."""
    model, log = train_small(folder, small_steps(), evaluate=evaluate, **{**FLAGS, **changes})
    losses = [(record["step"], record["loss"]) for record in log if "loss" in record]
    return model, losses, {record["step"]: record["eval_loss"] for record in log if "eval_loss" in record}


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_evaluations_change_nothing(tmp_path, ema_decay):
    plain, losses, nothing = run(tmp_path / "plain", ema_decay=ema_decay)
    evaluate = Evaluate()
    evaluated, same_losses, values = run(tmp_path / "evaluated", evaluate, ema_decay=ema_decay)
    assert losses == same_losses
    assert have_same_weights(plain, evaluated)
    assert not nothing
    assert list(values) == [2, 4, 6, 8, 10]
    # what is evaluated is what is returned: averaged weights, if there are any
    assert all(torch.equal(weight, evaluated.state_dict()[name]) for name, weight in evaluate.weights[-1].items())


def test_an_evaluation_is_made_at_the_end_only_without_eval_steps(tmp_path):
    _, _, values = run(tmp_path, Evaluate(), eval_steps=None, max_steps=3)
    assert list(values) == [3]


def test_lines_and_samples(tmp_path):
    run(tmp_path, Evaluate([5.0]), max_steps=2)
    assert read_metrics(tmp_path)[-1] == {"step": 2, "epoch": 0.4, "eval_loss": 5.0}
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {
        "step": 2, "prompt": "a", "prediction": "b", "reference": "c",
    }  # fmt: skip


@pytest.mark.parametrize(("greater", "best"), [(None, 1), (True, 3)])
def test_a_run_ends_with_the_best_weights(tmp_path, greater, best):
    evaluate = Evaluate([5.0, 1.0, 1.0, 6.0, 3.0])
    model, _, _ = run(tmp_path, evaluate, greater_is_better=greater, **BEST)
    assert all(torch.equal(weight, evaluate.weights[best][name]) for name, weight in model.state_dict().items())
    assert load_file(tmp_path / f"checkpoint-best-{2 * best + 2}/model.safetensors").keys() == model.state_dict().keys()


@pytest.mark.parametrize("cut_at", [5, 8])
def test_the_best_weights_survive_a_kill(tmp_path, cut_at):
    """Killed after the checkpoint of step 3 or 6: later best weights do not count, and earlier ones are there."""
    values = [3.0, 1.0, 2.0, 0.5 if cut_at == 8 else 4.0, 5.0]
    whole, losses, expected = run(tmp_path / "whole", Evaluate(values), ema_decay=0.5, **BEST)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", Evaluate(values), cut_at=cut_at, ema_decay=0.5, **BEST)
    again = Evaluate(values[1:] if cut_at == 5 else values[3:])
    resumed, same_losses, same = run(tmp_path / "cut", again, resume_from_checkpoint="latest", ema_decay=0.5, **BEST)
    assert (losses, expected) == (same_losses, same)
    assert have_same_weights(whole, resumed)
    samples = (tmp_path / "cut/samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [2, 4, 6, 8, 10]


def test_best_weights_follow_a_run_to_another_folder(tmp_path):
    run(tmp_path / "trunk", Evaluate([1.0, 2.0, 3.0, 4.0, 5.0]), **BEST)
    checkpoint = tmp_path / "trunk/checkpoint-6"
    flags = {**BEST, "resume_from_checkpoint": str(checkpoint)}
    expected = load_file(tmp_path / "trunk/checkpoint-best-2/model.safetensors")
    branch, _, _ = run(tmp_path / "branch", Evaluate([4.0, 5.0]), **flags)
    assert all(torch.equal(weight, expected[name]) for name, weight in branch.state_dict().items())
    shutil.rmtree(tmp_path / "trunk/checkpoint-best-2")
    with pytest.raises(ValueError, match="checkpoint-best-2, the best weights so far, does not exist"):
        run(tmp_path / "other", Evaluate(), **flags)


def test_best_weights_that_no_checkpoint_needs_go(tmp_path):
    run(tmp_path, Evaluate([5.0, 4.0, 3.0, 2.0, 1.0]), save_total_limit=1, **BEST)
    kept = {path.name for path in tmp_path.glob("checkpoint-best-*")}
    assert kept == {"checkpoint-best-10", "checkpoint-best-8"}  # the checkpoint of step 9 needs that of 8


def test_without_checkpoints_only_the_best_weights_are_kept(tmp_path):
    run(tmp_path, Evaluate([5.0, 4.0, 3.0]), save_steps=None, max_steps=6, **BEST)
    assert [path.name for path in tmp_path.glob("checkpoint-best-*")] == ["checkpoint-best-6"]


def test_early_stopping(tmp_path):
    model, losses, values = run(tmp_path, Evaluate([3.0, 2.0, 2.0, 2.5]), early_stopping_patience=2, **BEST)
    assert list(values) == [2, 4, 6, 8]
    assert [step for step, _ in losses] == [4, 8]
    expected = load_file(tmp_path / "checkpoint-best-4/model.safetensors")
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


def test_a_run_that_stopped_early_does_not_go_on(tmp_path):
    flags = {"early_stopping_patience": 1, "logging_steps": 5, "save_steps": 4}
    whole, losses, _ = run(tmp_path, Evaluate([1.0, 2.0]), **flags)
    assert [step for step, _ in losses] == [4]  # a last line, although it is not due
    again, same_losses, values = run(tmp_path, Evaluate(), resume_from_checkpoint="latest", **flags)
    assert (same_losses, list(values)) == (losses, [2, 4])
    assert have_same_weights(whole, again)


@pytest.mark.parametrize("killed_after_it", [False, True])
@pytest.mark.parametrize("changes", [{"max_steps": 4}, {"early_stopping_patience": 1, "logging_steps": 3}])
def test_an_evaluation_that_a_signal_prevented_is_made_up_for(tmp_path, changes, killed_after_it):
    """A run that is told to stop saves at once; its evaluation comes first when it resumes."""
    changes = {"save_steps": 2, **changes}
    _, losses, expected = run(tmp_path, Evaluate([1.0, 2.0]), **changes)
    before = {"last_step": 2, "number_not_better": 0}
    edit_state(tmp_path / "checkpoint-4", lambda state: state["evaluation"].update(before))
    if not killed_after_it:  # its line and samples are not there yet
        for name in ("metrics.jsonl", "samples.jsonl"):
            lines = (tmp_path / name).read_text().splitlines(keepends=True)
            kept = [line for line in lines if not (json.loads(line)["step"] == 4 and '"loss"' not in line)]
            (tmp_path / name).write_text("".join(kept))
    _, same_losses, values = run(tmp_path, Evaluate([2.0]), resume_from_checkpoint="latest", **changes)
    assert (same_losses, values) == (losses, expected)
    for name, steps in (("metrics.jsonl", [step for step, _ in losses] + [2, 4]), ("samples.jsonl", [2, 4])):
        lines = (tmp_path / name).read_text().splitlines()
        assert sorted(json.loads(line)["step"] for line in lines) == sorted(steps)


def test_a_checkpoint_without_evaluations_resumes(tmp_path):
    """Of an earlier version."""
    flags = {"validation_ratio": None, "eval_steps": None}
    whole, _, _ = run(tmp_path, **flags)
    edit_state(tmp_path / "checkpoint-9", lambda state: state.pop("evaluation"))
    resumed, _, _ = run(tmp_path, resume_from_checkpoint="latest", **flags)
    assert have_same_weights(whole, resumed)


def test_best_weights_that_cannot_be_written_end_the_run_with_a_remedy(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/unfinished-checkpoint-best-2").write_text("")
    recipe = small_recipe(tmp_path / "run", **{**FLAGS, **BEST})
    with pytest.raises(
        OSError, match=r"checkpoint-best-2 could not be written: .*There is no checkpoint: fix this, then start again"
    ):
        train(small_model("rope"), small_steps(), recipe, Accelerator(cpu=True), Evaluate())


def test_a_value_that_is_not_a_number_is_never_the_best():
    assert not is_better(math.nan, None, greater=True)
    assert not is_better(math.nan, 1.0, greater=False)
    assert is_better(1.0, None, greater=False)
    assert not is_better(1.0, 1.0, greater=True)
    assert is_better(2.0, 1.0, greater=True)
    assert is_better(0.0, 1.0, greater=False)
