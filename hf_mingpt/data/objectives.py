"""Objectives: what the model learns from an example.

An objective takes a batch of encoded examples (`TokenSequences`), the epoch and the indices of the examples, and
returns the sequences to learn from (`SegmentedSequences`). What it draws depends on `(seed, epoch, index)` alone.

    SpanCorruption       the assignment's pretraining objective
    RandomWindow         the same on another part of a long document in each epoch
    SalientSpanMasking   one name or number at a time, from the title of its document
    NextTokenPrediction  plain language modeling
    QuestionAnswering    the answer, given the question
"""

from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..tokenization_mingpt import MASK_ID, is_character_tokenizer
from .alphabet import Alphabet
from .draws import uniform_draws
from .questions import answer_starts
from .salient_spans import SalientSpans, choose_spans, find_salient_spans, find_titles, mask_spans
from .sequences import SegmentedSequences, TokenSequences, stack_sequences
from .span_corruption import check_room, draw_spans, max_truncated_length, move_spans
from .title_prefixes import TitlePrefixes


class Objective(Protocol):
    """Turns N examples into N sequences to learn from; `index` (N,) holds their places in the dataset."""

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences: ...


class SpanCorruption:
    """The assignment's pretraining objective: `prefix MASK suffix MASK masked_content`; every token has a label.

    Args:
        block_size: context length of the model.
        seed: of the draws.
        num_spans: masked spans of each document; the assignment masks one.

    Raises:
        ValueError: if the spans do not fit the context length.
    """

    def __init__(self, block_size: int, seed: int, *, num_spans: int = 1):
        check_room(block_size, num_spans)
        self.block_size, self.seed, self.num_spans = block_size, seed, num_spans

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        spans = draw_spans(
            examples.lengths,
            block_size=self.block_size,
            seed=self.seed,
            epoch=epoch,
            index=index,
            num_spans=self.num_spans,
        )
        return move_spans(examples, spans)


def check_aligned(examples: TokenSequences, by_character: bool) -> None:
    """Raises a ValueError if the characters of tokens are unknown, and the tokens are no characters."""
    if not by_character and examples.alignment is None:
        raise ValueError("The places of the tokens in their text are unknown: encode_documents(..., aligned=True).")


class RandomWindow:
    """Applies span corruption to a random window of a long document, not only to its beginning.

    The window is the title and the text behind it, less a number of tokens after the title. That number is uniform, up
    to what the document has over the longest text that span corruption keeps, and new in every epoch.

    Args:
        objective: span corruption; its seed and context length are used here too.
        tokenizer: of the documents; it tells where titles end.
    """

    def __init__(self, objective: SpanCorruption, tokenizer: PreTrainedTokenizerBase):
        self.objective, self.classes = objective, Alphabet.of(tokenizer).classes
        self.by_character = is_character_tokenizer(tokenizer)

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        ids, offsets = examples.token_ids, examples.offsets
        check_aligned(examples, self.by_character)
        titles = examples.count_covered(find_titles(examples.characters, self.classes))
        longest = np.maximum(max_truncated_length(self.objective.block_size), titles)
        draws = uniform_draws(self.objective.seed + 2, epoch, index, 1)[:, 0]
        skipped = (draws * (np.maximum(examples.lengths - longest, 0) + 1)).astype(np.int64)
        after_title = np.arange(len(ids)) - np.repeat(offsets[:-1] + titles, examples.lengths)
        kept = (after_title < 0) | (after_title >= np.repeat(skipped, examples.lengths))
        windows = TokenSequences(ids[kept], np.append(0, np.cumsum(examples.lengths - skipped)))
        return self.objective(windows, epoch, index)


class MaskingPolicy(Protocol):
    """Says which spans of N documents to mask more often than the others.

    It takes their salient spans and their places in the dataset, (N,), and returns the answer-like spans, which may be
    parts of the salient ones.
    """

    def __call__(self, spans: SalientSpans, index: np.ndarray) -> SalientSpans: ...


LONG_CONTEXT = (24, 4)


class SalientSpanMasking:
    """Salient span masking for some draws; the other draws, and documents without a salient span, use `fallback`.

    Short contexts are the fastest way to learn which names belong to a title; longer ones teach what each name has to
    do with it.

    Args:
        block_size: context length of the model.
        seed: of the draws.
        tokenizer: of the documents.
        probability: of masking a salient span.
        fallback: another objective. None: span corruption.
        numbers: whether numbers are salient spans.
        max_context: most tokens to keep before and after the masked span. None: any number.
        long_context_probability: of keeping up to `LONG_CONTEXT` tokens instead.
        policy: says which spans to mask more often, in characters. None: all spans are equal.
        policy_probability: of masking one of those, if the document has any.
        prefixes: of titles. None: nothing precedes a title.
        prefix_probability: of a prefix, where there is room for it.
        title_loss_probability: of labels from the title on, not only from the masked span on. The titles that a model
            has learned to predict are those that it can tell from others.
    """

    def __init__(
        self,
        block_size: int,
        seed: int,
        *,
        tokenizer: PreTrainedTokenizerBase,
        probability: float,
        fallback: Objective | None = None,
        numbers: bool = True,
        max_context: tuple[int, int] | None = None,
        long_context_probability: float = 0.0,
        policy: MaskingPolicy | None = None,
        policy_probability: float = 0.0,
        prefixes: TitlePrefixes | None = None,
        prefix_probability: float = 0.0,
        title_loss_probability: float = 0.0,
    ):
        self.block_size, self.seed = block_size, seed
        self.classes, self.by_character = Alphabet.of(tokenizer).classes, is_character_tokenizer(tokenizer)
        self.probability, self.numbers, self.long_context_probability = probability, numbers, long_context_probability
        self.fallback = fallback or SpanCorruption(block_size, seed)
        self.max_context = max_context or (block_size, block_size)
        self.policy, self.policy_probability = policy, policy_probability
        self.prefixes, self.prefix_probability = prefixes, prefix_probability
        self.title_loss_probability = title_loss_probability

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        check_aligned(examples, self.by_character)
        spans = find_salient_spans(examples.characters, self.classes, numbers=self.numbers)
        none = spans.select(np.zeros(len(spans.starts), dtype=bool))
        answer_like = self.policy(spans, index) if self.policy else none
        draws = uniform_draws(self.seed + 1, epoch, index, 9)  # independent of the draws of span corruption
        chosen = choose_spans(spans, answer_like, draws[:, 1], policy_probability=self.policy_probability)
        relations = answer_like.find_relations(*chosen)
        chosen = examples.cover(*chosen)
        spans = spans._replace(documents=examples, titles=examples.count_covered(spans.titles))
        max_context = np.where(draws[:, 4:5] < self.long_context_probability, LONG_CONTEXT, self.max_context)
        masked, possible = mask_spans(spans, chosen, draws[:, 2:4], block_size=self.block_size, max_context=max_context)
        from_title = draws[:, 8] < self.title_loss_probability
        masked = masked._replace(first_label=np.where(from_title, 0, masked.first_label))
        if self.prefixes:
            starts, lengths = self.prefixes.draw(draws[:, 5:8], self.prefix_probability, relations)
            fits = (spans.titles > 0) & (masked.lengths + lengths <= self.block_size)
            masked = masked.prepend(self.prefixes.token_ids, starts, np.where(fits, lengths, 0))
        both = stack_sequences([self.fallback(examples, epoch, index), masked])
        is_masked = possible & (draws[:, 0] < self.probability)
        return both.select(np.arange(len(index)) + len(index) * is_masked)


class NextTokenPrediction:
    """Plain language modeling: every token has a label."""

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        starts, lengths = examples.offsets[:-1, None], examples.lengths[:, None]
        return SegmentedSequences(examples.token_ids, starts, lengths, np.zeros_like(examples.lengths))


class QuestionAnswering(NextTokenPrediction):
    """Finetuning on `question MASK answer MASK`: only the tokens from the first MASK on have a label."""

    def __init__(self, mask_id: int = MASK_ID):
        self.mask_id = mask_id

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        sequences = super().__call__(examples, epoch, index)
        return sequences._replace(first_label=answer_starts(examples, self.mask_id))
