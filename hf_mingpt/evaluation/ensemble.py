"""Ensembles: of the answers of several models, or to several phrasings, the one with the greatest mean probability.

Models that share a recipe and differ in their seeds learn much the same facts, and make different mistakes.

Reference: Lakshminarayanan et al. 2017, arXiv:1612.01474, Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm.auto import trange
from transformers import PreTrainedTokenizerBase

from .answering import with_mark
from .confidence import find_scorable, score_answers


def ensemble_answers(
    runs: Sequence[tuple[Any, PreTrainedTokenizerBase]],
    questions: Sequence[str],
    predictions: Sequence[Sequence[str]],
    *,
    phrasings: Sequence[Sequence[str]] = (),
    progress: bool = False,
) -> list[str]:
    """Chooses, for each question, the prediction with the greatest mean probability over all models and phrasings.

    Args:
        runs: M models, each with its tokenizer.
        questions: N questions.
        predictions: lists of N predictions (`answer_questions`), of any number of models and phrasings.
        phrasings: further lists of N texts that ask for the same as the questions, such as masked forms (`rephrase`).
        progress: whether to show a progress bar.

    Returns:
        N answers. A prediction that is empty or does not fit the context is chosen only if there is no other.
    """
    members = list[tuple[Any, PreTrainedTokenizerBase, Sequence[str]]]()
    for model, tokenizer in runs:
        members.append((model, tokenizer, questions))
        members += [(model, tokenizer, [with_mark(text, tokenizer) for text in texts]) for texts in phrasings]
    chosen = []
    for i in trange(len(questions), unit="question", disable=not progress):
        distinct = list(dict.fromkeys(answers[i] for answers in predictions))
        fitting = set.intersection(
            *(find_scorable(model, tokenizer, [texts[i]], distinct) for model, tokenizer, texts in members)
        )
        candidates = [answer for answer in distinct if answer in fitting]
        if len(candidates) > 1:
            scores = [score_answers(model, tokenizer, [texts[i]], candidates)[0] for model, tokenizer, texts in members]
            chosen.append(candidates[int(np.exp(scores).sum(axis=0).argmax())])
        else:
            chosen.append((candidates or distinct)[0])
    return chosen
