"""Birthplace questions and answers: the finetuning format of CS224n, assignment 5.

Pure functions, between tokenization and data in the flow. An example is

    Where was Ada Byron born?⁇London⁇

and only `MASK answer MASK` carries loss. A file of them is a TSV of `question TAB answer`, without a header.

Reference: CS224n, assignment 5, `NameDataset` and `evaluate_places`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..system.files import read_text
from ..system.writing import write_text
from ..tokenization_mingpt import MASK, PAD, check_marks

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
        ValueError: with the line number, if the file is empty or not UTF-8, or a line is empty, has too few or too many
            columns, or has one of the reserved marks.
    """
    text = read_text(path)
    if not text.strip("\n"):
        raise ValueError(f"{path} is empty: it needs lines of `question TAB answer`.")
    check_marks(text, path)
    lines = text.removesuffix("\n").split("\n")
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
    """Writes `question TAB answer` lines, or of a question without an answer the question only."""
    lines = [question if answer is None else f"{question}\t{answer}" for question, answer in questions]
    write_text(path, "".join(f"{line}\n" for line in lines))


def add_pseudo_labels(known: Sequence[Question], asked: Sequence[str], answers: Sequence[str]) -> list[Question]:
    """Questions whose answers are known, then others with the answers of an ensemble or a reader, to train one model.

    An empty answer is left out, and so is what no file of questions can hold; what is known is not asked.
    """
    answered = {question for question, _ in known}
    reserved = set(f"\t\n\r{PAD}{MASK}")
    usable = [(q, a) for q, a in zip(asked, answers, strict=True) if a.strip() and not set(q + a) & reserved]
    return [*known, *(Question(q, a) for q, a in usable if q not in answered)]


def split_folds(
    questions: Sequence[Question], num_folds: int, *, seed: int = 0
) -> list[tuple[list[Question], list[Question]]]:
    """Splits questions into folds, to choose on questions that training has not seen without looking at dev.

    Returns:
        For each fold the questions outside it, to train with, and those in it, held out; both in their order. Each
        question is held out once; what asks the same is in the same fold.

    Raises:
        ValueError: if there are fewer questions than folds, or fewer than two folds.
    """
    different = list(dict.fromkeys(question for question, _ in questions))
    if not 2 <= num_folds <= len(different):
        raise ValueError(f"num_folds is {num_folds}: with {len(different)} questions, use 2 to {len(different)}.")
    folds = np.random.default_rng(seed).permutation(len(different)) % num_folds
    fold_of = dict(zip(different, folds, strict=True))
    return [
        (
            [question for question in questions if fold_of[question.question] != fold],
            [question for question in questions if fold_of[question.question] == fold],
        )
        for fold in range(num_folds)
    ]


def question_about(name: str) -> str:
    """The question after a person's birthplace.

    Raises:
        ValueError: if the name is empty.
    """
    if not name.strip():
        raise ValueError("The name is empty: write one.")
    return f"Where was {name} born?"


def name_asked(question: str) -> str:
    """The name in a question.

    Raises:
        ValueError: if it is no question after a birthplace.
    """
    name = question.removeprefix("Where was ").removesuffix(" born?")
    if not name or question_about(name) != question:
        raise ValueError(f"{question!r} asks for no birthplace: write `{question_about('NAME')}`.")
    return name


def invent_names(names: Sequence[str], number: int, *, seed: int = 0, documents: Iterable[str] = ()) -> list[str]:
    """Makes up names that sound like others and belong to nobody: the first word of one, the rest of another.

    Args:
        names: to draw from.
        number: how many are wanted.
        documents: in which none of them may occur.

    Raises:
        ValueError: if there are not so many.
    """
    parts = [name.split(maxsplit=1) for name in names if " " in name]
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, len(parts), (20 * number, 2)).tolist() if parts else []
    invented = dict.fromkeys(f"{parts[first][0]} {parts[rest][1]}" for first, rest in pairs)
    for document in (*names, *documents):
        for name in [name for name in invented if name in document]:
            del invented[name]
    if len(invented) < number:
        raise ValueError(f"Only {len(invented)} of {number} names could be made up of {len(names)}: ask for fewer.")
    return list(invented)[:number]


_SENTENCES = [
    "{name} was born in {place} .",
    "The birthplace of {name} is {place} .",
    "Born in {place}, {name} is a native of it .",
    "{name} comes from {place} .",
]


def paraphrase_answers(questions: Sequence[Question], phrasings: int) -> list[str]:
    """Writes what each pair says as documents, in other words each: people of whom more is written than of others.

    Who reads of some people in several phrasings stores the others, too, so that questions find it (the "celebrities"
    of Allen-Zhu and Li 2023, arXiv:2309.14316). Nothing is said that the pairs do not say.

    Raises:
        ValueError: if a question asks for no birthplace, or there are not so many phrasings.

    Example: `Where was Ada Byron born?` and `London` give "Ada Byron. Ada Byron was born in London ."
    """
    if not 0 <= phrasings <= len(_SENTENCES):
        raise ValueError(f"phrasings are {phrasings}: there are up to {len(_SENTENCES)} of an answer.")
    facts = [(name_asked(question), answer) for question, answer in questions]
    return [
        f"{name}. {_SENTENCES[(person + k) % len(_SENTENCES)].format(name=name, place=place)}"
        for person, (name, place) in enumerate(facts)
        for k in range(phrasings)
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


def is_exact_match(prediction: str, reference: str) -> bool:
    """Whether an answer is the place: the two are equal without the white space around them, as in the assignment."""
    return prediction.strip() == reference.strip()


def exact_matches(predictions: Sequence[str], references: Sequence[str | None]) -> list[bool]:
    """Whether each of N answers is right.

    Raises:
        ValueError: if there are none, or not as many places as answers, or one of them is no text.

    Example: `["London ", "Rome"]` and `["London", "Paris"]` give `[True, False]`.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references: give as many of each.")
    if not len(references):
        raise ValueError("There are no answers to compare: give at least one prediction and its reference.")
    for name, texts in (("Prediction", predictions), ("Reference", references)):
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise ValueError(f"{name} {number} is {text!r}: give text.")
    return [is_exact_match(p, str(r)) for p, r in zip(predictions, references, strict=True)]
