"""Evaluation: questions in, answers, accuracy and a report out.

After training in the flow. The prediction is what a greedy decoder writes between the first two MASKs, in at most 32
characters; it is right if it equals the place, but for white space around. The package's `evaluate.Metric` counts so
too.

Reference: CS224n, assignment 5, `evaluate` and `evaluate_places`; Wilson 1927 for the interval.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import question_about
from ..data.questions import MAX_ANSWER_TOKENS, Question, extract_prediction
from ..system.writing import write_text
from ..tokenization_mingpt import MASK, MASK_ID, PAD, PAD_ID, character_table, find_bad_character


def check_questions(questions: Sequence[Question], block_size: int) -> None:
    """Raises a ValueError if a question leaves no room for an answer in the block."""
    for number, (question, _) in enumerate(questions, start=1):
        if len(question) + 2 > block_size:
            raise ValueError(
                f"Question {number}, {question!r}, has {len(question)} characters, which leaves no room for an "
                f"answer in the block of {block_size}: shorten it or use a model with a larger block."
            )


def questions_about(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The questions after some people's birthplaces.

    Raises:
        ValueError: if a name is empty, or has a character that the model does not know.
    """
    questions = [question_about(name) for name in names]
    if problem := find_bad_character(questions, character_table(tokenizer)):
        raise ValueError(f"{names[problem[0]]!r}: {problem[1]}: write the name with other letters.")
    return questions


@torch.inference_mode()
def answer_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    batch_size: int = 128,
    progress: bool = False,
) -> list[str]:
    """Answers each question greedily, in batches with a cache, stopping at the closing MASK.

    Args:
        model: with its block at least two tokens longer than the longest question.
        tokenizer: of that model, padding on the left.
        questions: N of them; their answers are not looked at.

    Returns:
        N predictions, in the order of the questions.
    """
    block_size = model.config.max_position_embeddings
    check_questions(questions, block_size)
    predictions = [""] * len(questions)
    with tqdm(total=len(questions), unit="question", disable=not progress) as bar:
        for places in _batches([len(question) + 1 for question, _ in questions], block_size, batch_size):
            prompts = [questions[i].question + MASK for i in places]
            batch = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
            width = batch["input_ids"].shape[1]
            generated = model.generate(
                **batch,
                max_new_tokens=min(MAX_ANSWER_TOKENS, block_size - width),
                do_sample=False,
                eos_token_id=MASK_ID,
                pad_token_id=PAD_ID,
            )
            for i, prompt, ids in zip(places, prompts, generated[:, width:], strict=True):
                predictions[i] = extract_prediction(prompt + str(tokenizer.decode(ids)).rstrip(PAD), MASK)
            bar.update(len(places))
    return predictions


def _batches(lengths: list[int], block_size: int, batch_size: int) -> Iterator[list[int]]:
    """Groups prompts by length; those that leave less than the full room for an answer only with their equals."""
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for _, group in groupby(by_length, key=lambda i: max(0, lengths[i] + MAX_ANSWER_TOKENS - block_size)):
        members = list(group)
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


@torch.inference_mode()
def continue_prompt(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int, **options: Any
) -> str:
    """Writes on from a prompt, past the end of the block by looking at its last characters only.

    Args:
        max_new_tokens: how many characters to write.
        options: of `generate`: do_sample, temperature, top_k, num_beams, ...

    Returns:
        The prompt and what follows.

    Raises:
        ValueError: if the prompt is empty or has a character that the model does not know.
    """
    if not prompt:
        raise ValueError("The prompt is empty: give at least one character.")
    table = character_table(tokenizer)
    table[ord(MASK)] = table.max()  # a prompt may ask a question, so MASK is as good as any other
    if problem := find_bad_character([prompt], table):
        raise ValueError(f"The prompt's {problem[1]}: replace it.")
    block_size = model.config.max_position_embeddings
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    end = ids.shape[1] + max_new_tokens
    while (missing := end - ids.shape[1]) > 0:
        window = ids[:, -(block_size // 2) :]  # half of the block to look back on, half to fill
        room = min(missing, block_size - window.shape[1])
        attention_mask = torch.ones_like(window)
        written = model.generate(window, attention_mask=attention_mask, max_new_tokens=room, **options)
        ids = torch.cat((ids, written[:, window.shape[1] :]), dim=1)
        if written.shape[1] < window.shape[1] + room:
            break  # the model has ended its text
    return str(tokenizer.decode(ids[0]))


def write_predictions(path: Path, predictions: Sequence[str]) -> None:
    """Writes one prediction a line; a line end inside one becomes a space, so that lines and questions stay in step."""
    write_text(path, "".join(" ".join(p.split("\n")) + "\n" for p in predictions))
