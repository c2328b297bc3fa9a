"""What counts as a salient span, and which one is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.alphabet import CharacterClasses
from hf_mingpt.data.draws import random_bits
from hf_mingpt.data.salient_spans import (
    SalientSpans,
    choose_spans,
    find_titles,
    find_words,
    hash_runs,
)
from hf_mingpt.data.sequences import TokenSequences

from .texts import CLASSES, documents_of, ids, salient, spans_of, titles_of


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
    def test_are_names_and_numbers_that_the_title_lacks(self, text, expected):
        assert salient(text) == expected
        for other in ("Bob. X", "Bob", "Paris. ", "Ada "):  # the neighbors in the array make no difference
            assert salient(text, other) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. 26 May 1840 Rome", ["Rome"]),
            ("Ada. May 26, 1840, Rome", ["Rome"]),
            ("Ada. in May of 1840", ["May"]),  # no day of the month beside it
            ("Ada. at 26, May Street", ["May Street"]),
        ],
    )
    def test_numbers_and_months_can_be_left_out(self, text, expected):
        assert salient(text, numbers=False) == expected

    def test_documents_that_touch_stay_apart(self):
        spans = spans_of("Ada", "Bob. in Rome", " Paris", "Eve. x.")
        assert spans.titles.tolist() == [0, 5, 0, 5]
        assert spans.offsets.tolist() == [0, 1, 2, 3, 3]
        assert spans.lengths.tolist() == [3, 4, 5]
        assert spans.counts.tolist() == [1, 1, 1, 0]
        assert spans.document.tolist() == [0, 1, 2]

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
    def test_the_stop_of_an_initial_ends_no_title(self, text, title):
        for before in ("", "B", "Bo", "B."):  # the document before it makes no difference
            assert titles_of(before, text)[1] == len(title)

    def test_a_title_does_not_end_in_the_next_document(self):
        assert titles_of("Ada.", " Bob. x") == [0, 6]


def spans_with(offsets: np.ndarray) -> SalientSpans:
    """One-token spans of documents that have nothing else."""
    number = int(offsets[-1])
    documents = TokenSequences(np.zeros(number, int), offsets)
    return SalientSpans(documents, np.zeros(len(offsets) - 1, int), np.arange(number), np.ones(number, int), offsets)


def choose(spans: SalientSpans, answer_like: np.ndarray, draws: np.ndarray, **options: float) -> np.ndarray:
    """Where the chosen span of each document starts."""
    starts, lengths = choose_spans(spans, spans.select(answer_like), draws, **options)
    assert ((lengths > 0) == (spans.counts > 0)).all()
    return starts


class TestChoice:
    spans = spans_with(np.array([0, 3, 3, 6]))  # of three documents
    answer_like = np.array([0, 0, 1, 0, 0, 0], bool)

    @pytest.mark.parametrize(
        ("draw", "expected"),
        [(0.1, [2, 3]), (0.69, [2, 5]), (0.75, [0, 5]), (0.81, [1, 5]), (0.99, [2, 5])],
    )
    def test_literal(self, draw, expected):
        chosen = choose(self.spans, self.answer_like, np.full(3, draw), policy_probability=0.7)
        assert chosen[[0, 2]].tolist() == expected  # the second document has no span

    @pytest.mark.parametrize(("probability", "expected"), [(0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)])
    def test_policy_probability_is_the_frequency_of_its_choice(self, probability, expected):
        number = 30_000
        spans = spans_with(np.arange(0, 3 * number + 1, 3))
        answer_like = np.tile([False, True, False], number)
        draws = np.random.default_rng(0).random(number)
        chosen = choose(spans, answer_like, draws, policy_probability=probability)
        frequencies = np.bincount(chosen % 3, minlength=3) / number
        np.testing.assert_allclose(frequencies, [(1 - expected) / 2, expected, (1 - expected) / 2], atol=0.01)

    @given(
        st.lists(st.lists(st.booleans(), max_size=4), min_size=1, max_size=6),
        st.floats(0, 1),
        st.floats(0, 1, exclude_max=True),
    )
    def test_is_a_span_of_its_document(self, documents, probability, draw):
        offsets = np.append(0, np.cumsum([len(document) for document in documents]))
        answer_like = np.array([flag for document in documents for flag in document], bool)
        draws = np.full(len(documents), draw)
        chosen = choose(spans_with(offsets.astype(int)), answer_like, draws, policy_probability=probability)
        for document, flags in enumerate(documents):
            if flags:
                assert offsets[document] <= chosen[document] < offsets[document + 1]
                assert answer_like[chosen[document]] or draw >= probability or not any(flags)


def test_equal_runs_have_equal_hashes_and_others_do_not():
    flat = ids("Rome, Oslo, Rome, emoR, Rom")
    starts, lengths = np.array([0, 6, 12, 18, 24]), np.array([4, 4, 4, 4, 3])
    hashes = hash_runs(flat, starts, lengths)
    assert hashes[0] == hashes[2]
    assert len(set(hashes.tolist())) == 4
    assert hash_runs(flat, starts, lengths, np.arange(5))[0] != hash_runs(flat, starts, lengths, np.arange(5))[2]


def test_selected_spans_and_hashes_of_titles():
    spans = spans_of("Ada. Ada saw Rome and Oslo", "at Bath", "Ada. at Kiel", "Bob. x")
    picked = spans.select(np.array([False, True, False, True]))
    assert [picked.starts.tolist(), picked.lengths.tolist()] == [[22, 41], [4, 4]]
    assert picked.offsets.tolist() == [0, 1, 1, 2, 2]
    assert picked.titles is spans.titles
    ada, none, again, bob = spans.hash_titles().tolist()
    assert ada == again == hash_runs(ids("Ada. "), np.array([0]), np.array([5]))[0]
    assert none == 0
    assert bob not in (ada, none)


class TestChoiceOfSeveralDocuments:
    """Spans 0 to 2, of which 0 and 2 are answer-like, in one document; 3 to 7 in another; none in the last."""

    spans = spans_with(np.array([0, 3, 8, 8]))
    answer_like = np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)

    @pytest.mark.parametrize(
        ("draw", "probability", "expected"),
        [
            (0.1, 0.6, [0, 3]),
            (0.29, 0.6, [0, 4]),
            (0.31, 0.6, [2, 4]),
            (0.59, 0.6, [2, 5]),
            (0.61, 0.6, [0, 6]),  # the other draws are spread over all three
            (0.75, 0.6, [1, 6]),
            (0.9, 0.6, [2, 7]),
            (0.99, 1.0, [2, 7]),
            (0.4, 0.0, [1, 5]),
            (np.nextafter(1, 0), 0.6, [2, 7]),
            (np.nextafter(1, 0), 0.1, [2, 7]),
            (np.nextafter(1, 0), 0.07, [2, 7]),  # its part of the other draws rounds to 1
        ],
    )
    def test_literal(self, draw, probability, expected):
        with np.errstate(all="raise"):
            chosen = choose(self.spans, self.answer_like, np.full(3, draw), policy_probability=probability)
        assert chosen[:2].tolist() == expected

    def test_each_document_has_its_own_draw(self):
        chosen = choose(self.spans, self.answer_like, np.array([0.31, 0.9, 0.5]), policy_probability=0.6)
        assert chosen[:2].tolist() == [2, 7]

    def test_documents_without_any_span(self):
        spans = spans_with(np.zeros(3, int))
        assert choose(spans, np.zeros(0, bool), np.array([0.1, 0.9]), policy_probability=0.5).tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("draw", "expected"),
        [(0, [0, 4]), (0.49, [0, 4]), (0.51, [2, 5]), (np.nextafter(1, 0), [2, 5])],
    )
    def test_answer_like_spans_have_equal_probabilities(self, draw, expected):
        picked = self.spans.select(np.isin(np.arange(8), [0, 2, 4, 5]))
        starts, lengths = choose_spans(self.spans, picked, np.full(3, draw), policy_probability=1.0)
        assert starts[:2].tolist() == expected
        assert lengths.tolist() == [1, 1, 0]
        halved, _ = choose_spans(self.spans, picked, np.full(3, draw * 0.5), policy_probability=0.5)
        assert halved[:2].tolist() == expected

    def test_an_answer_like_span_may_be_a_part_of_a_salient_one(self):
        spans = spans_of("Ada. at New York", "Bob. at Rome")
        part = spans._replace(starts=np.array([8]), lengths=np.array([3]), offsets=np.array([0, 1, 1]))
        for draw, expected in ((0.69, ([8, 24], [3, 4])), (0.71, ([8, 24], [8, 4]))):
            chosen = choose_spans(spans, part, np.full(2, draw), policy_probability=0.7)
            assert tuple(array.tolist() for array in chosen) == expected


def test_words_and_whether_they_follow_another():
    words = find_words(documents_of(["Ada B. a-b  c'd", "e f", " g", "h"]), CLASSES)
    joined = "Ada B. a-b  c'de f gh"
    found = [joined[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert found == ["Ada", "B", "a-b", "c'd", "e", "f", "g", "h"]
    assert words.document.tolist() == [0, 0, 0, 0, 1, 1, 2, 3]
    assert words.follows.tolist() == [False, True, False, False, False, True, False, False]
    assert len(find_words(documents_of([""]), CLASSES).follows) == 0


def test_character_classes():
    word, upper, digit, *marks = CharacterClasses.of("aB7-'’ .É(,")
    assert word.tolist() == [True] * 6 + [False, False, True, False, False]
    assert np.flatnonzero(upper).tolist() == [1, 8]
    assert np.flatnonzero(digit).tolist() == [2]
    assert marks == [7, 6, 9, 0, 10, 3]  # no closing parenthesis


def test_a_vocabulary_without_stops_has_no_titles():
    classes = CharacterClasses.of(["□", "⁇", " ", "A"])
    assert (classes.stop_id, classes.space_id) == (0, 2)
    assert find_titles(TokenSequences(np.array([3, 2, 3]), np.array([0, 3])), classes).tolist() == [0]


def test_a_hash_is_the_sum_of_the_bits_of_position_and_token():
    flat = ids("xRomeRo")
    hashes = hash_runs(flat, np.array([1, 5]), np.array([4, 2]), np.array([7, 9]))
    for found, owner, run in zip(hashes.tolist(), (7, 9), ("Rome", "Ro"), strict=True):
        bits = [int(random_bits((owner, place, ord(character)), 1)[0, 0]) for place, character in enumerate(run)]
        assert found == sum(bits) % 2**64
    assert hash_runs(flat, np.array([1]), np.array([4])) == hash_runs(
        flat, np.array([1]), np.array([4]), np.zeros(1, int)
    )


class TestTitleAndName:
    """Names at the start of a sentence, and names that the title has."""

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
