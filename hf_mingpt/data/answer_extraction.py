"""Open-book answer extraction: which candidate span of a document is the answer, learned from training questions.

The extractor is listwise: one softmax over all candidates of a document and a null candidate, which stands for "no
answer here". The score of a candidate is the sum of the weights of its features; the null candidate has its own.

`read_answers` uses the extractor as a baseline. A model that trains on the answers it reads is no longer closed-book.

Reference: Chen et al. 2017, Reading Wikipedia to Answer Open-Domain Questions, arXiv:1704.00051.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..system.wording import count
from .alphabet import Alphabet, CharacterClasses
from .birthplaces import name_asked
from .candidate_spans import CandidateSpans, describe_candidates, find_candidates
from .draws import random_bits
from .questions import Question
from .salient_spans import SalientSpans, hash_texts, is_among
from .sequences import TokenSequences

L2_PENALTY = 2.0  # chosen on folds of the training questions


@dataclass(frozen=True)
class AnswerExtractor:
    """Gives each candidate the probability that it is the answer of its document.

    Attributes:
        classes: of the vocabulary of the documents.
        numbers: whether numbers are candidates.
        pairs: hashes of the titles and answers of the training questions, sorted.
        answers: number of training questions of each answer.
        documents: number of documents of each candidate that more than one has.
        features: (F,) hashes, sorted.
        weights: (F,) what a feature adds to the score of a candidate.
        null_score: score of the null candidate.
    """

    classes: CharacterClasses
    numbers: bool
    pairs: np.ndarray
    answers: "Counts"
    documents: "Counts"
    features: np.ndarray
    weights: np.ndarray
    null_score: float

    def find(self, documents: TokenSequences) -> CandidateSpans:
        """The candidates of N documents."""
        return find_candidates(documents, self.classes, numbers=self.numbers)

    def probabilities(self, candidates: CandidateSpans) -> tuple[np.ndarray, np.ndarray]:
        """The probability of each of M candidates, (M,), and of no answer in each of N documents, (N,)."""
        keys = self._describe(candidates)
        scores = np.append(self.weights, 0.0)[_places(self.features, keys)].sum(axis=1)
        totals = np.full(len(candidates.spans.titles), self.null_score)
        some = candidates.spans.counts > 0
        totals[some] = np.logaddexp(self.null_score, _log_sum_exp(scores, candidates.spans.offsets[:-1][some]))
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
    def learn(
        cls,
        batches: Iterable[TokenSequences],
        questions: Sequence[Question],
        alphabet: Alphabet,
        *,
        numbers: bool = True,
    ) -> "AnswerExtractor":
        """Fits an extractor to the documents about the people in the training questions.

        Args:
            batches: all documents. Those about other people tell how often each candidate occurs.
            questions: with answers.
            alphabet: of the documents.
            numbers: whether numbers are candidates.

        Raises:
            ValueError: if a question does not ask for a birthplace, or if no candidate in these documents is an answer.
        """
        people = hash_texts([f"{name_asked(question)}. " for question, _ in questions], alphabet)
        answers = hash_texts([str(answer).strip() for _, answer in questions], alphabet)
        pairs, distinct = np.unique(_pair(people, answers), return_index=True)
        classes = alphabet.classes
        occurrences = [np.zeros(0, dtype=np.uint64)]
        about = [TokenSequences(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64))]
        for documents in batches:
            spans = find_candidates(documents, classes, numbers=numbers).spans
            occurrences.append(_once_per_document(spans))
            about.append(_select_documents(documents, is_among(spans.hash_titles(), people)))
        start = np.zeros(0)  # nothing is learned yet
        counts = Counts.of(answers[distinct]), Counts.of(np.concatenate(occurrences), least=2)
        extractor = cls(classes, numbers, pairs, *counts, start.astype(np.uint64), start, 0.0)

        candidates = extractor.find(_join_documents(about))
        spans = candidates.spans
        is_answer = extractor._is_answer(spans, spans.hashes())
        if not is_answer.any():
            raise ValueError(
                f"The questions are about {count(len(questions), 'person', 'people')}, whose documents have "
                f"{count(len(is_answer), 'candidate span')}, and none of them is an answer: a masking policy needs "
                "answers. Give questions about people in the text, or --learned_masking_policy false."
            )
        features, columns = np.unique(extractor._describe(candidates), return_inverse=True)
        columns = columns.reshape(len(is_answer), -1)
        offsets = np.append(spans.offsets[:-1][spans.counts > 0], len(is_answer))
        weights, null_score = fit_listwise(columns, offsets, is_answer, num_features=len(features))
        return cls(classes, numbers, pairs, *counts, features, weights, null_score)


def fit_listwise(
    columns: np.ndarray, offsets: np.ndarray, is_answer: np.ndarray, *, num_features: int, penalty: float = L2_PENALTY
) -> tuple[np.ndarray, float]:
    """Fits the weights of a listwise softmax by L-BFGS.

    Args:
        columns: (M, C) the features of M candidates, as positions from 0 to `num_features` - 1.
        offsets: (N + 1,): the candidates of document i are those from `offsets[i]` to `offsets[i + 1]` - 1, at least
            one.
        is_answer: (M,) booleans. If a document has several answers, any of them is right; if it has none, the null
            candidate is.
        num_features: F.
        penalty: of half the sum of the squared weights.

    Returns:
        The weights, (F,), and the score of the null candidate.
    """
    from scipy.optimize import minimize

    objective = ListwiseLoss(columns, offsets, is_answer, num_features=num_features, penalty=penalty)
    options = {"maxiter": 300, "ftol": 1e-8, "gtol": 1e-3}
    found = minimize(objective, np.zeros(num_features + 1), jac=True, method="L-BFGS-B", options=options)
    return found.x[:-1], float(found.x[-1])


class ListwiseLoss:
    """The loss that `fit_listwise` minimizes, and its gradient.

    For the scores s of the candidates of a document and the score of its null candidate, the loss is
    logsumexp(all of them) - logsumexp(those that are right). The penalty is added to the sum over the documents.
    """

    def __init__(
        self, columns: np.ndarray, offsets: np.ndarray, is_answer: np.ndarray, *, num_features: int, penalty: float
    ):
        from scipy.sparse import csr_matrix

        number, width = columns.shape
        rows = np.arange(0, number * width + 1, width)
        self.design = csr_matrix((np.ones(columns.size), columns.ravel(), rows), shape=(number, num_features))
        self.transposed = self.design.T.tocsr()
        self.first, self.document = offsets[:-1], np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        self.is_answer, self.has_answer = is_answer, np.logical_or.reduceat(is_answer, offsets[:-1])
        self.penalty = penalty

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and its gradient at (F + 1,) parameters: the weights, then the score of the null candidate."""
        null_score = parameters[-1]
        scores = self.design @ parameters[:-1]
        right = np.where(self.is_answer, scores, -np.inf)
        totals = np.logaddexp(null_score, _log_sum_exp(scores, self.first))
        totals_right = np.where(self.has_answer, _log_sum_exp(right, self.first), null_score)
        change = np.exp(scores - totals[self.document])
        change -= np.where(self.is_answer, np.exp(right - totals_right[self.document]), 0.0)
        change_null = np.exp(null_score - totals).sum() - (~self.has_answer).sum()
        gradient = np.append(self.transposed @ change, change_null) + self.penalty * parameters
        loss = (totals - totals_right).sum() + self.penalty / 2 * np.square(parameters).sum()
        return float(loss), gradient


def _log_sum_exp(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """log(sum(exp(scores))) of each run of scores that starts at `first`, up to the next one; -inf where all are."""
    highest = np.maximum.reduceat(scores, first)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    lengths = np.diff(np.append(first, len(scores)))
    with np.errstate(divide="ignore"):
        return shift + np.log(np.add.reduceat(np.exp(scores - np.repeat(shift, lengths)), first))


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
