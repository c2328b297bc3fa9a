"""Calibration: the probability that an answer is correct, and the threshold below which the model abstains.

A logistic regression turns the three features of `confidence.py` into a probability (`Calibration.probability`). It is
fitted on questions with known answers that the model was not trained on (`calibrate`); the same questions, and invented
names, give the threshold. `ask` answers questions with a calibration.

Reference: Kadavath et al. 2022, arXiv:2207.05221, Language Models (Mostly) Know What They Know.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import BIRTHPLACE, invent_for_templates
from ..data.questions import Question
from ..data.subjects import Template, find_templates, match
from ..tokenization_mingpt import check_marks
from .answering import answer_questions, check_questions, questions_about
from .confidence import ConfidenceFeatures, compute_confidence
from .scoring import exact_matches, is_exact_match, wilson_interval

NUM_ALTERNATIVES = 3


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted calibration, which a run folder holds as calibration.json.

    weights, bias: the coefficients of the logistic regression on the confidence features.
    threshold: the model abstains if the probability of its answer is below it.
    candidates, unknown_names, templates: the arguments of `compute_confidence` with which the features were computed;
        a calibration of an earlier version has no templates, because all questions were about birthplaces.
    fitted_on: the number of questions.

    Raises:
        ValueError: if a value is impossible.
    """

    weights: dict[str, float]
    bias: float
    threshold: float
    candidates: list[str]
    unknown_names: list[str]
    fitted_on: int
    templates: list[Template] = field(default_factory=lambda: [BIRTHPLACE])

    def __post_init__(self):
        pairs = self.templates if isinstance(self.templates, list) else []
        if not pairs or not all(isinstance(t, list | tuple) and list(map(type, t)) == [str, str] for t in pairs):
            raise ValueError(f"Its templates are {self.templates!r}, not a list of what precedes and follows a name.")
        object.__setattr__(self, "templates", [Template(*pair) for pair in pairs])  # JSON has lists
        if not isinstance(self.weights, dict) or self.weights.keys() != set(ConfidenceFeatures._fields):
            found = ", ".join(map(str, self.weights)) if isinstance(self.weights, dict) else repr(self.weights)
            features = ", ".join(ConfidenceFeatures._fields)
            raise ValueError(f"Its weights are of {found}, but the features are {features}.")
        for name, value in {**self.weights, "bias": self.bias, "threshold": self.threshold}.items():
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"Its {name} is {value!r}, which is not a finite number.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"Its threshold is {self.threshold}, which is not a probability.")
        if type(self.fitted_on) is not int or self.fitted_on < 1:
            raise ValueError(f"Its fitted_on is {self.fitted_on!r}, which is not a number of questions.")
        for name in ("candidates", "unknown_names"):
            texts = getattr(self, name)
            if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError(f"Its {name} are not a list of strings.")
            if len(set(texts)) < len(texts):
                raise ValueError(f"One of its {name} occurs twice.")
            if name == "unknown_names" and len(texts) % len(self.templates):
                raise ValueError(
                    f"Its {len(texts)} unknown names are not as many for each of its {len(self.templates)} templates."
                )
            check_marks("\n".join(texts), f"its {name}")

    def probability(self, features: ConfidenceFeatures) -> np.ndarray:
        """(N,) the probability that each answer is correct: sigmoid(weights . features + bias)."""
        weighted = sum(self.weights[name] * feature for name, feature in features._asdict().items())
        return 1 / (1 + np.exp(-(weighted + self.bias)))


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
    *,
    invented_features: ConfidenceFeatures | None = None,
    candidates: Sequence[str] = (),
    unknown_names: Sequence[str] = (),
    templates: Sequence[Template] = (BIRTHPLACE,),
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
        invented_features: of answers about invented people, all of them wrong. None: they do not limit the threshold.
        candidates, unknown_names, templates: the arguments of `compute_confidence` with which the features were
            computed.
        target_accuracy: the least accuracy of the answers that are given.
        max_false_answer_rate: the greatest fraction of invented names that may get an answer.

    Raises:
        ValueError: if all answers are correct or all are wrong.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    check_both_outcomes(correct)
    values = np.stack(features, axis=1)
    scaler = StandardScaler().fit(values)
    regression = LogisticRegression().fit(scaler.transform(values), correct)
    weights = regression.coef_[0] / scaler.scale_
    calibration = Calibration(
        weights=dict(zip(ConfidenceFeatures._fields, weights.tolist(), strict=True)),
        bias=float(regression.intercept_[0] - weights @ scaler.mean_),
        threshold=1.0,
        candidates=list(candidates),
        unknown_names=list(unknown_names),
        templates=list(templates),
        fitted_on=len(correct),
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


def calibrate(
    held_out_run: tuple[Any, PreTrainedTokenizerBase],
    questions: Sequence[Question],
    train: Sequence[Question],
    *,
    run: tuple[Any, PreTrainedTokenizerBase] | None = None,
    documents: Sequence[str] = (),
    num_unknown_names: int = 32,
    num_invented_names: int = 400,
    seed: int = 0,
    target_accuracy: float = 0.8,
    max_false_answer_rate: float = 0.1,
    progress: bool = False,
) -> tuple[Calibration, np.ndarray, np.ndarray]:
    """Calibrates a model on questions that it was not trained on.

    Args:
        held_out_run: model and tokenizer of a run that was trained without `questions`.
        questions: N held-out questions with answers.
        train: the training questions of that run. Their answers are the candidates.
        run: model and tokenizer of the run to calibrate, if it is another, trained in the same way on all questions.
            Its answers about invented names limit the threshold.
        documents: the training text, in which no invented name may occur.
        num_unknown_names: the number of invented names for the feature `contrast`, for each template of the questions.
        num_invented_names: the number of other invented names, which limit the threshold; 0: no limit. They are divided
            among the templates.
        seed: the seed of the invented names.
        target_accuracy, max_false_answer_rate: see `fit_calibration`.
        progress: whether to show progress bars.

    Returns:
        The calibration; (N,) the probability of each prediction of `held_out_run`; and (N,) whether it is correct.

    Raises:
        ValueError: if a question is in both lists or does not fit the context, if the questions share no template, if
            there are not enough invented names, or if all predictions are correct or all are wrong.
    """
    if shared := {question for question, _ in questions} & {question for question, _ in train}:
        raise ValueError(f"{sorted(shared)[0]!r} is a training question, too: calibrate on held-out questions.")
    known = [question for question, _ in [*train, *questions]]
    templates = find_templates(known)
    if not templates:
        raise ValueError(
            f"The {len(known)} questions have no words in common around what they are about: calibration compares "
            'answers with those about unknown names, so it needs questions of one form, such as "Where was ... born?".'
        )
    number = num_unknown_names + -(-num_invented_names // len(templates))
    names = invent_for_templates(known, templates, number, seed=seed, documents=documents)
    unknown_names = [name for own in names.values() for name in own[:num_unknown_names]]
    invented = [
        Question(template.fill(name), None) for template, own in names.items() for name in own[num_unknown_names:]
    ]
    candidates = sorted({str(question.answer).strip() for question in train})
    run = run or held_out_run
    for model, tokenizer in (held_out_run, run):
        check_questions(questions, tokenizer, model.config.max_position_embeddings)

    predictions = answer_questions(*held_out_run, questions, progress=progress)
    correct = np.array(exact_matches(predictions, [question.answer for question in questions]))
    check_both_outcomes(correct)
    comparison: dict[str, Any] = {"candidates": candidates, "unknown_names": unknown_names, "templates": templates}
    asked = [question for question, _ in questions]
    features = compute_confidence(*held_out_run, asked, predictions, **comparison, progress=progress).features
    invented_features = None
    if invented:
        asked, predictions = [question for question, _ in invented], answer_questions(*run, invented)
        invented_features = compute_confidence(*run, asked, predictions, **comparison, progress=progress).features
    calibration = fit_calibration(
        features,
        correct,
        invented_features=invented_features,
        **comparison,
        target_accuracy=target_accuracy,
        max_false_answer_rate=max_false_answer_rate,
    )
    return calibration, calibration.probability(features), correct


class Answer(NamedTuple):
    """An answer to a question.

    answer: the model's prediction.
    probability: the probability that it is correct.
    confident: whether the probability reaches the threshold. If not, the model abstains: do not rely on the answer.
    alternatives: other answers of the candidates and their probabilities, not calibrated, most probable first.
    template: of the question; None if the calibration has no question like it, so that the probability is a guess.
    features: that the probability was computed from, each a number.
    """

    question: str
    answer: str
    probability: float
    confident: bool
    alternatives: list[tuple[str, float]]
    template: Template | None = BIRTHPLACE
    features: ConfidenceFeatures | None = None

    @property
    def name(self) -> str:
        """What the question is about; the whole question if it has no template."""
        return (self.template.subject_of(self.question) if self.template else None) or self.question

    @property
    def place(self) -> str:
        """The answer, by the name that it had when all questions were about birthplaces, for one release."""
        return self.answer


def ask(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], calibration: Calibration) -> list[Answer]:
    """Asks a model, and gives each answer a calibrated probability.

    A question like none of those that the calibration was fitted on is answered too. Its answer is compared with those
    to all kinds of questions about unknown names, and its `template` is None: its probability is not calibrated.

    Args:
        texts: questions, or bare names, which get a question of each kind that the calibration knows.
        calibration: the calibration of this model (`load_calibration`).

    Raises:
        ValueError: if a text has a character that is not in the vocabulary, or is too long for the context.
    """
    questions = questions_about(texts, tokenizer, calibration.templates)
    predictions = answer_questions(model, tokenizer, [Question(question, None) for question in questions])
    confidence = compute_confidence(
        model,
        tokenizer,
        questions,
        predictions,
        candidates=calibration.candidates,
        unknown_names=calibration.unknown_names,
        templates=calibration.templates,
    )
    answers = []
    probabilities = calibration.probability(confidence.features).tolist()
    distributions = confidence.candidate_probabilities
    for question, answer, probability, distribution, *features in zip(
        questions, predictions, probabilities, distributions, *confidence.features, strict=True
    ):
        ranked = [(calibration.candidates[k], float(distribution[k])) for k in np.argsort(-distribution)]
        alternatives = [(other, p) for other, p in ranked if not is_exact_match(other, answer)][:NUM_ALTERNATIVES]
        confident, template = probability >= calibration.threshold, match(question, calibration.templates)
        own = ConfidenceFeatures(*features)
        answers.append(Answer(question, answer, probability, confident, alternatives, template, own))
    return answers
