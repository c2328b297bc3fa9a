import math

import numpy as np
import pytest

from hf_mingpt.data.draws import permute, random_bits, uniform_draws

GOLDEN_ORDER = [
    245700092271, 788184487454, 726659991819, 145390946598, 942911152778, 801502435428, 829338414041, 500677882068,
]  # fmt: skip


class TestPermutation:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64, 65, 1000, 1025])
    def test_every_position_occurs_once(self, size):
        order = permute(np.arange(size), size, seed=3, epoch=2)
        assert sorted(order) == list(range(size))
        np.testing.assert_array_equal(permute(np.array([size - 1, 0]), size, seed=3, epoch=2), order[[-1, 0]])

    def test_exact_order_by_seed(self):
        """A golden value: if it changes, every run changes."""
        assert permute(np.arange(8), 1_000_000_000_000, seed=7, epoch=2).tolist() == GOLDEN_ORDER

    def test_differs_for_every_seed_and_epoch(self):
        first, *others = (permute(np.arange(500), 500, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0)))
        assert all((first == other).sum() < 10 for other in others)

    @pytest.mark.parametrize("size", [10, 17])
    def test_every_position_leads_anywhere_equally_often(self, size):
        orders = np.stack([permute(np.arange(size), size, seed=0, epoch=epoch) for epoch in range(3_000)])
        for place in range(size):
            counts = np.bincount(orders[:, place], minlength=size)
            expected = len(orders) / size
            assert ((counts - expected) ** 2 / expected).sum() < 45  # the 99.9 % point for 16 degrees is 39.3
        follows = ((orders[:, 1:] - orders[:, :-1]) == 1).mean()
        assert follows == pytest.approx(1 / size, rel=0.05)


def test_uniform_draws_are_uniform_and_uncorrelated():
    """One million draws with a fixed seed: the test repeats exactly, so it cannot fail by chance."""
    number = 1_000_000
    draws = uniform_draws(0, 0, np.arange(number), 4)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        counts, _ = np.histogram(column, bins=100, range=(0, 1))
        chi_squared = ((counts - number / 100) ** 2 / (number / 100)).sum()
        assert chi_squared < 149  # the 99.9 % point for 99 degrees of freedom
    correlations = np.corrcoef(draws.T)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(number)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    epochs = np.corrcoef(draws[:, 0], uniform_draws(0, 1, np.arange(number), 1)[:, 0])[0, 1]
    assert max(abs(neighbours), abs(epochs)) < 4 / math.sqrt(number)


class TestReference:
    """The same with Python's integers, one number at a time."""

    GOLDEN_RATIO, MODULUS = 0x9E3779B97F4A7C15, 2**64

    def mix(self, bits: int) -> int:
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % self.MODULUS
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % self.MODULUS
        return bits ^ (bits >> 31)

    def bits(self, address: tuple[int, ...], number: int) -> list[int]:
        state = 0
        for part in address:
            state = self.mix(state ^ self.mix((part + self.GOLDEN_RATIO) % self.MODULUS))
        return [self.mix((state + i * self.GOLDEN_RATIO) % self.MODULUS) for i in range(1, number + 1)]

    def test_bits(self):
        index = np.array([0, 2**63, 9], dtype=np.uint64)
        assert random_bits((7, index), 3).tolist() == [self.bits((7, i), 3) for i in index.tolist()]
        draws = uniform_draws(5, 4, np.array([0, 9]), 3)
        assert draws.tolist() == [[bits // 2**11 / 2**53 for bits in self.bits((5, 4, i), 3)] for i in (0, 9)]

    @pytest.mark.parametrize(("size", "half"), [(1, 1), (2, 1), (5, 2), (16, 2), (17, 3), (1000, 5), (1025, 6)])
    def test_order(self, size, half):
        def encrypt(number: int) -> int:
            left, right = number >> half, number % 2**half
            for key in self.bits((3, 2), 8):
                left, right = right, left ^ self.mix(right ^ key) % 2**half
            return left * 2**half + right

        for place, permuted in enumerate(permute(np.arange(size), size, seed=3, epoch=2).tolist()):
            expected = encrypt(place)
            while expected >= size:
                expected = encrypt(expected)
            assert permuted == expected
