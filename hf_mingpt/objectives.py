"""Objectives: what is to be learnt from an example, in which form.

Between corruption and data in the flow. An objective takes a batch of encoded examples (`Ragged`), their indices and
the epoch, and gives rows to learn from (`Rows`): pieces of the examples' tokens, which are put together only when the
micro-batches are made. What it draws depends on `(seed, epoch, index)` alone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from .birthplaces import IGNORE_ID, answer_starts
from .clozes import LetterKinds, SalientSpans, choose_spans, cut_clozes, find_salient_spans, find_titles
from .corruption import (
    Pieces,
    check_room,
    draw_spans,
    join_pieces,
    max_truncated_length,
    move_spans,
    stack_pieces,
    uniform_draws,
)
from .tokenization_mingpt import MASK_ID, PAD_ID


class Ragged(NamedTuple):
    """N sequences of token ids: sequence i is `token_ids[offsets[i]:offsets[i + 1]]`; offsets has shape (N + 1,)."""

    token_ids: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @classmethod
    def from_table(cls, table: pa.Table) -> "Ragged":
        """Reads the column "input_ids"."""
        column = table["input_ids"].combine_chunks()
        offsets = column.offsets.to_numpy().astype(np.int64)
        return cls(column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0])

    def to_table(self) -> pa.Table:
        """Makes the column "input_ids"."""
        return pa.table({"input_ids": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.token_ids))})


class Rows(NamedTuple):
    """What is to be learnt from some examples: rows of pieces of their token ids."""

    token_ids: np.ndarray
    pieces: Pieces

    def join(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """`input_ids` and `labels` of the rows `order`, each (len(order), longest), padded on the right."""
        pieces = self.pieces.select(order)
        ids = join_pieces(self.token_ids, pieces, mask_id=MASK_ID, pad_id=PAD_ID, pad_to_multiple_of=pad_to_multiple_of)
        place = np.arange(ids.shape[1])
        learnt = (place >= pieces.first_label[:, None]) & (ids != PAD_ID)
        return {"input_ids": ids, "labels": np.where(learnt, ids, IGNORE_ID)}

    def join_flat(self, order: np.ndarray, pad_to_multiple_of: int = 1) -> dict[str, np.ndarray]:
        """The same rows one after the other as a single one, (1, T), told apart by `position_ids` that start anew.

        Padding at the end, if there is any, is one more row.
        """
        batch = self.join(order)
        inside = batch["input_ids"] != PAD_ID
        batch["labels"][:, 0] = IGNORE_ID  # nothing before it to be predicted from
        batch["position_ids"] = np.broadcast_to(np.arange(inside.shape[1]), inside.shape)
        padding = np.arange(-inside.sum() % pad_to_multiple_of)
        ends = {"input_ids": np.full_like(padding, PAD_ID), "labels": np.full_like(padding, IGNORE_ID)}
        ends["position_ids"] = padding
        return {name: np.concatenate((rows[inside], ends[name]))[None] for name, rows in batch.items()}


def stack_rows(rows: Sequence[Rows]) -> Rows:
    """Puts the rows of several sources, one after the other, into one."""
    shifts = itertools.accumulate((len(part.token_ids) for part in rows), initial=0)
    shifted = [part.pieces.shift(shift) for part, shift in zip(rows, shifts, strict=False)]
    return Rows(np.concatenate([part.token_ids for part in rows]), stack_pieces(shifted))


class Objective(Protocol):
    """How examples become rows to learn from: `index` is their place in the dataset."""

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows: ...


class SpanCorruption:
    """The assignment's pretraining objective: `prefix MASK suffix MASK masked_content`, all of it learnt.

    Args:
        num_spans: how many spans each document loses; the assignment's loses one.
    """

    def __init__(self, block_size: int, seed: int, *, num_spans: int = 1):
        check_room(block_size, num_spans)
        self.block_size, self.seed, self.num_spans = block_size, seed, num_spans

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows:
        spans = draw_spans(
            examples.lengths,
            block_size=self.block_size,
            seed=self.seed,
            epoch=epoch,
            index=index,
            num_spans=self.num_spans,
        )
        return Rows(examples.token_ids, move_spans(examples.offsets[:-1], spans))


class Letters:
    """What the characters of a vocabulary are, and which of them end a title."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.kinds = LetterKinds.of(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
        stop_id, space_id = (tokenizer.get_vocab().get(character, PAD_ID) for character in ". ")
        self.title_end = (stop_id, space_id)

    def find_titles(self, examples: Ragged) -> np.ndarray:
        """Tokens of each example's title, (N,)."""
        return find_titles(*examples, kinds=self.kinds, title_end=self.title_end)

    def find_spans(self, examples: Ragged, titles: np.ndarray, *, numbers: bool) -> SalientSpans:
        """What each example says and its title does not."""
        return find_salient_spans(*examples, titles, kinds=self.kinds, title_end=self.title_end, numbers=numbers)


class Windows:
    """Shows span corruption all of a long document, and not its beginning only.

    Of what a document has over the longest text that is kept, a part is left out behind the title: how much of it is
    uniform, and another draw in every epoch.

    Args:
        objective: what the windows are shown to; its seed and block size are taken over.
        tokenizer: of the documents; it tells where titles end.
    """

    def __init__(self, objective: SpanCorruption, tokenizer: PreTrainedTokenizerBase):
        self.objective, self.letters = objective, Letters(tokenizer)

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows:
        ids, offsets = examples
        titles = self.letters.find_titles(examples)
        kept = np.maximum(max_truncated_length(self.objective.block_size), titles)
        draws = uniform_draws(self.objective.seed + 2, epoch, index, 1)[:, 0]
        left_out = (draws * (np.maximum(examples.lengths - kept, 0) + 1)).astype(np.int64)
        behind = np.arange(len(ids)) - np.repeat(offsets[:-1] + titles, examples.lengths)
        seen = (behind < 0) | (behind >= np.repeat(left_out, examples.lengths))
        window = Ragged(ids[seen], np.append(0, np.cumsum(examples.lengths - left_out)))
        return self.objective(window, epoch, index)


class Seeker(Protocol):
    """What clozes should ask for: of M spans of some examples, booleans (M,)."""

    def __call__(self, examples: Ragged, titles: np.ndarray, spans: SalientSpans) -> np.ndarray: ...


LONG_CONTEXT = (24, 4)


class SalientCorruption:
    """Clozes of names or numbers, in a share of the draws; the others, and documents without any, go `otherwise`.

    Short contexts teach soonest which names belong to a title; longer ones, in `long_share` of the clozes, what each
    name is to the person.

    Args:
        share: of the draws that become clozes.
        otherwise: another objective; None: span corruption.
        numbers: whether numbers are asked for, too.
        max_context: most tokens that a cloze keeps before and after its gap; None: any number.
        long_share: of the clozes whose contexts are up to `LONG_CONTEXT` instead.
        seeker: says which spans are asked for more often than others.
        sought_share: the chance with which a cloze asks for one of those, if its document has one.
    """

    def __init__(
        self,
        block_size: int,
        seed: int,
        *,
        tokenizer: PreTrainedTokenizerBase,
        share: float,
        otherwise: Objective | None = None,
        numbers: bool = True,
        max_context: tuple[int, int] | None = None,
        long_share: float = 0.0,
        seeker: Seeker | None = None,
        sought_share: float = 0.0,
    ):
        self.block_size, self.seed = block_size, seed
        self.otherwise = otherwise or SpanCorruption(block_size, seed)
        self.share, self.numbers, self.long_share = share, numbers, long_share
        self.max_context = max_context or (block_size, block_size)
        self.letters = Letters(tokenizer)
        self.seeker, self.sought_share = seeker, sought_share

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows:
        ids, offsets = examples
        titles = self.letters.find_titles(examples)
        spans = self.letters.find_spans(examples, titles, numbers=self.numbers)
        draws = uniform_draws(self.seed + 1, epoch, index, 5)  # not those of span corruption
        sought = np.zeros(len(spans.starts), dtype=bool)
        if self.seeker:
            sought = self.seeker(examples, titles, spans)
        chosen = choose_spans(spans, sought, draws[:, 1], sought_share=self.sought_share)
        contexts = np.where(draws[:, 4:] < self.long_share, LONG_CONTEXT, self.max_context)
        clozes, possible = cut_clozes(
            offsets, titles, spans, chosen, draws[:, 2:4], block_size=self.block_size, max_context=contexts
        )
        both = stack_rows([self.otherwise(examples, epoch, index), Rows(ids, clozes)])
        is_cloze = possible & (draws[:, 0] < self.share)
        return both._replace(pieces=both.pieces.select(np.arange(len(index)) + len(index) * is_cloze))


class NextToken:
    """Plain language modelling: every token of a block is learnt."""

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows:
        starts, lengths = examples.offsets[:-1, None], examples.lengths[:, None]
        return Rows(examples.token_ids, Pieces(starts, lengths, np.zeros_like(examples.lengths)))


class Answers(NextToken):
    """Questions: of `question MASK answer MASK` only the part from the first MASK on is learnt."""

    def __call__(self, examples: Ragged, epoch: int, index: np.ndarray) -> Rows:
        ids, (starts, lengths, _) = super().__call__(examples, epoch, index)
        return Rows(ids, Pieces(starts, lengths, answer_starts(ids, examples.offsets, mask_id=MASK_ID)))
