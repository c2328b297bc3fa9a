import math

import pytest
import torch

from hf_mingpt.training.optimization import (
    assignment_learning_rate,
    build_optimizers,
    build_scheduler,
    count_steps,
    keep_average,
)
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe

from ..conftest import small_model


def recipe(tmp_path, **changes) -> PretrainRecipe:
    return PretrainRecipe(train_file="x", output_dir=str(tmp_path), **changes)


def names_by_group(model, optimizers):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for o in optimizers for group in o.param_groups]


def test_groups_of_parameters(tmp_path):
    model = small_model("learned")
    everything = {name for name, _ in model.named_parameters()}
    decayed, undecayed = names_by_group(model, build_optimizers(model, recipe(tmp_path)))
    assert decayed == {n for n in everything if n.endswith("weight") and "norm" not in n and "embed" not in n}
    assert undecayed == everything - decayed

    decayed, undecayed = names_by_group(model, build_optimizers(model, recipe(tmp_path, decay_all_weights=True)))
    assert undecayed == {n for n in everything if n.endswith("bias")}

    decayed, _, muon = names_by_group(model, build_optimizers(model, recipe(tmp_path, optim="muon")))
    assert muon == {n for n in everything if ".layers." in n and n.endswith("weight") and "norm" not in n}
    assert decayed == {"lm_head.weight"}


def test_the_assignments_schedule_comes_back_up():
    """Warm-up, cosine with a floor of a tenth, and past its end the way back, as in the editions of 2021 to 2023."""
    rate = [assignment_learning_rate(step, warmup_steps=10, decay_steps=110) for step in range(0, 250)]
    assert rate[:3] == [0, 0.1, 0.2]
    assert rate[10] == 1
    assert rate[60] == pytest.approx(0.5)
    assert rate[110] == 0.1
    assert rate[160] == pytest.approx(0.5)
    assert rate[210] == pytest.approx(1)


def test_schedules_of_transformers(tmp_path):
    r = recipe(tmp_path, lr_scheduler_type="warmup_stable_decay", warmup_steps=10)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, r, 100, 20)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[5] == pytest.approx(0.5)
    assert set(rates[10:80]) == {1.0}
    assert rates[99] < 0.05


def test_numbers_of_steps(tmp_path):
    assert count_steps(recipe(tmp_path, num_train_epochs=2.5), 10) == (25, 5)
    assert count_steps(recipe(tmp_path, **PRETRAIN_PRESETS["assignment"].values), 23) == (14950, 4600)
    assert count_steps(recipe(tmp_path, max_steps=7), 10) == (7, 2)


def test_the_assignments_schedule_without_warm_up_or_decay():
    assert [assignment_learning_rate(step, warmup_steps=0, decay_steps=2) for step in range(3)] == [1, 0.5, 0.1]
    assert assignment_learning_rate(0, warmup_steps=1, decay_steps=5) == 0
    assert assignment_learning_rate(3, warmup_steps=4, decay_steps=4) == 0.75
    assert assignment_learning_rate(4, warmup_steps=4, decay_steps=4) == 1  # nothing to decay over
    assert assignment_learning_rate(3, warmup_steps=2, decay_steps=6) == pytest.approx(0.5 + math.sqrt(0.125))


@pytest.mark.parametrize(
    ("changes", "steps_per_epoch", "expected"),
    [
        ({"num_train_epochs": 2.5, "decay_ratio": 0.3}, 11, (28, 9)),  # rounded up
        ({"num_train_epochs": 1.0, "decay_ratio": 1.0}, 7, (7, 7)),
        ({"max_steps": 9, "decay_ratio": 0.5}, None, (9, 5)),
        ({"lr_scheduler_type": "assignment", "decay_epochs": 1.5, "max_steps": 100}, 9, (100, 14)),
    ],
)
def test_steps_are_rounded_up(tmp_path, changes, steps_per_epoch, expected):
    assert count_steps(recipe(tmp_path, **changes), steps_per_epoch) == expected


def test_what_the_optimizers_are_told(tmp_path):
    numbers = {"learning_rate": 0.01, "weight_decay": 0.3, "adam_beta1": 0.8, "adam_beta2": 0.9}
    changed = recipe(tmp_path, optim="muon", muon_learning_rate=0.02, **numbers)
    adamw, muon = build_optimizers(small_model("learned"), changed)
    assert [(group["lr"], group["betas"]) for group in adamw.param_groups] == [(0.01, (0.8, 0.9))] * 2
    assert [group["weight_decay"] for group in (*adamw.param_groups, *muon.param_groups)] == [0.3, 0.0, 0.3]
    assert muon.param_groups[0]["lr"] == 0.02
    (adamw,) = build_optimizers(small_model("learned"), recipe(tmp_path, optim="adamw"))
    assert len(adamw.param_groups) == 2


def test_the_average_follows_the_weight():
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    averaged = keep_average(model, optimizer, 0.75, torch.device("cpu"))
    seen = []
    for weight in (8.0, 4.0, 0.0):
        torch.nn.init.constant_(model.weight, weight)
        optimizer.step()
        seen.append(averaged.module.weight.item())
    assert seen == [8, 7, 5.25]  # 3/4 of the average and 1/4 of the weight
    assert keep_average(model, optimizer, None, torch.device("cpu")) is None


def test_the_assignments_schedule_is_that_of_the_recipe(tmp_path):
    changed = recipe(tmp_path, lr_scheduler_type="assignment", decay_epochs=1, warmup_steps=2)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0), changed, 100, 6)
    rates = []
    for _ in range(7):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    assert rates[:3] == [0, 4, 8]
    assert rates[4] == pytest.approx(4)
    assert rates[6] == pytest.approx(0.8)


@pytest.mark.parametrize(("name", "decays"), [("linear", True), ("constant_with_warmup", False)])
def test_other_schedules_have_the_length_of_the_run(tmp_path, name, decays):
    changed = recipe(tmp_path, lr_scheduler_type=name, warmup_steps=10)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), changed, 30, 5)
    factor = scheduler.lr_lambdas[0]
    assert factor(5) == 0.5
    assert factor(20) == (0.5 if decays else 1)


def test_the_decay_at_the_end_is_one_minus_a_root(tmp_path):
    changed = recipe(tmp_path, lr_scheduler_type="warmup_stable_decay", warmup_steps=10)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), changed, 100, 20)
    assert [scheduler.lr_lambdas[0](step) for step in (80, 85, 90)] == pytest.approx([1, 0.5, 1 - math.sqrt(0.5)])
