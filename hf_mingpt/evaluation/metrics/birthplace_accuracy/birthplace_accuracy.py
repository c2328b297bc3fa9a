"""Exact-match accuracy of birthplace answers, as a metric of the `evaluate` library.

Loads offline: `evaluate.load(hf_mingpt.METRIC_FOLDER)`.
"""

import datasets
import evaluate

from hf_mingpt.evaluation.scoring import exact_matches

_DESCRIPTION = "Share of the questions whose predicted place equals the reference, but for white space around."
_CITATION = "CS224n: Natural Language Processing with Deep Learning, assignment 5, Stanford University."
_INPUTS = """
Args:
    predictions: a list of strings, the predicted places.
    references: a list of strings, the true places, in the same order.
Returns:
    accuracy: a float from 0 to 1.
    correct: the number of right answers.
    total: the number of questions.
Raises:
    ValueError: if there are none, or not as many of each, or one of them is no text.
Example:
    >>> import evaluate
    >>> import hf_mingpt
    >>> metric = evaluate.load(hf_mingpt.METRIC_FOLDER)
    >>> metric.compute(predictions=["London", "Rome"], references=["London", "Paris"])
    {'accuracy': 0.5, 'correct': 1, 'total': 2}
"""


class BirthplaceAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        right = exact_matches(predictions, references)
        return {"accuracy": sum(right) / len(right), "correct": sum(right), "total": len(right)}
