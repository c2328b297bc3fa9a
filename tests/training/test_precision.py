"""Mixed precision: which one is chosen, fp16's loss scale, float32 master weights, and the bf16 residual stream."""

import copy
import json
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.modeling_mingpt import MinGPTForCausalLM
from hf_mingpt.training import setup
from hf_mingpt.training.loop import train
from hf_mingpt.training.setup import build_accelerator

from ..conftest import VARIANTS, small_model
from .small_runs import have_same_weights, read_metrics, small_recipe, small_steps, train_small


@pytest.mark.parametrize(
    ("device", "has_bf16", "given", "expected"),
    [
        ("cuda", True, None, "bf16"),
        ("cuda", False, None, "fp16"),
        ("cuda", False, "no", "no"),
        ("cuda", False, "bf16", "bf16"),
        ("cpu", True, None, "bf16"),
        ("cpu", False, None, "no"),
        ("mps", False, None, "no"),
    ],
)
def test_the_default_precision_is_the_one_that_the_hardware_supports(
    tmp_path, monkeypatch, device, has_bf16, given, expected
):
    state = SimpleNamespace(device=torch.device(device), num_processes=2)
    monkeypatch.setattr(setup, "join_processes", lambda **_: state)
    monkeypatch.setattr(setup, "has_native_bf16", lambda _: has_bf16)
    monkeypatch.setattr(setup, "check_sharding", lambda *_: None)
    monkeypatch.setattr(setup, "Accelerator", lambda **options: options)
    options = build_accelerator(small_recipe(tmp_path, mixed_precision=given))
    assert (options["mixed_precision"], options["cpu"]) == (expected, device == "cpu")


def test_the_launcher_sets_the_precision_if_the_recipe_does_not(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert build_accelerator(small_recipe(tmp_path, mixed_precision=None)).mixed_precision == "bf16"


def test_fp16_is_refused_on_a_cpu(tmp_path):
    with pytest.raises(ValueError, match="'fp16' needs a GPU: on this CPU, give --mixed_precision bf16 or no"):
        build_accelerator(small_recipe(tmp_path, mixed_precision="fp16"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_close_to_float32_and_ends_with_the_run(tmp_path, variant):
    _, log = train_small(tmp_path / "a", small_steps(), variant=variant, max_steps=8)
    recipe = small_recipe(tmp_path / "b", max_steps=8, mixed_precision="bf16")
    (tmp_path / "b").mkdir()
    AcceleratorState._reset_state(reset_partial_state=True)
    model = small_model(variant)
    types = []
    model.model.norm.register_forward_hook(lambda module, args, output: types.append((args[0].dtype, output.dtype)))
    model = train(model, small_steps(), recipe, build_accelerator(recipe))
    assert set(types) == {(torch.bfloat16, torch.bfloat16)}
    losses, losses_of_bf16 = ([record["loss"] for record in records] for records in (log, read_metrics(tmp_path / "b")))
    np.testing.assert_allclose(losses, losses_of_bf16, rtol=0.02)
    logits = model(torch.tensor([[2, 3, 4]])).logits
    assert logits.dtype == model.model.norm(torch.zeros(1, 32)).dtype == torch.float32


def with_scaler(scale: float) -> Accelerator:
    """An accelerator with the loss scale of fp16 but without its rounding: scaling by a power of two is exact."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
    accelerator.unscale_gradients = lambda: [scaler.unscale_(made.optimizer) for made in accelerator._optimizers]
    return accelerator


class TestLossScale:
    @pytest.mark.parametrize("optim", ["adamw", "muon"])
    def test_scaling_the_loss_changes_nothing(self, tmp_path, optim):
        plain, log = train_small(tmp_path / "plain", small_steps(), max_steps=4, optim=optim)
        accelerator = with_scaler(2.0**10)
        scaled, same = train_small(
            tmp_path / "scaled", small_steps(), accelerator=accelerator, max_steps=4, optim=optim
        )
        assert [record["loss"] for record in same] == [record["loss"] for record in log]
        assert have_same_weights(plain, scaled)
        assert accelerator.scaler.get_scale() == 2.0**11  # once in three steps, with one optimizer or two

    @pytest.mark.parametrize("optim", ["adamw", "muon"])
    def test_an_overflow_skips_the_update_without_a_warning(self, tmp_path, optim):
        accelerator = with_scaler(2.0**127)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Detected call of `lr_scheduler")
            model, _ = train_small(tmp_path, small_steps(), accelerator=accelerator, optim=optim, max_steps=1)
        assert have_same_weights(model, small_model("rope"))
        assert accelerator.scaler.get_scale() == 2.0**126

    def test_a_resumed_run_has_the_scale_of_an_uninterrupted_one(self, tmp_path):
        flags = {"max_steps": 7, "save_steps": 5}
        whole, expected = train_small(tmp_path / "whole", small_steps(), accelerator=with_scaler(2.0**10), **flags)
        accelerator = with_scaler(1.0)
        flags["resume_from_checkpoint"] = str(tmp_path / "whole" / "checkpoint-5")
        resumed, log = train_small(tmp_path / "resumed", small_steps(), accelerator=accelerator, **flags)
        assert [record["loss"] for record in log] == [record["loss"] for record in expected[5:]]
        assert accelerator.scaler.get_scale() == 2.0**12  # after seven steps
        assert have_same_weights(resumed, whole)


def test_losses_are_not_divided_by_the_launchers_accumulation_steps(tmp_path, monkeypatch):
    plain, log = train_small(tmp_path / "plain", small_steps(BatchShape(2, 2)), max_steps=4)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    accelerator = Accelerator(cpu=True)
    assert accelerator.gradient_accumulation_steps == 4
    steps = small_steps(BatchShape(2, 2))
    other, same = train_small(tmp_path / "launched", steps, accelerator=accelerator, max_steps=4)
    assert [record["loss"] for record in same] == [record["loss"] for record in log]
    assert have_same_weights(other, plain)
    accelerator.gradient_accumulation_steps = 1  # all accelerators share it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("changes", [{"optim": "adamw"}, {"optim": "muon"}, {"ema_decay": 0.5}])
def test_master_weights_are_float32(tmp_path, dtype, changes):
    """So every tensor of a model in bf16 is updated, even by steps that bf16 would round to zero."""
    recipe = small_recipe(tmp_path, max_steps=2, learning_rate=1e-5, lr_scheduler_type="constant", **changes)
    model = small_model("rope").to(dtype)
    before = {name: weight.float() for name, weight in model.state_dict().items()}
    trained = train(model, small_steps(BatchShape(8)), recipe, Accelerator(cpu=True))
    assert {weight.dtype for weight in trained.state_dict().values()} == {torch.float32}
    frozen = {name for name, weight in trained.state_dict().items() if torch.equal(weight, before[name])}
    assert frozen == set()
    trained.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_returned_model_computes_what_the_saved_one_computes(tmp_path, precision, changes):
    """Bit for bit, without autocast or a forward pass of accelerate's; it can be copied and pickled."""
    recipe = small_recipe(tmp_path, max_steps=2, mixed_precision=precision, **changes)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    model = train(small_model("rope"), small_steps(BatchShape(8)), recipe, accelerator)
    assert model.forward.__func__ is MinGPTForCausalLM.forward
    assert not {"forward", "_original_forward"} & vars(model).keys()
    model.save_pretrained(tmp_path / "saved")
    loaded = MinGPTForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")
    ids = torch.tensor([[2, 3, 4, 5]])
    with torch.no_grad():
        expected = loaded(ids).logits
        for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(same(ids).logits, expected)
