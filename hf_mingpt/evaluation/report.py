"""Reports: the table of accuracies, and the calibration report with its page.

`build_report` collects what report.json holds, and `format_metrics` and `format_page` write it in Markdown. scoring.py
computes the metrics, and figures.py draws the picture.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.questions import Question
from ..data.span_corruption import max_truncated_length
from ..data.subjects import find_documents
from ..system.wording import count, percent
from .markup import escape_markdown
from .scoring import (
    bootstrap_intervals,
    calibration_error,
    calibration_metrics,
    exact_matches,
    is_exact_match,
    risk_by_coverage,
)

RARE = 5  # training questions; an answer with fewer is rare
NUM_EXAMPLES = 5
PAGE = "calibration.md"  # in the run folder
PICTURE = "calibration.png"  # beside the page
PICTURE_LINE = f"![Reliability, accuracy by coverage, and the probabilities]({PICTURE})"


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of accuracies, one row per model or baseline.

    Args:
        rows: what `scoring.accuracy` returns, by the name of the row.
    """
    lines = ["| | accuracy | correct | 95 % interval |", "|---|---|---|---|"]
    for name, row in rows.items():
        low, high = row["interval_95"]
        cells = f"{row['accuracy']:.1%} | {row['correct']} of {row['total']} | {low:.1%} to {high:.1%}"
        lines.append(f"| {escape_markdown(name)} | {cells} |")
    return "\n".join(lines)


def split_accuracy(
    questions: Sequence[Question],
    correct: np.ndarray,
    *,
    train: Sequence[Question] | None,
    found: Sequence[str | None] | None,
    context_length: int,
    count_tokens: Callable[[str], int] = len,
) -> dict[str, dict[str, dict[str, int]]]:
    """Splits the accuracy by the frequency of the answer and by what the document says.

    Args:
        questions: N questions with answers.
        correct: (N,) whether each prediction is correct.
        train: the training questions, which tell frequent answers from rare ones; None if they are not at hand.
        found: what `find_documents` returns; None if the text is not at hand.
        context_length: of the model. Span corruption reads at most 7/8 of it from a document.
        count_tokens: of a text, in the tokenizer of the model; `len` counts those of a character tokenizer.

    Returns:
        For each split, for each of its parts, the number of correct predictions and the total.
    """
    splits = {}
    answers = [str(question.answer).strip() for question in questions]
    if train is not None:
        frequency = Counter(str(question.answer).strip() for question in train)
        splits["the answer"] = [
            "frequent" if frequency[answer] >= RARE else "rare" if frequency[answer] else "not in training answers"
            for answer in answers
        ]
    if found is not None:
        ends = [
            None if text is None or answer not in text else count_tokens(text[: text.index(answer) + len(answer)])
            for answer, text in zip(answers, found, strict=True)
        ]
        reach = max_truncated_length(context_length)
        splits["the document"] = [
            "does not say it" if end is None else "says it within the context" if end <= reach else "says it too late"
            for end in ends
        ]
    return {
        split: {
            part: {"correct": int(correct[inside].sum()), "total": int(inside.sum())}
            for part in dict.fromkeys(sorted(parts))
            for inside in [np.array([other == part for other in parts])]
        }
        for split, parts in splits.items()
    }


def count_wrong_answers(
    questions: Sequence[Question], predictions: Sequence[str], documents: Sequence[str]
) -> dict[str, int]:
    """Counts the wrong predictions whose correct answer the model could not read, and those that it does not recall.

    Args:
        questions: N questions with answers.
        predictions: N predictions.
        documents: the training text. A question is about the documents whose title stands in it.
    """
    asked, answers = [question for question, _ in questions], [answer for _, answer in questions]
    found = find_documents(asked, documents, answers)
    wrong = [
        "not recalled" if is_in_document(str(answer), text) else "not in the text"
        for (_, answer), prediction, text in zip(questions, predictions, found, strict=True)
        if not is_exact_match(prediction, str(answer))
    ]
    return {reason: wrong.count(reason) for reason in ("not in the text", "not recalled")}


def is_in_document(answer: str, document: str | None) -> bool:
    """Whether a document holds an answer; False for None, if the question is about no document."""
    return document is not None and answer.strip() in document


def build_report(
    questions: Sequence[Question],
    predictions: Sequence[str],
    probability: np.ndarray,
    *,
    threshold: float,
    invented_probability: np.ndarray,
    train: Sequence[Question] | None,
    documents: Sequence[str] | None,
    context_length: int,
    count_tokens: Callable[[str], int] = len,
) -> dict[str, Any]:
    """Computes the calibration report, as report.json holds it.

    Args:
        questions: N questions with answers.
        predictions: N predictions.
        probability: (N,) the probability that each prediction is correct.
        threshold: the probability below which the model abstains.
        invented_probability: (M,) the probabilities of the answers about M invented names, all of them wrong.
        train: the training questions; None if they are not at hand.
        documents: the training text; None if it is not at hand.
        context_length, count_tokens: see `split_accuracy`.
    """
    asked, answers = [question for question, _ in questions], [answer for _, answer in questions]
    correct = np.array(exact_matches(predictions, answers))
    found = find_documents(asked, documents, answers) if documents is not None else None
    splits = split_accuracy(
        questions, correct, train=train, found=found, context_length=context_length, count_tokens=count_tokens
    )
    order = np.argsort(-probability, kind="stable")

    def example(i: int) -> dict[str, Any]:
        about = {"question": questions[i].question, "prediction": predictions[i], "answer": questions[i].answer}
        text = found[i] if found is not None else None
        return {**about, "probability": round(float(probability[i]), 4), "document": text}

    return {
        "threshold": threshold,
        "scores": calibration_metrics(probability, correct, threshold),
        "intervals_95": bootstrap_intervals(probability, correct, threshold),
        "invented_names": len(invented_probability),
        "false_answers_on_invented_names": float((invented_probability >= threshold).mean()),
        "accuracy_by": splits,
        "reliability": calibration_error(probability, correct)[1],
        "risk_by_coverage": risk_by_coverage(probability, correct).round(4).tolist(),
        "probabilities": {
            "correct": probability[correct].round(4).tolist(),
            "wrong": probability[~correct].round(4).tolist(),
            "invented": invented_probability.round(4).tolist(),
        },
        "best": [example(i) for i in order if correct[i]][:NUM_EXAMPLES],
        "worst": [example(i) for i in order if not correct[i]][:NUM_EXAMPLES],
    }


def format_metrics(report: Mapping[str, Any]) -> str:
    """The tables of a calibration report in Markdown: metrics with their intervals, and the splits of the accuracy."""
    lines = ["| | | 95 % interval |", "|---|---|---|"]
    for name, score in report["scores"].items():
        low, high = report["intervals_95"][name] or (None, None)
        interval = "" if low is None else f"{low:.3f} to {high:.3f}"
        lines.append(f"| {name.replace('_', ' ')} | {'none' if score is None else f'{score:.3f}'} | {interval} |")
    lines.append(
        f"| answers given to {count(report['invented_names'], 'invented name')} "
        f"| {report['false_answers_on_invented_names']:.3f} | |"
    )
    for split, parts in report["accuracy_by"].items():
        lines += ["", f"| {split} | accuracy | questions |", "|---|---|---|"]
        for part, found in parts.items():
            correct = found["right" if "right" in found else "correct"]  # "right" in reports of earlier versions
            lines.append(f"| {part} | {correct / found['total']:.1%} | {found['total']} |")
    return "\n".join(lines)


def format_page(report: Mapping[str, Any], *, title: str) -> str:
    """The calibration report as a page in Markdown. Title and texts are escaped."""
    lines = [
        f"# {escape_markdown(title)}",
        "",
        f"The model answers if the probability of its answer is at least {report['threshold']:.4g}. Below that it "
        "abstains.",
        "",
        PICTURE_LINE,
        "",
        format_metrics(report),
    ]
    for key, heading in (("best", "Most probable correct answers"), ("worst", "Most probable wrong answers")):
        lines += ["", f"## {heading}", ""]
        for found in report[key]:
            question, prediction, answer = (
                escape_markdown(found[part]) for part in ("question", "prediction", "answer")
            )
            note = "" if is_exact_match(found["prediction"], found["answer"]) else f", correct: {answer}"
            if note and found["document"] and not is_in_document(found["answer"], found["document"]):
                note += ", which the document does not say"
            lines.append(f"- {question} **{prediction}** ({percent(found['probability'])}){note}")
            if found["document"]:
                lines.append(f"  > {escape_markdown(found['document'])}")
    return "\n".join(lines) + "\n"
