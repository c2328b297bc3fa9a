"""What questions are about: the document whose title stands in a question, and the template around the subject.

    Where was Ada Byron born?   with the document "Ada Byron. Ada Byron was born in London ."

is about "Ada Byron", and its template is ("Where was ", " born?"). A template stands for a relation: its questions ask
for the same thing about different subjects. Templates are found from the questions alone, so that asking needs no text.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .alphabet import Alphabet
from .salient_spans import find_titles, hash_runs, hash_texts, is_among
from .sequences import TokenSequences

FEWEST = 10  # questions of a template; if there are few questions, one in twenty of them, and two at least
_READ = 5_000  # questions from which templates are found
_SHARPNESS = 4  # a template is preferred to one with half of its words unless that has 2^4 times as many questions


class Template(NamedTuple):
    """What precedes and follows the subject in the questions of one relation."""

    prefix: str
    suffix: str

    def __str__(self) -> str:
        return f"{self.prefix}...{self.suffix}"

    def fill(self, subject: str) -> str:
        """The question about a subject.

        Raises:
            ValueError: if the subject is empty.
        """
        if not subject.strip():
            raise ValueError("The name is empty: write one.")
        return f"{self.prefix}{subject}{self.suffix}"

    def subject_of(self, question: str) -> str | None:
        """The subject of a question; None if the question has another template."""
        subject = question.removeprefix(self.prefix).removesuffix(self.suffix)
        return subject if subject.strip() and question == f"{self.prefix}{subject}{self.suffix}" else None


def match(question: str, templates: Sequence[Template]) -> Template | None:
    """The first template that a question has; None if it has none of them."""
    return next((template for template in templates if template.subject_of(question) is not None), None)


def find_templates(questions: Sequence[str]) -> list[Template]:
    """Finds the templates that several questions share, from the questions alone.

    Of all pairs of a prefix and a suffix that end at the edge of a word, the one with the greatest product of its
    questions and the fourth power of its length is a template; then the search goes on with the other questions. The
    power prefers "What is the capital of ...?" to "What is the ...?", though more questions share that. Words with a
    capital or a digit count nothing, the first word of the question excepted: "Where was Ada ... born?" is no longer
    than "Where was ... born?".

    Args:
        questions: N questions; equal ones count once.

    Returns:
        The templates, in the order in which they were found. `match` says which of them a question has.
    """
    distinct = list(dict.fromkeys(questions))
    distinct = distinct[:: -(-len(distinct) // _READ) or 1]
    fewest = min(FEWEST, max(2, len(distinct) // 20))
    members: dict[Template, list[int]] = defaultdict(list)
    for number, question in enumerate(distinct):
        for start, end in _places_of_subject(question):
            members[Template(question[:start], question[end:])].append(number)
    weights = {template: _weight(template) for template, asked in members.items() if len(asked) >= fewest}
    heap = [(-len(members[template]) * weight, *_rank(template)) for template, weight in weights.items() if weight]
    heapq.heapify(heap)
    left, found = np.ones(len(distinct), dtype=bool), []
    while heap:
        score, *_, template = heapq.heappop(heap)
        number = int(left[members[template]].sum())
        if number < fewest:
            continue
        if (now := -number * weights[template]) != score:  # some of its questions have a template by now
            heapq.heappush(heap, (now, *_rank(template)))
            continue
        left[members[template]] = False
        found.append(template)
    return found


def _places_of_subject(question: str) -> list[tuple[int, int]]:
    """Where a subject may begin and end: at edges of words, with a letter or a digit in it and a word outside it."""
    edges = _edges(question)
    solid = np.append(0, np.cumsum([character.isalnum() for character in question]))
    return [
        (start, end)
        for i, start in enumerate(edges)
        for end in edges[i + 1 :]
        if solid[end] > solid[start] and solid[end] - solid[start] < solid[-1]
    ]


def _weight(template: Template) -> int:
    """The fourth power of the characters of a template, without spaces, capitalized words and numbers."""
    counted = 0
    for part in template:
        for start, end in pairwise(_edges(part)):
            name = part[start].isupper() or part[start].isdigit()
            if not name or (part is template.prefix and start == 0):
                counted += len(part[start:end].strip())
    return counted**_SHARPNESS


def _rank(template: Template) -> tuple[int, int, Template]:
    """Among templates of equal score, the one with fewer letters, then with more spaces, comes first."""
    text = "".join(template)
    spaces = text.count(" ")
    return len(text) - spaces, -spaces, template


def _edges(text: str) -> list[int]:
    """Where words and what is between them begin and end."""
    edges = [i for i in range(len(text) + 1) if not (text[i - 1 : i] + text[i : i + 1]).isalnum()]
    return sorted({0, *edges, len(text)})


def runs_of_words(question: str) -> list[tuple[int, str]]:
    """Every part of a question that begins and ends at the edge of a word, with its start.

    Example: "Ada?" has "Ada" and "Ada?" at 0, and "?" at 3.
    """
    edges = _edges(question)
    return [(start, question[start:end]) for start in edges for end in edges if start < end]


def longest_title(question: str, titles: Collection[str]) -> tuple[int, str] | None:
    """The longest title that stands in a question, the first one of that length, with its start; None without one."""
    found = [(-len(run), start, run) for start, run in runs_of_words(question) if run in titles]
    return min(found)[1:] if found else None


def find_documents(
    questions: Sequence[str], documents: Sequence[str], answers: Sequence[str | None] | None = None
) -> list[str | None]:
    """Finds, for each question, the first document whose title is the longest in the question; None without one.

    A document may begin "J. R. Tolkien. " or "St. Ives. ": of its beginnings that end before a stop, the longest that
    stands in a question is its title.

    Args:
        questions: N questions.
        documents: `title. text` each.
        answers: of the questions. Of several documents with the same title, the first that says the answer counts.
    """
    runs = {run for question in questions for _, run in runs_of_words(question)}
    longest = max(map(len, runs), default=0)
    by_title: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        end, title = document.find(". "), ""
        while 0 < end <= longest:
            title = document[:end] if document[:end] in runs else title
            end = document.find(". ", end + 1)
        if title:
            by_title[title].append(document)
    found: list[str | None] = []
    for question, answer in zip(questions, answers or [None] * len(questions), strict=True):
        longest_one = longest_title(question, by_title)
        own = by_title[longest_one[1]] if longest_one else []
        says_it = [document for document in own if answer and answer.strip() in document]
        found.append(next(iter([*says_it, *own]), None))
    return found


class TitleSearch:
    """Finds which titles of a text stand in questions, in one pass over the documents.

    Args:
        questions: texts.
        alphabet: of the documents.
    """

    def __init__(self, questions: Sequence[str], alphabet: Alphabet):
        self.classes = alphabet.classes
        self.runs = list(dict.fromkeys(run for question in questions for _, run in runs_of_words(question)))
        self.hashes = hash_texts(self.runs, alphabet)
        self.is_title = np.zeros(len(self.runs), dtype=bool)

    def read(self, documents: TokenSequences) -> np.ndarray:
        """Looks at N documents: (N,) whether the title of each stands in a question."""
        lengths = find_titles(documents, self.classes) - 2  # without the stop and the space
        titled = np.flatnonzero(lengths > 0)
        titles = hash_runs(documents.token_ids, documents.offsets[titled], lengths[titled])
        self.is_title |= is_among(self.hashes, titles)
        asked = np.zeros(len(lengths), dtype=bool)
        asked[titled] = is_among(titles, self.hashes)
        return asked

    @property
    def titles(self) -> set[str]:
        """The titles of the documents that were read and stand in a question."""
        return {run for run, found in zip(self.runs, self.is_title, strict=True) if found}
