"""A small model of each variant, its folder, and two texts."""

import pytest

from ..conftest import small_model
from .logits import PROMPT


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer))


@pytest.fixture
def ids(tokenizer):
    return tokenizer([PROMPT, "Ada Byron was born in Lon"], return_tensors="pt").input_ids


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    return tmp_path / "run"
