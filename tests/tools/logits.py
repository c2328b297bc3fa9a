"""What the tests of tools read and compare."""

import pytest
import torch

tools = pytest.mark.tools  # needs packages of the extra `tools`
PROMPT = "Where was Ada Byron born?"


def assert_same(logits: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5):
    torch.testing.assert_close(logits, expected, rtol=0, atol=atol)
