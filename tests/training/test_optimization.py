import math

import pytest
import torch

from hf_mingpt.training.optimization import (
    StackedMuon,
    assignment_learning_rate,
    build_optimizers,
    build_scheduler,
    count_steps,
    keep_average,
    orthogonalize,
)
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe

from ..conftest import small_model


def recipe(tmp_path, **changes) -> PretrainRecipe:
    return PretrainRecipe(train_file="x", output_dir=str(tmp_path), **changes)


def names_by_group(model, optimizers):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for o in optimizers for group in o.param_groups]


def test_parameter_groups(tmp_path):
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


def test_the_assignments_schedule_rises_again_after_its_decay():
    """Warm-up, a cosine with a floor of 0.1, and its second half, as in the editions of 2021 to 2023."""
    factor = [assignment_learning_rate(step, warmup_steps=10, decay_steps=110) for step in range(0, 250)]
    assert factor[:3] == [0, 0.1, 0.2]
    assert factor[10] == 1
    assert factor[60] == pytest.approx(0.5)
    assert factor[110] == 0.1
    assert factor[160] == pytest.approx(0.5)
    assert factor[210] == pytest.approx(1)


def test_the_assignments_schedule_without_warm_up_or_decay():
    assert [assignment_learning_rate(step, warmup_steps=0, decay_steps=2) for step in range(3)] == [1, 0.5, 0.1]
    assert assignment_learning_rate(0, warmup_steps=1, decay_steps=5) == 0
    assert assignment_learning_rate(3, warmup_steps=4, decay_steps=4) == 0.75
    assert assignment_learning_rate(4, warmup_steps=4, decay_steps=4) == 1  # nothing to decay over
    assert assignment_learning_rate(3, warmup_steps=2, decay_steps=6) == pytest.approx(0.5 + math.sqrt(0.125))


@pytest.mark.parametrize(
    ("changes", "steps_per_epoch", "expected"),
    [
        ({"num_train_epochs": 2.5}, 10, (25, 5)),
        (PRETRAIN_PRESETS["assignment"].values, 23, (14950, 4600)),
        ({"max_steps": 7}, 10, (7, 2)),
        ({"num_train_epochs": 2.5, "decay_ratio": 0.3}, 11, (28, 9)),  # rounded up
        ({"num_train_epochs": 1.0, "decay_ratio": 1.0}, 7, (7, 7)),
        ({"max_steps": 9, "decay_ratio": 0.5}, None, (9, 5)),
        ({"lr_scheduler_type": "assignment", "decay_epochs": 1.5, "max_steps": 100}, 9, (100, 14)),
    ],
)
def test_number_of_steps(tmp_path, changes, steps_per_epoch, expected):
    assert count_steps(recipe(tmp_path, **changes), steps_per_epoch) == expected


def test_hyperparameters_of_the_optimizers(tmp_path):
    numbers = {"learning_rate": 0.01, "weight_decay": 0.3, "adam_beta1": 0.8, "adam_beta2": 0.9}
    changed = recipe(tmp_path, optim="muon", muon_learning_rate=0.02, **numbers)
    adamw, muon = build_optimizers(small_model("learned"), changed)
    assert [(group["lr"], group["betas"]) for group in adamw.param_groups] == [(0.01, (0.8, 0.9))] * 2
    assert [group["weight_decay"] for group in (*adamw.param_groups, *muon.param_groups)] == [0.3, 0.0, 0.3]
    assert muon.param_groups[0]["lr"] == 0.02
    (adamw,) = build_optimizers(small_model("learned"), recipe(tmp_path, optim="adamw"))
    assert len(adamw.param_groups) == 2


def test_averaged_weights_are_an_exponential_moving_average():
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    averaged = keep_average(model, optimizer, 0.75, torch.device("cpu"))
    seen = []
    for weight in (8.0, 4.0, 0.0):
        torch.nn.init.constant_(model.weight, weight)
        optimizer.step()
        seen.append(averaged.module.weight.item())
    assert seen == [8, 7, 5.25]
    assert keep_average(model, optimizer, None, torch.device("cpu")) is None


def test_build_scheduler_with_the_assignments_schedule(tmp_path):
    changed = recipe(tmp_path, lr_scheduler_type="assignment", decay_epochs=1, warmup_steps=2)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=8.0), changed, 100, 6)
    learning_rates = []
    for _ in range(7):
        learning_rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    assert learning_rates[:3] == [0, 4, 8]
    assert learning_rates[4] == pytest.approx(4)
    assert learning_rates[6] == pytest.approx(0.8)


@pytest.mark.parametrize(("name", "decays"), [("linear", True), ("constant_with_warmup", False)])
def test_schedules_of_transformers_last_for_the_whole_run(tmp_path, name, decays):
    changed = recipe(tmp_path, lr_scheduler_type=name, warmup_steps=10)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), changed, 30, 5)
    factor = scheduler.lr_lambdas[0]
    assert factor(5) == 0.5
    assert factor(20) == (0.5 if decays else 1)


def test_warmup_stable_decay_ends_with_one_minus_a_square_root(tmp_path):
    changed = recipe(tmp_path, lr_scheduler_type="warmup_stable_decay", warmup_steps=10)
    scheduler = build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), changed, 100, 20)
    factors = [scheduler.lr_lambdas[0](step) for step in (5, 10, 80, 85, 90, 100)]
    assert factors == pytest.approx([0.5, 1, 1, 0.5, 1 - math.sqrt(0.5), 0])


class TestStackedMuon:
    def matrices(self):
        torch.manual_seed(0)
        shapes = [(8, 8)] * 3 + [(32, 8)] * 2 + [(8, 32)]
        return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]

    def steps(self, *optimizers, number=3):
        """Steps all optimizers with the same gradients."""
        parameters = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
        torch.manual_seed(1)
        for _ in range(number):
            for same in zip(*parameters, strict=True):
                gradient = torch.randn_like(same[0])
                for parameter in same:
                    parameter.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
        return parameters

    def test_it_agrees_with_torchs_muon(self):
        theirs = torch.optim.Muon(self.matrices(), lr=0.02, weight_decay=0.1)
        ours = StackedMuon(self.matrices(), lr=0.02, weight_decay=0.1)
        for a, b in zip(*self.steps(theirs, ours), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-4)  # an update of 0.02, from bf16 products

    def test_each_loads_the_others_state(self):
        theirs, ours = torch.optim.Muon(self.matrices()), StackedMuon(self.matrices())
        self.steps(theirs, ours)
        ours_on, theirs_on = StackedMuon(self.matrices()), torch.optim.Muon(self.matrices())
        ours_on.load_state_dict(theirs.state_dict())
        theirs_on.load_state_dict(ours.state_dict())
        for a, b in zip(*self.steps(ours_on, theirs_on), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-4)

    def test_the_learning_rate_can_be_a_tensor(self):
        plain, tensor = StackedMuon(self.matrices(), lr=0.5), StackedMuon(self.matrices(), lr=0.5)
        tensor.param_groups[0]["lr"] = torch.tensor(0.5)
        for a, b in zip(*self.steps(plain, tensor), strict=True):
            torch.testing.assert_close(b, a)

    def test_weights_without_a_gradient_are_not_updated(self):
        parameters = self.matrices()
        before = [parameter.clone() for parameter in parameters]
        parameters[0].grad = torch.ones_like(parameters[0])
        StackedMuon(parameters, lr=0.5).step()
        moved = [not torch.equal(a, b) for a, b in zip(parameters, before, strict=True)]
        assert moved == [True] + [False] * 5

    @pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
    def test_singular_values_are_close_to_one(self, shape):
        """For each matrix of a stack: here one is a thousand times the other."""
        torch.manual_seed(0)
        left, _, right = torch.linalg.svd(torch.randn(2, *shape), full_matrices=False)
        matrices = left * torch.linspace(0.2, 1.0, 8) @ right * torch.tensor([1.0, 1000.0])[:, None, None]
        values = torch.linalg.svdvals(orthogonalize(matrices, (3.4445, -4.775, 2.0315), 5, 1e-7).float())
        assert values.shape == (2, 8)
        assert 0.6 < values.min() < values.max() < 1.25
