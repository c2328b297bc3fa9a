"""Candidate spans: what may be the answer in a document, and the features by which an extractor scores it.

A candidate is a salient span, the first or the last words of one, or two with short lower-case words between them:

    Ada Byron. Byron studied at New York University, then in Rio de Janeiro .

    New York University, New, New York, York University, University, Rio, Janeiro, Rio de Janeiro

The features say nothing about what a question asks for.
"""

from typing import NamedTuple

import numpy as np

from .alphabet import CharacterClasses
from .draws import random_bits
from .salient_spans import Names, SalientSpans, find_names, hash_runs, join_words
from .sequences import TokenSequences

NUM_WORDS = 8  # words before a candidate whose order does not count
_FAR = 99  # tokens between two names that are not neighbors


class CandidateSpans(NamedTuple):
    """The M candidates of N documents, in the order of the documents.

    spans: the candidates; `spans.starts`, `spans.lengths` and so on.
    first, last: (M,) positions of their words in `names.words`.
    name: (M,) which of the K names each is a part of, or begins with.
    names: the K names of the documents.
    """

    spans: SalientSpans
    first: np.ndarray
    last: np.ndarray
    name: np.ndarray
    names: Names


def find_candidates(documents: TokenSequences, classes: CharacterClasses, *, numbers: bool = True) -> CandidateSpans:
    """Finds the candidates of N documents; the arguments are those of `find_salient_spans`."""
    names = find_names(documents, classes, numbers=numbers)
    whole = np.arange(len(names.first))
    more = names.last - names.first  # a name of n words has n - 1 shorter beginnings and as many ends
    name = np.repeat(whole, more)
    step = np.arange(len(name)) - np.repeat(np.cumsum(more) - more, more)
    pair = _find_pairs(documents, names, classes)
    first = np.concatenate((names.first, names.first[name], names.first[name] + step + 1, names.first[pair]))
    last = np.concatenate((names.last, names.first[name] + step, names.last[name], names.last[pair + 1]))
    name = np.concatenate((whole, name, name, pair))
    new = np.append(0, np.cumsum(~names.known))
    kept = new[last + 1] > new[first]  # not all of its words are in the title
    order = np.lexsort((last[kept], first[kept]))
    first, last, name = (array[kept][order] for array in (first, last, name))
    return CandidateSpans(join_words(documents, names, first, last), first, last, name, names)


def _find_pairs(documents: TokenSequences, names: Names, classes: CharacterClasses) -> np.ndarray:
    """The names that one or two short lower-case words join to the name after them, as in "Rio de Janeiro"."""
    starts, ends, document, follows = names.words
    tokens = documents.token_ids[starts]
    particle = ~classes.upper[tokens] & ~classes.digit[tokens] & (ends - starts <= 3)
    others, breaks = (np.append(0, np.cumsum(~array)) for array in (particle, follows))
    left, right = names.last[:-1], names.first[1:]
    near = (document[left] == document[right]) & (right - left > 1) & (right - left <= 3)
    return np.flatnonzero(near & (others[right] == others[left + 1]) & (breaks[right + 1] == breaks[left + 1]))


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
