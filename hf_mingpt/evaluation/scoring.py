"""Accuracy with its interval, from the package's `evaluate` metric, and baselines.

Reference: Wilson 1927 for the interval.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate
from scipy.stats import binomtest

from ..data.questions import Question
from ..system.writing import writable_cache
from .markup import escape_markdown

METRIC_FOLDER = str(Path(__file__).parent / "metrics" / "birthplace_accuracy")  # evaluate.load takes no Path


def is_exact_match(prediction: str, reference: str) -> bool:
    """Whether a prediction equals the reference, apart from white space around either, as in the assignment."""
    return prediction.strip() == reference.strip()


def exact_matches(predictions: Sequence[str], references: Sequence[str | None]) -> list[bool]:
    """Whether each of N predictions is an exact match.

    Raises:
        ValueError: if there are no predictions, not as many references, or one of them is not text.

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


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, as two fractions."""
    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy(predictions: Sequence[str], references: Sequence[str | None]) -> dict[str, Any]:
    """Accuracy with its counts and interval, from the package's metric.

    Raises:
        ValueError: if there are no predictions, not as many references, or one of them is no text.
    """
    exact_matches(predictions, references)  # says what is wrong more plainly than the library
    for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE"):
        setattr(evaluate.config, name, writable_cache(Path(getattr(evaluate.config, name))))
    metric = evaluate.load(METRIC_FOLDER)
    scores = metric.compute(predictions=list(predictions), references=list(references))
    low, high = wilson_interval(scores["correct"], scores["total"])
    return {**scores, "interval_95": [round(low, 4), round(high, 4)]}


def baselines(train: Sequence[Question] | None, references: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Answers without a model: always the most frequent training answer, and always London if anyone was born there."""
    scores = {}
    if train:
        place, _ = Counter(str(question.answer).strip() for question in train).most_common(1)[0]
        scores[f"most frequent ({place})"] = accuracy([place] * len(references), references)
    if any(is_exact_match("London", reference) for reference in references):
        scores["always London"] = accuracy(["London"] * len(references), references)
    return scores


def file_record(path: str | Path) -> dict[str, Any]:
    """What a report says of a file that it read: name, bytes, sha256."""
    content = Path(path).read_bytes()
    return {"file": Path(path).name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def format_table(rows: dict[str, dict[str, Any]]) -> str:
    """A table for the screen and for Markdown: one row a model or baseline."""
    lines = ["| | accuracy | right | 95 % interval |", "|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["interval_95"]
        cells = f"{row['accuracy']:.1%} | {row['correct']} of {row['total']} | {low:.1%} to {high:.1%}"
        lines.append(f"| {escape_markdown(name)} | {cells} |")
    return "\n".join(lines)
