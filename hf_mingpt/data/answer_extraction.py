"""Open-book answer extraction: which candidate span of a document is the answer, learned from training questions.

The extractor is listwise: one softmax over all candidates of a document and a null candidate, which stands for "no
answer here". The score of a candidate is the sum of the weights of its features; the null candidate has its own.

`read_answers` uses the extractor as a baseline. A model that trains on the answers it reads is no longer closed-book.

Reference: Chen et al. 2017, Reading Wikipedia to Answer Open-Domain Questions, arXiv:1704.00051.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..system.command_line import warn
from ..system.wording import count
from .alphabet import Alphabet, CharacterClasses
from .candidate_spans import CandidateKinds, CandidateSpans, describe_candidates, find_candidates
from .draws import random_bits
from .listwise import fit_listwise, log_sum_exp
from .questions import Question
from .salient_spans import SalientSpans, find_titles, hash_runs, hash_texts, is_among
from .sequences import TokenSequences
from .subjects import Template, TitleSearch, find_templates, longest_title, match

_PART = 1 << 20  # characters of documents whose candidates are described together


@dataclass(frozen=True)
class AnswerExtractor:
    """Gives each candidate the probability that it is the answer of its document.

    Attributes:
        classes: of the vocabulary of the documents.
        kinds: of the candidates.
        pairs: hashes of the titles and answers of the training questions, sorted.
        answers: number of training questions of each answer.
        documents: number of documents of each candidate that more than one has.
        features: (F,) hashes, sorted.
        weights: (F,) what a feature adds to the score of a candidate.
        null_score: score of the null candidate.
    """

    classes: CharacterClasses
    kinds: CandidateKinds
    pairs: np.ndarray
    answers: "Counts"
    documents: "Counts"
    features: np.ndarray
    weights: np.ndarray
    null_score: float

    def find(self, documents: TokenSequences) -> CandidateSpans:
        """The candidates of N documents."""
        return find_candidates(documents, self.classes, self.kinds)

    def probabilities(self, candidates: CandidateSpans) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each of M candidates, (M,), and of no answer in each of N documents, (N,)."""
        keys = self._describe(candidates)
        scores = np.append(self.weights, 0.0)[_places(self.features, keys)].sum(axis=1)
        totals = np.full(len(candidates.spans.titles), self.null_score)
        some = candidates.spans.counts > 0
        totals[some] = np.logaddexp(self.null_score, log_sum_exp(scores, candidates.spans.offsets[:-1][some]))
        return np.exp(scores - totals[candidates.spans.document]), np.exp(self.null_score - totals)

    def _describe(self, candidates: CandidateSpans) -> np.ndarray:
        """The features of M candidates. An answer counts as known if another question has it, too."""
        hashes = candidates.spans.hashes()
        num_answers = self.answers.look_up(hashes) - self._is_answer(candidates.spans, hashes)
        num_documents = np.maximum(self.documents.look_up(hashes) - 1, 0)
        return describe_candidates(candidates, self.classes, num_answers=num_answers, num_documents=num_documents)

    def _is_answer(self, spans: SalientSpans, hashes: np.ndarray) -> np.ndarray:
        """Whether a training question about the title has the span as its answer, (M,)."""
        return is_among(_pair(spans.hash_titles()[spans.document], hashes), self.pairs)

    @classmethod
    def fit(
        cls,
        documents: TokenSequences,
        subjects: Sequence[str],
        answers: Sequence[str],
        num_documents: "Counts",
        alphabet: Alphabet,
        kinds: CandidateKinds,
    ) -> tuple["AnswerExtractor | None", int, int]:
        """Fits an extractor to the questions of one relation.

        Args:
            documents: those whose titles are the subjects, and others.
            subjects, answers: of the questions.
            num_documents: of each candidate that more than one document has.
            alphabet: of the documents.
            kinds: of the candidates.

        Returns:
            The extractor, None if no candidate is an answer; for how many of the questions one is; and how many
            candidates there are.
        """
        titles = hash_texts([f"{subject}. " for subject in subjects], alphabet)
        hashes = hash_texts(answers, alphabet)
        each = _pair(titles, hashes)
        pairs, distinct = np.unique(each, return_index=True)
        counts, start = (Counts.of(hashes[distinct]), num_documents), np.zeros(0)  # nothing is learned yet
        extractor = cls(alphabet.classes, kinds, pairs, *counts, start.astype(np.uint64), start, 0.0)
        about = _select_documents(documents, is_among(_hash_titles(documents, alphabet.classes), titles))
        if kinds.phrase_words:  # which are many
            about = _select_documents(about, about.offsets[:-1] < _PART)
        candidates = extractor.find(about)
        spans = candidates.spans
        of_spans = _pair(spans.hash_titles()[spans.document], spans.hashes())
        is_answer = is_among(of_spans, pairs)
        held, number = int(is_among(each, of_spans).sum()), len(is_answer)
        if not held:
            return None, held, number
        features, columns = np.unique(extractor._describe(candidates), return_inverse=True)
        columns = columns.reshape(number, -1)
        offsets = np.append(spans.offsets[:-1][spans.counts > 0], number)
        weights, null_score = fit_listwise(columns, offsets, is_answer, num_features=len(features))
        return cls(alphabet.classes, kinds, pairs, *counts, features, weights, null_score), held, number


def learn_extractors(
    batches: Iterable[TokenSequences], questions: Sequence[Question], alphabet: Alphabet, *, numbers: bool = True
) -> dict[Template | None, AnswerExtractor]:
    """Fits an extractor for each relation to the documents that its questions are about.

    Args:
        batches: all documents. Those that no question is about tell how often each candidate occurs.
        questions: with answers. Each is about the document with the longest title that stands in it.
        alphabet: of the documents.
        numbers: whether numbers are candidates even if no answer is one.

    Returns:
        The extractors by template. Questions without a template share the one of None. A relation whose documents have
        none of its answers has no extractor; a warning counts such answers.

    Raises:
        ValueError: if no document has the answer to a question about it.
    """
    asked = [question for question, _ in questions]
    search, templates = TitleSearch(asked, alphabet), find_templates(asked)
    template_of = [match(question, templates) for question in asked]
    relations = {
        template: [question for question, own in zip(questions, template_of, strict=True) if own == template]
        for template in dict.fromkeys(template_of)
    }
    kinds = {template: CandidateKinds.of([str(answer) for _, answer in own]) for template, own in relations.items()}
    kinds = {template: kind._replace(numbers=kind.numbers or numbers) for template, kind in kinds.items()}
    occurrences = {kind: [np.zeros(0, dtype=np.uint64)] for kind in kinds.values()}
    about = [TokenSequences(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64))]
    for documents in in_parts(batches):
        for kind, hashes in occurrences.items():
            hashes.append(_once_per_document(find_candidates(documents, alphabet.classes, kind).spans))
        about.append(_select_documents(documents, search.read(documents)))
    titles, documents = search.titles, _join_documents(about)
    extractors, num_titled, num_held, num_candidates = dict[Template | None, AnswerExtractor](), 0, 0, 0
    for template, own in relations.items():
        found = [longest_title(question, titles) for question, _ in own]
        subjects = [title[1] if title else question for title, (question, _) in zip(found, own, strict=True)]
        counts = Counts.of(np.concatenate(occurrences[kinds[template]]), least=2)
        answers = [str(answer).strip() for _, answer in own]
        extractor, held, number = AnswerExtractor.fit(documents, subjects, answers, counts, alphabet, kinds[template])
        if extractor:
            extractors[template] = extractor
        num_titled, num_held, num_candidates = num_titled + sum(map(bool, found)), num_held + held, number
    if not extractors:
        remedy = "answers as they stand in these documents" if num_titled else "questions about titles of the text"
        raise ValueError(
            f"Of {count(len(questions), 'question')}, {num_titled} name the title of a document, and these documents, "
            f"with {count(num_candidates, 'candidate span')}, hold none of the answers: give {remedy}."
        )
    if num_held < len(questions):
        warn(
            f"Of {count(len(questions), 'question')}, {len(questions) - num_titled} name no title of a document, and "
            f"the documents of {num_titled - num_held} more do not hold the answer: what answers are like is "
            f"learned from the other {num_held:,}."
        )
    return extractors


def in_parts(batches: Iterable[TokenSequences]) -> Iterator[TokenSequences]:
    """Divides batches of documents into parts of about `_PART` characters, so that their candidates fit the memory."""
    for documents in batches:
        token_ids, offsets = documents.token_ids, documents.offsets
        edges = np.flatnonzero(np.diff(offsets[:-1] // _PART)) + 1
        for first, end in pairwise([0, *edges.tolist(), len(offsets) - 1]):
            start = offsets[first]
            yield TokenSequences(token_ids[start : offsets[end]], offsets[first : end + 1] - start)


def read_answers(batches: Iterable[TokenSequences], extractor: AnswerExtractor, alphabet: Alphabet) -> dict[str, str]:
    """Extracts the most probable answer from each document: a dict from its title to the candidate.

    Documents without a title or a candidate are skipped; if a title occurs twice, the first document counts. A document
    with a candidate always gives one, even if "no answer" is more probable.
    """
    extracted: dict[str, str] = {}
    for documents in batches:
        ids, offsets = documents.token_ids, documents.offsets
        candidates = extractor.find(documents)
        spans = candidates.spans
        by_probability = np.lexsort((extractor.probabilities(candidates)[0], spans.document))
        usable = np.flatnonzero((spans.counts > 0) & (spans.titles > 0))
        for i, best in zip(usable, by_probability[spans.offsets[usable + 1] - 1], strict=True):
            name = alphabet.decode(ids[offsets[i] : offsets[i] + spans.titles[i] - 2])
            answer = alphabet.decode(ids[spans.starts[best] : spans.starts[best] + spans.lengths[best]])
            if name.strip():
                extracted.setdefault(name, answer)
    return extracted


@dataclass(frozen=True)
class Counts:
    """How often each of V hashes occurs; the hashes are sorted."""

    hashes: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, hashes: np.ndarray, *, least: int = 1) -> "Counts":
        """Counts hashes, and forgets those that occur fewer than `least` times."""
        distinct, numbers = np.unique(hashes, return_counts=True)
        return cls(distinct[numbers >= least], numbers[numbers >= least])

    def look_up(self, hashes: np.ndarray) -> np.ndarray:
        """How often these hashes occur; 0 for those that are not counted."""
        return np.append(self.numbers, 0)[_places(self.hashes, hashes)]


def _places(table: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """The positions of hashes in a sorted table of V; V where it lacks them."""
    place = np.searchsorted(table, hashes)
    found = np.append(table, np.uint64(0))[place] == hashes
    return np.where(found & (place < len(table)), place, len(table))


def _hash_titles(documents: TokenSequences, classes: CharacterClasses) -> np.ndarray:
    """(N,) hashes of the titles, with the stop and the space that end them; 0 for a document without one."""
    lengths = find_titles(documents, classes)
    hashes, titled = np.zeros(len(lengths), dtype=np.uint64), np.flatnonzero(lengths)
    hashes[titled] = hash_runs(documents.token_ids, documents.offsets[titled], lengths[titled])
    return hashes


def _pair(titles: np.ndarray, answers: np.ndarray) -> np.ndarray:
    return random_bits((titles, answers), 1)[:, 0]


def _once_per_document(spans: SalientSpans) -> np.ndarray:
    """The hashes of the spans, each once for every document that has it."""
    hashes, document = spans.hashes(), spans.document
    order = np.lexsort((hashes, document))
    hashes, document = hashes[order], document[order]
    again = (hashes[1:] == hashes[:-1]) & (document[1:] == document[:-1])
    return hashes[np.append(np.ones(min(1, len(hashes)), dtype=bool), ~again)]


def _select_documents(documents: TokenSequences, kept: np.ndarray) -> TokenSequences:
    lengths = documents.lengths
    return TokenSequences(documents.token_ids[np.repeat(kept, lengths)], np.append(0, np.cumsum(lengths[kept])))


def _join_documents(parts: Sequence[TokenSequences]) -> TokenSequences:
    lengths = np.concatenate([part.lengths for part in parts])
    return TokenSequences(np.concatenate([part.token_ids for part in parts]), np.append(0, np.cumsum(lengths)))
