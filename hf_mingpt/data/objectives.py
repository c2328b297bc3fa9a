"""Objectives: what the model learns from an example.

An objective takes a batch of encoded examples (`TokenSequences`), their indices and the epoch, and returns the
sequences to learn from (`SegmentedSequences`). What it draws at random depends on `(seed, epoch, index)` alone.
"""

from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..tokenization_mingpt import MASK_ID, PAD_ID
from .draws import uniform_draws
from .questions import answer_starts
from .salient_spans import CharacterClasses, SalientSpans, choose_spans, find_salient_spans, find_titles, mask_spans
from .sequences import SegmentedSequences, Segments, TokenSequences, stack_sequences
from .span_corruption import check_room, draw_spans, max_truncated_length, move_spans


class Objective(Protocol):
    """How examples become rows to learn from: `index` is their place in the dataset."""

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences: ...


class SpanCorruption:
    """The assignment's pretraining objective: `prefix MASK suffix MASK masked_content`, all of it learnt.

    Args:
        num_spans: how many spans each document loses; the assignment's loses one.
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
        return SegmentedSequences(examples.token_ids, move_spans(examples.offsets[:-1], spans))


class SpanFinder:
    """What the characters of a vocabulary are, and which of them end a title."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.kinds = CharacterClasses.of(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        stop_id, space_id = (tokenizer.get_vocab().get(character, PAD_ID) for character in ". ")
        self.title_end = (stop_id, space_id)

    def find_titles(self, examples: TokenSequences) -> np.ndarray:
        """Tokens of each example's title, (N,)."""
        return find_titles(*examples, kinds=self.kinds, title_end=self.title_end)

    def find_spans(self, examples: TokenSequences, titles: np.ndarray, *, numbers: bool) -> SalientSpans:
        """What each example says and its title does not."""
        return find_salient_spans(*examples, titles, kinds=self.kinds, title_end=self.title_end, numbers=numbers)


class RandomWindow:
    """Shows span corruption all of a long document, and not its beginning only.

    Of what a document has over the longest text that is kept, a part is left out behind the title: how much of it is
    uniform, and another draw in every epoch.

    Args:
        objective: what the windows are shown to; its seed and block size are taken over.
        tokenizer: of the documents; it tells where titles end.
    """

    def __init__(self, objective: SpanCorruption, tokenizer: PreTrainedTokenizerBase):
        self.objective, self.letters = objective, SpanFinder(tokenizer)

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        ids, offsets = examples
        titles = self.letters.find_titles(examples)
        kept = np.maximum(max_truncated_length(self.objective.block_size), titles)
        draws = uniform_draws(self.objective.seed + 2, epoch, index, 1)[:, 0]
        left_out = (draws * (np.maximum(examples.lengths - kept, 0) + 1)).astype(np.int64)
        behind = np.arange(len(ids)) - np.repeat(offsets[:-1] + titles, examples.lengths)
        seen = (behind < 0) | (behind >= np.repeat(left_out, examples.lengths))
        window = TokenSequences(ids[seen], np.append(0, np.cumsum(examples.lengths - left_out)))
        return self.objective(window, epoch, index)


class MaskingPolicy(Protocol):
    """What clozes should ask for: of M spans of some examples, booleans (M,)."""

    def __call__(self, examples: TokenSequences, titles: np.ndarray, spans: SalientSpans) -> np.ndarray: ...


LONG_CONTEXT = (24, 4)


class SalientSpanMasking:
    """Salient span masking for some draws; the others, and documents without a salient span, use `fallback`.

    Short contexts teach soonest which names belong to a title. Longer ones teach what each name is to the person.

    Args:
        probability: of the draws that become clozes.
        fallback: another objective; None: span corruption.
        numbers: whether numbers are asked for, too.
        max_context: most tokens that a cloze keeps before and after its gap; None: any number.
        long_context_probability: of the clozes whose contexts are up to `LONG_CONTEXT` instead.
        policy: says which spans are asked for more often than others.
        policy_probability: the chance with which a cloze asks for one of those, if its document has one.
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
    ):
        self.block_size, self.seed = block_size, seed
        self.fallback = fallback or SpanCorruption(block_size, seed)
        self.probability, self.numbers, self.long_context_probability = probability, numbers, long_context_probability
        self.max_context = max_context or (block_size, block_size)
        self.letters = SpanFinder(tokenizer)
        self.policy, self.policy_probability = policy, policy_probability

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        ids, offsets = examples
        titles = self.letters.find_titles(examples)
        spans = self.letters.find_spans(examples, titles, numbers=self.numbers)
        draws = uniform_draws(self.seed + 1, epoch, index, 5)  # not those of span corruption
        sought = np.zeros(len(spans.starts), dtype=bool)
        if self.policy:
            sought = self.policy(examples, titles, spans)
        chosen = choose_spans(spans, sought, draws[:, 1], policy_probability=self.policy_probability)
        contexts = np.where(draws[:, 4:] < self.long_context_probability, LONG_CONTEXT, self.max_context)
        clozes, possible = mask_spans(
            offsets, titles, spans, chosen, draws[:, 2:4], block_size=self.block_size, max_context=contexts
        )
        both = stack_sequences([self.fallback(examples, epoch, index), SegmentedSequences(ids, clozes)])
        is_cloze = possible & (draws[:, 0] < self.probability)
        return both._replace(pieces=both.pieces.select(np.arange(len(index)) + len(index) * is_cloze))


class NextTokenPrediction:
    """Plain language modelling: every token of a block is learnt."""

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        starts, lengths = examples.offsets[:-1, None], examples.lengths[:, None]
        return SegmentedSequences(examples.token_ids, Segments(starts, lengths, np.zeros_like(examples.lengths)))


class QuestionAnswering(NextTokenPrediction):
    """Questions: of `question MASK answer MASK` only the part from the first MASK on is learnt."""

    def __call__(self, examples: TokenSequences, epoch: int, index: np.ndarray) -> SegmentedSequences:
        ids, (starts, lengths, _) = super().__call__(examples, epoch, index)
        return SegmentedSequences(ids, Segments(starts, lengths, answer_starts(ids, examples.offsets, mask_id=MASK_ID)))
