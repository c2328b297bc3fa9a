"""The training loop: golden losses, and what must not change them."""

import itertools
import json
import math
from pathlib import Path
from shutil import which
from unittest import mock

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.training.setup import attention_for

from ..conftest import VARIANTS, small_model
from .small_runs import have_same_weights, small_steps, train_small

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
EXACT = {
    "plain": (BatchShape(8), {}),
    "4 x 2 accumulated": (BatchShape(2, 4), {}),
    "sdpa": (BatchShape(8), {"attn_implementation": "sdpa"}),
    "padding-free": (BatchShape(8, pad_to_multiple_of=8, padding_free=True), {}),
    "cut by cost": (BatchShape(8, pad_to_multiple_of=8, overhead=20), {}),
}


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    return Dataset.from_dict({"input_ids": [rng.integers(2, 12, n).tolist() for n in rng.integers(6, 30, 32)]})


@pytest.fixture
def run(dataset):
    def run(folder, shape, **changes):
        return train_small(folder, small_steps(shape, dataset), **{"max_steps": 8, **changes})

    return run


def losses(log) -> list[float]:
    return [record["loss"] for record in log]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", EXACT)
def test_golden_losses(tmp_path, run, variant, way):
    """20 steps in float32 have the recorded losses, in every way of computing that is meant to be exact."""
    shape, options = EXACT[way]
    _, log = run(tmp_path, shape, variant=variant, max_steps=20, **options)
    assert losses(log) == pytest.approx(GOLDEN[variant], rel=1e-4)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_accumulation_changes_nothing(tmp_path, run, optim):
    """8 = 2 x 4 = 8 x 1: the same losses and weights, although micro-batches have different numbers of labels."""
    whole, log = run(tmp_path / "a", BatchShape(8), optim=optim)
    for shape in (BatchShape(4, 2), BatchShape(1, 8)):
        parts, log_of_parts = run(tmp_path / "b", shape, optim=optim)
        np.testing.assert_allclose(losses(log[:8]), losses(log_of_parts[-8:]), rtol=2e-4)
        if optim == "adamw":  # Muon's bf16 products magnify the last digit
            for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_free_batches_change_nothing(tmp_path, run, variant, attention):
    """Sequences that are packed into one do not attend to each other."""
    options = {"variant": variant, "attn_implementation": attention}
    _, log = run(tmp_path / "a", BatchShape(4, 2, pad_to_multiple_of=8), **options)
    _, log_of_packed = run(tmp_path / "b", BatchShape(4, 2, pad_to_multiple_of=8, padding_free=True), **options)
    np.testing.assert_allclose(losses(log), losses(log_of_packed), rtol=1e-4)


@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_changes_nothing(tmp_path, run):
    options = {"num_hidden_layers": 1, "max_steps": 3}
    plain, log = run(tmp_path / "a", BatchShape(8, pad_to_multiple_of=8), **options)
    options["torch_compile"] = True
    compiled, log_of_compiled = run(tmp_path / "b", BatchShape(8, pad_to_multiple_of=8), **options)
    np.testing.assert_allclose(losses(log), losses(log_of_compiled), rtol=2e-4)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    assert compiled._compiled_call_impl is None


def test_the_loss_falls_and_a_run_is_reproducible(tmp_path, run):
    first, log = run(tmp_path / "a", BatchShape(8), dropout=0.1, max_steps=24)
    second, log_again = run(tmp_path / "b", BatchShape(8), dropout=0.1, max_steps=24)
    assert losses(log) == losses(log_again)
    assert have_same_weights(first, second)
    assert log[-1]["loss"] < log[0]["loss"] - 0.2


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_averaged_weights(tmp_path, run, optim):
    """With a constant learning rate, a run begins with the steps of every shorter one."""
    changes = {"lr_scheduler_type": "constant", "optim": optim}
    first, second, third = (
        run(tmp_path / str(n), BatchShape(8), max_steps=n, **changes)[0].state_dict() for n in (1, 2, 3)
    )
    averaged, _ = run(tmp_path / "averaged", BatchShape(8), max_steps=3, ema_decay=0.75, **changes)
    for name, weight in averaged.state_dict().items():
        expected = 0.75 * (0.75 * first[name] + 0.25 * second[name]) + 0.25 * third[name]
        torch.testing.assert_close(weight, expected)
    assert not torch.equal(averaged.lm_head.weight, third["lm_head.weight"])


def test_records_of_the_log(tmp_path, run):
    _, log = run(tmp_path, BatchShape(8), logging_steps=3)
    assert [record["step"] for record in log] == [3, 6, 8]
    assert log[-1]["epoch"] == 2.0
    assert set(log[0]) == {"step", "epoch", "loss", "learning_rate", "tokens_per_second", "seconds"}


@pytest.mark.parametrize(
    ("device", "block_size", "attention"), [("cpu", 512, "eager"), ("cpu", 513, "sdpa"), ("cuda", 48, "sdpa")]
)
def test_the_attention_implementation_depends_on_device_and_context_length(device, block_size, attention):
    assert attention_for(torch.device(device), block_size) == attention


def test_the_recipe_can_set_the_attention_implementation(tmp_path, run):
    for wanted, used in ((None, "eager"), ("sdpa", "sdpa")):
        model, _ = run(tmp_path, BatchShape(8), max_steps=1, attn_implementation=wanted)
        assert model.config._attn_implementation == used


def test_the_first_loss_is_that_of_the_model(tmp_path, run, dataset):
    model = small_model("rope")
    batches = small_steps(BatchShape(4, 2), dataset)[0]
    with torch.no_grad():
        labels = [(batch["labels"][:, 1:] != -100).sum() for batch in batches]
        sums = [
            model(input_ids=batch["input_ids"], labels=batch["labels"]).loss * n
            for batch, n in zip(batches, labels, strict=True)
        ]
    assert {batch["num_items_in_batch"].item() for batch in batches} == {sum(labels).item()}
    _, log = run(tmp_path, BatchShape(4, 2))
    assert log[0]["loss"] == pytest.approx((sum(sums) / sum(labels)).item(), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_step_checkpoint_and_documents(tmp_path, run, dataset):
    """Also between two lines of the log."""
    real, calls = torch.nn.functional.cross_entropy, itertools.count(1)

    def cross_entropy(*args, **kwargs):
        return real(*args, **kwargs) * (math.inf if next(calls) == 6 else 1.0)

    with mock.patch.object(torch.nn.functional, "cross_entropy", cross_entropy), pytest.raises(FloatingPointError) as e:
        run(tmp_path, BatchShape(8), logging_steps=5, save_steps=2, max_steps=9)
    assert "The loss is inf at step 6; the last checkpoint is" in str(e.value)
    assert "checkpoint-4. Lower the learning rate, 0.0006" in str(e.value)
    documents = [int(word) for word in str(e.value).split("from 0: ")[1].rstrip(".").split(", ")]
    batches = small_steps(BatchShape(8), dataset)[5]
    read = {tuple(ids[ids != 0].tolist()) for batch in batches for ids in batch["input_ids"]}
    assert {tuple(dataset[index]["input_ids"]) for index in documents} == read
    assert documents == sorted(documents)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, run):
    changes = {"learning_rate": 1e38, "weight_decay": 9, "lr_scheduler_type": "constant", "warmup_steps": 0}
    with pytest.raises(FloatingPointError, match=r"is not finite after step 1; the last checkpoint is None"):
        run(tmp_path, BatchShape(8), save_steps=1, **changes)
    assert not list(tmp_path.glob("*checkpoint*"))
