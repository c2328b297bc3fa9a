"""Calibrating a model: the features of its answers to held-out questions, and to questions about invented names."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import invent_for_templates
from ..data.phrasings import find_masked_forms
from ..data.questions import Question
from ..data.subjects import find_templates
from ..system.wording import quote
from .answering import answer_questions, check_questions
from .calibration import Calibration, check_both_outcomes, fit_calibration
from .confidence import Comparison, compute_confidence
from .scoring import exact_matches

NUM_MASKED_FORMS = 3


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
        documents: the training text, in which no invented name may occur, and from which masked forms of the questions
            come.
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
        raise ValueError(f"{quote(sorted(shared)[0])} is a training question, too: calibrate on held-out questions.")
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
    found = find_masked_forms(train, documents, NUM_MASKED_FORMS) if documents else {}
    masked_forms = [found.get(template, []) for template in templates]
    comparison = Comparison(
        candidates=candidates,
        unknown_names=unknown_names,
        templates=templates,
        masked_forms=masked_forms if any(masked_forms) else [],
    )
    asked = [question for question, _ in questions]
    features = compute_confidence(*held_out_run, asked, predictions, comparison, names=True, progress=progress).features
    invented_features = None
    if invented:
        asked, predictions = [question for question, _ in invented], answer_questions(*run, invented)
        invented_features = compute_confidence(
            *run, asked, predictions, comparison, names=True, progress=progress
        ).features
    calibration = fit_calibration(
        features,
        correct,
        comparison,
        invented_features=invented_features,
        target_accuracy=target_accuracy,
        max_false_answer_rate=max_false_answer_rate,
    )
    return calibration, calibration.probability(features), correct
