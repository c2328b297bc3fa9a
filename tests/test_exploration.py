"""The claims of docs/attention.md, each against something independent."""

import math

import pytest
import torch

from hf_mingpt.exploration import (
    NUM_SYMBOLS,
    SHOWN,
    attend,
    average_noisy_keys,
    average_two,
    copy_one,
    guess_among_shown,
    recall_rows,
    recover,
    share_of_stretched_key,
    train_recall,
)


def test_attention_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(3, n, 16, generator=generator, dtype=torch.float64) for n in (2, 5, 5))
    output, weights = attend(queries, keys, values)
    for sample in range(3):
        for head in range(2):
            scores = [math.exp(float(queries[sample, head] @ key)) for key in keys[sample]]
            expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
            torch.testing.assert_close(weights[sample, head], expected, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(output[sample, head], expected @ values[sample], rtol=1e-6, atol=1e-7)


def test_weights_are_a_distribution_and_a_large_gap_copies():
    gaps = torch.linspace(0, 30, 16, dtype=torch.float64)
    copying = copy_one(gaps)
    torch.testing.assert_close(copying.weights.sum(dim=-1), torch.ones_like(gaps))
    assert (copying.weights > 0).all()
    assert (copying.error <= copying.bound + 1e-6).all()
    assert (copying.error.diff() < 0).all()
    assert copying.error[-1] < 1e-6
    torch.testing.assert_close(copying.weights[0], torch.full((8,), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize("orthonormal_columns", [False, True])
def test_a_projection_takes_a_vector_back_and_a_transpose_its_coordinates(orthonormal_columns):
    recovery = recover(orthonormal_columns=orthonormal_columns)
    torch.testing.assert_close(recovery.by_projection, recovery.vector)
    assert torch.allclose(recovery.by_transpose, recovery.coordinates) == orthonormal_columns


def test_a_sum_of_keys_asks_for_the_mean():
    error = average_two(torch.tensor([0.0, 5.0, 20.0], dtype=torch.float64))
    assert error[0] > 0.3
    assert error[1] < 0.05
    assert error[2] < 1e-6


def test_one_head_swings_and_follows_the_closed_form():
    beta = 20.0
    noisy = average_noisy_keys(beta, 1e-8, stretched=True)
    usable = noisy.length > 0.5  # below, the other keys get their share
    torch.testing.assert_close(
        noisy.one_head[usable], share_of_stretched_key(noisy.length[usable], beta), rtol=0, atol=0.02
    )
    assert ((noisy.one_head < 0.1) | (noisy.one_head > 0.9)).double().mean() > 0.75
    assert (noisy.two_heads - 0.5).abs().median() < 1e-3
    assert noisy.spread_of_two < noisy.spread_of_one / 3


def test_without_a_stretched_key_one_head_is_enough():
    noisy = average_noisy_keys(20.0, 1e-6, stretched=False)
    assert (noisy.one_head - 0.5).abs().max() < 0.05
    assert noisy.spread_of_one < 1e-3


def test_what_is_to_be_recalled_stood_after_the_same_letter():
    ids, labels = recall_rows(50, torch.Generator().manual_seed(0))
    for row, wanted in zip(ids.tolist(), labels.tolist(), strict=True):
        assert len(set(row[::2])) <= SHOWN
        assert max(row[::2]) < NUM_SYMBOLS <= min(row[1::2])
        for place in range(len(row)):
            before = [row[i + 1] for i in range(0, place - 1, 2) if place % 2 and row[i] == row[place - 1]]
            assert wanted[place] == (before[0] if before else -100)


def test_dot_products_recall_and_the_synthesizer_guesses():
    dot_product, synthesizer = (train_recall(kind, steps=120, every=40) for kind in ("dot_product", "synthesizer"))
    assert dot_product[0] < 0.1
    assert dot_product[-1] > 0.95
    assert abs(synthesizer[-1] - guess_among_shown()) < 0.1
