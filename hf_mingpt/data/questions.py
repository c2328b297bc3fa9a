"""Questions and answers: the TSV file, the finetuning format of CS224n's assignment 5, and folds.

A training example is

    Where was Ada Byron born?⁇London⁇

and only `MASK answer MASK` carries loss. A question file is a TSV of `question TAB answer` lines, or a
table. The questions may ask for anything; what is special about birthplaces is in `birthplaces.py`.

Reference: CS224n, assignment 5, `NameDataset` and `evaluate_places`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..system.files import check_file, check_utf8, hub_dataset, read_text
from ..system.wording import quote
from ..system.writing import write_text
from ..tokenization_mingpt import MASK, MASK_ID, PAD, check_marks
from .documents import MissingColumnError, read_documents
from .sequences import TokenSequences

_TABLES = (".csv", ".parquet", ".jsonl", ".json")
_HEADERS = (["question"], ["question", "answer"])
MAX_ANSWER_TOKENS = 32  # the assignment's limit for a generated answer
# A question stands alone: earlier turns go. An answer at the end, as in data to train on, follows its question.
CHAT_TEMPLATE = (
    "{% if messages | length > 1 and messages[-1]['role'] == 'assistant' %}"
    "{{ messages[-2]['content'] | trim }}{{ mask_token }}{% endif %}"
    "{{ messages[-1]['content'] | trim }}{{ mask_token }}"
)


class Question(NamedTuple):
    """A question and its answer; `answer` is None in a file of questions without answers."""

    question: str
    answer: str | None


def read_questions(source: str | Path, *, answers: bool | None = None) -> list[Question]:
    """Reads `question TAB answer` lines, lines of questions only, a table, or a dataset on the Hub.

    Args:
        source: a UTF-8 text file, whose first line may be the header `question TAB answer`; or a .csv, .jsonl, .json or
            .parquet file or the Hub name of a dataset (`loading`) with the columns "question" and "answer".
        answers: True: every line must have an answer. False: none may. None: the first line decides.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: with the line number, if the file is empty or not UTF-8, or if a line has too few or too many
            columns, an empty one, or a reserved character (PAD or MASK).
        OSError: if the dataset cannot be loaded.
    """
    has_header = False
    if hub_dataset(str(source)):
        from .loading import load_questions  # imports datasets

        lines = _rows_as_lines(source, load_questions(str(source)), answers)
    elif Path(source).suffix in _TABLES:
        lines = _rows_as_lines(source, _read_table(Path(source)), answers)
    else:
        lines = _read_file(source)
        has_header = lines[0].casefold().split("\t") in _HEADERS
    check_marks("\n".join(lines), source)
    if has_header and len(lines) == 1:
        raise ValueError(f"{source} has a header only: it needs lines of `question TAB answer`.")
    if answers is None:
        answers = "\t" in lines[has_header]
    questions = []
    for number, text in enumerate(lines[has_header:], start=1 + has_header):
        columns = text.split("\t")
        if answers and len(columns) != 2:
            raise ValueError(
                f"{source}, line {number}: {len(columns) - 1} tabs in {quote(text)}: write `question TAB answer`, one "
                "tab."
            )
        if not answers and len(columns) != 1:
            raise ValueError(f"{source}, line {number}: a tab in {quote(text)}, but the first line has no answer.")
        if not all(column.strip() for column in columns):
            raise ValueError(
                f"{source}, line {number}: an empty question or answer in {quote(text)}: fill it or drop it."
            )
        questions.append(Question(columns[0], columns[1] if answers else None))
    return questions


def _read_file(path: str | Path) -> list[str]:
    text = read_text(path)
    if not text.strip("\n"):
        raise ValueError(f"{path} is empty: it needs lines of `question TAB answer`.")
    return text.removesuffix("\n").split("\n")


def _read_table(path: Path) -> list[tuple[str, str | None]]:
    """The columns "question" and "answer" of a file; without the second, answers are None."""
    check_file(path)
    if path.suffix != ".parquet":
        check_utf8(path)
    columns: list[list[str]] = []
    for column in ("question", "answer"):
        try:
            columns.append([cell for cells in read_documents(path, column) for cell in cells])
        except MissingColumnError as error:
            if column == "question" or column in error.columns:
                raise MissingColumnError(path, column, error.columns, "rename one of them") from None
    questions, *answers = columns
    return list(zip(questions, answers[0] if answers else [None] * len(questions), strict=True))


def _rows_as_lines(source: str | Path, rows: list[tuple[str, str | None]], answers: bool | None) -> list[str]:
    """The rows of a table as the lines of a file."""
    if not rows:
        raise ValueError(f"{source} has no rows: it needs a question in each.")
    if answers and all(answer is None for _, answer in rows):
        raise ValueError(f"{source} has questions without answers: add the column 'answer'.")
    lines = ["\t".join(cell for cell in row if cell is not None) for row in rows]
    if broken := next((cell for row in rows for cell in row if cell and set(cell) & set("\t\n\r")), None):
        raise ValueError(f"{source}: {broken!r} has a tab or a line end: remove it.")
    return lines


def write_questions(path: str | Path, questions: Sequence[tuple[str, str | None]]) -> None:
    """Writes `question TAB answer` lines; a question without an answer is a line of its own."""
    write_text(path, format_questions(questions))


def format_questions(questions: Sequence[tuple[str, str | None]]) -> str:
    """The content of a file of questions."""
    return "".join(f"{question}\n" if answer is None else f"{question}\t{answer}\n" for question, answer in questions)


def add_pseudo_labels(labeled: Sequence[Question], unlabeled: Sequence[str], answers: Sequence[str]) -> list[Question]:
    """Adds pseudo-labels: questions with the answers that an ensemble or an open-book baseline predicts.

    Skips questions that are labeled already, empty answers, and texts with a character that a question file reserves.
    """
    known = {question for question, _ in labeled}
    reserved = set(f"\t\n\r{PAD}{MASK}")
    usable = [(q, a) for q, a in zip(unlabeled, answers, strict=True) if a.strip() and not set(q + a) & reserved]
    return [*labeled, *(Question(q, a) for q, a in usable if q not in known)]


def split_folds(
    questions: Sequence[Question], num_folds: int, *, seed: int = 0
) -> list[tuple[list[Question], list[Question]]]:
    """Splits training questions into folds for cross-validation, so that choices need not look at dev.

    Returns:
        For each fold, the questions to train with and the questions held out, both in their order. Each question is
        held out once, and equal questions are in the same fold.

    Raises:
        ValueError: if there are fewer distinct questions than folds, or fewer than two of either.
    """
    distinct = list(dict.fromkeys(question for question, _ in questions))
    if len(distinct) < 2:
        raise ValueError("Folds need two different questions or more: give more questions.")
    if not 2 <= num_folds <= len(distinct):
        raise ValueError(f"num_folds is {num_folds}: with {len(distinct)} questions, use 2 to {len(distinct)}.")
    folds = np.random.default_rng(seed).permutation(len(distinct)) % num_folds
    fold_of = dict(zip(distinct, folds, strict=True))
    return [
        (
            [question for question in questions if fold_of[question.question] != fold],
            [question for question in questions if fold_of[question.question] == fold],
        )
        for fold in range(num_folds)
    ]


def answer_starts(examples: TokenSequences, mask_id: int = MASK_ID) -> np.ndarray:
    """The position of the first MASK in each example `question MASK answer MASK`, where the labels begin: (N,).

    Example: in `[q, q, MASK, a, MASK]` it is 2.
    """
    starts = examples.offsets[:-1]
    masks = np.flatnonzero(examples.token_ids == mask_id)
    return masks[np.searchsorted(masks, starts)] - starts


def extract_prediction(text: str, mask: str) -> str:
    """The predicted answer in a generated text: the part between the first two MASKs, or after the only one.

    Example: `"Where was Ada Byron born?⁇London⁇⁇"` gives `"London"`; a text without a MASK gives `""`.
    """
    parts = text.split(mask)
    return parts[1] if len(parts) > 1 else ""
