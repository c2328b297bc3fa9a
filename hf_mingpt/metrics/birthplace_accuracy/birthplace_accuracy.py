"""Exact-match accuracy of birthplace answers, as a metric of the `evaluate` library.

Loads offline: `evaluate.load(str(hf_mingpt.METRIC_FOLDER))`.
"""

import datasets
import evaluate

_DESCRIPTION = "Share of the questions whose predicted place equals the reference, character by character."
_CITATION = "CS224n: Natural Language Processing with Deep Learning, assignment 5, Stanford University."
_INPUTS = """
Args:
    predictions: a list of strings, the predicted places.
    references: a list of strings, the true places, in the same order.
Returns:
    accuracy: a float from 0 to 1.
    correct: the number of right answers.
    total: the number of questions.
Example:
    >>> metric = evaluate.load(str(hf_mingpt.METRIC_FOLDER))
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
        correct = sum(p == r for p, r in zip(predictions, references, strict=True))
        return {"accuracy": correct / len(references), "correct": correct, "total": len(references)}
