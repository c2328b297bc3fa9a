"""Generation: answers to questions, and continuations of prompts.

A prediction is the text between the first two MASKs of a greedy decoding of at most 32 tokens.

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

from ..data.birthplaces import BIRTHPLACE
from ..data.questions import MAX_ANSWER_TOKENS, Question
from ..data.subjects import Template, match
from ..data.vocabulary import list_characters
from ..system.wording import count, quote
from ..system.writing import write_text
from ..tokenization_mingpt import (
    MASK,
    SpecialTokens,
    character_table,
    find_bad_character,
    find_bad_text,
    is_character_tokenizer,
    tokenize,
)


def check_questions(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, context_length: int
) -> list[list[int]]:
    """Checks that each question leaves room for an answer in the context, and returns its tokens.

    Raises:
        ValueError: if a question and two MASKs are longer than `context_length`, a question has no tokens, or the
            tokenizer has no pad or mask token.
    """
    SpecialTokens.of(tokenizer)
    encoded = tokenize([question for question, _ in questions], tokenizer)["input_ids"]
    for number, ((question, _), ids) in enumerate(zip(questions, encoded, strict=True), start=1):
        if not ids:
            raise ValueError(f"Question {number}, {quote(question)}, has no tokens with this tokenizer: rewrite it.")
        if len(ids) + 2 > context_length:
            raise ValueError(
                f"Question {number}, {quote(question)}, has {len(ids)} tokens, which leaves no room for an answer in "
                f"the context of {context_length}: shorten it or use a model with a longer context."
            )
    return encoded


def pad_left(encoded: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of N token sequences, padded on the left: (N, T) int64."""
    width = max(map(len, encoded))
    ids = [[pad_id] * (width - len(sequence)) + list(sequence) for sequence in encoded]
    inside = [[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in encoded]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(inside)}


def describe_unknown_characters(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Says which characters of the questions are not in the vocabulary, and how many questions have one.

    The model reads the token for unknown text in their place, which is PAD for a character tokenizer. None if there are
    none, as always with a byte-level tokenizer.
    """
    texts = [question for question, _ in questions]
    if is_character_tokenizer(tokenizer):
        table, unknown_token = character_table(tokenizer), "PAD"
        unknown = [sorted({character for character in text if table[ord(character)] < 0}) for text in texts]
    elif tokenizer.unk_token_id is None or not tokenizer.is_fast:
        return None
    else:
        encoded, unknown_token = tokenize(texts, tokenizer, return_offsets_mapping=True), str(tokenizer.unk_token)
        unknown = [
            sorted({c for i, (a, b) in zip(ids, spans, strict=True) if i == tokenizer.unk_token_id for c in text[a:b]})
            for text, ids, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
    if not any(unknown):
        return None
    number = Counter(character for characters in unknown for character in characters)
    return (
        f"Of {count(len(questions), 'question')}, {sum(map(bool, unknown))} with characters that are not in the "
        f"vocabulary: {list_characters(number)}. The model reads {unknown_token} in their place."
    )


def with_mark(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text with the tokenizer's mask token where "[MASK]" is typed for it, since few keyboards have ⁇."""
    return text.replace("[MASK]", tokenizer.mask_token or MASK)


def questions_about(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, templates: Sequence[Template] = (BIRTHPLACE,)
) -> list[str]:
    """Writes the questions that someone means who types a question, with or without the mark, or a bare name.

    A text that ends with "?", or has one of the templates, is a question, and so is a masked form, which has the mark
    inside ("Ada Byron was born in [MASK]."). Any other is a name, which gets the question of each template.

    Raises:
        ValueError: if a text is empty or has a character that is not in the vocabulary.
    """
    asked, questions, mark = list[str](), list[str](), tokenizer.mask_token or MASK
    for text in texts:
        before = text.removesuffix("[MASK]").removesuffix(MASK)
        question = with_mark(before if before.endswith("?") else text, tokenizer)
        is_question = question.endswith("?") or mark in question or match(question, templates) or not templates
        if not question.replace(mark, "").strip():
            raise ValueError("A question or name is empty: write one.")
        own = [question] if is_question else [template.fill(text) for template in templates]
        questions += own
        asked += [text] * len(own)
    if problem := find_bad_text([question.replace(mark, "") for question in questions], tokenizer):
        raise ValueError(f"{quote(asked[problem[0]])}: {problem[1]}: write it with other letters.")
    return questions


def as_list(texts: str | Sequence[Any]) -> Sequence[Any]:
    """One text as a list of one, which otherwise would be taken for a list of its characters."""
    return [texts] if isinstance(texts, str) else texts


@torch.inference_mode()
def answer_questions(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    questions: str | Sequence[str | Question],
    *,
    batch_size: int = 128,
    progress: bool = False,
) -> list[str]:
    """Answers questions by greedy decoding, in batches and with a cache, up to the closing MASK.

    Args:
        model: a causal language model whose context is at least two tokens longer than the longest question.
        tokenizer: the tokenizer of the model.
        questions: N questions, or one as a string; the answers of a `Question` are ignored.
        batch_size: the number of questions in a batch. The predictions do not depend on it.
        progress: whether to show a progress bar.

    Returns:
        N predictions, in the order of the questions. A prediction may be empty.

    Raises:
        ValueError: if a question leaves no room for an answer, or the tokenizer has no pad or mask token.
    """
    pad_id, mask_id = SpecialTokens.of(tokenizer)
    context_length = model.config.max_position_embeddings
    asked = [Question(q, None) if isinstance(q, str) else q for q in as_list(questions)]
    prompts = [[*ids, mask_id] for ids in check_questions(asked, tokenizer, context_length)]
    strips = not is_character_tokenizer(tokenizer)  # the space before a word is a part of its token
    predictions = [""] * len(asked)
    with tqdm(total=len(asked), unit="question", disable=not progress) as bar:
        for indices in _batches(list(map(len, prompts)), context_length, batch_size):
            batch = {name: x.to(model.device) for name, x in pad_left([prompts[i] for i in indices], pad_id).items()}
            width = batch["input_ids"].shape[1]
            generated = model.generate(
                **batch,
                max_new_tokens=min(MAX_ANSWER_TOKENS, context_length - width),
                do_sample=False,
                eos_token_id=mask_id,
                pad_token_id=pad_id,
            )
            for i, ids in zip(indices, generated[:, width:].tolist(), strict=True):
                text = str(tokenizer.decode(cut_answer(ids, pad_id, mask_id)))
                predictions[i] = text.strip() if strips else text
            bar.update(len(indices))
    return predictions


def cut_answer(ids: list[int], pad_id: int, mask_id: int) -> list[int]:
    """What precedes the first MASK in generated tokens; without a MASK, all but PAD at the end.

    Example: `[5, 6, MASK, PAD]` gives `[5, 6]`.
    """
    if mask_id in ids:
        return ids[: ids.index(mask_id)]
    while ids and ids[-1] == pad_id:
        ids = ids[:-1]
    return ids


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
        max_new_tokens: the number of tokens to generate.
        options: options of `generate`, such as do_sample, temperature, top_k or num_beams.

    Returns:
        The prompt with its continuation, which is shorter than `max_new_tokens` if the model ends it.

    Raises:
        ValueError: if the prompt is empty or has a character that is not in the vocabulary.
    """
    if not prompt:
        raise ValueError("The prompt is empty: give at least one character.")
    if is_character_tokenizer(tokenizer):
        table = character_table(tokenizer)
        table[ord(MASK)] = table.max()  # a prompt may be a question, so MASK is allowed
        if problem := find_bad_character([prompt], table):
            raise ValueError(f"The prompt's {problem[1]}: replace it.")
    context_length = model.config.max_position_embeddings
    (encoded,) = tokenize([prompt], tokenizer)["input_ids"]
    if not encoded:
        raise ValueError(f"The prompt {prompt!r} has no tokens with this tokenizer: give another.")
    ids = torch.tensor([encoded], device=model.device)
    end = ids.shape[1] + max_new_tokens
    while (missing := end - ids.shape[1]) > 0:
        window = ids[:, -(context_length // 2) :]  # half of the context is read, the other half is generated
        room = min(missing, context_length - window.shape[1])
        attention_mask = torch.ones_like(window)
        generated = model.generate(window, attention_mask=attention_mask, max_new_tokens=room, **options)
        ids = torch.cat((ids, generated[:, window.shape[1] :]), dim=1)
        if generated.shape[1] < window.shape[1] + room:
            break  # the model has ended the text
    text = str(tokenizer.decode(ids[0]))
    return text if prompt.startswith(" ") else text.removeprefix(" ")  # that of `add_prefix_space`


def write_predictions(path: Path, predictions: Sequence[str]) -> None:
    """Writes one prediction per line. A line break inside a prediction becomes a space: line N answers question N."""
    write_text(path, "".join(" ".join(p.split("\n")) + "\n" for p in predictions))
