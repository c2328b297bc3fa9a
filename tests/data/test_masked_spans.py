"""What is kept around a masked span."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.salient_spans import (
    choose_spans,
    mask_spans,
)
from hf_mingpt.data.sequences import stack_sequences
from hf_mingpt.data.span_corruption import Spans, move_spans

from .texts import documents_of, salient, spans_of, texts_of


class TestMaskSpans:
    text = "Ada Byron. Ada was born in London ."

    def mask(self, draws, text: str = text, block_size: int = 48, max_context=(99, 99)) -> tuple[str, bool]:
        spans = spans_of(text)
        none = spans.select(np.zeros(len(spans.starts), bool))
        chosen = choose_spans(spans, none, np.array(draws[:1]), policy_probability=0.5)
        sequences, (possible,) = mask_spans(
            spans, chosen, np.array([draws[1:]]), block_size=block_size, max_context=np.array([max_context])
        )
        (masked,) = texts_of(sequences)
        if possible:
            assert masked.split("⁇", 2)[2] == masked[sequences.first_label[0] + 1 :]  # behind the second MASK
            assert len(masked) <= block_size
        return masked, bool(possible)

    @pytest.mark.parametrize(
        ("draws", "expected"),
        [
            ([0.9, 0.99, 0.99], "Ada Byron. Ada was born in ⁇ .⁇London⁇"),
            ([0.9, 0.0, 0.0], "Ada Byron. ⁇⁇London⁇"),
            ([0.9, 0.5, 0.0], "Ada Byron. born in ⁇⁇London⁇"),
            ([0.0, 0.9, 0.7], "Ada Byron. da was born in ⁇ .⁇London⁇"),
        ],
    )
    def test_literal(self, draws, expected):
        assert self.mask(draws) == (expected, True)

    def test_fits_the_context_length(self):
        assert self.mask([0.9, 0.99, 0.99], block_size=24) == ("Ada Byron.  in ⁇⁇London⁇", True)
        assert not self.mask([0.9, 0.99, 0.99], block_size=19)[1]

    def test_keeps_no_more_context_than_max_context(self):
        masked, _ = self.mask([0.9, 0.99, 0.99], max_context=(8, 0))
        assert masked == "Ada Byron. born in ⁇⁇London⁇"

    def test_needs_a_salient_span(self):
        assert not self.mask([0.5, 0.5, 0.5], "Ada. no names here")[1]

    @given(st.text(st.sampled_from("Ab. 1-Z,"), min_size=1, max_size=150), st.tuples(*[st.floats(0, 0.999)] * 3))
    def test_is_a_part_of_the_document(self, text, draws):
        masked, possible = self.mask(list(draws), text, block_size=64)
        if possible:
            context, after, span, end = masked.split("⁇")
            assert end == ""
            stop = re.search(r"(?<![^A-Za-z0-9\-][A-Z])(?<!^[A-Z])\. ", text)  # not that of an initial
            title = text[: stop.end()] if stop else ""
            assert context.startswith(title)
            assert context[len(title) :] + span + after in text
            assert span in salient(text)


def test_masked_spans_and_corrupted_spans_stack():
    corrupted = move_spans(documents_of(["wxyz"]), Spans(np.array([4]), np.array([[1]]), np.array([[2]])))
    draws, max_context = np.zeros((1, 2)), np.array([[9, 9]])
    chosen = np.array([5]), np.array([2])
    masked, _ = mask_spans(spans_of("a. b Cd"), chosen, draws, block_size=48, max_context=max_context)
    assert texts_of(stack_sequences([corrupted, masked])) == ["w⁇z⁇xy□□", "a. ⁇⁇Cd⁇"]


class TestSeveralDocuments:
    """Expected by hand, for documents behind others in the array."""

    texts = ("Eve. saw Rome .", "no name", "Ada Byron. Ada was born in London .", "at Bath, so")

    def mask(self, draws, *, block_size: int = 48, max_context=(99, 99)) -> list[str | None]:
        number = len(self.texts)
        sequences, possible = mask_spans(
            spans_of(*self.texts),
            (np.array([9, 0, 49, 60]), np.array([4, 0, 6, 4])),  # Rome, nothing, London, Bath
            np.array(draws) if np.ndim(draws) > 1 else np.array([draws] * number),
            block_size=block_size,
            max_context=np.array(max_context) if np.ndim(max_context) > 1 else np.array([max_context] * number),
        )
        texts = [text.rstrip("□") for text in texts_of(sequences)]
        for text, first, its in zip(texts, sequences.first_label, possible, strict=True):
            assert not its or text.split("⁇", 2)[2] == text[first + 1 :]
        return [text if its else None for text, its in zip(texts, possible, strict=True)]

    def test_spans(self):
        spans = spans_of(*self.texts)
        assert spans.titles.tolist() == [5, 0, 11, 0]
        assert spans.starts.tolist() == [9, 49, 60]
        assert spans.lengths.tolist() == [4, 6, 4]
        assert spans.offsets.tolist() == [0, 1, 1, 2, 3]

    @pytest.mark.parametrize(
        ("draws", "options", "expected"),
        [
            ((0.99, 0.99), {}, ["Eve. saw ⁇ .⁇Rome⁇", "Ada Byron. Ada was born in ⁇ .⁇London⁇", "at ⁇, so⁇Bath⁇"]),
            ((0.5, 0.5), {}, ["Eve. w ⁇ ⁇Rome⁇", "Ada Byron. born in ⁇ ⁇London⁇", "t ⁇, ⁇Bath⁇"]),
            ((0.0, 0.0), {}, ["Eve. ⁇⁇Rome⁇", "Ada Byron. ⁇⁇London⁇", "⁇⁇Bath⁇"]),
            ((0.5, 0.99), {"block_size": 15}, ["Eve. w ⁇ ⁇Rome⁇", None, "t ⁇, so⁇Bath⁇"]),
            ((0.99, 0.99), {"block_size": 15}, ["Eve. aw ⁇⁇Rome⁇", None, "at ⁇, so⁇Bath⁇"]),
            ((0.99, 0.99), {"block_size": 20}, ["Eve. saw ⁇ .⁇Rome⁇", "Ada Byron. ⁇⁇London⁇", "at ⁇, so⁇Bath⁇"]),
            ((0.99, 0.99), {"max_context": (3, 1)}, ["Eve. aw ⁇ ⁇Rome⁇", "Ada Byron. in ⁇ ⁇London⁇", "at ⁇,⁇Bath⁇"]),
            (
                [(0.3, 0.0), (0.0, 0.0), (0.0, 0.5), (0.99, 0.7)],
                {"max_context": [(99, 99), (99, 99), (0, 99), (2, 2)]},
                ["Eve.  ⁇⁇Rome⁇", "Ada Byron. ⁇ ⁇London⁇", "t ⁇, ⁇Bath⁇"],
            ),
        ],
    )
    def test_context_before_and_after(self, draws, options, expected):
        first, none, *others = self.mask(draws, **options)
        assert none is None
        assert [first, *others] == expected
