import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.corruption import (
    Spans,
    draw_spans,
    join_pieces,
    max_truncated_length,
    move_spans,
    permute,
    uniform_draws,
)

MASK_ID, PAD_ID = 1, 0


def ids(text: str) -> np.ndarray:
    return np.array([{"□": PAD_ID, "⁇": MASK_ID}.get(character, ord(character)) for character in text])


def move(text: str, starts: list[int], spans: Spans) -> np.ndarray:
    pieces = move_spans(np.array(starts), Spans(*map(np.asarray, spans)))
    return join_pieces(ids(text), pieces, mask_id=MASK_ID, pad_id=PAD_ID)


@pytest.mark.parametrize(
    ("truncated", "start", "length", "expected"),
    [
        (6, 1, 2, "a⁇def⁇bc"),
        (6, 0, 2, "⁇cdef⁇ab"),
        (6, 4, 2, "abcd⁇⁇ef"),
        (4, 1, 1, "a⁇cd⁇b"),
        (6, 0, 6, "⁇⁇abcdef"),
    ],
)
def test_literal(truncated, start, length, expected):
    np.testing.assert_array_equal(move("abcdef", [0], Spans([truncated], [[start]], [[length]])), [ids(expected)])


def test_batch_is_padded_to_the_longest():
    rows = move("abcdefwxyz", [0, 6], Spans([6, 4], [[1], [3]], [[2], [1]]))
    np.testing.assert_array_equal(rows, [ids("a⁇def⁇bc"), ids("wxy⁇⁇z□□")])


def test_several_spans():
    spans = Spans([9, 4], [[1, 3, 8], [0, 1, 3]], [[1, 2, 1], [1, 1, 0]])
    expected = [ids("a⁇c⁇fgh⁇⁇b⁇de⁇i"), ids("⁇⁇y⁇z⁇w⁇x⁇□□□□□")]
    np.testing.assert_array_equal(move("abcdefghiwxyz", [0, 9], spans), expected)


GOLDEN_ORDER = [
    245700092271, 788184487454, 726659991819, 145390946598, 942911152778, 801502435428, 829338414041, 500677882068,
]  # fmt: skip
GOLDEN = [[98, 17, 68, 68], [14, 9, 3, 35], [19, 5, 19, 29]]


def test_exact_draws_by_seed():
    """Golden values: a change of them changes every run."""
    spans = draw_spans(np.full(4, 200), block_size=128, seed=7, epoch=2, index=np.array([0, 1, 2, 1_000_000_007]))
    assert [part.ravel().tolist() for part in spans] == GOLDEN


def draw(lengths, seed=0, epoch=0, index=None, block_size=128, num_spans=1) -> Spans:
    index = np.arange(len(lengths)) if index is None else index
    address = {"seed": seed, "epoch": epoch, "index": index}
    return draw_spans(np.asarray(lengths), block_size=block_size, num_spans=num_spans, **address)


def test_draws_depend_on_their_address_only():
    lengths = np.arange(5, 205)
    whole = draw(lengths, seed=3, epoch=4)
    for order in (np.arange(200)[::-1], np.array([17]), np.array([190, 3, 17])):
        part = draw(lengths[order], seed=3, epoch=4, index=order)
        for ours, all_ in zip(part, whole, strict=True):
            np.testing.assert_array_equal(ours, all_[order])
    for other in (draw(lengths, seed=3, epoch=5), draw(lengths, seed=4, epoch=4)):
        assert (other.span_start != whole.span_start).mean() > 0.5


documents = st.lists(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=160), min_size=1)


@given(documents, st.integers(0, 2**32), st.integers(0, 2**20), st.sampled_from([(8, 1), (48, 3), (128, 1), (128, 8)]))
def test_nothing_is_lost(texts, seed, epoch, sizes):
    """The truncated document can be put together again from the row, and the row fits the block."""
    block_size, num_spans = sizes
    lengths = np.array([len(text) for text in texts])
    spans = draw(lengths, seed, epoch, block_size=block_size, num_spans=num_spans)
    rows = move("".join(texts), np.cumsum(lengths) - lengths, spans)
    assert rows.shape[1] <= block_size + 1
    for row, text, n, starts, span_lengths in zip(rows, texts, *spans, strict=True):
        assert min(4, len(text)) <= n <= min(len(text), max_truncated_length(block_size))
        assert (row[n + 2 * num_spans :] == PAD_ID).all()
        pieces = np.split(row[: n + 2 * num_spans], np.flatnonzero(row == MASK_ID))
        pieces = [pieces[0], *(piece[1:] for piece in pieces[1:])]
        kept, masked = pieces[: num_spans + 1], pieces[num_spans + 1 :]
        assert [len(span) for span in masked] == span_lengths.tolist()
        assert len(kept[0]) == starts[0]
        assert span_lengths.min() >= (n >= num_spans)
        text_again = [kept[0], *(part for pair in zip(masked, kept[1:], strict=True) for part in pair)]
        np.testing.assert_array_equal(np.concatenate(text_again), ids(text[:n]))


class TestPermutation:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 64, 65, 1000, 1025])
    def test_every_place_is_taken_once(self, size):
        order = permute(np.arange(size), size, seed=3, epoch=2)
        assert sorted(order) == list(range(size))
        np.testing.assert_array_equal(permute(np.array([size - 1, 0]), size, seed=3, epoch=2), order[[-1, 0]])

    def test_exact_order_by_seed(self):
        """A golden value: a change of it changes every run."""
        assert permute(np.arange(8), 1_000_000_000_000, seed=7, epoch=2).tolist() == GOLDEN_ORDER

    def test_is_another_one_for_every_seed_and_epoch(self):
        first, *others = (permute(np.arange(500), 500, seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0)))
        assert all((first == other).sum() < 10 for other in others)

    @pytest.mark.parametrize("size", [10, 12, 17])
    def test_every_place_leads_anywhere_equally_often(self, size):
        orders = np.stack([permute(np.arange(size), size, seed=0, epoch=epoch) for epoch in range(5_000)])
        for place in range(size):
            counts = np.bincount(orders[:, place], minlength=size)
            expected = len(orders) / size
            assert ((counts - expected) ** 2 / expected).sum() < 45  # the 99.9 % point for 16 degrees is 39.3
        follows = ((orders[:, 1:] - orders[:, :-1]) == 1).mean()
        assert follows == pytest.approx(1 / size, rel=0.05)


class TestStatistics:
    """One million draws at fixed seeds: the tests are exact repetitions, so they cannot fail by chance."""

    N = 1_000_000

    def test_uniform_draws(self):
        draws = uniform_draws(0, 0, np.arange(self.N), 4)
        assert draws.min() >= 0
        assert draws.max() < 1
        for column in draws.T:
            counts, _ = np.histogram(column, bins=100, range=(0, 1))
            chi_squared = ((counts - self.N / 100) ** 2 / (self.N / 100)).sum()
            assert chi_squared < 149  # the 99.9 % point for 99 degrees of freedom
        correlations = np.corrcoef(draws.T)[np.triu_indices(4, 1)]
        assert np.abs(correlations).max() < 4 / math.sqrt(self.N)
        neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
        epochs = np.corrcoef(draws[:, 0], uniform_draws(0, 1, np.arange(self.N), 1)[:, 0])[0, 1]
        assert max(abs(neighbours), abs(epochs)) < 4 / math.sqrt(self.N)

    def test_truncated_length_is_uniform_on_4_to_112(self):
        counts = np.bincount(draw(np.full(self.N, 500)).truncated_length)
        assert np.flatnonzero(counts).tolist() == list(range(4, 113))
        expected = self.N / 109
        assert ((counts[4:] - expected) ** 2 / expected).sum() < 158  # the 99.9 % point for 108 degrees of freedom

    @pytest.mark.parametrize("length", [4, 5, 6, 7, 20, 51, 112])
    def test_span_length_has_a_mean_of_a_quarter(self, length):
        spans = draw(np.full(self.N, length), seed=length, epoch=1)
        spans = Spans(*(part[spans.truncated_length == length] for part in spans))
        number = len(spans.span_length)
        deviation = spans.span_length.std() / math.sqrt(number)
        assert abs(spans.span_length.mean() - length / 4) <= 3.3 * deviation
        assert spans.span_length.min() == 1
        assert spans.span_length.max() == max(1, (length + 1) // 2 - 1)

    def test_place_is_uniform_over_all_that_fit(self):
        truncated, start, length = draw(np.full(self.N, 20), seed=5)
        starts = start[(truncated == 20) & (length[:, 0] == 5), 0]
        counts = np.bincount(starts, minlength=16)
        expected = len(starts) / 16
        assert len(counts) == 16
        assert ((counts - expected) ** 2 / expected).sum() < 37.7  # the 99.9 % point for 15 degrees of freedom


def test_a_block_without_room_is_an_error():
    with pytest.raises(ValueError, match="block_size 4"):
        draw([10], block_size=4)
    for number in (0, 9):
        with pytest.raises(ValueError, match=f"num_spans is {number}: in a block of 128 it is from 1 to 8"):
            draw([10], num_spans=number)
