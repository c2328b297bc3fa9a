"""Candidate spans: what may be the answer in a document, and the features by which an extractor scores it.

A candidate is of a kind that training answers have: names and their parts, numbers, dates, lower-case phrases.

    Ada Byron. Byron studied at New York University, then in Rio de Janeiro .

    New York University, New, New York, York University, University, Rio, Janeiro, Rio de Janeiro

    Ada Byron. Byron (born 10 May 1815) was a civil engineer .

    number  10, 1815; of "1815-1852" also 1815 and 1852, if answers are numbers or dates
    date    10 May, 10 May 1815, May 1815
    phrase  born, was, was a, a, a civil, civil, civil engineer, engineer (of up to two words)

The features say nothing about what a question asks for.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..tokenization_mingpt import PAD_ID
from .alphabet import CharacterClasses
from .draws import random_bits
from .salient_spans import Names, SalientSpans, find_names, find_words, hash_runs, join_words
from .sequences import TokenSequences

NUM_WORDS = 8  # words before a candidate whose order does not count
MAX_DATE_WORDS = 4
MAX_PHRASE_WORDS = 4  # every further word is one more candidate at each word of a text
KIND_RATIO = 0.05  # of the answers: fewer of a kind are not worth its candidates
_FAR = 99  # tokens between two names that are not neighbors


class CandidateKinds(NamedTuple):
    """What may be an answer: names and their parts, numbers, dates, and lower-case phrases of up to so many words.

    With `number_parts`, the parts of "1815-1852" are candidates too.
    """

    names: bool = True
    numbers: bool = False
    dates: bool = False
    phrase_words: int = 0
    number_parts: bool = False

    @classmethod
    def of(cls, answers: Sequence[str]) -> "CandidateKinds":
        """The kinds that at least one in twenty of the answers have; names if there is none.

        Example: `["1815", "10 May 1815", "civil engineer"]` gives numbers, dates, and phrases of two words.
        """
        kinds = list(map(_kind_of, answers))
        common = {kind for kind, _ in kinds if kind and sum(kind == k for k, _ in kinds) >= KIND_RATIO * len(kinds)}
        longest = max((words for kind, words in kinds if kind == "phrase"), default=0) if "phrase" in common else 0
        return cls(
            names="name" in common or not common,
            numbers="number" in common,
            dates="date" in common,
            phrase_words=min(longest, MAX_PHRASE_WORDS),
            number_parts=not common.isdisjoint(("number", "date")),
        )


def _kind_of(answer: str) -> tuple[str, int]:
    """The kind of an answer, "" for one that is never a candidate, and its words."""
    words = re.findall(r"[\w'’-]+", answer)
    first = [word[0] for word in words]
    if any(character.isdigit() for character in first) and all(c.isdigit() or c.isupper() for c in first):
        return "number" if len(words) == 1 else "date", len(words)
    if first and first[0].isupper():
        return "name", len(words)
    no_phrase = not words or any(character.isupper() or character.isdigit() for character in first)
    return "" if no_phrase or " ".join(words) != answer.strip() else "phrase", len(words)


class CandidateSpans(NamedTuple):
    """The M candidates of N documents, in the order of the documents.

    spans: the candidates; `spans.starts`, `spans.lengths` and so on.
    first, last: (M,) positions of their words in `names.words`.
    name: (M,) which of the K names each is a part of, or begins with.
    names: the K names of the documents; numbers and runs of lower-case words too, if candidates are of these kinds.
    """

    spans: SalientSpans
    first: np.ndarray
    last: np.ndarray
    name: np.ndarray
    names: Names


def find_candidates(documents: TokenSequences, classes: CharacterClasses, kinds: CandidateKinds) -> CandidateSpans:
    """Finds the candidates of N documents.

    Args:
        documents: N documents.
        classes: of their vocabulary.
        kinds: of the candidates. Without numbers and dates, a month beside a day is no name (`find_salient_spans`).
    """
    apart = _set_apart(documents, classes) if kinds.number_parts else documents
    names = find_names(apart, classes, numbers=kinds.numbers or kinds.dates, lower=kinds.phrase_words > 0)
    tokens = documents.token_ids[names.words.starts[names.first]]
    is_number, is_name = classes.digit[tokens], classes.upper[tokens]
    parts = []
    if kinds.names:
        parts += [_parts_of_names(names, np.flatnonzero(is_name)), _find_pairs(documents, names, classes)]
    if kinds.numbers:
        number = np.flatnonzero(is_number)
        parts.append((names.first[number], names.last[number], number))
        if kinds.number_parts:
            parts.append(_join_numbers(names, documents.token_ids != apart.token_ids))
    if kinds.dates:
        parts.append(_find_dates(documents, names, classes))
    if kinds.phrase_words:
        parts.append(_parts_of_runs(names, np.flatnonzero(~is_name & ~is_number), kinds.phrase_words))
    first, last, name = map(np.concatenate, zip(*parts, strict=True))
    new = np.append(0, np.cumsum(~names.known))
    kept = new[last + 1] > new[first]  # not all of its words are in the title
    order = np.lexsort((last[kept], first[kept]))
    first, last, name = (array[kept][order] for array in (first, last, name))
    return CandidateSpans(join_words(documents, names, first, last), first, last, name, names)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # first and last word of each, and its name


def _parts_of_names(names: Names, which: np.ndarray) -> _Parts:
    """Names, their beginnings and their ends: a name of n words has n - 1 shorter ones of each."""
    more = (names.last - names.first)[which]
    name = np.repeat(which, more)
    step = np.arange(len(name)) - np.repeat(np.cumsum(more) - more, more)
    first = np.concatenate((names.first[which], names.first[name], names.first[name] + step + 1))
    last = np.concatenate((names.last[which], names.first[name] + step, names.last[name]))
    return first, last, np.concatenate((which, name, name))


def _parts_of_runs(names: Names, which: np.ndarray, most: int) -> _Parts:
    """All parts of up to `most` words."""
    words = (names.last - names.first + 1)[which]
    run = np.repeat(which, words)
    word = names.first[run] + np.arange(len(run)) - np.repeat(np.cumsum(words) - words, words)
    parts = [(word, word + more, run) for more in range(most)]
    first, last, name = map(np.concatenate, zip(*parts, strict=True))
    inside = last <= names.last[name]
    return first[inside], last[inside], name[inside]


def _find_pairs(documents: TokenSequences, names: Names, classes: CharacterClasses) -> _Parts:
    """Names that one or two short lower-case words join to the name after them, as in "Rio de Janeiro"."""
    starts, ends, document, follows = names.words
    tokens = documents.token_ids[starts]
    lower = ~classes.upper[tokens] & ~classes.digit[tokens]
    others, breaks = (np.append(0, np.cumsum(~array)) for array in (lower & (ends - starts <= 3), follows))
    name = np.flatnonzero(~lower[names.first])
    left, right = names.last[name[:-1]], names.first[name[1:]]
    near = (document[left] == document[right]) & (right - left > 1) & (right - left <= 3)
    pair = np.flatnonzero(near & (others[right] == others[left + 1]) & (breaks[right + 1] == breaks[left + 1]))
    return names.first[name[pair]], names.last[name[pair + 1]], name[pair]


def _set_apart(documents: TokenSequences, classes: CharacterClasses) -> TokenSequences:
    """The documents with PAD for hyphens after a digit, in words that begin with one: "1815-1852", "1815--May"."""
    token_ids, words = documents.token_ids, find_words(documents, classes)
    number = classes.digit[token_ids[words.starts]]
    change = np.zeros(len(token_ids) + 1, dtype=np.int64)
    change[words.starts[number]] += 1
    change[words.ends[number]] -= 1
    hyphen = token_ids == classes.hyphen_id
    before = np.maximum.accumulate(np.where(hyphen, 0, np.arange(len(token_ids))))  # the last other character
    apart = hyphen & (np.cumsum(change[:-1]) > 0) & classes.digit[token_ids[before]]
    return documents._replace(token_ids=np.where(apart, PAD_ID, token_ids))


def _join_numbers(names: Names, hyphen: np.ndarray) -> _Parts:
    """Numbers of several parts, with nothing but hyphens that were set apart between them."""
    starts, ends, document, _ = names.words
    others = np.append(0, np.cumsum(~hyphen))
    joined = (document[1:] == document[:-1]) & (others[starts[1:]] == others[ends[:-1]])  # to the word after
    joined, before = np.append(joined, False), np.append(False, joined)
    first, last = np.flatnonzero(joined & ~before), np.flatnonzero(before & ~joined)
    name = np.searchsorted(names.first, first)
    known = np.append(names.first, -1)[name] == first
    return first[known], last[known], name[known]


def _find_dates(documents: TokenSequences, names: Names, classes: CharacterClasses) -> _Parts:
    """Runs of numbers and capitalized words, at least one of each, with a space or ", " between them."""
    starts, ends, document, _ = names.words
    token = documents.token_ids
    upper, digit = classes.upper[token[starts]], classes.digit[token[starts]]
    gap, inside = starts[1:] - ends[:-1], document[1:] == document[:-1]
    near = inside & ((gap == 1) | (gap == 2)) & (token[starts[1:] - 1] == classes.space_id)
    near &= (gap == 1) | (token[ends[:-1]] == classes.comma_id)
    usable = (upper | digit) & ~names.in_title
    name = np.searchsorted(names.first, np.arange(len(starts)), side="right") - 1
    word = np.flatnonzero(usable & (name >= 0) & (np.arange(len(starts)) <= np.append(names.last, -1)[name]))
    joined = np.append(near & usable[1:] & usable[:-1], False)  # to the word after
    breaks, num_upper, num_digit = (np.append(0, np.cumsum(array)) for array in (~joined, upper, digit))
    parts = []
    for more in range(1, MAX_DATE_WORDS):
        first = word[word + more < len(starts)]
        last = first + more
        first = first[
            (breaks[last] == breaks[first])
            & (num_upper[last + 1] > num_upper[first])
            & (num_digit[last + 1] > num_digit[first])
        ]
        parts.append((first, first + more, name[first]))
    first, last, name = map(np.concatenate, zip(*parts, strict=True))
    return first, last, name


def describe_candidates(
    candidates: CandidateSpans, classes: CharacterClasses, *, num_answers: np.ndarray, num_documents: np.ndarray
) -> np.ndarray:
    """The features of M candidates, as hashes: two candidates share a feature if they have the same hash.

    The words before and after a candidate, the nearest characters, the letters at its end, its length, its place in its
    name, the names beside it, parentheses and years, and how often it occurs.

    Args:
        candidates: the M candidates of N documents.
        classes: of their vocabulary.
        num_answers: (M,) other questions whose answer is the candidate.
        num_documents: (M,) other documents with the candidate.

    Returns:
        (M, F) uint64.
    """
    (spans, first, last, name, names), view = candidates, _View(candidates, classes)
    starts, ends, (before, after) = spans.starts, spans.starts + spans.lengths, view.gaps()
    words_before = [view.word(first - i) for i in range(1, NUM_WORDS + 1)]
    words_after = [view.word(last + i) for i in range(1, 4)]
    next_characters = view.character(ends), view.character(ends + 1)
    groups: list[tuple] = [(word,) for word in (*words_before[:5], *words_after)]
    groups += [tuple(words_before[:2]), (words_after[0], *next_characters)]
    groups += [(view.character(starts - i),) for i in range(1, 5)] + [(one,) for one in next_characters]

    letters = [view.character(np.maximum(ends - i, names.words.starts[last])) for i in range(1, 4)]
    groups += [tuple(letters[:2]), tuple(letters)]
    num_words, num_all = (np.minimum(n + 1, 4) for n in (last - first, (names.last - names.first)[name]))
    first_length = np.minimum(names.words.ends[first] - names.words.starts[first], 8)
    second = np.minimum(names.words.starts[last] + 1, names.words.ends[last] - 1)
    groups += [(num_words,), (first_length,), (classes.upper[spans.documents.token_ids[second]],)]
    begins, exceeds = first == names.first[name], last > names.last[name]
    closes = last == names.last[name]
    groups.append((begins + 2 * closes + 4 * exceeds, num_words, num_all))

    near = [
        np.where(gap <= 3, view.character(place), 0) for gap, place in zip((before, after), view.edges(), strict=True)
    ]
    groups += [(np.minimum(gap, 8), character) for gap, character in zip((before, after), near, strict=True)]
    groups.append((before == 2, after == 2))  # ", " on both sides
    answers = _magnitude(num_answers)
    groups += [(answers,), (_magnitude(num_documents),)]
    of_names = np.zeros(len(names.first), dtype=np.int64)
    whole = begins & closes
    of_names[name[whole]] = answers[whole]
    for gap, step in ((before, -1), (after, 1)):
        neighbor = np.where(gap < _FAR, np.append(of_names, 0)[np.clip(name + step, 0, len(of_names))], _FAR)
        groups += [(neighbor,), (neighbor, gap <= 2, answers)]
    depth, years = view.depth(), view.years()
    groups += [(depth, years), (years,), (depth,)]

    keys = [random_bits((number, *values), 1)[:, 0] for number, values in enumerate(groups)]
    keys += [random_bits((len(groups), word), 1)[:, 0] for word in words_before]  # in any order
    return np.stack(keys, axis=1)


def _magnitude(number: np.ndarray) -> np.ndarray:
    """0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7 and so on."""
    return np.ceil(np.log2(number + 1)).astype(np.int64)


class _View:
    """What surrounds M candidates: arrays of shape (M,)."""

    def __init__(self, candidates: CandidateSpans, classes: CharacterClasses):
        self.candidates, self.classes = candidates, classes
        documents, words = candidates.spans.documents, candidates.names.words
        self.ids, document = documents.token_ids, candidates.spans.document
        self.document = document
        self.start = (documents.offsets[:-1] + candidates.spans.titles)[document]
        self.end = documents.offsets[1:][document]
        self.digit, lengths = classes.digit[self.ids[words.starts]], words.ends - words.starts
        self.year = self.digit & (lengths == 4)
        hashes = hash_runs(self.ids, words.starts, lengths)
        self.hashes = np.where(self.digit, np.minimum(lengths, 5).astype(np.uint64), hashes)  # a number's length counts

    def character(self, position: np.ndarray) -> np.ndarray:
        """The token at a position; 0 outside the document or in its title."""
        inside = (position >= self.start) & (position < self.end)
        return np.where(inside, self.ids[np.where(inside, position, 0)], 0)

    def word(self, number: np.ndarray) -> np.ndarray:
        """The hash of a word; 0 outside the document or in its title."""
        words = self.candidates.names.words
        place = np.clip(number, 0, len(words.starts) - 1)
        inside = (place == number) & (words.document[place] == self.document)
        return np.where(inside & ~self.candidates.names.in_title[place], self.hashes[place], np.uint64(0))

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the gap before the name of each candidate starts, and the one after it."""
        first, last, words, *_ = self.candidates.names
        name = self.candidates.name
        return words.starts[first[name]] - self.gaps()[0], words.ends[last[name]]

    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens between the name of each candidate and the names before and after it; _FAR without such a name."""
        first, last, words, *_ = self.candidates.names
        gaps = words.starts[first[1:]] - words.ends[last[:-1]]
        gaps = np.where(words.document[first[1:]] == words.document[last[:-1]], gaps, _FAR)
        gaps = np.concatenate(([_FAR], gaps, [_FAR]))
        return gaps[self.candidates.name], gaps[self.candidates.name + 1]

    def depth(self) -> np.ndarray:
        """Whether a parenthesis is open before each candidate."""
        change = (self.ids == self.classes.open_id).astype(np.int64) - (self.ids == self.classes.close_id)
        total = np.append(0, np.cumsum(change))
        return total[self.candidates.spans.starts] > total[self.start]

    def years(self) -> np.ndarray:
        """Numbers of four digits between the title and each candidate, up to 3."""
        total = np.append(0, np.cumsum(self.year))
        first_word = np.searchsorted(self.candidates.names.words.starts, self.start)
        return np.minimum(total[self.candidates.first] - total[first_word], 3)
