import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.draws import uniform_draws
from hf_mingpt.data.span_corruption import Spans, check_room, draw_spans, max_truncated_length, move_spans

from .texts import documents_of, texts_of


def move(texts: list[str], truncated, start, length) -> list[str]:
    return texts_of(move_spans(documents_of(texts), Spans(*map(np.asarray, (truncated, start, length)))))


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
    assert move(["abcdef"], [truncated], [[start]], [[length]]) == [expected]


def test_several_documents_are_padded_to_the_longest():
    assert move(["abcdef", "wxyz"], [6, 4], [[1], [3]], [[2], [1]]) == ["a⁇def⁇bc", "wxy⁇⁇z□□"]


def test_several_spans():
    moved = move(["abcdefghi", "wxyz"], [9, 4], [[1, 3, 8], [0, 1, 3]], [[1, 2, 1], [1, 1, 0]])
    assert moved == ["a⁇c⁇fgh⁇⁇b⁇de⁇i", "⁇⁇y⁇z⁇w⁇x⁇□□□□□"]


GOLDEN = [[98, 17, 68, 68], [14, 9, 3, 35], [19, 5, 19, 29]]


def test_exact_draws_by_seed():
    """Golden values: if they change, every run changes."""
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
        assert (other.start != whole.start).mean() > 0.5


documents = st.lists(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=160), min_size=1)


@given(documents, st.integers(0, 2**32), st.integers(0, 2**20), st.sampled_from([(8, 1), (48, 3), (128, 1), (128, 8)]))
def test_the_truncated_document_can_be_restored(texts, seed, epoch, sizes):
    block_size, num_spans = sizes
    spans = draw([len(text) for text in texts], seed, epoch, block_size=block_size, num_spans=num_spans)
    moved = move(texts, *spans)
    assert len(moved[0]) <= block_size + 1  # the last token is only a label
    for sequence, text, n, starts, lengths in zip(moved, texts, *spans, strict=True):
        assert min(4, len(text)) <= n <= min(len(text), max_truncated_length(block_size))
        assert set(sequence[n + 2 * num_spans :]) <= {"□"}
        segments = sequence[: n + 2 * num_spans].split("⁇")
        kept, masked = segments[: num_spans + 1], segments[num_spans + 1 :]
        assert [len(span) for span in masked] == lengths.tolist()
        assert len(kept[0]) == starts[0]
        assert lengths.min() >= (n >= num_spans)
        restored = kept[0] + "".join(span + rest for span, rest in zip(masked, kept[1:], strict=True))
        assert restored == text[:n]


class TestStatistics:
    """One million draws with fixed seeds: the tests repeat exactly, so they cannot fail by chance."""

    N = 1_000_000

    def test_truncated_length_is_uniform_on_4_to_112(self):
        counts = np.bincount(draw(np.full(self.N, 500)).truncated_length)
        assert np.flatnonzero(counts).tolist() == list(range(4, 113))
        expected = self.N / 109
        assert ((counts[4:] - expected) ** 2 / expected).sum() < 158  # the 99.9 % point for 108 degrees of freedom

    @pytest.mark.parametrize("length", [4, 5, 6, 7, 20, 51, 112])
    def test_span_length_has_a_mean_of_a_quarter(self, length):
        spans = draw(np.full(self.N, length), seed=length, epoch=1)
        spans = Spans(*(part[spans.truncated_length == length] for part in spans))
        number = len(spans.length)
        deviation = spans.length.std() / math.sqrt(number)
        assert abs(spans.length.mean() - length / 4) <= 3.3 * deviation
        assert spans.length.min() == 1
        assert spans.length.max() == max(1, (length + 1) // 2 - 1)

    def test_start_is_uniform_over_all_that_fit(self):
        truncated, start, length = draw(np.full(self.N, 20), seed=5)
        starts = start[(truncated == 20) & (length[:, 0] == 5), 0]
        counts = np.bincount(starts, minlength=16)
        expected = len(starts) / 16
        assert len(counts) == 16
        assert ((counts - expected) ** 2 / expected).sum() < 37.7  # the 99.9 % point for 15 degrees of freedom


def test_a_context_without_room_is_an_error():
    with pytest.raises(ValueError, match="block_size 4"):
        draw([10], block_size=4)
    for number in (0, 9):
        with pytest.raises(ValueError, match=f"num_spans is {number}: with block_size 128, use 1 to 8"):
            draw([10], num_spans=number)


@pytest.mark.parametrize("num_spans", [1, 2, 3])
def test_spans_one_document_at_a_time(num_spans):
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
def test_room_of_a_context(block_size, longest, most):
    assert max_truncated_length(block_size) == longest
    check_room(block_size, 1)
    check_room(block_size, most)
    with pytest.raises(ValueError, match=f"num_spans is {most + 1}: with block_size {block_size}, use 1 to {most}"):
        check_room(block_size, most + 1)
    with pytest.raises(ValueError, match="block_size 7"):
        check_room(7, 1)
