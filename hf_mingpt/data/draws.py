"""Random numbers and permutations that are functions of their address, `(seed, epoch, index)`, and of nothing else.

A draw therefore does not depend on the batch, the worker, the rank or the number of processes.

References: Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators (the mixing function of
SplitMix64); Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains (the permutation).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


def uniform_draws(seed: int, epoch: int, index: np.ndarray, num_draws: int) -> np.ndarray:
    """Draws independent uniform numbers.

    Args:
        seed, epoch: of the run.
        index: (N,) indices of the documents, the same in every epoch.
        num_draws: numbers for each document.

    Returns:
        (N, num_draws) float64 in [0, 1). Equal addresses give equal numbers, whatever else is in the batch.
    """
    bits = random_bits((seed, epoch, index), num_draws)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: np.ndarray, size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Looks up positions in the order of an epoch, which is a permutation of range(size).

    The permutation is a Feistel network over the smallest even number of bits that holds `size`; a result outside the
    range is encrypted again (cycle walking). The order of a billion documents therefore needs no memory. The order of
    up to a quarter of a million documents is computed once and kept.

    Args:
        positions: (N,) from 0 to `size` - 1.
        size: documents of the epoch.
        seed, epoch: the address of the permutation.
    """
    if size <= _SMALL_EPOCH:
        return _whole_permutation(size, seed, epoch)[positions]
    return _permute(positions, size, seed, epoch)


_SMALL_EPOCH = 1 << 18


@lru_cache(maxsize=4)  # this epoch and the next one, of the documents and of the questions
def _whole_permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return _permute(np.arange(size), size, seed, epoch)


def _permute(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    ones = (np.uint64(1) << half) - np.uint64(1)
    keys = random_bits((seed, epoch), _FEISTEL_ROUNDS)[0]

    def encrypt(number: np.ndarray) -> np.ndarray:
        left, right = number >> half, number & ones
        with np.errstate(over="ignore"):
            for key in keys:
                left, right = right, left ^ (_mix(right ^ key) & ones)
        return left << half | right

    permuted = encrypt(np.asarray(positions, dtype=np.uint64))
    while (outside := permuted >= size).any():
        permuted[outside] = encrypt(permuted[outside])
    return permuted.astype(np.int64)


_FEISTEL_ROUNDS = 8


def random_bits(address: Sequence[int | np.ndarray], num_draws: int) -> np.ndarray:
    """64-bit hashes of N addresses, `num_draws` for each: (N, num_draws) uint64."""
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for part in address:
            state = _mix(state ^ _mix(np.atleast_1d(np.asarray(part, dtype=np.uint64)) + _GOLDEN))
        steps = np.arange(1, num_draws + 1, dtype=np.uint64) * _GOLDEN
        return _mix(np.reshape(state, (-1, 1)) + steps)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
