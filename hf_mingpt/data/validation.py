"""Held-out data: which questions or documents a run evaluates on instead of training on them."""

from collections.abc import Iterable, Sequence

import numpy as np
from datasets import Dataset, IterableDataset

from ..system.command_line import tell, warn
from ..system.wording import count
from .questions import Question, read_questions

VALIDATION_SEED = 20_000  # of the draws on validation documents: the same for all runs, so that losses compare


def split_questions(
    questions: Sequence[Question], *, file: str | None, ratio: float | None, seed: int
) -> tuple[list[Question], list[Question]]:
    """The questions to train on, and those to evaluate on, which may be none; says how many there are.

    Args:
        questions: with answers.
        file: TSV of the questions to evaluate on.
        ratio: of the questions to hold out instead.
        seed: of the choice.

    Raises:
        OSError, ValueError: those of `read_questions` and `hold_out_questions`.
    """
    if ratio:
        kept, held_out = hold_out_questions(questions, ratio, seed=seed)
        tell(f"Held out for evaluation: {len(held_out)} of {count(len(questions), 'question')}.")
        return kept, held_out
    held_out = read_questions(file, answers=True) if file else []
    if overlap := describe_overlap(questions, held_out):
        warn(overlap)
    return list(questions), held_out


def split_documents(
    texts: Dataset | IterableDataset, *, held_out: Dataset | None, ratio: float | None, seed: int
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    """The documents to train on, and those to evaluate on, if any; says how many are held out.

    Args:
        texts: the corpus.
        held_out: other documents to evaluate on.
        ratio: of the documents to hold out instead.
        seed: of the choice.

    Raises:
        ValueError: if `ratio` leaves nothing on one side.
    """
    if not ratio or isinstance(texts, IterableDataset):
        return texts, held_out
    kept, held_out = hold_out_documents(texts, ratio, seed=seed)
    tell(f"Held out for evaluation: {len(held_out)} of {count(len(texts), 'document')}.")
    return kept, held_out


def hold_out_questions(
    questions: Sequence[Question], ratio: float, *, seed: int
) -> tuple[list[Question], list[Question]]:
    """Splits questions into those to train on and those to evaluate on, both in their order.

    Questions of the same wording are on the same side, so the number is that of different questions.

    Args:
        questions: with answers.
        ratio: of the questions to hold out.
        seed: of the choice.

    Raises:
        ValueError: if one side is empty.
    """
    distinct = list(dict.fromkeys(question for question, _ in questions))
    held_out = {distinct[i] for i in _choose(len(distinct), ratio, seed, "question")}
    kept, rest = ([q for q in questions if (q.question in held_out) == side] for side in (False, True))
    return kept, rest


def hold_out_documents(texts: Dataset, ratio: float, *, seed: int) -> tuple[Dataset, Dataset]:
    """Splits documents into those to train on and those to evaluate on, both in their order.

    Args:
        texts: the corpus.
        ratio: of the documents to hold out.
        seed: of the choice.

    Raises:
        ValueError: if one side is empty.
    """
    held_out = np.zeros(len(texts), dtype=bool)
    held_out[_choose(len(texts), ratio, seed, "document")] = True
    kept, rest = (texts.select(np.flatnonzero(side)) for side in (~held_out, held_out))
    return kept, rest


def _choose(number: int, ratio: float, seed: int, noun: str) -> np.ndarray:
    chosen = round(number * ratio)
    if not 0 < chosen < number:
        raise ValueError(
            f"validation_ratio {ratio} holds out {chosen} of {count(number, noun)}: give a ratio that leaves some on "
            "both sides."
        )
    return np.random.default_rng(seed).permutation(number)[:chosen]


def describe_overlap(training: Iterable[Question], validation: Sequence[Question]) -> str | None:
    """Says how many validation questions are training questions too; None if there are none."""
    known = {question.question for question in training}
    if not (number := sum(question.question in known for question in validation)):
        return None
    return (
        f"Of {count(len(validation), 'validation question')}, {number} are training questions too: on these, the "
        "accuracy measures memory."
    )
