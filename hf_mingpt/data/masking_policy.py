"""Seeking: what the clozes of a document ask for most often.

After objectives in the flow. A seeker is shown the salient spans of some documents and says which are sought: those
that are the answer to some training question, or those that stand as such answers do in their own documents. The
latter can also be read out, for comparison: who trains on that has no closed-book model any more.

Reference: Ye et al. 2020, Studying Strategically: Learning to Mask for Closed-book QA, arXiv:2012.15856. Theirs is
learnt with a recurrent tagger, ours with a logistic regression on the characters around a span.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from transformers import PreTrainedTokenizerBase

from ..tokenization_mingpt import PAD_ID, character_table, encode_texts
from .objectives import SpanFinder
from .questions import Question, name_asked
from .salient_spans import SalientSpans, hash_runs
from .sequences import TokenSequences

CONTEXT = (16, 4)  # characters before and after a span that tell what it is to its document


class AnswerPolicy:
    """Seeks spans that are one of some texts, such as the answers of the training questions."""

    def __init__(self, answers: Iterable[str], tokenizer: PreTrainedTokenizerBase):
        self.hashes = hash_texts(sorted({answer.strip() for answer in answers} - {""}), tokenizer)

    def __call__(self, examples: TokenSequences, titles: np.ndarray, spans: SalientSpans) -> np.ndarray:
        return np.isin(hash_runs(examples.token_ids, spans.starts, spans.lengths), self.hashes)


class LearnedPolicy:
    """Seeks spans that stand as answers do: at least half as likely to be one as the likeliest of their document.

    Args:
        weights: (sum(CONTEXT), V) what each character at each place adds to the log-odds of being an answer.
        bias: their log-odds without it.
    """

    def __init__(self, weights: np.ndarray, bias: float):
        self.weights, self.bias = weights, bias

    def chances(self, examples: TokenSequences, titles: np.ndarray, spans: SalientSpans) -> np.ndarray:
        """How likely each of M spans is an answer, (M,)."""
        around = contexts(examples, titles, spans)
        return expit(self.weights[np.arange(around.shape[1]), around].sum(axis=1) + self.bias)

    def __call__(self, examples: TokenSequences, titles: np.ndarray, spans: SalientSpans) -> np.ndarray:
        chances = self.chances(examples, titles, spans)
        document = np.repeat(np.arange(len(titles)), np.diff(spans.offsets))
        best = np.zeros(len(titles))
        np.maximum.at(best, document, chances)
        return chances >= best[document] / 2

    @classmethod
    def learn(
        cls,
        documents: Iterable[TokenSequences],
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        *,
        numbers: bool = True,
    ) -> "LearnedPolicy":
        """Learns from the documents of the people whom the training questions ask about.

        Args:
            documents: all there are, in batches; the others are passed over.
            questions: with answers.
            tokenizer: of the documents.
            numbers: whether numbers are salient, too.

        Raises:
            ValueError: if a question asks for no birthplace, or no document tells an answer from other spans.
        """
        people = hash_texts([f"{name_asked(question)}. " for question, _ in questions], tokenizer)
        order = np.argsort(people)
        people, answers = people[order], hash_texts([str(answer).strip() for _, answer in questions], tokenizer)[order]
        letters = SpanFinder(tokenizer)
        learnt, is_answer = [], []
        for examples in documents:
            titles = letters.find_titles(examples)
            spans = letters.find_spans(examples, titles, numbers=numbers)
            named = np.flatnonzero(titles)
            title_hashes = np.zeros(len(titles), dtype=people.dtype)
            title_hashes[named] = hash_runs(examples.token_ids, examples.offsets[named], titles[named])
            place = np.minimum(np.searchsorted(people, title_hashes), len(people) - 1)
            asked = np.repeat(people[place] == title_hashes, np.diff(spans.offsets))
            answer = np.repeat(answers[place], np.diff(spans.offsets))
            if asked.any():
                found = hash_runs(examples.token_ids, spans.starts, spans.lengths) == answer
                learnt.append(contexts(examples, titles, spans)[asked])
                is_answer.append(found[asked])
        labels = np.concatenate(is_answer) if is_answer else np.zeros(0, dtype=bool)
        if labels.all() or not labels.any():
            raise ValueError(
                f"Of {len(labels)} names in the documents of the {len(questions)} people asked about, {labels.sum()} "
                "are the answer: where answers stand cannot be learnt from that. pretrain.py does without, with "
                "--learned_masking_policy false."
            )
        encoder = OneHotEncoder(categories=[np.arange(len(tokenizer))] * sum(CONTEXT))
        classifier = LogisticRegression(C=0.3, max_iter=1000)
        classifier.fit(encoder.fit_transform(np.concatenate(learnt)), labels)
        return cls(classifier.coef_.reshape(sum(CONTEXT), -1), float(classifier.intercept_[0]))


def read_answers(
    documents: Iterable[TokenSequences],
    seeker: LearnedPolicy,
    tokenizer: PreTrainedTokenizerBase,
    *,
    numbers: bool = True,
) -> dict[str, str]:
    """Reads from each document what most stands as answers do: whom it is about (its title), and that span.

    Documents without a title or a span are passed over; of namesakes the first counts. Arguments as of
    `LearnedPolicy.learn`.
    """
    read: dict[str, str] = {}
    letters = SpanFinder(tokenizer)
    for examples in documents:
        ids, offsets = examples
        titles = letters.find_titles(examples)
        spans = letters.find_spans(examples, titles, numbers=numbers)
        document = np.repeat(np.arange(len(titles)), np.diff(spans.offsets))
        by_chance = np.lexsort((seeker.chances(examples, titles, spans), document))
        told = np.flatnonzero((np.diff(spans.offsets) > 0) & (titles > 0))
        for i, best in zip(told, by_chance[spans.offsets[told + 1] - 1], strict=True):
            name = str(tokenizer.decode(ids[offsets[i] : offsets[i] + titles[i] - 2]))
            answer = str(tokenizer.decode(ids[spans.starts[best] : spans.starts[best] + spans.lengths[best]]))
            if name.strip():
                read.setdefault(name, answer)
    return read


def hash_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """`hash_runs` of texts, none of them empty: (len(texts),)."""
    ids, offsets = encode_texts(list(texts), character_table(tokenizer))
    return hash_runs(ids, offsets[:-1], np.diff(offsets))


def contexts(examples: TokenSequences, titles: np.ndarray, spans: SalientSpans) -> np.ndarray:
    """The tokens before and after M spans, within their documents and without the titles: (M, sum(CONTEXT)), or PAD."""
    ids, offsets = examples
    number = np.diff(spans.offsets)
    first, last = np.repeat(offsets[:-1] + titles, number), np.repeat(offsets[1:], number)
    before = spans.starts[:, None] + np.arange(-CONTEXT[0], 0)
    after = (spans.starts + spans.lengths)[:, None] + np.arange(CONTEXT[1])
    place = np.concatenate((before, after), axis=1)
    inside = (place >= first[:, None]) & (place < last[:, None])
    return np.where(inside, ids[np.where(inside, place, 0)], PAD_ID)
