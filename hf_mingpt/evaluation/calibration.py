"""Calibration: the probability that an answer is correct, and the threshold below which the model abstains.

A logistic regression turns the features of `confidence.py` into a probability (`Calibration.probability`). It is
fitted on questions with known answers that the model was not trained on (`fit_calibration`); the same questions, and
invented names, give the threshold. For a model that has learned the names it read, a second regression gives the
probability that it knows a name at all, and the two are multiplied. `calibrating.py` computes the features of both.
`ask` answers with a calibration.

Reference: Kadavath et al. 2022, arXiv:2207.05221, Language Models (Mostly) Know What They Know.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import BIRTHPLACE
from ..data.subjects import Template, match
from .answering import answer_questions, as_list, questions_about, with_mark
from .confidence import Comparison, ConfidenceFeatures, compute_confidence
from .scoring import is_exact_match, wilson_interval

NUM_ALTERNATIVES = 3
MIN_NAME_AUROC = 0.9  # a model that tells read names from invented ones this well has learned the names
MIN_NAMES = 30  # of each of the two; fewer do not show it


@dataclass(frozen=True, kw_only=True)
class Calibration(Comparison):
    """A fitted calibration, which a run folder holds as calibration.json, with the comparison of its features.

    A calibration of an earlier version has no templates, because all questions were about birthplaces, no masked forms,
    and no name_weight.

    weights, bias: the coefficients of the logistic regression on the features of the answers.
    name_weight, name_bias: those of the regression on `name_log_probability`, which tells names that the model has
        learned from invented ones. None: the model has not learned the names of its text.
    threshold: the model abstains if the probability of its answer is below it.
    fitted_on: the number of questions.

    Raises:
        ValueError: if a value is impossible.
    """

    weights: dict[str, float]
    bias: float
    threshold: float
    fitted_on: int
    name_weight: float | None = None
    name_bias: float | None = None

    def __post_init__(self):
        super().__post_init__()
        fields = ["log_odds", "entropy", "contrast", *(["masked_log_odds"] if any(self.masked_forms) else [])]
        if not isinstance(self.weights, dict) or self.weights.keys() != set(fields):
            found = ", ".join(map(str, self.weights)) if isinstance(self.weights, dict) else repr(self.weights)
            raise ValueError(f"Its weights are of {found}, but the features are {', '.join(fields)}.")
        if (self.name_weight is None) != (self.name_bias is None):
            raise ValueError("It has only one of name_weight and name_bias: they belong together.")
        names = {} if self.name_weight is None else {"name_weight": self.name_weight, "name_bias": self.name_bias}
        for name, value in {**self.weights, "bias": self.bias, "threshold": self.threshold, **names}.items():
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"Its {name} is {value!r}, which is not a finite number.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"Its threshold is {self.threshold}, which is not a probability.")
        if type(self.fitted_on) is not int or self.fitted_on < 1:
            raise ValueError(f"Its fitted_on is {self.fitted_on!r}, which is not a number of questions.")

    def probability(self, features: ConfidenceFeatures) -> np.ndarray:
        """(N,) the probability that each answer is correct: sigmoid(weights . features + bias), times `known`."""
        weighted = sum(weight * getattr(features, name) for name, weight in self.weights.items())
        return self.known(features) / (1 + np.exp(-(weighted + self.bias)))

    @property
    def has_names(self) -> bool:
        """Whether it needs `name_log_probability`."""
        return self.name_weight is not None

    def known(self, features: ConfidenceFeatures) -> np.ndarray:
        """(N,) the probability that the model has learned each name; 1 if it cannot tell, or there is no name."""
        if self.name_weight is None or self.name_bias is None or features.name_log_probability is None:
            return np.ones_like(features.log_odds)
        log_odds = self.name_weight * features.name_log_probability + self.name_bias
        return np.nan_to_num((1 + np.tanh(log_odds / 2)) / 2, nan=1.0)  # a sigmoid that does not overflow


def check_both_outcomes(correct: np.ndarray) -> None:
    """Raises a ValueError if all answers are correct or all are wrong: a regression needs both."""
    if correct.all() or not correct.any():
        raise ValueError(
            f"The number of correct answers is {correct.sum()} of {len(correct)}: calibration needs correct and wrong "
            "answers."
        )


def fit_calibration(
    features: ConfidenceFeatures,
    correct: np.ndarray,
    comparison: Comparison,
    *,
    invented_features: ConfidenceFeatures | None = None,
    target_accuracy: float = 0.8,
    max_false_answer_rate: float = 0.1,
) -> Calibration:
    """Fits the probability and chooses the threshold.

    The threshold is the lowest one, and at least 1/2, at which `target_accuracy` of the given answers are correct and
    at most `max_false_answer_rate` of the invented names get an answer. The invented names are a sample, so the upper
    end of the 95 % interval of that rate has to stay within the limit.

    Args:
        features: of N answers to questions that the model was not trained on.
        correct: (N,) whether each answer is correct.
        comparison: with which the features were computed.
        invented_features: of answers about invented people, all of them wrong. None: they do not limit the threshold.
        target_accuracy: the least accuracy of the answers that are given.
        max_false_answer_rate: the greatest fraction of invented names that may get an answer.

    Raises:
        ValueError: if all answers are correct or all are wrong.
    """
    check_both_outcomes(correct)
    present = features.present()
    names = present.pop("name_log_probability", None)
    weights, bias = _fit_regression(np.stack(list(present.values()), axis=1), correct)
    invented_names = None if invented_features is None else invented_features.name_log_probability
    name_weight, name_bias = _fit_names(names, invented_names)
    calibration = Calibration(
        **vars(comparison),
        weights=dict(zip(present, weights.tolist(), strict=True)),
        bias=bias,
        threshold=1.0,
        fitted_on=len(correct),
        name_weight=name_weight,
        name_bias=name_bias,
    )
    probability = calibration.probability(features)
    # for each threshold, the accuracy of the answers that it lets through
    accuracies = [(correct[probability >= p].mean(), float(p)) for p in np.unique(probability)]
    threshold = max(0.5, min((p for accuracy, p in accuracies if accuracy >= target_accuracy), default=1.0))
    if invented_features is not None:
        descending = np.sort(calibration.probability(invented_features))[::-1]
        total = len(descending)
        within_limit = (k for k in range(total + 1) if wilson_interval(k, total)[1] <= max_false_answer_rate)
        withheld = descending[max(within_limit, default=0) :]  # the threshold lies above all of these
        threshold = max([threshold, *np.nextafter(withheld[:1], 1.0).tolist()])
    return replace(calibration, threshold=threshold)


def _fit_names(known: np.ndarray | None, invented: np.ndarray | None) -> tuple[float | None, float | None]:
    """The name_weight and name_bias of a calibration; None if the model cannot tell invented names from known ones."""
    if known is None or invented is None:
        return None, None
    from sklearn.metrics import roc_auc_score

    values = np.concatenate((known[~np.isnan(known)], invented))
    is_known = np.arange(len(values)) < len(values) - len(invented)
    too_few = min(is_known.sum(), len(invented)) < MIN_NAMES
    if too_few or roc_auc_score(is_known, values) < MIN_NAME_AUROC:
        return None, None
    (weight,), bias = _fit_regression(values[:, None], is_known, class_weight="balanced")
    return float(weight), bias


def _fit_regression(
    values: np.ndarray, outcomes: np.ndarray, *, class_weight: str | None = None
) -> tuple[np.ndarray, float]:
    """Fits a logistic regression on (N, F) values, standardized: (F,) weights of the values as given, and the bias."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values)
    regression = LogisticRegression(class_weight=class_weight).fit(scaler.transform(values), outcomes)
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)


class Answer(NamedTuple):
    """An answer to a question.

    answer: the model's prediction.
    probability: the probability that it is correct.
    confident: whether the probability reaches the threshold. If not, the model abstains: do not rely on the answer.
    alternatives: other answers of the candidates and their probabilities, not calibrated, most probable first.
    template: of the question; None if the calibration has no question like it, so that the probability is a guess.
    features: that the probability was computed from, each a number.
    known: the probability that the model has learned the name; 1 if it cannot tell.
    """

    question: str
    answer: str
    probability: float
    confident: bool
    alternatives: list[tuple[str, float]]
    template: Template | None = BIRTHPLACE
    features: ConfidenceFeatures | None = None
    known: float = 1.0

    @property
    def name(self) -> str:
        """What the question is about; the whole question if it has no template."""
        return (self.template.subject_of(self.question) if self.template else None) or self.question

    @property
    def place(self) -> str:
        """The answer, by the name that it had when all questions were about birthplaces, for one release."""
        return self.answer


def ask(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: str | Sequence[str], calibration: Calibration
) -> list[Answer]:
    """Asks a model, and gives each answer a calibrated probability.

    A question like none of those that the calibration was fitted on is answered too. Its answer is compared with those
    to all kinds of questions about unknown names, and its `template` is None: its probability is not calibrated.

    Args:
        texts: questions, or bare names, which get a question of each kind that the calibration knows; or one of them.
        calibration: the calibration of this model (`load_calibration`).

    Raises:
        ValueError: if a text has a character that is not in the vocabulary, or is too long for the context.
    """
    questions = questions_about(as_list(texts), tokenizer, calibration.templates)
    predictions = answer_questions(model, tokenizer, questions)
    confidence = compute_confidence(model, tokenizer, questions, predictions, calibration, names=calibration.has_names)
    answers = []
    probabilities = calibration.probability(confidence.features).tolist()
    known = calibration.known(confidence.features).tolist()
    distributions = confidence.candidate_probabilities
    for i, (question, answer, probability, distribution) in enumerate(
        zip(questions, predictions, probabilities, distributions, strict=True)
    ):
        ranked = [(calibration.candidates[k], float(distribution[k])) for k in np.argsort(-distribution)]
        alternatives = [(other, p) for other, p in ranked if not is_exact_match(other, answer)][:NUM_ALTERNATIVES]
        confident, template = probability >= calibration.threshold, match(question, calibration.templates)
        own = ConfidenceFeatures(**{name: values[i] for name, values in confidence.features.present().items()})
        answers.append(Answer(question, answer, probability, confident, alternatives, template, own, known[i]))
    return answers


def ask_in_masked_forms(
    model: Any, tokenizer: PreTrainedTokenizerBase, answer: Answer, calibration: Calibration
) -> list[tuple[str, str]]:
    """Asks a question again in its masked forms: each form, as the model reads it, with its answer.

    Empty for a question like none of those that the calibration was fitted on, and for a calibration without forms.
    """
    texts = [with_mark(form.fill(answer.name), tokenizer) for form in calibration.forms_of(answer.template)]
    said = answer_questions(model, tokenizer, texts) if texts else []
    return list(zip(texts, said, strict=True))
