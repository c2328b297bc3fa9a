"""Masking policies: which salient spans of a document to mask more often than the others.

`AnswerPolicy` picks the spans that are answers of training questions. `LearnedPolicy` picks the spans in answer-like
contexts: it learns from the training questions which characters surround an answer in its document.

`read_answers` uses the learned policy as an open-book extractive baseline. A model that trains on the answers it reads
is no longer closed-book.

Reference: Ye et al. 2020, Studying Strategically: Learning to Mask for Closed-book QA, arXiv:2012.15856. Their policy
is a recurrent tagger; this one is a logistic regression on the characters around a span.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from transformers import PreTrainedTokenizerBase

from ..system.wording import count
from ..tokenization_mingpt import PAD_ID, character_table, encode_texts
from .birthplaces import name_asked
from .questions import Question
from .salient_spans import CharacterClasses, SalientSpans, find_salient_spans, hash_runs
from .sequences import TokenSequences

CONTEXT = (16, 4)  # characters before and after a span that the learned policy sees


class AnswerPolicy:
    """Picks the spans that equal one of `answers`, such as those of the training questions."""

    def __init__(self, answers: Iterable[str], tokenizer: PreTrainedTokenizerBase):
        self.hashes = hash_texts(sorted({answer.strip() for answer in answers} - {""}), tokenizer)

    def __call__(self, spans: SalientSpans) -> np.ndarray:
        return np.isin(spans.hashes(), self.hashes)


class LearnedPolicy:
    """Picks the spans whose probability of being an answer is at least half of the highest in their document.

    Args:
        weights: (sum(CONTEXT), V) what each character at each position of the context adds to the log-odds.
        bias: the log-odds without a context.
    """

    def __init__(self, weights: np.ndarray, bias: float):
        self.weights, self.bias = weights, bias

    def probabilities(self, spans: SalientSpans) -> np.ndarray:
        """The probability that each span is an answer, (M,)."""
        around = contexts(spans)
        return expit(self.weights[np.arange(around.shape[1]), around].sum(axis=1) + self.bias)

    def __call__(self, spans: SalientSpans) -> np.ndarray:
        probabilities, document = self.probabilities(spans), spans.document
        highest = np.zeros(len(spans.titles))
        np.maximum.at(highest, document, probabilities)
        return probabilities >= highest[document] / 2

    @classmethod
    def learn(
        cls,
        batches: Iterable[TokenSequences],
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        *,
        numbers: bool = True,
    ) -> "LearnedPolicy":
        """Fits the policy to the documents about the people in the training questions.

        Args:
            batches: all documents; those about other people are ignored.
            questions: with answers.
            tokenizer: of the documents.
            numbers: whether numbers are salient spans.

        Raises:
            ValueError: if a question does not ask for a birthplace, or if the spans of these documents are all answers
                or none of them is.
        """
        people = hash_texts([f"{name_asked(question)}. " for question, _ in questions], tokenizer)
        answers = hash_texts([str(answer).strip() for _, answer in questions], tokenizer)
        order = np.argsort(people)
        people, answers = people[order], answers[order]
        classes = CharacterClasses.of_tokenizer(tokenizer)
        features, labels = [], [np.zeros(0, dtype=bool)]
        for documents in batches:
            spans = find_salient_spans(documents, classes, numbers=numbers)
            titles = _hash_titles(spans)
            person = np.minimum(np.searchsorted(people, titles), len(people) - 1)
            in_question = (people[person] == titles)[spans.document]
            if in_question.any():
                is_answer = spans.hashes() == answers[person][spans.document]
                features.append(contexts(spans)[in_question])
                labels.append(is_answer[in_question])
        is_answer = np.concatenate(labels)
        if is_answer.all() or not is_answer.any():
            raise ValueError(
                f"The questions are about {count(len(questions), 'person', 'people')}, whose documents have "
                f"{count(len(is_answer), 'salient span')} (answers among them: {is_answer.sum()}): a masking policy "
                "needs answers and other spans. Give questions about people in the text, or --learned_masking_policy "
                "false."
            )
        encoder = OneHotEncoder(categories=[np.arange(len(tokenizer))] * sum(CONTEXT))
        classifier = LogisticRegression(C=0.3, max_iter=1000)
        classifier.fit(encoder.fit_transform(np.concatenate(features)), is_answer)
        return cls(classifier.coef_.reshape(sum(CONTEXT), -1), float(classifier.intercept_[0]))


def read_answers(
    batches: Iterable[TokenSequences],
    policy: LearnedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    *,
    numbers: bool = True,
) -> dict[str, str]:
    """Extracts the most probable answer from each document: a dict from its title to the span.

    Documents without a title or a salient span are skipped; if a title occurs twice, the first document counts. The
    arguments are those of `LearnedPolicy.learn`.
    """
    extracted: dict[str, str] = {}
    classes = CharacterClasses.of_tokenizer(tokenizer)
    for documents in batches:
        ids, offsets = documents
        spans = find_salient_spans(documents, classes, numbers=numbers)
        by_probability = np.lexsort((policy.probabilities(spans), spans.document))
        usable = np.flatnonzero((spans.counts > 0) & (spans.titles > 0))
        for i, best in zip(usable, by_probability[spans.offsets[usable + 1] - 1], strict=True):
            name = str(tokenizer.decode(ids[offsets[i] : offsets[i] + spans.titles[i] - 2]))
            answer = str(tokenizer.decode(ids[spans.starts[best] : spans.starts[best] + spans.lengths[best]]))
            if name.strip():
                extracted.setdefault(name, answer)
    return extracted


def hash_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """`hash_runs` of texts, none of them empty: (len(texts),)."""
    ids, offsets = encode_texts(list(texts), character_table(tokenizer))
    return hash_runs(ids, offsets[:-1], np.diff(offsets))


def _hash_titles(spans: SalientSpans) -> np.ndarray:
    """`hash_runs` of the titles of the documents, (N,); 0 for a document without a title."""
    titled = np.flatnonzero(spans.titles)
    hashes = np.zeros(len(spans.titles), dtype=np.uint64)
    hashes[titled] = hash_runs(spans.documents.token_ids, spans.documents.offsets[titled], spans.titles[titled])
    return hashes


def contexts(spans: SalientSpans) -> np.ndarray:
    """The tokens before and after each span, (M, sum(CONTEXT)); PAD where the title or the document ends."""
    ids, offsets = spans.documents
    first, last = (offsets[:-1] + spans.titles)[spans.document], offsets[1:][spans.document]
    before = spans.starts[:, None] + np.arange(-CONTEXT[0], 0)
    after = (spans.starts + spans.lengths)[:, None] + np.arange(CONTEXT[1])
    position = np.concatenate((before, after), axis=1)
    inside = (position >= first[:, None]) & (position < last[:, None])
    return np.where(inside, ids[np.where(inside, position, 0)], PAD_ID)
