"""Calibration: the probability that an answer is correct, and the threshold below which the model abstains.

Three confidence features are computed for each answer (`compute_confidence`): its log-odds, the entropy over the
candidate answers, and its contrast with questions about unknown names. A logistic regression turns them into a
probability (`Calibration.probability`). It is fitted on questions with known answers that the model was not trained on
(`fit_calibration`); the same questions give the threshold. `ask` puts it all together.

Shapes: N questions, K answers, L tokens of an answer, V tokens of the vocabulary. Log-probabilities are in nats.

Reference: Kadavath et al. 2022, arXiv:2207.05221, Language Models (Mostly) Know What They Know.
"""

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedTokenizerBase

from ..data.questions import Question, is_exact_match, question_about
from ..tokenization_mingpt import MASK, PAD_ID, check_marks
from .answering import answer_questions, check_questions, questions_about
from .scoring import wilson_interval

NUM_ALTERNATIVES = 3
_ANSWERS_PER_BATCH = 64


@torch.inference_mode()
def score_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    *,
    progress: bool = False,
) -> np.ndarray:
    """Computes the log-probability of each answer, closing MASK included, given each question.

    Each question is read once. Its cache is shared by all answers, which are sorted by length and scored in batches.

    Args:
        questions: N questions.
        answers: K answers, none of them empty.
        progress: whether to show a progress bar.

    Returns:
        (N, K) float64 log-probabilities, in nats.

    Raises:
        ValueError: if a question and an answer together do not fit the context.
    """
    context_length, device = model.config.max_position_embeddings, model.device
    encoded = tokenizer([f"{answer}{MASK}" for answer in answers])["input_ids"]
    lengths = np.array([len(tokens) for tokens in encoded])
    check_questions([Question(question, None) for question in questions], context_length - lengths.max() + 1)
    by_length = np.argsort(lengths, kind="stable")
    groups = [by_length[start : start + _ANSWERS_PER_BATCH] for start in range(0, len(by_length), _ANSWERS_PER_BATCH)]
    padded = []  # of each group: ids (k, L), and the mask of the tokens that are not padding
    for group in groups:
        inside = torch.arange(lengths[group].max()) < torch.from_numpy(lengths[group])[:, None]
        ids = torch.full(inside.shape, PAD_ID)
        ids[inside] = torch.tensor([token for k in group for token in encoded[k]])
        padded.append((ids.to(device), inside.to(device)))
    scores = np.empty((len(questions), len(encoded)))
    for i, question in enumerate(tqdm(questions, unit="question", disable=not progress)):
        prompt = tokenizer(question + MASK, return_tensors="pt")["input_ids"].to(device)
        cache = DynamicCache(config=model.config)
        first = model(prompt, cache=cache, use_cache=True, logits_to_keep=1)
        for group, (ids, inside) in zip(groups, padded, strict=True):
            branches = deepcopy(cache)
            branches.batch_repeat_interleave(len(group))
            logits = model(ids[:, :-1], cache=branches, use_cache=True).logits
            logits = torch.cat((first.logits.expand(len(group), -1, -1), logits), dim=1)  # (k, L, V)
            chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[..., None])[..., 0]
            scores[i, group] = (chosen.double() * inside).sum(-1).cpu().numpy()
    return scores


class ConfidenceFeatures(NamedTuple):
    """The confidence features of N answers, in nats; each is an array of shape (N,).

    log_odds: log(p / (1 - p)), where p is the probability of the answer, closing MASK included.
    entropy: of the distribution over the candidate answers; 0 if one candidate has all the probability.
    contrast: log-probability of the answer, minus the log of its mean probability over questions about unknown names.
    """

    log_odds: np.ndarray
    entropy: np.ndarray
    contrast: np.ndarray


class Confidence(NamedTuple):
    """What `compute_confidence` returns for N answers.

    features: the inputs of the calibration.
    candidate_probabilities: (N, K), the distribution over the candidate answers; each row sums to 1.
    """

    features: ConfidenceFeatures
    candidate_probabilities: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Confidence"]) -> "Confidence":
        """Concatenates the confidence of several lists of answers."""
        features = ConfidenceFeatures(
            *(np.concatenate(feature) for feature in zip(*(part.features for part in parts), strict=True))
        )
        return cls(features, np.concatenate([part.candidate_probabilities for part in parts]))


def compute_confidence(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    predictions: Sequence[str],
    *,
    candidates: Sequence[str],
    unknown_names: Sequence[str],
    progress: bool = False,
) -> Confidence:
    """Computes the confidence features of predictions.

    A prediction that cannot be scored, because it is empty or does not fit the context, gets the log-probability of the
    least probable answer to its question, and no contrast.

    Args:
        questions: N questions.
        predictions: the model's N answers to them.
        candidates: the K possible answers, such as all training answers.
        unknown_names: names that do not occur in the training text (`invent_names`).
        progress: whether to show a progress bar.
    """
    unknown = [question_about(name) for name in unknown_names]
    room = model.config.max_position_embeddings - 2 - max(map(len, [*questions, *unknown]))
    scorable = sorted({prediction for prediction in predictions if 0 < len(prediction) <= room})
    answers = [*candidates, *(prediction for prediction in scorable if prediction not in candidates)]
    scores = score_answers(model, tokenizer, questions, answers, progress=progress)
    of_candidates = scores[:, : len(candidates)]
    distribution = np.exp(of_candidates - np.logaddexp.reduce(of_candidates, axis=1, keepdims=True))

    log_probability = scores.min(axis=1)  # of predictions that cannot be scored
    contrast = np.zeros(len(questions))
    if scorable:
        by_name = score_answers(model, tokenizer, unknown, scorable)
        log_mean = np.logaddexp.reduce(by_name, axis=0) - np.log(len(unknown))
    for i, prediction in enumerate(predictions):
        if prediction in scorable:
            log_probability[i] = scores[i, answers.index(prediction)]
            contrast[i] = log_probability[i] - log_mean[scorable.index(prediction)]
    entropy = -(distribution * np.log(np.maximum(distribution, 1e-300))).sum(axis=1)
    return Confidence(ConfidenceFeatures(log_odds(log_probability), entropy, contrast), distribution)


def log_odds(log_probability: np.ndarray, *, eps: float = 1e-6) -> np.ndarray:
    """log(p / (1 - p)) from log(p), in nats. 1 - p is at least `eps`, the resolution of float32."""
    return log_probability - np.log(-np.expm1(np.minimum(log_probability, -eps)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A fitted calibration, which a run folder holds as calibration.json.

    weights, bias: the coefficients of the logistic regression on the confidence features.
    threshold: the model abstains if the probability of its answer is below it.
    candidates, unknown_names: the arguments of `compute_confidence` with which the features were computed.
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

    def __post_init__(self):
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
            check_marks("\n".join(texts), f"its {name}")

    def probability(self, features: ConfidenceFeatures) -> np.ndarray:
        """(N,) the probability that each answer is correct: sigmoid(weights . features + bias)."""
        weighted = sum(self.weights[name] * feature for name, feature in features._asdict().items())
        return 1 / (1 + np.exp(-(weighted + self.bias)))


def check_both_outcomes(correct: np.ndarray) -> None:
    """Raises a ValueError if all answers are correct or all are wrong: a regression needs both."""
    if correct.all() or not correct.any():
        raise ValueError(
            f"{correct.sum()} of {len(correct)} answers are correct: calibration needs correct and wrong ones."
        )


def fit_calibration(
    features: ConfidenceFeatures,
    correct: np.ndarray,
    *,
    invented_features: ConfidenceFeatures | None = None,
    candidates: Sequence[str] = (),
    unknown_names: Sequence[str] = (),
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
        candidates, unknown_names: the arguments of `compute_confidence` with which the features were computed.
        target_accuracy: the least accuracy of the answers that are given.
        max_false_answer_rate: the greatest fraction of invented names that may get an answer.

    Raises:
        ValueError: if all answers are correct or all are wrong.
    """
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


class Answer(NamedTuple):
    """An answer to the question where a person was born.

    place: the model's prediction.
    probability: the probability that it is correct.
    confident: whether the probability reaches the threshold. If not, the model abstains: do not rely on the place.
    alternatives: other places and their probabilities among the candidate answers, most probable first.
    """

    name: str
    place: str
    probability: float
    confident: bool
    alternatives: list[tuple[str, float]]


def ask(model: Any, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], calibration: Calibration) -> list[Answer]:
    """Asks a model where people were born, and gives each answer a calibrated probability.

    Args:
        names: the names of the people.
        calibration: the calibration of this model (`load_calibration`).

    Raises:
        ValueError: if a name has a character that is not in the vocabulary, or is too long for the context.
    """
    questions = questions_about(names, tokenizer)
    predictions = answer_questions(model, tokenizer, [Question(question, None) for question in questions])
    confidence = compute_confidence(
        model,
        tokenizer,
        questions,
        predictions,
        candidates=calibration.candidates,
        unknown_names=calibration.unknown_names,
    )
    answers = []
    probabilities = calibration.probability(confidence.features).tolist()
    distributions = confidence.candidate_probabilities
    for name, place, probability, distribution in zip(names, predictions, probabilities, distributions, strict=True):
        ranked = [(calibration.candidates[k], float(distribution[k])) for k in np.argsort(-distribution)]
        alternatives = [(other, p) for other, p in ranked if not is_exact_match(other, place)][:NUM_ALTERNATIVES]
        answers.append(Answer(name, place, probability, probability >= calibration.threshold, alternatives))
    return answers
