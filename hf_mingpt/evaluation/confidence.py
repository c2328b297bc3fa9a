"""Confidence: log-probabilities of answers, and the features that tell retrieved answers from invented ones.

Shapes: N questions, K answers, L tokens of an answer, V tokens of the vocabulary. Log-probabilities are in nats.

Reference: Kadavath et al. 2022, arXiv:2207.05221, Language Models (Mostly) Know What They Know.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedTokenizerBase

from ..data.birthplaces import BIRTHPLACE
from ..data.phrasings import rephrase
from ..data.questions import Question
from ..data.sequences import IGNORE_ID
from ..data.subjects import Template, match
from ..tokenization_mingpt import SpecialTokens, check_marks, tokenize
from .answering import check_questions, with_mark

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
    pad_id, mask_id = SpecialTokens.of(tokenizer)
    encoded = [[*ids, mask_id] for ids in tokenize(answers, tokenizer)["input_ids"]]
    lengths = np.array([len(tokens) for tokens in encoded])
    asked = [Question(question, None) for question in questions]
    prompts = [[*ids, mask_id] for ids in check_questions(asked, tokenizer, context_length - lengths.max() + 1)]
    by_length = np.argsort(lengths, kind="stable")
    groups = [by_length[start : start + _ANSWERS_PER_BATCH] for start in range(0, len(by_length), _ANSWERS_PER_BATCH)]
    padded = []  # of each group: ids (k, L), and the mask of the tokens that are not padding
    for group in groups:
        inside = torch.arange(lengths[group].max()) < torch.from_numpy(lengths[group])[:, None]
        ids = torch.full(inside.shape, pad_id)
        ids[inside] = torch.tensor([token for k in group for token in encoded[k]])
        padded.append((ids.to(device), inside.to(device)))
    scores = np.empty((len(questions), len(encoded)))
    for i, ids_of_prompt in enumerate(tqdm(prompts, unit="question", disable=not progress)):
        prompt = torch.tensor([ids_of_prompt], device=device)
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


@torch.inference_mode()
def score_names(model: Any, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> np.ndarray:
    """Computes the log-probability of each name as a title, given its first token.

    It is high for the titles of the training text if the model has learned to predict them, as in span corruption or
    with `title_loss_probability`.

    Args:
        names: N names. The end of one that is longer than the context is left out.

    Returns:
        (N,) float64 log-probabilities, in nats.
    """
    encoded = tokenize(list(names), tokenizer)["input_ids"]
    encoded = [ids[: model.config.max_position_embeddings] for ids in encoded]
    scores = np.empty(len(names))
    for start in range(0, len(names), _ANSWERS_PER_BATCH):
        group = [torch.tensor(ids, dtype=torch.long) for ids in encoded[start : start + _ANSWERS_PER_BATCH]]
        ids = pad_sequence(group, batch_first=True, padding_value=IGNORE_ID).to(model.device)
        logits = model(ids[:, :-1].clamp(min=0), use_cache=False).logits.float()
        losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=IGNORE_ID, reduction="none")
        scores[start : start + len(group)] = -losses.double().sum(dim=1).cpu().numpy()
    return scores


class ConfidenceFeatures(NamedTuple):
    """The confidence features of N answers, in nats; each is an array of shape (N,).

    log_odds: log(p / (1 - p)), where p is the probability of the answer, closing MASK included.
    entropy: of the distribution over the candidate answers; 0 if one candidate has all the probability.
    contrast: log-probability of the answer, minus the log of its mean probability over questions about unknown names.
    masked_log_odds: mean of the answer's log-odds over masked forms of the question. None: there are no such forms.
    name_log_probability: of the name that the question is about, from `score_names`; NaN for a question without a name.
        None: not computed. It says nothing about the answer, but whether the model has read the name.
    """

    log_odds: np.ndarray
    entropy: np.ndarray
    contrast: np.ndarray
    masked_log_odds: np.ndarray | None = None
    name_log_probability: np.ndarray | None = None

    def present(self) -> dict[str, np.ndarray]:
        """The features that are not None, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the answers of a model are compared with.

    candidates: the K possible answers, such as all training answers.
    unknown_names: names that do not occur in the training text (`invent_names`): as many for each template, those of
        the first template first.
    templates: of the questions about unknown names. An answer is compared with those of its question's template; with
        all of them if its question has none of the templates.
    masked_forms: of each template, from `find_masked_forms`. A question without one stands for its masked forms.

    Raises:
        ValueError: if a value is impossible.
    """

    candidates: list[str]
    unknown_names: list[str]
    templates: list[Template] = field(default_factory=lambda: [BIRTHPLACE])
    masked_forms: list[list[Template]] = field(default_factory=list)

    def __post_init__(self):
        if not self.templates or not _are_templates(self.templates):
            raise ValueError(f"Its templates are {self.templates!r}, not a list of what precedes and follows a name.")
        object.__setattr__(self, "templates", [Template(*pair) for pair in self.templates])  # JSON has lists
        forms = self.masked_forms
        if not isinstance(forms, list) or not all(map(_are_templates, forms)):
            raise ValueError(f"Its masked forms are {forms!r}, not a list of templates for each kind of question.")
        if forms and len(forms) != len(self.templates):
            raise ValueError(f"It has masked forms of {len(forms)} templates, not of {len(self.templates)}.")
        object.__setattr__(self, "masked_forms", [[Template(*pair) for pair in own] for own in forms])
        for name in ("candidates", "unknown_names"):
            texts = getattr(self, name)
            if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ValueError(f"Its {name} are not a list of strings.")
            if len(set(texts)) < len(texts):
                raise ValueError(f"One of its {name} occurs twice.")
            check_marks("\n".join(texts), f"its {name}")
        if len(self.unknown_names) % len(self.templates):
            raise ValueError(
                f"Its {len(self.unknown_names)} unknown names are not as many for each of its {len(self.templates)} "
                "templates."
            )

    def unknown_questions(self) -> dict[Template | None, list[str]]:
        """The questions about unknown names, by template; those of all templates stand under None."""
        number = len(self.unknown_names) // len(self.templates)
        questions: dict[Template | None, list[str]] = {
            template: [template.fill(name) for name in self.unknown_names[i * number : (i + 1) * number]]
            for i, template in enumerate(self.templates)
        }
        return {**questions, None: [question for own in questions.values() for question in own]}

    def forms_of(self, template: Template | None) -> list[Template]:
        """The masked forms of a template."""
        return dict(zip(self.templates, self.masked_forms, strict=False)).get(template, []) if template else []


def _are_templates(pairs: Any) -> bool:
    return isinstance(pairs, list) and all(
        isinstance(pair, list | tuple) and list(map(type, pair)) == [str, str] for pair in pairs
    )


class Confidence(NamedTuple):
    """What `compute_confidence` returns for N answers.

    features: the inputs of the calibration.
    candidate_probabilities: (N, K), the probability of each candidate if the answer is a candidate or the prediction: a
        row sums to 1 if the prediction is a candidate, and to less otherwise.
    """

    features: ConfidenceFeatures
    candidate_probabilities: np.ndarray


def find_scorable(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], answers: Sequence[str]
) -> set[str]:
    """The answers that have tokens, and fit the context of a model together with every question."""
    asked, encoded = (tokenize(texts, tokenizer)["input_ids"] for texts in (questions, answers))
    room = model.config.max_position_embeddings - 2 - max(map(len, asked))
    return {answer for answer, ids in zip(answers, encoded, strict=True) if 0 < len(ids) <= room}


def compute_confidence(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    predictions: Sequence[str],
    comparison: Comparison,
    *,
    names: bool = False,
    progress: bool = False,
) -> Confidence:
    """Computes the confidence features of predictions.

    A prediction that cannot be scored, because it is empty or does not fit the context, gets the log-probability of the
    least probable answer to its question, and no contrast.

    Args:
        questions: N questions.
        predictions: the model's N answers to them.
        comparison: what the predictions are compared with.
        names: whether to compute `name_log_probability`.
        progress: whether to show a progress bar.
    """
    candidates, unknown = comparison.candidates, comparison.unknown_questions()
    forms = rephrase(questions, {template: comparison.forms_of(template) for template in comparison.templates})
    phrasings = [[with_mark(text, tokenizer) for text in texts] for texts in forms]
    asked = [question for texts in (questions, unknown[None], *phrasings) for question in texts]
    scorable = sorted(find_scorable(model, tokenizer, asked, predictions))
    answers = [*candidates, *(prediction for prediction in scorable if prediction not in candidates)]
    scores = score_answers(model, tokenizer, questions, answers, progress=progress)
    of_candidates = scores[:, : len(candidates)]
    total = np.logaddexp.reduce(of_candidates, axis=1)
    distribution = np.exp(of_candidates - total[:, None])
    entropy = -(distribution * np.log(np.maximum(distribution, 1e-300))).sum(axis=1)

    log_probability = scores.min(axis=1)  # of predictions that cannot be scored
    for i, prediction in enumerate(predictions):
        if prediction in scorable:
            log_probability[i] = scores[i, answers.index(prediction)]
            if prediction not in candidates:
                total[i] = np.logaddexp(total[i], log_probability[i])

    contrast = np.zeros(len(questions))
    template_of = [match(question, comparison.templates) for question in questions]
    for template in dict.fromkeys(template_of):
        own = [i for i, other in enumerate(template_of) if other == template and predictions[i] in scorable]
        distinct = sorted({predictions[i] for i in own})
        if distinct:
            by_name = score_answers(model, tokenizer, unknown[template], distinct)
            log_mean = np.logaddexp.reduce(by_name, axis=0) - np.log(len(by_name))
            contrast[own] = log_probability[own] - log_mean[[distinct.index(predictions[i]) for i in own]]

    features = ConfidenceFeatures(log_odds(log_probability), entropy, contrast)
    if names:
        subjects = {i: str(own.subject_of(questions[i])) for i, own in enumerate(template_of) if own}
        log_probabilities = np.full(len(questions), np.nan)
        log_probabilities[list(subjects)] = score_names(model, tokenizer, list(subjects.values()))
        features = features._replace(name_log_probability=log_probabilities)
    if phrasings:
        masked = np.tile(log_probability, (len(phrasings), 1))  # (P, N)
        for phrasing, texts in enumerate(phrasings):
            for i, text in enumerate(texts):
                if predictions[i] in scorable and text != questions[i]:
                    masked[phrasing, i] = score_answers(model, tokenizer, [text], [predictions[i]])[0, 0]
        features = features._replace(masked_log_odds=log_odds(masked).mean(axis=0))
    return Confidence(features, np.exp(of_candidates - total[:, None]))


def log_odds(log_probability: np.ndarray, *, eps: float = 1e-6) -> np.ndarray:
    """log(p / (1 - p)) from log(p), in nats. 1 - p is at least `eps`, the resolution of float32."""
    return log_probability - np.log(-np.expm1(np.minimum(log_probability, -eps)))
