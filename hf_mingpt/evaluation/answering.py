"""Generation: answers to questions, and continuations of prompts.

A prediction is the text between the first two MASKs of a greedy decoding of at most 32 characters.

Reference: CS224n, assignment 5, `evaluate`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.birthplaces import question_about
from ..data.questions import MAX_ANSWER_TOKENS, Question, extract_prediction
from ..system.wording import count
from ..system.writing import write_text
from ..tokenization_mingpt import MASK, MASK_ID, PAD, PAD_ID, character_table, find_bad_character

MAX_LISTED = 10  # characters in a message


def check_questions(questions: Sequence[Question], context_length: int) -> None:
    """Checks that each question leaves room for an answer in the context.

    Raises:
        ValueError: if a question and two MASKs are longer than `context_length`.
    """
    for number, (question, _) in enumerate(questions, start=1):
        if len(question) + 2 > context_length:
            raise ValueError(
                f"Question {number}, {question!r}, has {len(question)} characters, which leaves no room for an answer "
                f"in the context of {context_length}: shorten it or use a model with a longer context."
            )


def describe_unknown_characters(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Says which characters of the questions are not in the vocabulary, and how many questions have one.

    `answer_questions` reads them as PAD. None if there are none.
    """
    table = character_table(tokenizer)
    unknown = [sorted({character for character in text if table[ord(character)] < 0}) for text, _ in questions]
    if not any(unknown):
        return None
    number = Counter(character for characters in unknown for character in characters)
    listed = [f"{character!r} (U+{ord(character):04X})" for character, _ in number.most_common(MAX_LISTED)]
    if len(number) > MAX_LISTED:
        listed.append(f"and {len(number) - MAX_LISTED} more")
    return (
        f"Of {count(len(questions), 'question')}, {sum(map(bool, unknown))} with characters that are not in the "
        f"vocabulary: {', '.join(listed)}. The model reads PAD in their place."
    )


def questions_about(names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Writes the birthplace question of each name.

    Raises:
        ValueError: if a name is empty or has a character that is not in the vocabulary.
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
    """Answers questions by greedy decoding, in batches and with a cache, up to the closing MASK.

    Args:
        model: a causal language model whose context is at least two tokens longer than the longest question.
        tokenizer: the tokenizer of the model, which pads on the left.
        questions: N questions; their answers are ignored.
        batch_size: the number of questions in a batch. The predictions do not depend on it.
        progress: whether to show a progress bar.

    Returns:
        N predictions, in the order of the questions. A prediction may be empty.

    Raises:
        ValueError: if a question leaves no room for an answer.
    """
    context_length = model.config.max_position_embeddings
    check_questions(questions, context_length)
    predictions = [""] * len(questions)
    with tqdm(total=len(questions), unit="question", disable=not progress) as bar:
        for indices in _batches([len(question) + 1 for question, _ in questions], context_length, batch_size):
            prompts = [questions[i].question + MASK for i in indices]
            batch = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
            width = batch["input_ids"].shape[1]
            generated = model.generate(
                **batch,
                max_new_tokens=min(MAX_ANSWER_TOKENS, context_length - width),
                do_sample=False,
                eos_token_id=MASK_ID,
                pad_token_id=PAD_ID,
            )
            for i, prompt, ids in zip(indices, prompts, generated[:, width:], strict=True):
                predictions[i] = extract_prediction(prompt + str(tokenizer.decode(ids)).rstrip(PAD), MASK)
            bar.update(len(indices))
    return predictions


def _batches(lengths: list[int], context_length: int, batch_size: int) -> Iterator[list[int]]:
    """Yields batches of indices, sorted by length.

    Padding takes room from an answer. So a prompt that leaves less than MAX_ANSWER_TOKENS shares a batch only with
    prompts of its own length.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for _, group in groupby(by_length, key=lambda i: max(0, lengths[i] + MAX_ANSWER_TOKENS - context_length)):
        members = list(group)
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


@torch.inference_mode()
def continue_prompt(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int, **options: Any
) -> str:
    """Continues a prompt with a sliding window, so the text may be longer than the context.

    Args:
        max_new_tokens: the number of characters to generate.
        options: options of `generate`, such as do_sample, temperature, top_k or num_beams.

    Returns:
        The prompt with its continuation, which is shorter than `max_new_tokens` if the model ends it.

    Raises:
        ValueError: if the prompt is empty or has a character that is not in the vocabulary.
    """
    if not prompt:
        raise ValueError("The prompt is empty: give at least one character.")
    table = character_table(tokenizer)
    table[ord(MASK)] = table.max()  # a prompt may be a question, so MASK is allowed
    if problem := find_bad_character([prompt], table):
        raise ValueError(f"The prompt's {problem[1]}: replace it.")
    context_length = model.config.max_position_embeddings
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    end = ids.shape[1] + max_new_tokens
    while (missing := end - ids.shape[1]) > 0:
        window = ids[:, -(context_length // 2) :]  # half of the context is read, the other half is generated
        room = min(missing, context_length - window.shape[1])
        attention_mask = torch.ones_like(window)
        generated = model.generate(window, attention_mask=attention_mask, max_new_tokens=room, **options)
        ids = torch.cat((ids, generated[:, window.shape[1] :]), dim=1)
        if generated.shape[1] < window.shape[1] + room:
            break  # the model has ended the text
    return str(tokenizer.decode(ids[0]))


def write_predictions(path: Path, predictions: Sequence[str]) -> None:
    """Writes one prediction per line. A line break inside a prediction becomes a space: line N answers question N."""
    write_text(path, "".join(" ".join(p.split("\n")) + "\n" for p in predictions))
