"""What may be an answer, and what is said about it."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.alphabet import CharacterClasses
from hf_mingpt.data.candidate_spans import CandidateKinds, describe_candidates, find_candidates

from .texts import MARKS, documents_of

CLASSES = CharacterClasses.of([*MARKS, *map(chr, range(2, 0x180))])


BOTH = CandidateKinds(numbers=True)


def candidates_in(text: str, *others: str, kinds: CandidateKinds = BOTH) -> list[str]:
    """The candidates of `text`, as strings, when the others follow it and when they precede it."""
    found = []
    for texts, place in (([text, *others], 0), ([*others, text], len(others))):
        spans = find_candidates(documents_of(texts), CLASSES, kinds).spans
        joined, its = "".join(texts), slice(spans.offsets[place], spans.offsets[place + 1])
        found.append([joined[a : a + n] for a, n in zip(spans.starts[its], spans.lengths[its], strict=True)])
    assert found[0] == found[1]
    return found[0]


class TestFindCandidates:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. in Rome", ["Rome"]),
            ("Ada. in New York City", ["New", "New York", "New York City", "York City", "City"]),
            ("Ada. in Rome, Ohio", ["Rome", "Ohio"]),
            ("Ada. in Rio de Janeiro", ["Rio", "Rio de Janeiro", "Janeiro"]),
            ("Ada. an Isle of the Dogs", ["Isle", "Isle of the Dogs", "Dogs"]),
            ("Ada. an Isle of all the Dogs", ["Isle", "Dogs"]),  # three words between them
            ("Ada. from Rome with Ohio", ["Rome", "Ohio"]),  # a long word
            ("Ada. in Rio de, Janeiro", ["Rio", "Janeiro"]),
            ("Ada. in Rio 12 Janeiro", ["Rio", "12", "Janeiro"]),
            ("Ada. in A of B of C", ["A", "A of B", "B", "B of C", "C"]),
            ("Ada Byron. Her son Byron King, Ada", ["Byron King", "King"]),  # not what the title has
            ("Ada. so", []),
        ],
    )
    def test_literal(self, text, expected):
        assert candidates_in(text) == expected
        for other in ("of Bob", "Bob", "Bob. X of", "so"):  # the neighbors in the array make no difference
            assert candidates_in(text, other) == expected

    def test_without_numbers(self):
        assert candidates_in("Ada. on 26 May 1840 New Rome", kinds=CandidateKinds()) == ["New", "New Rome", "Rome"]

    @pytest.mark.parametrize(
        ("kinds", "expected"),
        [
            (CandidateKinds(names=False, numbers=True), ["10", "1815", "3"]),
            (
                CandidateKinds(names=False, dates=True),
                ["10 May", "10 May 1815", "May 1815", "Oslo 3"],
            ),
            (CandidateKinds(names=False, phrase_words=1), ["a", "civil", "engineer", "of", "born", "in"]),
            (
                CandidateKinds(names=False, phrase_words=3),
                [
                    *("a", "a civil", "a civil engineer", "civil", "civil engineer", "civil engineer of"),
                    *("engineer", "engineer of", "of", "born", "in"),
                ],
            ),
            # without numbers, "May" and "Oslo" are months beside days
            (CandidateKinds(phrase_words=1), ["a", "civil", "engineer", "of", "Rome", "born", "in"]),
            (
                CandidateKinds(numbers=True, dates=True),
                ["Rome", "10", "10 May", "10 May 1815", "May", "May 1815", "1815", "Oslo", "Oslo 3", "3"],
            ),
        ],
    )
    def test_kinds(self, kinds, expected):
        text = "Ada. Ada, a civil engineer of Rome (born 10 May 1815) in Oslo 3 ."
        assert candidates_in(text, kinds=kinds) == expected
        for other in ("of Bob", "May 1815", "1815", "so"):
            assert candidates_in(text, other, kinds=kinds) == expected

    @pytest.mark.parametrize(
        ("text", "dates"),
        [
            ("Ada. on May 10, 1815", ["May 10", "May 10, 1815"]),
            ("Ada. on 10 may 1815", []),
            ("Ada. on May; 1815", []),
            ("Ada May. on May 1815", []),  # the title has "May"
            ("1815 May. so", []),
            ("Ada. x. On May 1815", ["On May 1815", "May 1815"]),
        ],
    )
    def test_dates(self, text, dates):
        found = candidates_in(text, kinds=CandidateKinds(names=False, dates=True))
        assert found == dates

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Ada. 1815-1852", ["1815", "1815-1852", "1852"]),
            ("Ada. 10-12-1815 x", ["10", "10-12-1815", "12", "1815"]),
            ("Ada. (1815--1852) x", ["1815", "1815--1852", "1852"]),
            ("Ada. 1815--may", ["1815", "1815--may"]),
            ("Ada. 1815- 1852-", ["1815", "1852"]),
            ("Ada. 18th-19th x-1 A-1", ["18th-19th"]),  # no hyphen follows a digit of a number
            ("Ada 1815. 1815-1852", ["1852"]),  # the title has "1815"
        ],
    )
    def test_parts_of_numbers(self, text, expected):
        kinds = CandidateKinds(names=False, numbers=True, number_parts=True)
        assert candidates_in(text, kinds=kinds) == expected
        for other in ("1-2", "so", "-", "9"):
            assert candidates_in(text, other, kinds=kinds) == expected
        kinds = CandidateKinds(names=False, dates=True, number_parts=True)
        assert candidates_in(f"{text}, 1 May-June", kinds=kinds)[-1:] == ["1 May-June"]

    def test_dates_end_at_a_hyphen(self):
        kinds = CandidateKinds(names=False, dates=True, number_parts=True)
        assert candidates_in("Ada. 10 May 1815-27 Nov 1852", kinds=kinds)[1] == "10 May 1815"

    @given(st.lists(st.text("A1- (x.", min_size=1, max_size=20), min_size=1, max_size=4))
    def test_texts_without_a_hyphen_after_a_digit_have_the_same_candidates(self, texts):
        texts = [re.sub("(?<=1)-+", "", text) for text in texts]
        for plain in (BOTH, CandidateKinds(dates=True, phrase_words=2)):
            documents = documents_of(texts)
            one, other = (
                find_candidates(documents, CLASSES, kinds) for kinds in (plain, plain._replace(number_parts=True))
            )
            for array, same in zip((*one.spans[2:5], *one[1:4]), (*other.spans[2:5], *other[1:4]), strict=True):
                np.testing.assert_array_equal(array, same)

    def test_particles_join_names_beside_phrases(self):
        kinds = CandidateKinds(phrase_words=1)
        assert candidates_in("Ada. in Rio de Janeiro", kinds=kinds) == ["in", "Rio", "Rio de Janeiro", "de", "Janeiro"]

    @pytest.mark.parametrize(
        ("answers", "kinds"),
        [
            (["Rome", "New York", "Rio de Janeiro"], CandidateKinds()),
            (["1815", "1902"], CandidateKinds(names=False, numbers=True, number_parts=True)),
            (["10 May 1815", "May 10, 1815"], CandidateKinds(names=False, dates=True, number_parts=True)),
            (["baker", "chess player"], CandidateKinds(names=False, phrase_words=2)),
            (["a b c d e f"], CandidateKinds(names=False, phrase_words=4)),
            (["1815", "10 May 1815", "poet", "Rome"], CandidateKinds(True, True, True, 1, True)),
            (["so, so", "?", "10 men", ""], CandidateKinds()),  # no candidate is any of these
            (["Rome"] * 20 + ["poet"], CandidateKinds()),  # 1 of 21 is too few
            (["Rome"] * 19 + ["poet"], CandidateKinds(phrase_words=1)),
        ],
    )
    def test_kinds_of_answers(self, answers, kinds):
        assert CandidateKinds.of(answers) == kinds

    def test_names_of_candidates(self):
        candidates = find_candidates(documents_of(["so", "Ada. in New York, Rio de Janeiro"]), CLASSES, BOTH)
        assert candidates.name.tolist() == [0, 0, 0, 1, 1, 2]
        assert candidates.spans.offsets.tolist() == [0, 0, 6]
        assert candidates.spans.document.tolist() == [1] * 6


def describe(texts, num_answers=0, num_documents=0):
    candidates = find_candidates(documents_of(texts), CLASSES, CandidateKinds())
    number = len(candidates.first)
    answers, documents = (np.broadcast_to(np.asarray(values), (number,)) for values in (num_answers, num_documents))
    return describe_candidates(candidates, CLASSES, num_answers=answers, num_documents=documents)


class TestFeatures:
    TEXT = "Ada. one two three four five six seven eight Rome, four, five"

    def changed(self, text, **counts):
        (before,), (after,) = describe([self.TEXT]), describe([text], **counts)
        return int((before != after).sum())

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("Ada", "Bobby", 0),  # the title
            ("one", "any", 1),  # the eighth word before it
            ("four five", "any five", 2),  # the fifth: by its place, and in any order
            ("eight", "fight", 3),  # the one before it: with the second one too
            ("eight", "eighs", 4),  # and its last letter
            (" five six", " 12345 six", 2),
            (" five six", " 1234 six", 4),  # a year: their number, and with the parentheses
            (" five six", " (five six", 2),  # a parenthesis, and with the years
            ("four, five", "four, any", 1),  # the second word after it
            ("four, five", "any, five", 2),  # the first one, and with the next characters
            ("Rome", "Lome", 0),  # its first letters
            ("Rome", "Rose", 2),  # its last letters: two and three of them
            ("Rome", "Tome", 0),
            ("Rome", "Rosome", 1),  # its length
        ],
    )
    def test_what_changes_how_many(self, old, new, expected):
        assert self.TEXT.count(old) == 1
        assert self.changed(self.TEXT.replace(old, new)) == expected

    def test_counts_are_magnitudes(self):
        assert self.changed(self.TEXT, num_documents=1) == 1
        rows = [describe([self.TEXT], num_documents=number)[0] for number in (2, 3, 4, 7, 8)]
        assert [int((a != b).sum()) for a, b in pairwise(rows)] == [0, 1, 0, 1]
        assert self.changed(self.TEXT, num_answers=1) == 3  # beside the names before and after it, too

    @pytest.mark.parametrize(
        ("text", "num_answers", "expected"),
        [
            ("Ada. in Rome, Oslo with Kiel", [1, 0, 0], [3, 2, 0]),  # its own, and the names beside it
            ("Ada. in Rome, Oslo with Kiel", [0, 1, 0], [2, 3, 2]),
            ("Ada. in New York, Oslo", [0, 0, 1, 0], [0, 0, 3, 0]),  # a part of the name beside it
            ("Ada. in New York, Oslo", [0, 1, 0, 0], [0, 3, 0, 2]),
        ],
    )
    def test_known_answers_beside_it(self, text, num_answers, expected):
        changed = describe([text]) != describe([text], num_answers)
        assert changed.sum(axis=1).tolist() == expected

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("Rome, Oslo", "Rome; Oslo", 2),  # the character, and the gap of two characters
            ("Rome, so Oslo", "Rome; so Oslo", 0),  # a longer gap is only long
            ("Rome, Oslo, Kiel", "Rome, Oslo,, Kiel", 5),  # the characters, the gap, and what a comma joins
            ("Rome, Oslo,, Kiel", "Rome, Oslo,,, Kiel", 1),  # the gap
        ],
    )
    def test_the_gaps_to_the_names_beside_it(self, old, new, expected):
        changed = describe([f"Ada. in {old}"])[1] != describe([f"Ada. in {new}"])[1]
        assert changed.sum() == expected

    def test_a_joined_name_is_no_beginning_of_a_longer_one(self):
        place = 21  # the feature of the place in a name, with lengths up to four
        beginning = describe(["Ada. in A B C D E"])[3, place]
        joined = describe(["Ada. in A B C D of E"])[4, place]
        assert beginning != joined

    def test_documents_do_not_depend_on_each_other(self):
        texts = ["Ada. of (1815 New York, Rome)", "so", "Kiel", "Bob. in Rio de Janeiro, Ohio (", "(1840 Lima"]
        whole = describe(texts, np.arange(10) % 3)
        order = [3, 0, 4, 2, 1]
        parts, first = {}, 0
        for i, text in enumerate(texts):
            count = len(describe([text]))
            parts[i] = np.arange(first, first := first + count)
        assert first == 10 == len(whole)
        rows = np.concatenate([parts[i] for i in order])
        assert np.array_equal(describe([texts[i] for i in order], rows % 3), whole[rows])

    def test_equal_surroundings_have_equal_features(self):
        first, second = describe(["Ada. born in Rome, Ohio", "Bob. born in Rome, Ohio"])[[0, 2]]
        assert np.array_equal(first, second)
