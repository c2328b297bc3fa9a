"""The honesty report: how far the probabilities of answers can be trusted, and where answers go wrong.

After honesty in the flow: pure functions from judged answers to figures, a page in Markdown and its pictures.

References: Guo et al. 2017, arXiv:1706.04599 (calibration error); Geifman and El-Yaniv 2017, arXiv:1705.08500 (risk and
coverage).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from ..data.birthplaces import name_asked
from ..data.questions import Question
from ..data.span_corruption import max_truncated_length
from .markup import escape_markdown
from .scoring import exact_matches, is_exact_match

COVERAGES = (10, 20, 30, 50)  # percent of the questions, the likeliest answers first
NUM_BINS = 10
RARE = 5  # a place with fewer training questions
NUM_EXAMPLES = 5
PICTURE = "honesty.png"  # beside the page
PICTURE_LINE = f"![Reliability, accuracy by coverage, and the probabilities]({PICTURE})"

Scores = dict[str, float | None]


def calibration_error(probability: np.ndarray, right: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """The expected calibration error over ten bins of equal width, and the bins: probability, accuracy, number."""
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    curve = []
    for inside in (bins == i for i in np.unique(bins)):
        means = {"probability": float(probability[inside].mean()), "accuracy": float(right[inside].mean())}
        curve.append({**means, "number": int(inside.sum())})
    error = sum(abs(part["probability"] - part["accuracy"]) * part["number"] for part in curve) / len(right)
    return error, curve


def risk_by_coverage(probability: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,) the share of wrong ones among the n likeliest answers, for n from 1 to N."""
    order = np.argsort(-probability, kind="stable")
    return 1 - np.cumsum(right[order]) / np.arange(1, len(right) + 1)


def calibration_metrics(probability: np.ndarray, right: np.ndarray, threshold: float) -> Scores:
    """How well the probabilities tell right answers from wrong ones.

    Args:
        probability: (N,) of each answer.
        right: (N,) whether it is right.
        threshold: under which no answer is given.

    Returns:
        auroc (None if all are right or all wrong), expected_calibration_error, brier, area_under_risk_coverage,
        accuracy_at_10_percent and so on (of the likeliest answers), coverage and accuracy of the answers given.
    """
    risk = risk_by_coverage(probability, right)
    given = probability >= threshold
    return {
        "auroc": float(roc_auc_score(right, probability)) if 0 < right.sum() < len(right) else None,
        "expected_calibration_error": calibration_error(probability, right)[0],
        "brier": float(brier_score_loss(right, probability)),
        "area_under_risk_coverage": float(risk.mean()),
        **{f"accuracy_at_{n}_percent": float(1 - risk[max(1, round(n * len(risk) / 100)) - 1]) for n in COVERAGES},
        "coverage": float(given.mean()),
        "accuracy_of_given_answers": float(right[given].mean()) if given.any() else None,
    }


def bootstrap_intervals(
    probability: np.ndarray, right: np.ndarray, threshold: float, *, resamples: int = 1000, seed: int = 0
) -> dict[str, list[float] | None]:
    """The 95 % intervals of `calibration_metrics`, from drawing the questions anew."""
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(right), len(right)) for _ in range(resamples)]
    scores = [calibration_metrics(probability[draw], right[draw], threshold) for draw in draws]
    intervals: dict[str, list[float] | None] = {}
    for name in scores[0]:
        values = [value for score in scores if (value := score[name]) is not None]
        intervals[name] = np.quantile(values, (0.025, 0.975)).round(4).tolist() if values else None
    return intervals


def find_biographies(questions: Sequence[Question], documents: Sequence[str]) -> list[str | None]:
    """The document whose title is the name that is asked for, if there is one, for each question."""
    names = [name_asked(question.question) for question in questions]
    asked, by_title = set(names), dict[str, str]()
    for document in documents:
        openings = (document[: stop.start()] for stop in re.finditer(r"\. ", document))  # also to the dots of initials
        title = next((opening for opening in openings if opening in asked), None)
        if title:
            by_title.setdefault(title, document)
    return [by_title.get(name) for name in names]


def split_accuracy(
    questions: Sequence[Question],
    right: np.ndarray,
    *,
    train: Sequence[Question] | None,
    biographies: Sequence[str | None] | None,
    block_size: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy by what the text holds: a table for each way to split, of right and total for each part.

    Args:
        questions: with answers.
        right: (N,) whether each was answered rightly.
        train: the training questions, which tell frequent places from rare ones; None if they are not at hand.
        biographies: of `find_biographies`; None if there is no text.
        block_size: of the model: what span corruption reads of a document ends at 7/8 of it.
    """
    ways = {}
    places = [str(question.answer).strip() for question in questions]
    if train is not None:
        frequency = Counter(str(question.answer).strip() for question in train)
        ways["the place"] = [
            "frequent" if frequency[place] >= RARE else "rare" if frequency[place] else "not in training answers"
            for place in places
        ]
    if biographies is not None:
        ends = [
            None if text is None or place not in text else text.index(place) + len(place)
            for place, text in zip(places, biographies, strict=True)
        ]
        reach = max_truncated_length(block_size)
        ways["the biography"] = [
            "does not say it" if end is None else "says it in the block" if end <= reach else "says it too late"
            for end in ends
        ]
    return {
        way: {
            part: {"right": int(right[inside].sum()), "total": int(inside.sum())}
            for part in dict.fromkeys(sorted(parts))
            for inside in [np.array([other == part for other in parts])]
        }
        for way, parts in ways.items()
    }


def build_report(
    questions: Sequence[Question],
    predictions: Sequence[str],
    probability: np.ndarray,
    *,
    threshold: float,
    of_invented: np.ndarray,
    train: Sequence[Question] | None,
    documents: Sequence[str] | None,
    block_size: int,
) -> dict[str, Any]:
    """Everything the report says, for JSON.

    Args:
        questions: N, with answers.
        predictions: N.
        probability: (N,) that each is right.
        threshold: under which an answer is a guess.
        of_invented: (M,) the probabilities that the answers about M invented names got: all are wrong.
        train: the training questions; None if they are not at hand.
        documents: the text that the model has read; None if it is not at hand.
        block_size: of the model.
    """
    right = np.array(exact_matches(predictions, [question.answer for question in questions]))
    biographies = find_biographies(questions, documents) if documents is not None else None
    order = np.argsort(-probability, kind="stable")

    def example(i: int) -> dict[str, Any]:
        about = {"question": questions[i].question, "prediction": predictions[i], "place": questions[i].answer}
        text = biographies[i] if biographies is not None else None
        return {**about, "probability": round(float(probability[i]), 4), "biography": text}

    return {
        "threshold": threshold,
        "scores": calibration_metrics(probability, right, threshold),
        "intervals_95": bootstrap_intervals(probability, right, threshold),
        "invented_names": len(of_invented),
        "false_answers_on_invented_names": float((of_invented >= threshold).mean()),
        "accuracy_by": split_accuracy(questions, right, train=train, biographies=biographies, block_size=block_size),
        "reliability": calibration_error(probability, right)[1],
        "risk_by_coverage": risk_by_coverage(probability, right).round(4).tolist(),
        "probabilities": {
            "right": probability[right].round(4).tolist(),
            "wrong": probability[~right].round(4).tolist(),
            "invented": of_invented.round(4).tolist(),
        },
        "best": [example(i) for i in order if right[i]][:NUM_EXAMPLES],
        "worst": [example(i) for i in order if not right[i]][:NUM_EXAMPLES],
    }


def format_metrics(honesty: Mapping[str, Any]) -> str:
    """The tables of the report in Markdown: scores, splits."""
    lines = ["| | | 95 % interval |", "|---|---|---|"]
    for name, score in honesty["scores"].items():
        low, high = honesty["intervals_95"][name] or (None, None)
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        lines.append(f"| {name.replace('_', ' ')} | {'none' if score is None else f'{score:.3f}'} | {interval} |")
    lines.append(
        f"| answers given to {honesty['invented_names']} invented names "
        f"| {honesty['false_answers_on_invented_names']:.3f} | |"
    )
    for way, parts in honesty["accuracy_by"].items():
        lines += ["", f"| {way} | right | of |", "|---|---|---|"]
        lines += [f"| {part} | {n['right'] / n['total']:.1%} | {n['total']} |" for part, n in parts.items()]
    return "\n".join(lines)


def format_page(honesty: Mapping[str, Any], *, title: str) -> str:
    """The report as a page in Markdown, in which the title and the texts are no markup."""
    lines = [
        f"# {escape_markdown(title)}",
        "",
        f"An answer is given if its probability is at least {honesty['threshold']:.2f}; under that, the honest answer "
        'is "I don\'t know".',
        "",
        PICTURE_LINE,
        "",
        format_metrics(honesty),
    ]
    for name, said in (("best", "Right, and surest"), ("worst", "Wrong, and surest")):
        lines += ["", f"## {said}", ""]
        for found in honesty[name]:
            question, prediction, place = (escape_markdown(found[part]) for part in ("question", "prediction", "place"))
            wrong = "" if is_exact_match(found["prediction"], found["place"]) else f", but it was {place}"
            lines.append(f"- {question} **{prediction}** ({found['probability']:.0%}){wrong}")
            if found["biography"]:
                lines.append(f"  > {escape_markdown(found['biography'])}")
    return "\n".join(lines) + "\n"
