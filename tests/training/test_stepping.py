"""The computation of a step. CUDA graphs need a GPU: benchmarks/gpu.py compares them with eager steps there."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.stepping import can_record

from ..conftest import VARIANTS, small_model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_forward_pass_does_not_synchronize(variant):
    """Reading values to find packed sequences makes a GPU wait, so it happens only if positions are given."""
    ids = torch.randint(2, 30, (2, 9))
    model = small_model(variant).train()
    model.config.use_cache = False
    with mock.patch("transformers.masking_utils.find_packed_sequence_indices", side_effect=AssertionError):
        model(ids, labels=ids).loss.backward()
        with pytest.raises(AssertionError):
            model(ids, position_ids=torch.arange(9)[None])


def test_training_with_sdpa_makes_no_mask():
    """torch.compile before torch 2.13 would keep the mask of create_causal_mask, and attention would be slow."""
    ids = torch.randint(2, 30, (2, 9))
    model = small_model("rope").train()
    model.config.use_cache = False
    with mock.patch("hf_mingpt.modeling_mingpt.create_causal_mask", side_effect=AssertionError):
        model(ids, labels=ids).loss.backward()
        for inputs in ({"attention_mask": torch.ones_like(ids)}, {"position_ids": torch.arange(9)[None]}):
            with pytest.raises(AssertionError):
                model(ids, **inputs)


def test_a_cpu_uses_no_cuda_graphs():
    recipe = PretrainRecipe(train_file="-", output_dir="-")
    assert not can_record(recipe, Accelerator(cpu=True))


@pytest.mark.parametrize(
    ("flags", "place", "expected"),
    [
        ({}, {}, True),
        ({"torch_compile": True}, {}, True),
        ({"padding_free": True}, {}, False),
        ({"ema_decay": 0.9}, {}, False),
        ({}, {"scaler": object()}, False),
        ({}, {"distributed_type": DistributedType.MULTI_GPU}, False),
    ],
)
def test_what_cuda_graphs_can_record_on_a_gpu(flags, place, expected):
    gpu = {"device": torch.device("cuda"), "distributed_type": DistributedType.NO, "scaler": None}
    recipe = PretrainRecipe(train_file="-", output_dir="-", **flags)
    assert can_record(recipe, SimpleNamespace(**{**gpu, **place})) is expected
