"""Masking policies: which spans of a document to mask more often than its other salient spans.

`AnswerPolicy` picks the salient spans that are answers of training questions. `LearnedPolicy` picks what an extractor,
which has learned from the training questions, takes for the answer of each document.

Reference: Ye et al. 2020, Studying Strategically: Learning to Mask for Closed-book QA, arXiv:2012.15856. Their policy
is a recurrent tagger; this one is the listwise softmax of `answer_extraction.py`.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from .alphabet import Alphabet
from .answer_extraction import AnswerExtractor, in_parts
from .candidate_spans import CandidateSpans
from .salient_spans import SalientSpans, hash_runs, hash_texts, is_among
from .sequences import TokenSequences

LEARNED_POLICY = "most probable"  # checkpoints name it: a run that resumes with another would mask other names
MAX_NULL_PROBABILITY = 0.9  # a document that surely has no answer gets no pick; a doubtful one gets its best guess


class AnswerPolicy:
    """Picks the spans that equal one of `answers`, such as those of the training questions."""

    def __init__(self, answers: Iterable[str], alphabet: Alphabet):
        self.hashes = hash_texts(sorted({answer.strip() for answer in answers} - {""}), alphabet)

    def is_answer(self, spans: SalientSpans) -> np.ndarray:
        """Whether each of M spans is one of the answers: booleans, (M,)."""
        return is_among(spans.hashes(), self.hashes)

    def __call__(self, spans: SalientSpans, index: np.ndarray) -> SalientSpans:
        return spans.select(self.is_answer(spans))


class LearnedPolicy:
    """Picks what an extractor takes for the answer of each document, wherever it stands in it.

    The picks are made once for the whole corpus, and looked up by the index of a document. With several extractors, the
    `relations` of the picks are the positions of their extractors, the first one that picks a span.

    Args:
        extractors: from `learn_extractors`, one for each relation.
        batches: all documents of the corpus, in the order of their indices.
    """

    def __init__(self, extractors: Sequence[AnswerExtractor], batches: Iterable[TokenSequences]):
        parts = [[np.zeros(0, dtype=dtype)] for dtype in (np.int64, np.int32, np.int32, np.int32)]
        for documents in in_parts(batches):
            picks = [_pick(extractor, documents) for extractor in extractors]
            relations = np.repeat(np.arange(len(picks)), [pick.shape[1] for pick in picks])
            picked, first = np.unique(np.concatenate(picks, axis=1), axis=1, return_index=True)
            document, starts, lengths = picked  # all of a document together
            per_document = np.bincount(document, minlength=len(documents.lengths))
            for part, array in zip(parts, (per_document, starts, lengths, relations[first]), strict=True):
                part.append(array.astype(part[0].dtype))
        counts, self.starts, self.lengths, of_extractors = map(np.concatenate, parts)
        self.relations = of_extractors if len(extractors) > 1 else None
        self.offsets = np.append(0, np.cumsum(counts))

    def __call__(self, spans: SalientSpans, index: np.ndarray) -> SalientSpans:
        first, counts = self.offsets[index], self.offsets[index + 1] - self.offsets[index]
        offsets = np.append(0, np.cumsum(counts))
        place = np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1])
        starts = np.repeat(spans.documents.offsets[:-1], counts) + self.starts[place]
        relations = None if self.relations is None else self.relations[place]
        lengths = self.lengths[place].astype(np.int64)
        return spans._replace(starts=starts, lengths=lengths, offsets=offsets, relations=relations)


def _pick(extractor: AnswerExtractor, documents: TokenSequences) -> np.ndarray:
    """The picked spans of N documents: (3, M) the document of each, its start in it, and its length."""
    candidates = extractor.find(documents)
    picked = candidates.spans.select(is_most_probable(candidates, *extractor.probabilities(candidates)))
    document = picked.document
    return np.stack((document, picked.starts - documents.offsets[:-1][document], picked.lengths))


def is_most_probable(
    candidates: CandidateSpans, probabilities: np.ndarray, null_probabilities: np.ndarray
) -> np.ndarray:
    """Whether each of M candidates is the most probable answer of its document: booleans, (M,).

    The probability of an answer is that of all candidates with its text together; each of them is picked. No candidate
    is if the document has no answer with a probability of more than `MAX_NULL_PROBABILITY`.

    Args:
        candidates: the M candidates of N documents.
        probabilities: (M,) that a candidate is the answer.
        null_probabilities: (N,) that a document has no answer.
    """
    spans, document = candidates.spans, candidates.spans.document
    texts = hash_runs(spans.documents.token_ids, spans.starts, spans.lengths, document)
    _, answer = np.unique(texts, return_inverse=True)
    totals = np.bincount(answer, probabilities)[answer]
    highest = np.zeros(len(null_probabilities))
    np.maximum.at(highest, document, totals)
    return (totals >= highest[document]) & (null_probabilities <= MAX_NULL_PROBABILITY)[document]
