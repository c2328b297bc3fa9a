"""Held-out data: which questions or documents a run evaluates on instead of training on them."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
        ratio: of the questions to hold out instead, both sides in their order. Questions of the same wording are on the
            same side, so the ratio is that of different questions.
        seed: of the choice.

    Raises:
        OSError, ValueError: those of `read_questions`, or if `ratio` leaves nothing on one side.
    """
    if ratio:
        distinct = list(dict.fromkeys(question for question, _ in questions))
        chosen = {distinct[i] for i in _choose(len(distinct), ratio, seed, "question")}
        kept, held_out = ([q for q in questions if (q.question in chosen) == side] for side in (False, True))
        tell(f"Held out for evaluation: {len(held_out)} of {count(len(questions), 'question')}.")
        return kept, held_out
    held_out = read_questions(file, answers=True) if file else []
    warn_of_training_questions(held_out, questions, "validation question")
    return list(questions), held_out


def warn_of_training_questions(asked: Sequence[Question], train: Sequence[Question], noun: str = "question") -> None:
    """Says how many questions with an answer are training questions, if any."""
    known = {question for question, _ in train}
    if number := sum(question in known and answer is not None for question, answer in asked):
        warn(
            f"Of {count(len(asked), noun)}, {number} are training questions too: on these, the accuracy measures "
            "memory."
        )


def split_documents(
    texts: Dataset | IterableDataset, *, held_out: Dataset | None, ratio: float | None, seed: int
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    """The documents to train on, and those to evaluate on, if any; says how many are held out, or are in both.

    Args:
        texts: the corpus.
        held_out: other documents to evaluate on.
        ratio: of the documents to hold out instead, both sides in their order.
        seed: of the choice.

    Raises:
        ValueError: if `ratio` leaves nothing on one side.
    """
    if isinstance(texts, IterableDataset):
        return texts, held_out
    if held_out is not None:
        corpus, own = (dataset.with_format("arrow")["text"][:].cast(pa.large_string()) for dataset in (texts, held_out))
        shared = corpus.filter(pc.is_in(corpus, value_set=own))  # so that the set to look in is the smaller one
        if number := pc.sum(pc.is_in(own, value_set=shared)).as_py():
            both = f"Of {count(len(own), 'validation document')}, {number} are training documents too"
            warn(f"{both}: on these, the loss measures memory.")
    if not ratio:
        return texts, held_out
    chosen = np.zeros(len(texts), dtype=bool)
    chosen[_choose(len(texts), ratio, seed, "document")] = True
    tell(f"Held out for evaluation: {chosen.sum()} of {count(len(texts), 'document')}.")
    return texts.select(np.flatnonzero(~chosen)), texts.select(np.flatnonzero(chosen))


def _choose(number: int, ratio: float, seed: int, noun: str) -> np.ndarray:
    chosen = round(number * ratio)
    if not 0 < chosen < number:
        raise ValueError(
            f"validation_ratio {ratio} holds out {chosen} of {count(number, noun)}: give a ratio that leaves some on "
            "both sides."
        )
    return np.random.default_rng(seed).permutation(number)[:chosen]
