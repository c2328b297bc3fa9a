import copy
import itertools
import json
import math
import pickle
from pathlib import Path
from shutil import which
from unittest import mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.hub.run_folders import start_run
from hf_mingpt.modeling_mingpt import MinGPTForCausalLM
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.setup import attention_for, build_accelerator

from ..conftest import VARIANTS, small_model


def recipe(tmp_path, **changes) -> PretrainRecipe:
    values = {"train_file": "x", "use_cpu": True, "mixed_precision": "no", "logging_steps": 1, "dropout": 0.0}
    return PretrainRecipe(output_dir=str(tmp_path), **{**values, **changes})


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    return Dataset.from_dict({"input_ids": [rng.integers(2, 12, n).tolist() for n in rng.integers(6, 30, 32)]})


def run(tmp_path, dataset, shape, **changes):
    tmp_path.mkdir(exist_ok=True)
    model = small_model(changes.pop("variant", "rope"), num_hidden_layers=changes.pop("num_hidden_layers", 2))
    r = recipe(tmp_path, **{"max_steps": 8, **changes})
    steps = TrainingSteps(dataset, NextTokenPrediction(), shape, seed=0)
    model = train(model, steps, r, Accelerator(cpu=True))
    return model, [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
EXACT = {
    "as it is": (BatchShape(8), {}),
    "4 x 2 accumulated": (BatchShape(2, 4), {}),
    "sdpa": (BatchShape(8), {"attn_implementation": "sdpa"}),
    "padding-free": (BatchShape(8, pad_to_multiple_of=8, padding_free=True), {}),
    "cut by cost": (BatchShape(8, pad_to_multiple_of=8, overhead=20), {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", EXACT)
def test_golden_losses(tmp_path, dataset, variant, way):
    """20 steps in float32 have the losses that they always had, in every way that claims to be exact."""
    shape, options = EXACT[way]
    _, log = run(tmp_path, dataset, shape, variant=variant, max_steps=20, **options)
    assert [record["loss"] for record in log] == pytest.approx(GOLDEN[variant], rel=1e-4)


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_accumulation_changes_nothing(tmp_path, dataset, optim):
    """8 = 2 x 4 = 8 x 1: the same losses and weights, though the micro-batches have different numbers of labels."""
    whole, log = run(tmp_path / "a", dataset, BatchShape(8), optim=optim)
    for shape in (BatchShape(4, 2), BatchShape(1, 8)):
        parts, log_of_parts = run(tmp_path / "b", dataset, shape, optim=optim)
        np.testing.assert_allclose([r["loss"] for r in log[:8]], [r["loss"] for r in log_of_parts[-8:]], rtol=2e-4)
        if optim == "adamw":  # Muon's own bf16 arithmetic magnifies the last digit
            for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_free_changes_nothing(tmp_path, dataset, variant, attention):
    """Rows that lie in one do not see each other."""
    options = {"variant": variant, "attn_implementation": attention}
    _, log = run(tmp_path / "a", dataset, BatchShape(4, 2, pad_to_multiple_of=8), **options)
    shape = BatchShape(4, 2, pad_to_multiple_of=8, padding_free=True)
    _, log_of_flat = run(tmp_path / "b", dataset, shape, **options)
    np.testing.assert_allclose([r["loss"] for r in log], [r["loss"] for r in log_of_flat], rtol=1e-4)


@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_changes_nothing(tmp_path, dataset):
    options = {"num_hidden_layers": 1, "max_steps": 3}
    plain, log = run(tmp_path / "a", dataset, BatchShape(8, pad_to_multiple_of=8), **options)
    options["torch_compile"] = True
    compiled, log_of_compiled = run(tmp_path / "b", dataset, BatchShape(8, pad_to_multiple_of=8), **options)
    np.testing.assert_allclose([r["loss"] for r in log], [r["loss"] for r in log_of_compiled], rtol=2e-4)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    assert compiled._compiled_call_impl is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_close_and_stays_within_the_run(tmp_path, dataset, variant):
    _, log = run(tmp_path / "a", dataset, BatchShape(8), variant=variant)
    r = recipe(tmp_path / "b", max_steps=8, mixed_precision="bf16")
    (tmp_path / "b").mkdir()
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = build_accelerator(r)
    model = small_model(variant)
    types = []
    model.model.norm.register_forward_hook(lambda module, args, output: types.append((args[0].dtype, output.dtype)))
    model = train(model, TrainingSteps(dataset, NextTokenPrediction(), BatchShape(8), seed=0), r, accelerator)
    assert set(types) == {(torch.bfloat16, torch.bfloat16)}
    log_of_bf16 = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([r["loss"] for r in log], [r["loss"] for r in log_of_bf16], rtol=0.02)
    logits = model(torch.tensor([[2, 3, 4]])).logits
    assert logits.dtype == model.model.norm(torch.zeros(1, 32)).dtype == torch.float32


def test_it_learns_and_repeats_itself(tmp_path, dataset):
    first, log = run(tmp_path / "a", dataset, BatchShape(8), dropout=0.1, max_steps=24)
    second, log_again = run(tmp_path / "b", dataset, BatchShape(8), dropout=0.1, max_steps=24)
    assert [r["loss"] for r in log] == [r["loss"] for r in log_again]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert log[-1]["loss"] < log[0]["loss"] - 0.2


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_averaged_weights(tmp_path, dataset, optim):
    """Every run of a constant rate is the beginning of the next longer one."""
    changes = {"lr_scheduler_type": "constant", "optim": optim}
    first, second, third = (
        run(tmp_path / str(n), dataset, BatchShape(8), max_steps=n, **changes)[0].state_dict() for n in (1, 2, 3)
    )
    averaged, _ = run(tmp_path / "averaged", dataset, BatchShape(8), max_steps=3, ema_decay=0.75, **changes)
    for name, weight in averaged.state_dict().items():
        expected = 0.75 * (0.75 * first[name] + 0.25 * second[name]) + 0.25 * third[name]
        torch.testing.assert_close(weight, expected)
    assert not torch.equal(averaged.lm_head.weight, third["lm_head.weight"])


def test_the_log_says_what_happened(tmp_path, dataset):
    _, log = run(tmp_path, dataset, BatchShape(8), logging_steps=3)
    assert [r["step"] for r in log] == [3, 6, 8]
    assert log[-1]["epoch"] == 2.0
    assert set(log[0]) == {"step", "epoch", "loss", "learning_rate", "tokens_per_second", "seconds"}


@pytest.mark.parametrize(
    ("device", "block", "attention"), [("cpu", 512, "eager"), ("cpu", 513, "sdpa"), ("cuda", 48, "sdpa")]
)
def test_attention_is_the_fastest_for_device_and_length(device, block, attention):
    assert attention_for(torch.device(device), block) == attention


def test_the_recipe_may_want_another_attention(tmp_path, dataset):
    for wanted, used in ((None, "eager"), ("sdpa", "sdpa")):
        model, _ = run(tmp_path, dataset, BatchShape(8), max_steps=1, attn_implementation=wanted)
        assert model.config._attn_implementation == used


def test_first_loss_is_the_models_own(tmp_path, dataset):
    model = small_model("rope")
    steps = TrainingSteps(dataset, NextTokenPrediction(), BatchShape(4, 2), seed=0)
    with torch.no_grad():
        labels = [(b["labels"][:, 1:] != -100).sum() for b in steps[0]]
        sums = [
            model(input_ids=b["input_ids"], labels=b["labels"]).loss * n for b, n in zip(steps[0], labels, strict=True)
        ]
    assert {b["num_items_in_batch"].item() for b in steps[0]} == {sum(labels).item()}
    expected = sum(sums) / sum(labels)
    _, log = run(tmp_path, dataset, BatchShape(4, 2))
    assert log[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_what_there_is_to_know(tmp_path, dataset):
    """Also between two lines of the log, and where to go on from."""
    real, calls = torch.nn.functional.cross_entropy, itertools.count(1)

    def cross_entropy(*args, **kwargs):
        return real(*args, **kwargs) * (math.inf if next(calls) == 6 else 1.0)

    with mock.patch.object(torch.nn.functional, "cross_entropy", cross_entropy), pytest.raises(FloatingPointError) as e:
        run(tmp_path, dataset, BatchShape(8), logging_steps=5, save_steps=2, max_steps=9)
    assert "The loss is inf at step 6; the last checkpoint is" in str(e.value)
    assert "checkpoint-4. Lower the learning rate, 0.0006" in str(e.value)
    documents = [int(word) for word in str(e.value).split("from 0: ")[1].rstrip(".").split(", ")]
    steps = TrainingSteps(dataset, NextTokenPrediction(), BatchShape(8), seed=0)
    read = {tuple(row[row != 0].tolist()) for batch in steps[5] for row in batch["input_ids"]}
    assert {tuple(dataset[index]["input_ids"]) for index in documents} == read
    assert documents == sorted(documents)


def test_weights_that_are_not_finite_are_never_saved(tmp_path, dataset):
    with pytest.raises(FloatingPointError, match=r"is not finite after step 1; the last checkpoint is None"):
        run(
            tmp_path,
            dataset,
            BatchShape(8),
            learning_rate=1e38,
            weight_decay=9,
            lr_scheduler_type="constant",
            warmup_steps=0,
            save_steps=1,
        )
    assert not list(tmp_path.glob("*checkpoint*"))


def test_tensorboard_gets_the_metrics(tmp_path, dataset):
    r = recipe(tmp_path, max_steps=4, report_to="tensorboard")
    accelerator = build_accelerator(r)
    start_run(r, accelerator)
    train(small_model("rope"), TrainingSteps(dataset, NextTokenPrediction(), BatchShape(8), seed=0), r, accelerator)
    accelerator.end_training()
    accelerator.end_training()
    losses = {}
    for file in tmp_path.rglob("events.out.*"):
        events = EventAccumulator(str(file)).Reload()
        losses |= {e.step: e.value for e in events.Scalars("loss")} if "loss" in events.Tags()["scalars"] else {}
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx({record["step"]: record["loss"] for record in log})


def test_a_tracker_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_mingpt.training.setup.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install trackio"):
        build_accelerator(recipe(tmp_path, report_to="trackio"))


class TestPrecision:
    """The weights are float32 while a model is trained, and the model is a plain one afterwards."""

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    @pytest.mark.parametrize("changes", [{"optim": "adamw"}, {"optim": "muon"}, {"ema_decay": 0.5}])
    def test_master_weights_are_float32(self, tmp_path, dataset, dtype, changes):
        """So every tensor of a model that was saved in bf16 moves, also by steps that bf16 would round away."""
        r = recipe(tmp_path, max_steps=2, learning_rate=1e-5, lr_scheduler_type="constant", **changes)
        model = small_model("rope").to(dtype)
        before = {name: weight.float() for name, weight in model.state_dict().items()}
        trained = train(
            model, TrainingSteps(dataset, NextTokenPrediction(), BatchShape(8), seed=0), r, Accelerator(cpu=True)
        )
        assert {weight.dtype for weight in trained.state_dict().values()} == {torch.float32}
        frozen = {name for name, weight in trained.state_dict().items() if torch.equal(weight, before[name])}
        assert frozen == set()
        trained.save_pretrained(tmp_path / "saved")
        assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == "float32"

    @pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}])
    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_what_is_given_back_is_what_is_saved(self, tmp_path, dataset, precision, changes):
        """Bit for bit: neither in autocast nor with a forward of accelerate's; it can be copied and pickled."""
        r = recipe(tmp_path, max_steps=2, mixed_precision=precision, **changes)
        model = train(
            small_model("rope"),
            TrainingSteps(dataset, NextTokenPrediction(), BatchShape(8), seed=0),
            r,
            Accelerator(cpu=True, mixed_precision=precision),
        )
        assert model.forward.__func__ is MinGPTForCausalLM.forward
        assert not {"forward", "_original_forward"} & vars(model).keys()
        model.save_pretrained(tmp_path / "saved")
        loaded = MinGPTForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
        ids = torch.tensor([[2, 3, 4, 5]])
        with torch.no_grad():
            expected = loaded(ids).logits
            for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                assert torch.equal(same(ids).logits, expected)
