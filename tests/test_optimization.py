import pytest
import torch

from hf_mingpt.optimization import assignment_learning_rate, build_optimizers, build_scheduler, count_steps
from hf_mingpt.presets import PRETRAIN_PRESETS
from hf_mingpt.recipes import PretrainRecipe

from .conftest import small_model


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
    assert count_steps(recipe(tmp_path, **PRETRAIN_PRESETS["assignment"]), 23) == (14950, 4600)
    assert count_steps(recipe(tmp_path, max_steps=7), 10) == (7, 2)
