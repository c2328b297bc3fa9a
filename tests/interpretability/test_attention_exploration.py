"""The claims of docs/attention.md, each compared with something independent."""

import math

import pytest
import torch

from hf_mingpt.interpretability.attention_exploration import (
    NUM_SYMBOLS,
    SHOWN,
    attend,
    average_noisy_keys,
    average_two,
    chance_accuracy,
    copy_one,
    orthonormal,
    recall_sequences,
    recover,
    train_recall,
    weight_of_stretched_key,
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


def test_weights_are_a_distribution_and_a_large_gap_copies_a_value():
    gaps = torch.linspace(0, 30, 16, dtype=torch.float64)
    copying = copy_one(gaps)
    torch.testing.assert_close(copying.weights.sum(dim=-1), torch.ones_like(gaps))
    assert (copying.weights > 0).all()
    assert (copying.error <= copying.bound + 1e-6).all()
    assert (copying.error.diff() < 0).all()
    assert copying.error[-1] < 1e-6
    torch.testing.assert_close(copying.weights[0], torch.full((8,), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize("orthonormal_columns", [False, True])
def test_a_projection_recovers_a_vector_and_a_transpose_its_coordinates(orthonormal_columns):
    recovery = recover(orthonormal_columns=orthonormal_columns)
    torch.testing.assert_close(recovery.by_projection, recovery.vector)
    assert torch.allclose(recovery.by_transpose, recovery.coordinates) == orthonormal_columns


def test_a_sum_of_keys_as_query_averages_the_values():
    error = average_two(torch.tensor([0.0, 5.0, 20.0], dtype=torch.float64))
    assert error[0] > 0.3
    assert error[1] < 0.05
    assert error[2] < 1e-6


def test_one_head_is_unstable_and_follows_the_closed_form():
    beta = 20.0
    noisy = average_noisy_keys(beta, 1e-8, stretched=True)
    usable = noisy.length > 0.5  # below that, the other keys get weight
    torch.testing.assert_close(
        noisy.one_head[usable], weight_of_stretched_key(noisy.length[usable], beta), rtol=0, atol=0.02
    )
    assert ((noisy.one_head < 0.1) | (noisy.one_head > 0.9)).double().mean() > 0.75
    assert (noisy.two_heads - 0.5).abs().median() < 1e-3
    assert noisy.variance_of_two < noisy.variance_of_one / 3


def test_one_head_suffices_without_a_stretched_key():
    noisy = average_noisy_keys(20.0, 1e-6, stretched=False)
    assert (noisy.one_head - 0.5).abs().max() < 0.05
    assert noisy.variance_of_one < 1e-3


def test_a_label_is_the_token_after_the_same_letter():
    ids, labels = recall_sequences(50, torch.Generator().manual_seed(0))
    for row, targets in zip(ids.tolist(), labels.tolist(), strict=True):
        assert len(set(row[::2])) <= SHOWN
        assert max(row[::2]) < NUM_SYMBOLS <= min(row[1::2])
        for place in range(len(row)):
            before = [row[i + 1] for i in range(0, place - 1, 2) if place % 2 and row[i] == row[place - 1]]
            assert targets[place] == (before[0] if before else -100)


def test_dot_products_recall_and_the_synthesizer_stays_at_chance():
    dot_product, synthesizer = (train_recall(kind, steps=120, every=40) for kind in ("dot_product", "synthesizer"))
    assert dot_product[0] < 0.1
    assert dot_product[-1] > 0.95
    assert abs(synthesizer[-1] - chance_accuracy()) < 0.1


def softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [value / sum(exponentials) for value in exponentials]


class TestByHand:
    def test_vectors_are_orthonormal(self):
        vectors = orthonormal(5, torch.Generator().manual_seed(0))
        assert vectors.shape == (5, 16)
        assert vectors.dtype == torch.float64
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64))

    @pytest.mark.parametrize(("num_keys", "gap"), [(8, 0.0), (8, 2.0), (3, 1.0)])
    def test_the_weights_of_a_gap(self, num_keys, gap):
        copying = copy_one(torch.tensor([gap], dtype=torch.float64), num_keys=num_keys, seed=2)
        assert copying.weights[0].tolist() == pytest.approx(softmax([gap] + [0] * (num_keys - 1)))
        others = (num_keys - 1) / (num_keys - 1 + math.exp(gap))
        assert 0 < copying.error[0] <= copying.bound[0] <= 2 * others  # values have length 1
        assert copying.weights[0, 1:].sum() == pytest.approx(others)

    def test_two_keys_reach_the_bound(self):
        copying = copy_one(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), num_keys=2)
        torch.testing.assert_close(copying.error, copying.bound, rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize(("num_keys", "beta"), [(8, 0.0), (8, 1.5), (4, 2.5)])
    def test_the_distance_from_the_mean(self, num_keys, beta):
        """With orthonormal values, the error is 1/2 - w along the two, and w' along each of the others."""
        weights = softmax([beta, beta] + [0] * (num_keys - 2))
        expected = math.sqrt(2 * (0.5 - weights[0]) ** 2 + (num_keys - 2) * weights[-1] ** 2)
        betas = torch.tensor([beta], dtype=torch.float64)
        assert average_two(betas, num_keys=num_keys, seed=3).item() == pytest.approx(expected, rel=1e-6)

    def test_the_variance_with_noisy_keys(self):
        """Compared with the formula of attention on the same random keys."""
        beta, alpha, samples = 3.0, 0.04, 50
        for stretched in (False, True):
            generator = torch.Generator().manual_seed(4)
            means, values = orthonormal(5, generator), orthonormal(5, generator)
            noise = torch.randn(samples, 5, 16, generator=generator, dtype=torch.float64)
            keys = means + 0.2 * noise
            if stretched:
                keys[:, 0] += torch.randn(samples, 1, generator=generator, dtype=torch.float64) / 2**0.5 * means[0]
            outputs = [
                torch.softmax(keys @ (beta * query), dim=-1) @ values
                for query in (means[0] + means[1], means[0], means[1])
            ]
            both = (outputs[1] + outputs[2]) / 2
            found = average_noisy_keys(beta, alpha, stretched=stretched, samples=samples, num_keys=5, seed=4)
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(found.length, keys[:, 0] @ means[0])
            torch.testing.assert_close(found.one_head, outputs[0] @ values[0], **close)
            torch.testing.assert_close(found.two_heads, both @ values[0], **close)
            assert found.variance_of_one == pytest.approx(outputs[0].var(dim=0).sum().item(), rel=1e-5)
            assert found.variance_of_two == pytest.approx(both.var(dim=0).sum().item(), rel=1e-5)

    def test_defaults_are_those_of_docs_attention(self):
        """Eight keys, 4000 samples, seed 0."""
        gaps = torch.tensor([1.0], dtype=torch.float64)
        for ours, expected in zip(copy_one(gaps), copy_one(gaps, num_keys=8, seed=0), strict=True):
            assert torch.equal(ours, expected)
        assert torch.equal(average_two(gaps), average_two(gaps, num_keys=8, seed=0))
        found = average_noisy_keys(5.0, 0.1, stretched=True)
        expected = average_noisy_keys(5.0, 0.1, stretched=True, samples=4000, num_keys=8, seed=0)
        assert found.variance_of_one == expected.variance_of_one
        assert found.length.shape == (4000,)
        for ours, expected in zip(
            recover(orthonormal_columns=False), recover(orthonormal_columns=False, seed=0), strict=True
        ):
            assert torch.equal(ours, expected)
        assert chance_accuracy() == chance_accuracy(1000, 0) != chance_accuracy(1000, 1)
        assert train_recall("dot_product", steps=10) == train_recall("dot_product", steps=10, every=10, seed=0)

    def test_shapes_of_a_recovery(self):
        recovery = recover(orthonormal_columns=True)
        assert recovery.vector.shape == (16,)
        assert recovery.coordinates.shape == recovery.by_transpose.shape == (4,)
        assert recovery.vector.norm() == pytest.approx(recovery.coordinates.norm().item())  # A keeps lengths

    def test_the_closed_form(self):
        lengths = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        expected = [1 / (1 + math.exp(3 * (1 - length))) for length in lengths.tolist()]
        assert weight_of_stretched_key(lengths, 3.0).tolist() == pytest.approx(expected)

    def test_recall_sequences(self):
        ids, labels = recall_sequences(400, torch.Generator().manual_seed(1))
        assert ids.shape == labels.shape == (400, 32)
        assert set(ids[:, ::2].unique().tolist()) == set(range(32))
        assert set(ids[:, 1::2].unique().tolist()) == set(range(32, 64))
        assert (NUM_SYMBOLS, SHOWN) == (32, 8)
        assert max(len(set(row)) for row in ids[:, ::2].tolist()) == 8

    def test_chance_is_a_guess_among_the_answers_of_the_letters_so_far(self):
        ids, labels = recall_sequences(30, torch.Generator().manual_seed(5))
        chances = []
        for row, targets in zip(ids.tolist(), labels.tolist(), strict=True):
            for place in range(1, 32, 2):
                if targets[place] != -100:
                    answer_of = dict(zip(row[: place - 1 : 2], row[1:place:2], strict=True))  # of the letters before
                    same = list(answer_of.values()).count(targets[place])
                    chances.append((same, len(answer_of)))
        assert chance_accuracy(30, 5) == pytest.approx(sum(same / shown for same, shown in chances) / len(chances))
        assert any(same == 2 for same, _ in chances)  # two letters may have the same answer

    def test_accuracy_is_measured_every_few_steps(self):
        before, *after = train_recall("dot_product", steps=7, every=3, seed=1)
        assert len(after) == 2
        assert train_recall("dot_product", steps=5, every=3, seed=1) == [before, after[0]]
        assert train_recall("dot_product", steps=0, every=3, seed=1) == [before]

    def test_each_position_gets_the_token_before_it(self, monkeypatch):
        """The first position gets an extra token."""
        seen, forward = {}, torch.nn.Embedding.forward

        def remember(embedding, ids):
            seen[embedding.num_embeddings] = ids
            return forward(embedding, ids)

        monkeypatch.setattr(torch.nn.Embedding, "forward", remember)
        train_recall("dot_product", steps=0)
        assert (seen[65][:, 0] == 64).all()
        assert torch.equal(seen[65][:, 1:], seen[64][:, :-1])
