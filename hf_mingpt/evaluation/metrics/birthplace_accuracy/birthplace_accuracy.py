"""Exact-match accuracy of answers, such as birthplaces, as a metric of the `evaluate` library.

It loads offline: `evaluate.load(hf_mingpt.METRIC_FOLDER)`. It does not import this package, so that it also loads from
a Space on the Hub where the package is not installed.
"""

import datasets
import evaluate

_DESCRIPTION = "Fraction of predictions that equal the reference after stripping surrounding white space."
_CITATION = "CS224n: Natural Language Processing with Deep Learning, assignment 5, Stanford University."
_INPUTS = """
Args:
    predictions: a list of strings, the predicted answers.
    references: a list of strings, the correct answers, in the same order.
Returns:
    accuracy: a float from 0 to 1.
    correct: the number of correct predictions.
    total: the number of questions.
Raises:
    ValueError: if there are none, if their numbers differ, or if one of them is not a string.
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
        if not predictions:
            raise ValueError("There are no answers to compare: give at least one prediction and its reference.")
        for name, texts in (("Prediction", predictions), ("Reference", references)):
            if None in texts:
                raise ValueError(f"{name} {texts.index(None) + 1} is None: give text.")
        correct = sum(p.strip() == r.strip() for p, r in zip(predictions, references, strict=True))
        return {"accuracy": correct / len(predictions), "correct": correct, "total": len(predictions)}
