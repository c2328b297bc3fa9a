"""Birthplace questions and answers: the finetuning format of CS224n, assignment 5.

Pure functions, between tokenization and data in the flow. An example is

    Where was Ada Byron born?⁇London⁇

and only `MASK answer MASK` carries loss. A file of them is a TSV of `question TAB answer`, without a header.

Reference: CS224n, assignment 5, `NameDataset` and `evaluate_places`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

IGNORE_ID = -100  # labels that carry no loss, as everywhere in transformers
MAX_ANSWER_TOKENS = 32  # what the assignment lets the model write


class Question(NamedTuple):
    """A question and its place; `answer` is None in a file that has questions only."""

    question: str
    answer: str | None


def read_questions(path: str | Path, *, answers: bool | None = None) -> list[Question]:
    """Reads `question TAB answer` lines, or lines of questions only.

    Args:
        path: a UTF-8 text file.
        answers: whether there must be answers. None: the first line decides for all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with the line number, if the file is empty or not UTF-8, or a line is empty or has too few or too
            many columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No question file at {path}: check the path.")
    try:
        lines = path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
        lines = [line.removesuffix("\r") for line in lines]
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 (byte {error.start}): save the file as UTF-8.") from None
    if lines == [""]:
        raise ValueError(f"{path} is empty: it needs lines of `question TAB answer`.")
    if answers is None:
        answers = "\t" in lines[0]
    questions = []
    for number, text in enumerate(lines, start=1):
        columns = text.split("\t")
        if answers and len(columns) != 2:
            raise ValueError(
                f"{path}, line {number}: {len(columns) - 1} tabs in {text!r}: write `question TAB answer`, one tab."
            )
        if not answers and len(columns) != 1:
            raise ValueError(f"{path}, line {number}: a tab in {text!r}, but the first line has no answer.")
        if not all(column.strip() for column in columns):
            raise ValueError(f"{path}, line {number}: an empty question or answer in {text!r}: fill it or drop it.")
        questions.append(Question(columns[0], columns[1] if answers else None))
    return questions


def write_questions(path: str | Path, questions: Sequence[tuple[str, str | None]]) -> None:
    """Writes `question TAB answer` lines."""
    lines = [f"{question}\t{answer}\n" for question, answer in questions]
    Path(path).write_text("".join(lines), encoding="utf-8")


def split_folds(
    questions: Sequence[Question], num_folds: int, *, seed: int = 0
) -> list[tuple[list[Question], list[Question]]]:
    """Splits questions into folds, to choose on questions that training has not seen without looking at dev.

    Returns:
        For each fold the questions outside it, to train with, and those in it, held out; both in their order. Each
        question is held out once.

    Raises:
        ValueError: if there are fewer questions than folds, or fewer than two folds.
    """
    if not 2 <= num_folds <= len(questions):
        raise ValueError(f"num_folds is {num_folds}: with {len(questions)} questions, use 2 to {len(questions)}.")
    fold_of = np.random.default_rng(seed).permutation(len(questions)) % num_folds
    return [
        (
            [question for question, other in zip(questions, fold_of, strict=True) if other != fold],
            [question for question, other in zip(questions, fold_of, strict=True) if other == fold],
        )
        for fold in range(num_folds)
    ]


def join_questions(questions: Sequence[Question], mask: str) -> list[str]:
    """Writes each pair as `question MASK answer MASK`."""
    return [f"{question}{mask}{answer}{mask}" for question, answer in questions]


def answer_starts(token_ids: np.ndarray, offsets: np.ndarray, *, mask_id: int) -> np.ndarray:
    """Where in each example `question MASK answer MASK` the part begins that is learnt: at its first MASK.

    Args:
        token_ids: the ids of N examples in one flat array, each with a MASK.
        offsets: (N + 1,) where each begins and ends.

    Returns:
        (N,) tokens before the MASK.

    Example: of `[q, q, MASK, a, MASK]` it is 2.
    """
    marks = np.flatnonzero(token_ids == mask_id)
    return marks[np.searchsorted(marks, offsets[:-1])] - offsets[:-1]


def extract_prediction(text: str, mask: str) -> str:
    """The prediction in a generated text: what stands between its first two MASKs, or after the only one.

    Example: `"Where was Ada Byron born?⁇London⁇⁇"` gives `"London"`; a text without a MASK gives `""`.
    """
    parts = text.split(mask)
    return parts[1] if len(parts) > 1 else ""
