"""Clozes: what counts as salient, and what is cut around it."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.draws import random_bits
from hf_mingpt.data.salient_spans import (
    CharacterClasses,
    SalientSpans,
    choose_spans,
    find_salient_spans,
    find_titles,
    find_words,
    hash_runs,
    mask_spans,
)
from hf_mingpt.data.sequences import join_segments, stack_segments
from hf_mingpt.data.span_corruption import Spans, move_spans
from hf_mingpt.tokenization_mingpt import MASK_ID, PAD_ID

from .test_span_corruption import ids

KINDS = CharacterClasses.of([chr(i) if i > 1 else " " for i in range(0x180)])


def flatten(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return ids("".join(texts)), np.concatenate(([0], np.cumsum([len(text) for text in texts])))


def titles_and_spans(texts: list[str], *, numbers: bool = True):
    flat, offsets = flatten(texts)
    title_end = (ord("."), ord(" "))
    titles = find_titles(flat, offsets, kinds=KINDS, title_end=title_end)
    return titles, find_salient_spans(flat, offsets, titles, kinds=KINDS, title_end=title_end, numbers=numbers)


def salient(text: str, *others: str, numbers: bool = True) -> list[str]:
    """The salient spans of `text`, as strings, where it stands before and behind the others."""
    found = []
    for texts, place in (([text, *others], 0), ([*others, text], len(others))):
        _, (starts, lengths, offsets) = titles_and_spans(texts, numbers=numbers)
        joined, its = "".join(texts), slice(offsets[place], offsets[place + 1])
        found.append([joined[a : a + n] for a, n in zip(starts[its], lengths[its], strict=True)])
    assert found[0] == found[1]
    return found[0]


class TestSalientSpans:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada Byron. Byron (born 10 May 1815) saw New York. She read.", ["10", "May", "1815", "New York"]),
            ("Ada. Ada (26 May 1840 Rome, Ohio)", ["26", "May", "1840", "Rome", "Ohio"]),
            ("Ada Byron. Her son Byron King, and Ada", ["Byron King"]),  # a part of it is new
            ("Ada Byron. Born in York. New York. In 1815. 1816 too", ["York", "New York", "1815", "1816"]),
            ("Zoë. born in Ålesund", ["Ålesund"]),
            ("Ada. she read Jean-Luc  O'Neill's books", ["Jean-Luc", "O'Neill's"]),
            ("no title, but Paris", ["Paris"]),
            ("Paris", ["Paris"]),
            ("Ada. no names here", []),
            ("Ada. ", []),
            (" .,", []),
        ],
    )
    def test_are_what_the_title_does_not_say(self, text, expected):
        assert salient(text) == expected
        for other in ("Bob. X", "Bob", "Paris. ", "Ada "):  # what stands beside it in the array is no matter
            assert salient(text, other) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. 26 May 1840 Rome", ["Rome"]),
            ("Ada. May 26, 1840, Rome", ["Rome"]),
            ("Ada. in May of 1840", ["May"]),  # no day beside it
            ("Ada. at 26, May Street", ["May Street"]),
        ],
    )
    def test_numbers_and_months_can_be_left_out(self, text, expected):
        assert salient(text, numbers=False) == expected

    def test_documents_that_touch_stay_apart(self):
        titles, spans = titles_and_spans(["Ada", "Bob. in Rome", " Paris", "Eve. x."])
        assert titles.tolist() == [0, 5, 0, 5]
        assert spans.offsets.tolist() == [0, 1, 2, 3, 3]
        assert spans.lengths.tolist() == [3, 4, 5]

    @pytest.mark.parametrize(
        ("text", "title"),
        [
            ("A. F. Kidd. A. F. Kidd wrote.", "A. F. Kidd. "),
            ("J.C. Patterson. He", "J.C. Patterson. "),
            ("Asa G. Yancey, Sr. He", "Asa G. Yancey, Sr. "),
            ("Ada B. wrote. She", "Ada B. wrote. "),
            ("a. X", "a. "),
            ("7. X", "7. "),
            ("A. ", ""),
            (". X", ". "),
        ],
    )
    def test_the_dot_of_an_initial_ends_no_title(self, text, title):
        for before in ("", "B", "Bo", "B."):  # in the array, where it is no matter
            assert titles_and_spans([before, text])[0][1] == len(title)

    def test_a_title_does_not_end_in_the_next_document(self):
        assert titles_and_spans(["Ada.", " Bob. x"])[0].tolist() == [0, 6]


class TestChoice:
    spans = SalientSpans(np.arange(6), np.ones(6, int), np.array([0, 3, 3, 6]))  # of three documents
    sought = np.array([0, 0, 1, 0, 0, 0], bool)

    @pytest.mark.parametrize(
        ("draw", "expected"),
        [(0.1, [2, 3]), (0.69, [2, 5]), (0.75, [0, 5]), (0.81, [1, 5]), (0.99, [2, 5])],
    )
    def test_literal(self, draw, expected):
        chosen = choose_spans(self.spans, self.sought, np.full(3, draw), policy_probability=0.7)
        assert chosen[[0, 2]].tolist() == expected  # the second has none

    @pytest.mark.parametrize(("share", "expected"), [(0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)])
    def test_seeks_as_often_as_it_is_told(self, share, expected):
        number = 30_000
        spans = SalientSpans(np.arange(3 * number), np.ones(3 * number, int), np.arange(0, 3 * number + 1, 3))
        sought = np.tile([False, True, False], number)
        chosen = choose_spans(spans, sought, np.random.default_rng(0).random(number), policy_probability=share)
        places = np.bincount(chosen % 3, minlength=3) / number
        np.testing.assert_allclose(places, [(1 - expected) / 2, expected, (1 - expected) / 2], atol=0.01)

    @given(
        st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=6),
        st.floats(0, 1),
        st.floats(0, 1, exclude_max=True),
    )
    def test_is_of_the_document(self, documents, share, draw):
        offsets = np.append(0, np.cumsum([len(document) for document in documents]))
        sought = np.array([flag for document in documents for flag in document], bool)
        spans = SalientSpans(np.arange(len(sought)), np.ones(len(sought), int), offsets)
        chosen = choose_spans(spans, sought, np.full(len(documents), draw), policy_probability=share)
        for document, flags in enumerate(documents):
            if flags:
                assert offsets[document] <= chosen[document] < offsets[document + 1]
                assert sought[chosen[document]] or draw >= share or not any(flags)


def test_equal_runs_have_equal_hashes_and_others_have_not():
    flat = ids("Rome, Oslo, Rome, emoR, Rom")
    starts, lengths = np.array([0, 6, 12, 18, 24]), np.array([4, 4, 4, 4, 3])
    hashes = hash_runs(flat, starts, lengths)
    assert hashes[0] == hashes[2]
    assert len(set(hashes.tolist())) == 4
    assert hash_runs(flat, starts, lengths, np.arange(5))[0] != hash_runs(flat, starts, lengths, np.arange(5))[2]


class TestClozes:
    text = "Ada Byron. Ada was born in London ."

    def cloze(self, draws, text: str = text, block_size: int = 48, max_context=(99, 99)) -> tuple[str, bool]:
        flat, offsets = flatten([text])
        titles, spans = titles_and_spans([text])
        chosen = choose_spans(spans, np.zeros(len(spans.starts), bool), np.array(draws[:1]), policy_probability=0.5)
        pieces, possible = mask_spans(
            offsets,
            titles,
            spans,
            chosen,
            np.array([draws[1:]]),
            block_size=block_size,
            max_context=np.array([max_context]),
        )
        (row,) = join_segments(flat, pieces, mask_id=MASK_ID, pad_id=PAD_ID)
        assert not possible[0] or pieces.first_label[0] == np.flatnonzero(row == MASK_ID)[1]
        assert len(row) <= block_size or not possible[0]
        return "".join("⁇" if i == MASK_ID else chr(i) for i in row), bool(possible[0])

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
        assert self.cloze(draws) == (expected, True)

    def test_fills_the_block_at_most(self):
        assert self.cloze([0.9, 0.99, 0.99], block_size=24) == ("Ada Byron.  in ⁇⁇London⁇", True)
        assert not self.cloze([0.9, 0.99, 0.99], block_size=19)[1]

    def test_keeps_no_more_context_than_is_allowed(self):
        row, _ = self.cloze([0.9, 0.99, 0.99], max_context=(8, 0))
        assert row == "Ada Byron. born in ⁇⁇London⁇"

    def test_needs_a_salient_span(self):
        assert not self.cloze([0.5, 0.5, 0.5], "Ada. no names here")[1]

    @given(st.text(st.sampled_from("Ab. 1-Z,"), min_size=1, max_size=150), st.tuples(*[st.floats(0, 0.999)] * 3))
    def test_is_cut_from_the_document(self, text, draws):
        row, possible = self.cloze(list(draws), text, block_size=64)
        if possible:
            context, after, span, end = row.split("⁇")
            assert end == ""
            stop = re.search(r"(?<![^A-Za-z0-9\-][A-Z])(?<!^[A-Z])\. ", text)  # of no initial
            title = text[: stop.end()] if stop else ""
            assert context.startswith(title)
            assert context[len(title) :] + span + after in text
            assert span in salient(text)


def test_rows_of_different_documents_stack():
    first = move_spans(np.array([0]), Spans(np.array([4]), np.array([[1]]), np.array([[2]])))
    second, _ = mask_spans(
        *flatten(["a. b Cd"])[1:],
        *titles_and_spans(["a. b Cd"]),
        np.array([0]),
        np.zeros((1, 2)),
        block_size=48,
        max_context=np.array([[9, 9]]),
    )
    rows = stack_segments([first, second.shift(4)])
    joined = join_segments(ids("wxyz" + "a. b Cd"), rows, mask_id=MASK_ID, pad_id=PAD_ID)
    np.testing.assert_array_equal(joined, [ids("w⁇z⁇xy□□"), ids("a. ⁇⁇Cd⁇")])


class TestSeveralDocuments:
    """What is worked out by hand for documents that stand behind others in the array."""

    texts = ("Eve. saw Rome .", "no name", "Ada Byron. Ada was born in London .", "at Bath, so")

    def rows(self, draws, *, block_size: int = 48, max_context=(99, 99)) -> list[str | None]:
        flat, offsets = flatten(list(self.texts))
        titles, spans = titles_and_spans(list(self.texts))
        number = len(self.texts)
        pieces, possible = mask_spans(
            offsets,
            titles,
            spans,
            np.array([0, 0, 1, 2]),  # Rome, what there is not, London, Bath
            np.array(draws) if np.ndim(draws) > 1 else np.array([draws] * number),
            block_size=block_size,
            max_context=np.array(max_context) if np.ndim(max_context) > 1 else np.array([max_context] * number),
        )
        rows = join_segments(flat, pieces, mask_id=MASK_ID, pad_id=PAD_ID)
        texts = ["".join("⁇" if i == MASK_ID else chr(i) for i in row if i != PAD_ID) for row in rows]
        for text, first, its in zip(texts, pieces.first_label, possible, strict=True):
            assert not its or [place for place, character in enumerate(text) if character == "⁇"][1] == first
        return [text if its else None for text, its in zip(texts, possible, strict=True)]

    def test_spans(self):
        titles, spans = titles_and_spans(list(self.texts))
        assert titles.tolist() == [5, 0, 11, 0]
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
        first, none, *others = self.rows(draws, **options)
        assert none is None
        assert [first, *others] == expected


class TestChoiceByHand:
    """Two documents with the spans 0 to 2, of which 0 and 2 are sought, and 3 to 7, none sought; a third has none."""

    spans = SalientSpans(np.arange(8), np.ones(8, int), np.array([0, 3, 8, 8]))
    sought = np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)

    @pytest.mark.parametrize(
        ("draw", "share", "expected"),
        [
            (0.1, 0.6, [0, 3]),
            (0.29, 0.6, [0, 4]),
            (0.31, 0.6, [2, 4]),
            (0.59, 0.6, [2, 5]),
            (0.61, 0.6, [0, 6]),  # the rest of the draws is spread over all three
            (0.75, 0.6, [1, 6]),
            (0.9, 0.6, [2, 7]),
            (0.99, 1.0, [2, 7]),
            (0.4, 0.0, [1, 5]),
            (np.nextafter(1, 0), 0.6, [2, 7]),
            (np.nextafter(1, 0), 0.1, [2, 7]),
        ],
    )
    def test_literal(self, draw, share, expected):
        with np.errstate(all="raise"):
            chosen = choose_spans(self.spans, self.sought, np.full(3, draw), policy_probability=share)
        assert chosen[:2].tolist() == expected

    def test_each_document_has_its_draw(self):
        chosen = choose_spans(self.spans, self.sought, np.array([0.31, 0.9, 0.5]), policy_probability=0.6)
        assert chosen[:2].tolist() == [2, 7]

    def test_there_may_be_none_at_all(self):
        spans = SalientSpans(np.zeros(0, int), np.zeros(0, int), np.zeros(3, int))
        assert len(choose_spans(spans, np.zeros(0, bool), np.array([0.1, 0.9]), policy_probability=0.5)) == 2


def test_words_are_found_with_what_they_follow():
    flat, offsets = flatten(["Ada B. a-b  c'd", "e f", " g", "h"])
    words = find_words(flat, offsets, kinds=KINDS, space_id=ord(" "))
    joined = "Ada B. a-b  c'de f gh"
    found = [joined[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert found == ["Ada", "B", "a-b", "c'd", "e", "f", "g", "h"]
    assert words.document.tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert words.follows.tolist() == [False, True, False, False, False, True, False, False]
    assert len(find_words(flat[:0], np.zeros(2, int), kinds=KINDS, space_id=32).follows) == 0


def test_kinds_of_letters():
    word, upper, digit = CharacterClasses.of("aB7-'’ .É")
    assert word.tolist() == [True] * 6 + [False, False, True]
    assert np.flatnonzero(upper).tolist() == [1, 8]
    assert np.flatnonzero(digit).tolist() == [2]


def test_a_hash_is_the_sum_of_the_bits_of_place_and_token():
    flat = ids("xRomeRo")
    hashes = hash_runs(flat, np.array([1, 5]), np.array([4, 2]), np.array([7, 9]))
    for found, owner, run in zip(hashes.tolist(), (7, 9), ("Rome", "Ro"), strict=True):
        bits = [int(random_bits((owner, place, ord(character)), 1)[0, 0]) for place, character in enumerate(run)]
        assert found == sum(bits) % 2**64
    assert hash_runs(flat, np.array([1]), np.array([4])) == hash_runs(
        flat, np.array([1]), np.array([4]), np.zeros(1, int)
    )


class TestTitleAndName:
    """What a title, and the start of a sentence, do to a name."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. a. Rome lies", []),  # one word that opens a sentence
            ("Ada. a. Rome Oslo lie", ["Rome Oslo"]),  # two
            ("Ada. a, Rome lies", ["Rome"]),
            ("Ada. a.  Rome lies", ["Rome"]),  # two spaces
            ("Ada. Rome lies", []),
            (". Rome lies", []),
            ("Rome lies", ["Rome"]),
            ("Ada Bo. Bo Ada, Ada Cy, Ada", ["Ada Cy"]),
            ("Ada 7. of 7 and 77", ["77"]),
        ],
    )
    def test_literal(self, text, expected):
        assert salient(text) == expected
        assert salient(text, "Bob. Rome", "a.", "Ada ") == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. on 26 May", []),
            ("Ada. on 126 May", ["May"]),
            ("Ada. in May 1840", ["May"]),
            ("Ada. in May 7", []),
            ("Ada. in May, 7 Rome, 77 Oslo", ["May"]),
            ("Ada. in May 7a", []),  # a word of two that begins with a digit
            ("7 May", []),
            ("May 7", []),
            ("May", ["May"]),
        ],
    )
    def test_without_numbers(self, text, expected):
        assert salient(text, numbers=False) == expected
        for other in ("7", "7 ", "May 7", "May ", "Rome 77 Oslo"):
            assert salient(text, other, numbers=False) == expected
