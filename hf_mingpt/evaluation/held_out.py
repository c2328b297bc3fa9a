"""Held-out evaluation of a model, for the training loop: loss, accuracy of questions, and samples.

The loop gets a function of the model, so that it knows nothing of questions and answers.

Reference for the names of the metrics: transformers' `Trainer.evaluate`.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from ..data.batching import MicroBatch, make_micro_batches
from ..data.encoding import take
from ..data.questions import MAX_ANSWER_TOKENS, Question
from ..data.sequences import IGNORE_ID
from ..data.steps import TrainingSteps
from ..system.precision import autocast
from .answering import answer_questions
from .scoring import exact_matches

NUM_SAMPLES = 3

Evaluation = Callable[[Any], tuple[dict[str, float], list[dict[str, str]]]]


def build_evaluation(
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    *,
    text: TrainingSteps | None = None,
    questions: Sequence[Question] = (),
    question_steps: TrainingSteps | None = None,
) -> Evaluation:
    """Builds the function that evaluates a model on held-out data.

    Args:
        tokenizer: of the model.
        accelerator: of the run. Every process evaluates a shard, with its own whole model.
        text: an epoch over held-out documents (`build_validation_steps`).
        questions: held-out questions with answers.
        question_steps: an epoch over the same questions.

    Returns:
        A function of a model in evaluation mode. All processes must call it. It returns metrics and samples, the same
        on all processes:

        - `eval_loss`: cross entropy in nats per label token, of the text or, without text, of the questions;
        - `eval_bits_per_character`: the same per character of the labels. A mark counts as one character;
        - `eval_questions_loss`: that of the questions, if there is text too;
        - `eval_accuracy`: the fraction of the questions whose greedy answer is an exact match;
        - `eval_runtime`: seconds;
        - samples: `prompt`, `prediction` and `reference` of a few questions or documents, the same every time.

        The loss is computed in the precision of the run. Answers are computed in float32, as everywhere else.
    """

    @torch.inference_mode()
    def evaluate(model: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        samples: list[dict[str, str]] = []
        for steps, name in ((text, "eval_loss"), (question_steps, "eval_questions_loss" if text else "eval_loss")):
            if steps is None:
                continue
            nats, num_labels, num_characters = total_loss(model, steps, tokenizer, accelerator)
            metrics[name] = nats / num_labels
            if name == "eval_loss":
                metrics["eval_bits_per_character"] = nats / math.log(2) / num_characters
        if questions:
            predictions = answer_on_all_processes(model, tokenizer, questions, accelerator)
            references = [question.answer for question in questions]
            metrics["eval_accuracy"] = float(np.mean(exact_matches(predictions, references)))
            for i in choose_samples(len(questions)):
                sample = {"prompt": questions[i].question, "prediction": predictions[i]}
                samples.append({**sample, "reference": str(questions[i].answer)})
        if text:
            samples += [continue_sample(model, ids, tokenizer) for ids in sample_documents(text)]
        metrics["eval_runtime"] = round(time.perf_counter() - started, 2)
        return metrics, samples

    return evaluate


def total_loss(
    model: Any, steps: TrainingSteps, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
) -> tuple[float, int, int]:
    """The cross entropy of one epoch over all processes, in nats; its label tokens, and their characters."""
    device = accelerator.device
    sums = np.zeros(3)
    for step in range(steps.steps_per_epoch):
        for batch in steps[step]:
            with autocast(accelerator):
                loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
            labels = batch["labels"][:, 1:]  # no token predicts the first one
            sums += (
                loss.item() * int(batch["num_items_in_batch"]),
                int((labels != IGNORE_ID).sum()),
                count_characters(batch, tokenizer),
            )
    nats, num_labels, num_characters = np.sum(gather_object([sums]), axis=0)
    return float(nats), int(num_labels), int(num_characters)


def count_characters(batch: MicroBatch, tokenizer: PreTrainedTokenizerBase) -> int:
    """The characters of the labels of a micro-batch. A special token counts as one character."""
    special = torch.tensor(tokenizer.all_special_ids)
    number = 0
    for row in batch["labels"][:, 1:]:
        ids = row[row != IGNORE_ID]
        is_special = torch.isin(ids, special)
        number += int(is_special.sum()) + len(str(tokenizer.decode(ids[~is_special])))
    return number


def answer_on_all_processes(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], accelerator: Accelerator
) -> list[str]:
    """Answers questions on all processes, each its share. Returns all predictions in the order of the questions."""
    rank, number = accelerator.process_index, accelerator.num_processes
    mine = answer_questions(model, tokenizer, questions[rank::number])
    predictions = [""] * len(questions)
    for place, prediction in gather_object(list(zip(range(rank, len(questions), number), mine, strict=True))):
        predictions[place] = prediction
    return predictions


def choose_samples(number: int) -> list[int]:
    """The places of a few samples among `number` examples, spread evenly."""
    chosen = min(NUM_SAMPLES, number)
    return [i * number // chosen for i in range(chosen)]


def sample_documents(steps: TrainingSteps) -> list[np.ndarray]:
    """The token ids of a few documents as the model learns from them."""
    shape = steps.shape._replace(
        per_device_batch_size=1, num_processes=1, process_index=0, pad_to_multiple_of=1, padding_free=False
    )
    samples = []
    for place in choose_samples(len(steps.dataset)):
        index = np.array([place])
        (batch,) = make_micro_batches(steps.objective(take(steps.dataset, index), 0, index), shape)
        samples.append(batch["input_ids"][0].numpy())
    return samples


def continue_sample(model: Any, ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Predicts the end of a sequence: its masked spans, or its second half if nothing is masked.

    With K masked spans, the first of them begins after the MASK K + 1.
    """
    mask_id: Any = tokenizer.mask_token_id
    masks = np.flatnonzero(ids == mask_id)
    start = int(masks[len(masks) // 2]) + 1 if len(masks) > 1 else (len(ids) + 1) // 2
    prompt = torch.from_numpy(ids[None, :start]).to(model.device)
    generated = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=min(MAX_ANSWER_TOKENS, max(1, len(ids) - start)),
        do_sample=False,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    predicted = generated[0, start:].tolist()
    reference = ids[start : start + len(predicted)]
    texts = (str(tokenizer.decode(part)) for part in (ids[:start], predicted, reference))
    return dict(zip(("prompt", "prediction", "reference"), texts, strict=True))
