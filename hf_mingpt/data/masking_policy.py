"""Masking policies: which spans of a document to mask more often than its other salient spans.

`AnswerPolicy` picks the salient spans that are answers of training questions. `LearnedPolicy` picks the answer-like
spans: those that a reader, which has learned from the training questions, takes for the answer of their document.

Reference: Ye et al. 2020, Studying Strategically: Learning to Mask for Closed-book QA, arXiv:2012.15856. Their policy
is a recurrent tagger; this one is the listwise softmax of `reader.py`.
"""

from collections.abc import Iterable

import numpy as np
from transformers import PreTrainedTokenizerBase

from .candidate_spans import CandidateSpans
from .reader import Reader
from .salient_spans import SalientSpans, hash_texts
from .sequences import TokenSequences

LEARNED_POLICY = "listwise"  # checkpoints name it: a run that resumes with another policy would mask other names
_ONE = 2**16 - 1  # the weight of a probability of 1, as an unsigned integer of 16 bits


class AnswerPolicy:
    """Picks the spans that equal one of `answers`, such as those of the training questions."""

    def __init__(self, answers: Iterable[str], tokenizer: PreTrainedTokenizerBase):
        self.hashes = hash_texts(sorted({answer.strip() for answer in answers} - {""}), tokenizer)

    def __call__(self, spans: SalientSpans, index: np.ndarray) -> tuple[SalientSpans, np.ndarray]:
        picked = spans.select(np.isin(spans.hashes(), self.hashes))
        return picked, np.ones(len(picked.starts), dtype=np.int64)


class LearnedPolicy:
    """Picks the candidates that a reader takes for the answer of their document.

    A document without an answer, by a probability of more than a half, has no answer-like span. The picks are made once
    for the whole corpus, and looked up by the index of a document.

    Args:
        reader: from `Reader.learn`.
        batches: all documents of the corpus, in the order of their indices.
        sampling: "uniform": each candidate at least half as probable as the best one of its document, all with the same
            weight. "proportional": every candidate, with its probability as the weight.
    """

    def __init__(self, reader: Reader, batches: Iterable[TokenSequences], *, sampling: str = "uniform"):
        parts = [[np.zeros(0, dtype=dtype)] for dtype in (np.int64, np.int32, np.int32, np.uint16)]
        for documents in batches:
            candidates = reader.find(documents)
            weights = weigh(candidates, *reader.probabilities(candidates), sampling=sampling)
            picked = candidates.spans.select(weights > 0)
            starts = picked.starts - documents.offsets[:-1][picked.document]
            for part, array in zip(parts, (picked.counts, starts, picked.lengths, weights[weights > 0]), strict=True):
                part.append(array.astype(part[0].dtype))
        counts, self.starts, self.lengths, self.weights = map(np.concatenate, parts)
        self.offsets = np.append(0, np.cumsum(counts))

    def __call__(self, spans: SalientSpans, index: np.ndarray) -> tuple[SalientSpans, np.ndarray]:
        first, counts = self.offsets[index], self.offsets[index + 1] - self.offsets[index]
        offsets = np.append(0, np.cumsum(counts))
        place = np.repeat(first - offsets[:-1], counts) + np.arange(offsets[-1])
        starts = np.repeat(spans.documents.offsets[:-1], counts) + self.starts[place]
        picked = spans._replace(starts=starts, lengths=self.lengths[place].astype(np.int64), offsets=offsets)
        return picked, self.weights[place].astype(np.int64)


def weigh(
    candidates: CandidateSpans, probabilities: np.ndarray, null_probabilities: np.ndarray, *, sampling: str
) -> np.ndarray:
    """The weight of each of M candidates, an integer; 0 for those that are not answer-like.

    Args:
        candidates: the M candidates of N documents.
        probabilities: (M,) that a candidate is the answer.
        null_probabilities: (N,) that a document has no answer.
        sampling: "uniform" or "proportional", as in `LearnedPolicy`.
    """
    document = candidates.spans.document
    if sampling == "proportional":
        weights = np.round(probabilities * _ONE).astype(np.int64)
    else:
        highest = np.zeros(len(null_probabilities))
        np.maximum.at(highest, document, probabilities)
        weights = (probabilities >= highest[document] / 2).astype(np.int64)
    return weights * (null_probabilities <= 0.5)[document]
