"""Confidence: log-probabilities of answers, and the features that tell retrieved answers from invented ones.

Shapes: N questions, K answers, L tokens of an answer, V tokens of the vocabulary. Log-probabilities are in nats.

Reference: Kadavath et al. 2022, arXiv:2207.05221, Language Models (Mostly) Know What They Know.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedTokenizerBase

from ..data.birthplaces import BIRTHPLACE
from ..data.phrasings import rephrase
from ..data.questions import Question
from ..data.subjects import Template, match
from ..tokenization_mingpt import SpecialTokens, tokenize
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


class ConfidenceFeatures(NamedTuple):
    """The confidence features of N answers, in nats; each is an array of shape (N,).

    log_odds: log(p / (1 - p)), where p is the probability of the answer, closing MASK included.
    entropy: of the distribution over the candidate answers; 0 if one candidate has all the probability.
    contrast: log-probability of the answer, minus the log of its mean probability over questions about unknown names.
    masked_log_odds: mean of the answer's log-odds over masked forms of the question. None: there are no such forms.
    """

    log_odds: np.ndarray
    entropy: np.ndarray
    contrast: np.ndarray
    masked_log_odds: np.ndarray | None = None


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
    *,
    candidates: Sequence[str],
    unknown_names: Sequence[str],
    templates: Sequence[Template] = (BIRTHPLACE,),
    masked_forms: Sequence[Sequence[Template]] = (),
    progress: bool = False,
) -> Confidence:
    """Computes the confidence features of predictions.

    A prediction that cannot be scored, because it is empty or does not fit the context, gets the log-probability of the
    least probable answer to its question, and no contrast.

    Args:
        questions: N questions.
        predictions: the model's N answers to them.
        candidates: the K possible answers, such as all training answers.
        unknown_names: names that do not occur in the training text (`invent_names`): as many for each template, those
            of the first template first.
        templates: of the questions about unknown names. An answer is compared with those of its question's template;
            with all of them if its question has none of the templates.
        masked_forms: of each template, from `find_masked_forms`. A question without one stands for its masked forms.
        progress: whether to show a progress bar.
    """
    number = len(unknown_names) // len(templates)
    unknown: dict[Template | None, list[str]] = {
        template: [template.fill(name) for name in unknown_names[i * number : (i + 1) * number]]
        for i, template in enumerate(templates)
    }
    unknown[None] = [question for own in unknown.values() for question in own]
    forms = rephrase(questions, dict(zip(templates, masked_forms, strict=False)))
    phrasings = [[with_mark(text, tokenizer) for text in texts] for texts in forms]
    asked = [question for texts in (questions, unknown[None], *phrasings) for question in texts]
    scorable = sorted(find_scorable(model, tokenizer, asked, predictions))
    answers = [*candidates, *(prediction for prediction in scorable if prediction not in candidates)]
    scores = score_answers(model, tokenizer, questions, answers, progress=progress)
    of_candidates = scores[:, : len(candidates)]
    total = np.logaddexp.reduce(of_candidates, axis=1)
    distribution = np.exp(of_candidates - total[:, None])

    log_probability = scores.min(axis=1)  # of predictions that cannot be scored
    contrast = np.zeros(len(questions))
    template_of = [match(question, templates) for question in questions]
    for template in dict.fromkeys(template_of):
        own = [i for i, other in enumerate(template_of) if other == template and predictions[i] in scorable]
        if not own:
            continue
        distinct = sorted({predictions[i] for i in own})
        by_name = score_answers(model, tokenizer, unknown[template], distinct)
        log_mean = np.logaddexp.reduce(by_name, axis=0) - np.log(len(by_name))
        for i in own:
            log_probability[i] = scores[i, answers.index(predictions[i])]
            contrast[i] = log_probability[i] - log_mean[distinct.index(predictions[i])]
            if predictions[i] not in candidates:
                total[i] = np.logaddexp(total[i], log_probability[i])
    entropy = -(distribution * np.log(np.maximum(distribution, 1e-300))).sum(axis=1)
    features = ConfidenceFeatures(log_odds(log_probability), entropy, contrast)
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
