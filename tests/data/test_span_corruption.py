import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.draws import permute, random_bits, uniform_draws
from hf_mingpt.data.sequences import Segments, join_segments, stack_segments
from hf_mingpt.data.span_corruption import Spans, check_room, draw_spans, max_truncated_length, move_spans

MASK_ID, PAD_ID = 1, 0


def ids(text: str) -> np.ndarray:
    return np.array([{"□": PAD_ID, "⁇": MASK_ID}.get(character, ord(character)) for character in text])


def move(text: str, starts: list[int], spans: Spans) -> np.ndarray:
    pieces = move_spans(np.array(starts), Spans(*map(np.asarray, spans)))
    return join_segments(ids(text), pieces, mask_id=MASK_ID, pad_id=PAD_ID)


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


class TestByHand:
    """The same in Python's integers, one number at a time."""

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

    @pytest.mark.parametrize("num_spans", [1, 2, 3])
    def test_spans(self, num_spans):
        lengths = [1, 2, 3, 4, 5, 6, 9, 20, 41, 42, 43, 99] * 5
        spans = draw(lengths, seed=6, epoch=1, block_size=48, num_spans=num_spans)
        draws = uniform_draws(6, 1, np.arange(len(lengths)), 1 + 3 * num_spans).tolist()
        for n, starts, span_lengths, length, (first, *others) in zip(*spans, lengths, draws, strict=True):
            assert n == min(4 + int(first * 39), length)  # one of 4 to 42
            for k, (rounding, of_length, of_place) in enumerate(zip(*[iter(others)] * 3, strict=True)):
                start, end = n * k // num_spans, n * (k + 1) // num_spans
                longest = max((end - start + (rounding < 0.5)) // 2 - 1, 1)
                assert span_lengths[k] == min(1 + int(of_length * longest), end - start)
                assert starts[k] == start + int(of_place * (end - start - span_lengths[k] + 1))


@pytest.mark.parametrize(("block_size", "longest", "most"), [(8, 7, 1), (9, 7, 1), (48, 42, 3), (100, 87, 7)])
def test_room_of_a_block(block_size, longest, most):
    assert max_truncated_length(block_size) == longest
    check_room(block_size, 1)
    check_room(block_size, most)
    with pytest.raises(ValueError, match=f"num_spans is {most + 1}: in a block of {block_size} it is from 1 to {most}"):
        check_room(block_size, most + 1)
    with pytest.raises(ValueError, match="block_size 7"):
        check_room(7, 1)


class TestPieces:
    """The rows "ab⁇" and "c" of the tokens "abc"."""

    pieces = Segments(np.array([[0, -1], [2, 0]]), np.array([[2, 1], [1, 0]]), np.array([1, 0]))

    def join(self, text: str, pieces: Segments, **options) -> list[str]:
        rows = join_segments(ids(text), pieces, mask_id=MASK_ID, pad_id=PAD_ID, **options)
        return ["".join({PAD_ID: "□", MASK_ID: "⁇"}.get(i, chr(i)) for i in row) for row in rows.tolist()]

    def test_are_joined_to_a_width(self):
        assert self.pieces.row_lengths.tolist() == [3, 1]
        for multiple, rows in ((1, ["ab⁇", "c□□"]), (2, ["ab⁇□", "c□□□"]), (3, ["ab⁇", "c□□"])):
            assert self.join("abc", self.pieces, pad_to_multiple_of=multiple) == rows

    def test_are_shifted_with_their_array_but_for_the_marks(self):
        shifted = self.pieces.shift(2)
        assert shifted.starts.tolist() == [[2, -1], [4, 2]]
        assert self.join("xyabc", shifted) == ["ab⁇", "c□□"]
        assert shifted.lengths is self.pieces.lengths
        assert shifted.first_label is self.pieces.first_label

    def test_are_selected_row_by_row(self):
        selected = self.pieces.select(np.array([1, 0, 1]))
        assert self.join("abc", selected) == ["c□□", "ab⁇", "c□□"]
        assert selected.first_label.tolist() == [0, 1, 0]

    def test_of_different_numbers_are_stacked(self):
        other = Segments(np.array([[2, 1, -1]]), np.array([[1, 2, 1]]), np.array([3]))
        stacked = stack_segments([self.pieces, other, self.pieces])
        assert self.join("abc", stacked) == ["ab⁇□", "c□□□", "cbc⁇", "ab⁇□", "c□□□"]
        assert stacked.starts.shape == (5, 3)
        assert stacked.lengths[:2].tolist() == [[2, 1, 0], [1, 0, 0]]
        assert stacked.first_label.tolist() == [1, 0, 3, 1, 0]
