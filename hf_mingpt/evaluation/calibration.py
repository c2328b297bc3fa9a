"""Calibration: how likely is an answer right, and when should the model abstain?

Three confidence features are computed for each answer (`ConfidenceFeatures`): its log-odds, the entropy over the
candidate answers, and its contrast with questions about unknown names. A logistic regression turns them into a
probability (`Calibration`). It is fitted on questions with known answers that the model was not trained on; the same
questions give the threshold under which the model abstains.

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

from ..data.birthplaces import question_about
from ..data.questions import Question
from ..tokenization_mingpt import MASK, PAD_ID, check_marks
from .answering import answer_questions, check_questions, questions_about
from .scoring import is_exact_match, wilson_interval

NUM_RUNNERS_UP = 3


@torch.inference_mode()
def score_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str],
    *,
    progress: bool = False,
) -> np.ndarray:
    """The log-probability of each answer, with the MASK that closes it, to each question.

    A question is read once; all answers go on from its cache, those that are about as long together.

    Returns:
        (N questions, K answers) float64, in nats.

    Raises:
        ValueError: if a question and an answer together do not fit the block.
    """
    block_size, device = model.config.max_position_embeddings, model.device
    encoded = tokenizer([f"{answer}{MASK}" for answer in answers])["input_ids"]
    lengths = np.array([len(tokens) for tokens in encoded])
    check_questions([Question(question, None) for question in questions], block_size - lengths.max() + 1)
    by_length = np.argsort(lengths, kind="stable")
    groups = [by_length[start : start + _ANSWERS_AT_ONCE] for start in range(0, len(by_length), _ANSWERS_AT_ONCE)]
    padded = []  # (k, L) ids of each group, and where they are no padding
    for group in groups:
        inside = torch.arange(lengths[group].max()) < torch.from_numpy(lengths[group])[:, None]
        ids = torch.full(inside.shape, PAD_ID)
        ids[inside] = torch.tensor([token for k in group for token in encoded[k]])
        padded.append((ids.to(device), inside.to(device)))
    scores = np.empty((len(questions), len(encoded)))
    for i, question in enumerate(tqdm(questions, unit="question", disable=not progress)):
        prompt = tokenizer(question + MASK, return_tensors="pt")["input_ids"].to(device)
        cache = DynamicCache(config=model.config)
        read = model(prompt, cache=cache, use_cache=True, logits_to_keep=1)
        for group, (ids, inside) in zip(groups, padded, strict=True):
            branches = deepcopy(cache)
            branches.batch_repeat_interleave(len(group))
            logits = model(ids[:, :-1], cache=branches, use_cache=True).logits
            logits = torch.cat((read.logits.expand(len(group), -1, -1), logits), dim=1)  # (k, L, V)
            chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, ids[..., None])[..., 0]
            scores[i, group] = (chosen.double() * inside).sum(-1).cpu().numpy()
    return scores


_ANSWERS_AT_ONCE = 64


class ConfidenceFeatures(NamedTuple):
    """What speaks for N answers; arrays of shape (N,), in nats.

    log_odds: of the answer, with the MASK that closes it, against all else that could be said to its question.
    entropy: of the choice among the places that there are: 0 if one is certain.
    contrast: how much more probable the answer is than it would be, on average, to questions about unknown names.
    """

    log_odds: np.ndarray
    entropy: np.ndarray
    contrast: np.ndarray


class Confidence(NamedTuple):
    """Of N answers, what speaks for each.

    shares: (N, K) how each question's probability is spread over the K places.
    """

    signs: ConfidenceFeatures
    shares: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Confidence"]) -> "Confidence":
        """Several, one after the other."""
        signs = ConfidenceFeatures(
            *(np.concatenate(sign) for sign in zip(*(part.signs for part in parts), strict=True))
        )
        return cls(signs, np.concatenate([part.shares for part in parts]))


def compute_confidence(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    predictions: Sequence[str],
    *,
    places: Sequence[str],
    unknown_names: Sequence[str],
    progress: bool = False,
) -> Confidence:
    """Takes the signs of whether answers were retrieved or made up.

    Args:
        questions: N of them.
        predictions: the model's answers to them.
        places: the K that there are: the training answers.
        unknown_names: that stand nowhere in what the model has read (`invent_names`).
    """
    unknown = [question_about(name) for name in unknown_names]
    room = model.config.max_position_embeddings - 2 - max(map(len, [*questions, *unknown]))
    said = sorted({prediction for prediction in predictions if 0 < len(prediction) <= room})
    candidates = [*places, *(prediction for prediction in said if prediction not in places)]
    scores = score_answers(model, tokenizer, questions, candidates, progress=progress)
    of_places = scores[:, : len(places)]
    shares = np.exp(of_places - np.logaddexp.reduce(of_places, axis=1, keepdims=True))

    log_probability = scores.min(axis=1)  # an answer that is empty, or has no end in the block, speaks least for itself
    contrast = np.zeros(len(questions))
    if said:
        usual = np.logaddexp.reduce(score_answers(model, tokenizer, unknown, said), axis=0) - np.log(len(unknown))
    for i, prediction in enumerate(predictions):
        if prediction in said:
            log_probability[i] = scores[i, candidates.index(prediction)]
            contrast[i] = log_probability[i] - usual[said.index(prediction)]
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
    return Confidence(ConfidenceFeatures(log_odds(log_probability), entropy, contrast), shares)


def log_odds(log_probability: np.ndarray, *, least_doubt: float = 1e-6) -> np.ndarray:
    """log(p / (1 - p)) of log(p), in nats; 1 - p is at least `least_doubt`, as float32 tells no more apart."""
    return log_probability - np.log(-np.expm1(np.minimum(log_probability, -least_doubt)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that it takes to give an answer a probability, and to withhold it; it is kept in a run folder as JSON.

    weights, bias: of the logistic regression on the signs.
    threshold: answers that are less probable are guesses.
    places, unknown_names: as `compute_confidence` takes them.
    fitted_on: number of questions.
    """

    weights: dict[str, float]
    bias: float
    threshold: float
    places: list[str]
    unknown_names: list[str]
    fitted_on: int

    def __post_init__(self):
        if not isinstance(self.weights, dict) or self.weights.keys() != set(ConfidenceFeatures._fields):
            weighed = ", ".join(map(str, self.weights)) if isinstance(self.weights, dict) else repr(self.weights)
            raise ValueError(f"It weighs {weighed}, where the signs are {', '.join(ConfidenceFeatures._fields)}.")
        for name, value in {**self.weights, "bias": self.bias, "threshold": self.threshold}.items():
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise ValueError(f"Its {name} is {value!r}, which is no finite number.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"Its threshold is {self.threshold}, which is no probability.")
        if type(self.fitted_on) is not int or self.fitted_on < 1:
            raise ValueError(f"It was fitted on {self.fitted_on!r} questions, which is no number of them.")
        for name in ("places", "unknown_names"):
            texts = getattr(self, name)
            if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError(f"Its {name} are no list of texts.")
            if len(set(texts)) < len(texts):
                raise ValueError(f"One of its {name} is there twice.")
            check_marks("\n".join(texts), f"its {name}")

    def probability(self, signs: ConfidenceFeatures) -> np.ndarray:
        """(N,) how likely each answer is right."""
        weighted = sum(self.weights[name] * sign for name, sign in signs._asdict().items())
        return 1 / (1 + np.exp(-(weighted + self.bias)))


def check_right_and_wrong(right: np.ndarray) -> None:
    """Raises a ValueError if all answers are right, or all wrong: then there is nothing to tell apart."""
    if right.all() or not right.any():
        raise ValueError(f"{right.sum()} of {len(right)} answers are right: calibration needs right and wrong ones.")


def fit_calibration(
    signs: ConfidenceFeatures,
    right: np.ndarray,
    *,
    of_invented: ConfidenceFeatures | None = None,
    places: Sequence[str] = (),
    unknown_names: Sequence[str] = (),
    answer_accuracy: float = 0.8,
    false_answers: float = 0.1,
) -> Calibration:
    """Fits the probability, and the threshold.

    The threshold is the lowest at which `answer_accuracy` of the answers given are right and at most `false_answers` of
    invented names are answered; but at least 1/2: what is more likely wrong than right is a guess. The invented names
    here are a sample, so `false_answers` is kept by the upper end of the 95 % interval of their share.

    Args:
        signs: of the answers to questions that the model was not trained on.
        right: (N,) whether each answer is right.
        of_invented: of the answers about people who do not exist; None: the threshold looks at real ones only.
        places, unknown_names: with which the signs were taken.
        answer_accuracy: share of the answers given that shall be right.
        false_answers: share of invented names that may be answered.

    Raises:
        ValueError: if all answers are right, or all wrong.
    """
    check_right_and_wrong(right)
    values = np.stack(signs, axis=1)
    scaler = StandardScaler().fit(values)
    regression = LogisticRegression().fit(scaler.transform(values), right)
    weights = regression.coef_[0] / scaler.scale_
    calibration = Calibration(
        weights=dict(zip(ConfidenceFeatures._fields, weights.tolist(), strict=True)),
        bias=float(regression.intercept_[0] - weights @ scaler.mean_),
        threshold=1.0,
        places=list(places),
        unknown_names=list(unknown_names),
        fitted_on=len(right),
    )
    probability = calibration.probability(signs)
    # of the answers from each one's probability up, the share that is right
    accuracies = [(right[probability >= p].mean(), float(p)) for p in np.unique(probability)]
    threshold = max(0.5, min((p for accuracy, p in accuracies if accuracy >= answer_accuracy), default=1.0))
    if of_invented is not None:
        surest = np.sort(calibration.probability(of_invented))[::-1]
        total = len(surest)
        allowed = max((k for k in range(total + 1) if wilson_interval(k, total)[1] <= false_answers), default=0)
        not_given = surest[allowed:]  # of these none may be
        threshold = max([threshold, *np.nextafter(not_given[:1], 1.0).tolist()])
    return replace(calibration, threshold=threshold)


class Answer(NamedTuple):
    """What a model says of a person's birthplace.

    probability: that it is right.
    retrieved: whether that reaches the threshold; if not, the place is a guess, and nothing should be said.
    runners_up: other places, with their shares of the model's choice.
    """

    name: str
    place: str
    probability: float
    retrieved: bool
    runners_up: list[tuple[str, float]]


def ask(model: Any, tokenizer: PreTrainedTokenizerBase, names: Sequence[str], calibration: Calibration) -> list[Answer]:
    """Asks a model where people were born, and says of each answer whether it was retrieved or guessed.

    Args:
        names: of the people.
        calibration: of that model (`run_folders.load_calibration`).

    Raises:
        ValueError: if a name has a character that the model does not know, or is too long for its block.
    """
    questions = questions_about(names, tokenizer)
    predictions = answer_questions(model, tokenizer, [Question(question, None) for question in questions])
    judged = compute_confidence(
        model,
        tokenizer,
        questions,
        predictions,
        places=calibration.places,
        unknown_names=calibration.unknown_names,
    )
    answers = []
    probabilities = calibration.probability(judged.signs).tolist()
    for name, place, probability, shares in zip(names, predictions, probabilities, judged.shares, strict=True):
        runners_up = [(calibration.places[k], float(shares[k])) for k in np.argsort(-shares)]
        others = [(other, share) for other, share in runners_up if not is_exact_match(other, place)][:NUM_RUNNERS_UP]
        answers.append(Answer(name, place, probability, probability >= calibration.threshold, others))
    return answers
