"""Metrics: accuracy with its interval, baselines, and how well probabilities are calibrated.

Arrays have the shape (N,) for N answers: `probability` is the probability that an answer is correct, and `correct` says
whether it is. Metrics are fractions.

References: Wilson 1927 (interval of a proportion); Guo et al. 2017, arXiv:1706.04599 (expected calibration error);
Geifman and El-Yaniv 2017, arXiv:1705.08500 (risk and coverage).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.questions import Question, format_questions
from ..data.subjects import Template, find_templates, match
from ..system.files import hub_dataset, sha256_of
from ..system.wording import count
from ..system.writing import writable_cache

METRIC_FOLDER = str(Path(__file__).parent / "metrics" / "birthplace_accuracy")  # evaluate.load takes no Path
COVERAGES = (10, 20, 30, 50)  # percent of the questions
NUM_BINS = 10

Scores = dict[str, float | None]


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
        found = f"{count(len(predictions), 'prediction')} and {count(len(references), 'reference')}"
        raise ValueError(f"{found}: give as many of each.")
    if not len(references):
        raise ValueError("There are no answers to compare: give at least one prediction and its reference.")
    for name, texts in (("Prediction", predictions), ("Reference", references)):
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise ValueError(f"{name} {number} is {text!r}: give text.")
    return [is_exact_match(p, str(r)) for p, r in zip(predictions, references, strict=True)]


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, as two fractions."""
    from scipy.stats import binomtest

    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return float(low), float(high)


def accuracy(predictions: Sequence[str], references: Sequence[str | None]) -> dict[str, Any]:
    """Exact-match accuracy, from the package's `evaluate` metric.

    Returns:
        accuracy, correct, total and interval_95 (Wilson).

    Raises:
        ValueError: if there are no predictions, if the numbers of predictions and references differ, or if one of them
            is not a string.
    """
    import evaluate

    exact_matches(predictions, references)  # its errors are clearer than the library's
    for name in ("HF_METRICS_CACHE", "HF_MODULES_CACHE"):
        setattr(evaluate.config, name, writable_cache(Path(getattr(evaluate.config, name))))
    metric = evaluate.load(METRIC_FOLDER)
    scores = metric.compute(predictions=list(predictions), references=list(references))
    low, high = wilson_interval(scores["correct"], scores["total"])
    return {**scores, "interval_95": [round(low, 4), round(high, 4)]}


def baselines(train: Sequence[Question] | None, questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """The accuracy of constant answers: the most frequent training answer, and London if it is ever correct.

    Of several kinds of training questions, each has its own most frequent answer.

    Args:
        train: the training questions; None if they are not at hand.
        questions: N questions with answers.
    """
    references, scores = [str(question.answer) for question in questions], {}
    if train:
        templates = find_templates([question for question, _ in train])
        templates = templates if len(templates) > 1 else []
        kinds = [match(question, templates) for question, _ in questions]
        frequent = {kind: _most_frequent(train, kind, templates) for kind in dict.fromkeys(kinds)}
        named = ", ".join(dict.fromkeys(frequent.values()))
        scores[f"most frequent ({named})"] = accuracy([frequent[kind] for kind in kinds], references)
    if any(is_exact_match("London", reference) for reference in references):
        scores["always London"] = accuracy(["London"] * len(references), references)
    return scores


def _most_frequent(train: Sequence[Question], kind: Template | None, templates: Sequence[Template]) -> str:
    """The most frequent answer to the training questions of a kind, or to all if none is of that kind."""
    own = [answer for question, answer in train if match(question, templates) == kind]
    return Counter(str(answer).strip() for answer in own or [answer for _, answer in train]).most_common(1)[0][0]


def file_record(source: str | Path, questions: Sequence[Question]) -> dict[str, Any]:
    """Identifies a file of questions in a report: name, bytes, sha256. A dataset on the Hub has those of such a file.

    Args:
        source: the file, or the Hub name of a dataset.
        questions: what it holds.
    """
    if not hub_dataset(str(source)):
        return {"file": Path(source).name, "bytes": Path(source).stat().st_size, "sha256": sha256_of(source)}
    content = format_questions(questions).encode()
    return {"file": str(source), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def calibration_error(probability: np.ndarray, correct: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error over ten bins of equal width.

    Returns:
        The error, and the bins that are not empty: mean probability, accuracy, and number of answers.
    """
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    curve = []
    for inside in (bins == i for i in np.unique(bins)):
        means = {"probability": float(probability[inside].mean()), "accuracy": float(correct[inside].mean())}
        curve.append({**means, "number": int(inside.sum())})
    error = sum(abs(part["probability"] - part["accuracy"]) * part["number"] for part in curve) / len(correct)
    return error, curve


def area_under_roc(probability: np.ndarray, correct: np.ndarray) -> float | None:
    """The area under the ROC curve: how often a correct answer is more probable than a wrong one, ties counted half.

    It is None if all answers are correct or all are wrong. scikit-learn's `roc_auc_score` takes a millisecond for the
    same number, and `bootstrap_intervals` computes it a thousand times.
    """
    right, wrong = probability[correct], np.sort(probability[~correct])
    if not len(right) or not len(wrong):
        return None
    less, less_or_equal = (np.searchsorted(wrong, right, side) for side in ("left", "right"))
    return float((less + less_or_equal).sum() / (2 * len(right) * len(wrong)))


def risk_by_coverage(probability: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The risk-coverage curve: (N,) the error rate of the n most probable answers, for n from 1 to N."""
    order = np.argsort(-probability, kind="stable")
    return 1 - np.cumsum(correct[order]) / np.arange(1, len(correct) + 1)


def calibration_metrics(probability: np.ndarray, correct: np.ndarray, threshold: float) -> Scores:
    """How well probabilities separate correct answers from wrong ones.

    Args:
        probability: (N,) the probability of each answer.
        correct: (N,) whether it is correct.
        threshold: the probability below which the model abstains.

    Returns:
        auroc (None if all answers are correct or all are wrong), expected_calibration_error, brier,
        area_under_risk_coverage, accuracy_at_10_percent and so on (of the most probable answers), coverage, and
        accuracy_of_given_answers (None if the model always abstains).
    """
    risk = risk_by_coverage(probability, correct)
    given = probability >= threshold
    return {
        "auroc": area_under_roc(probability, correct),
        "expected_calibration_error": calibration_error(probability, correct)[0],
        "brier": float(np.mean((probability - correct) ** 2)),
        "area_under_risk_coverage": float(risk.mean()),
        **{f"accuracy_at_{n}_percent": float(1 - risk[max(1, round(n * len(risk) / 100)) - 1]) for n in COVERAGES},
        "coverage": float(given.mean()),
        "accuracy_of_given_answers": float(correct[given].mean()) if given.any() else None,
    }


def bootstrap_intervals(
    probability: np.ndarray, correct: np.ndarray, threshold: float, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """The 95 % bootstrap interval of each of `calibration_metrics`, over questions that are drawn with replacement."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(correct), len(correct)) for _ in range(resamples)]
    scores = [calibration_metrics(probability[draw], correct[draw], threshold) for draw in draws]
    intervals: dict[str, list[float] | None] = {}
    for name in scores[0]:
        values = [value for score in scores if (value := score[name]) is not None]
        intervals[name] = np.quantile(values, (0.025, 0.975)).round(4).tolist() if values else None
    return intervals
