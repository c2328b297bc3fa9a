"""Ensembles: several models answer, and what they together find likeliest is the answer.

After honesty in the flow. Models of one recipe and several seeds learn much the same facts, but make up different ones.

Reference: Lakshminarayanan et al. 2017, arXiv:1612.01474, Simple and Scalable Predictive Uncertainty Estimation using
Deep Ensembles.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .calibration import score_answers


def ensemble_answers(
    runs: Sequence[tuple[Any, PreTrainedTokenizerBase]],
    questions: Sequence[str],
    predictions: Sequence[Sequence[str]],
    *,
    progress: bool = False,
) -> list[str]:
    """Of the answers that several models give to a question, the one with the greatest mean probability.

    Args:
        runs: M models with their tokenizers.
        questions: N of them.
        predictions: the M models' N answers each (`evaluation.answer_questions`).

    Returns:
        N answers. An answer that is empty or does not end within the block is taken only if there is no other.
    """
    chosen = []
    for i, question in enumerate(tqdm(questions, unit="question", disable=not progress)):
        said = list(dict.fromkeys(answers[i] for answers in predictions))
        room = min(model.config.max_position_embeddings for model, _ in runs) - 2 - len(question)
        candidates = [answer for answer in said if 0 < len(answer) <= room]
        if len(candidates) > 1:
            scores = [score_answers(model, tokenizer, [question], candidates)[0] for model, tokenizer in runs]
            chosen.append(candidates[int(np.exp(scores).sum(axis=0).argmax())])
        else:
            chosen.append((candidates or said)[0])
    return chosen
