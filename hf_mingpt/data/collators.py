"""Data collators: our objectives for `transformers.Trainer`, `trl.SFTTrainer` or a bare `DataLoader`.

    DataCollatorForSpanCorruption      the assignment's pretraining objective
    DataCollatorForSalientSpans        one name or number at a time
    DataCollatorForQuestionAnswering   the answer, given the question

A collator takes rows of a dataset and returns a batch for any causal language model of transformers: `input_ids`,
`labels` (unshifted, -100 without loss) and `attention_mask`, padded on the right.

The draws for a row are a function of `(seed, epoch, index)`. The index is a column of the dataset, from `add_index`.
The epoch reaches the collator by `set_epoch`, which `Trainer` calls if the collator is among its callbacks. The epoch
is in shared memory, so the workers of a `DataLoader` see it, whether they live for one epoch or for all:

    collator = DataCollatorForSpanCorruption(tokenizer, block_size=128, seed=0)
    arguments = TrainingArguments(..., remove_unused_columns=False)  # keeps the column "index"
    Trainer(model, arguments, train_dataset=add_index(dataset), data_collator=collator, callbacks=[collator])

    for epoch in range(num_epochs):  # without Trainer
        collator.set_epoch(epoch)
        for batch in DataLoader(add_index(dataset), batch_size=32, collate_fn=collator, num_workers=2):
            ...
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback

from ..tokenization_mingpt import SpecialTokens, is_character_tokenizer
from .assembly import build_objective
from .encoding import encode_questions, iterate
from .objectives import Objective, QuestionAnswering
from .questions import Question
from .recipe import DataRecipe
from .sequences import ALIGNMENT_COLUMNS, SegmentedSequences, TokenSequences

INDEX_COLUMN = "index"


def add_index(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Adds the column "index": the place of each row, which addresses the draws of the collators.

    Call it before `shuffle`, `select` or `train_test_split`, so that a row keeps its index. The rows of a stream are
    counted in each shard, so with several shards and workers, rows of different shards have equal indices.

    Raises:
        ValueError: if the dataset has such a column already.
    """
    if INDEX_COLUMN in (dataset.column_names or ()):
        raise ValueError(f"The dataset has a column {INDEX_COLUMN!r} already: rename it first.")
    if isinstance(dataset, Dataset):
        return dataset.add_column(INDEX_COLUMN, np.arange(len(dataset)))
    return dataset.map(_index_of_row, with_indices=True)


def _index_of_row(row: Mapping[str, Any], index: int) -> dict[str, int]:
    """At the top level, so that spawned workers can import it."""
    return {INDEX_COLUMN: index}


Rows = Sequence[Mapping[str, Any]]


class _DrawingCollator(TrainerCallback):
    """A collator whose draws differ in every epoch; as a callback of `Trainer` it follows the epoch."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, objective: Objective, pad_to_multiple_of: int | None, *, aligned: bool
    ):
        self.special_tokens, self.objective = _special_tokens(tokenizer), objective
        self.pad_to_multiple_of = pad_to_multiple_of
        self.columns = ["input_ids", INDEX_COLUMN]
        if aligned and not is_character_tokenizer(tokenizer):
            self.columns += ALIGNMENT_COLUMNS
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._next_epoch = 0  # that Trainer begins

    @property
    def epoch(self) -> int:
        """The epoch of the draws."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the draws, counted from 0, in this process and in all workers.

        Call it before you iterate over the `DataLoader`: workers prepare batches in advance.
        """
        self._epoch.fill_(epoch)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Finds the epoch in which `Trainer` begins; after a resume, that of the checkpoint."""
        self._next_epoch = int(state.epoch or 0)

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Sets the epoch that `Trainer` begins. Not from `state.epoch`, which a stream leaves behind."""
        self.set_epoch(self._next_epoch)
        self._next_epoch += 1

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            rows: B rows with `input_ids`, one or more tokens without special tokens, and `index`. With a tokenizer that
                is not a character tokenizer, objectives that look for names or titles need the other columns of
                `encode_documents(..., aligned=True)` too.

        Returns:
            `input_ids`, `labels` and `attention_mask`, each (B, T) int64.

        Raises:
            ValueError: if a row has no token, or a column is missing.
        """
        if missing := [name for name in self.columns if name not in rows[0]]:
            made_by = "add_index" if missing == [INDEX_COLUMN] else "encode_documents(..., aligned=True) and add_index"
            raise ValueError(
                f"The rows have no column {missing[0]!r}, only {', '.join(map(repr, rows[0]))}: add it with "
                f"hf_mingpt.{made_by}, and give Trainer remove_unused_columns=False."
            )
        index = np.array([row[INDEX_COLUMN] for row in rows], dtype=np.int64)
        examples = _token_sequences(rows, [name for name in self.columns if name != INDEX_COLUMN])
        return _make_batch(self.objective(examples, self.epoch, index), self.pad_to_multiple_of, self.special_tokens)


class DataCollatorForSpanCorruption(_DrawingCollator):
    """Data collator for span corruption: `prefix MASK suffix MASK masked_content`; every token has a label.

    Args:
        tokenizer: of the rows.
        block_size: the longest sequence, in tokens; at most the context length of the model.
        seed: of the draws.
        num_spans: masked spans of each row.
        document_windows: corrupt a random window of a row that is longer than `block_size`, instead of its beginning.
        pad_to_multiple_of: round the length of a batch up to a multiple.

    Raises:
        ValueError: if the spans do not fit `block_size`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        block_size: int,
        *,
        seed: int = 0,
        num_spans: int = 1,
        document_windows: bool = False,
        pad_to_multiple_of: int | None = None,
    ):
        recipe = DataRecipe(train_file="", num_spans=num_spans, document_windows=document_windows)
        objective = build_objective(recipe, Dataset.from_dict({}), [], tokenizer, block_size=block_size, seed=seed)
        super().__init__(tokenizer, objective, pad_to_multiple_of, aligned=document_windows)


class DataCollatorForSalientSpans(_DrawingCollator):
    """Data collator for salient span masking: a name or number moves to the end, where it alone has a loss.

    A row without a salient span gets span corruption.

    Args:
        tokenizer: of the rows.
        block_size: the longest sequence, in tokens; at most the context length of the model.
        seed: of the draws.
        ssm_probability: of masking a salient span instead of span corruption.
        documents: the dataset that the collator reads, where `index` counts its rows. `masking_policy_probability` with
            a learned policy and `title_prefix_probability` learn from it.
        questions: training questions with answers, for the same two.
        pad_to_multiple_of: round the length of a batch up to a multiple.
        options: other fields of [`DataRecipe`][hf_mingpt.data.recipe.DataRecipe] about the objective, such as
            `context_before`, `ssm_numbers`, `masking_policy_probability` and `learned_masking_policy`.

    Raises:
        ValueError: if the options contradict each other, or a policy cannot be learned.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        block_size: int,
        *,
        seed: int = 0,
        ssm_probability: float = 1.0,
        documents: Dataset | None = None,
        questions: Sequence[tuple[str, str]] = (),
        pad_to_multiple_of: int | None = None,
        **options: Any,
    ):
        recipe = DataRecipe(
            train_file="", ssm_probability=ssm_probability, questions_file="questions" if questions else None, **options
        )
        needs = recipe.learned_masking_policy or recipe.title_prefix_probability
        if needs and documents is None:
            raise ValueError("learned_masking_policy and title_prefix_probability learn from the text: give documents.")
        objective = build_objective(
            recipe,
            documents if documents is not None else Dataset.from_dict({}),
            [Question(*pair) for pair in questions],
            tokenizer,
            block_size=block_size,
            seed=seed,
        )
        super().__init__(tokenizer, objective, pad_to_multiple_of, aligned=True)


class DataCollatorForQuestionAnswering:
    """Data collator for `question MASK answer MASK`: only the answer, from the first MASK on, has a loss.

    It draws nothing, so it needs neither an index nor an epoch.

    Args:
        tokenizer: of the model.
        block_size: the longest sequence, in tokens; at most the context length of the model.
        pad_to_multiple_of: round the length of a batch up to a multiple.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, block_size: int, *, pad_to_multiple_of: int | None = None):
        self.tokenizer, self.block_size, self.pad_to_multiple_of = tokenizer, block_size, pad_to_multiple_of
        self.special_tokens = _special_tokens(tokenizer)
        self.objective = QuestionAnswering(self.special_tokens.mask_id)

    def __call__(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Makes a batch.

        Args:
            rows: B rows with the texts `question` and `answer`, or with `input_ids` from `encode_questions`.

        Returns:
            `input_ids`, `labels` and `attention_mask`, each (B, T) int64.

        Raises:
            ValueError: if a question exceeds `block_size`, or cannot be encoded.
        """
        if "input_ids" in rows[0]:
            examples = _token_sequences(rows, ["input_ids"])
        else:
            pairs = [Question(row["question"], row["answer"]) for row in rows]
            (examples,) = iterate(encode_questions(pairs, self.tokenizer, self.block_size))
        sequences = self.objective(examples, 0, np.arange(len(rows)))
        return _make_batch(sequences, self.pad_to_multiple_of, self.special_tokens)


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    for name in ("pad_token", "mask_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(
                f"The tokenizer has no {name}: add one with tokenizer.add_special_tokens({{'{name}': ...}}), then call "
                "model.resize_token_embeddings(len(tokenizer))."
            )
    return SpecialTokens.of(tokenizer)


def _token_sequences(rows: Rows, columns: Sequence[str]) -> TokenSequences:
    lists = {name: [row[name] for row in rows] for name in columns}
    if not all(map(len, lists["input_ids"])):
        raise ValueError("A row has no tokens: drop empty documents.")
    texts = {"characters": pa.array(lists.pop("characters"))} if "characters" in lists else {}
    arrays = {name: pa.array(list(map(np.asarray, parts))) for name, parts in lists.items()}
    return TokenSequences.from_table(pa.table(arrays | texts))


def _make_batch(
    sequences: SegmentedSequences, pad_to_multiple_of: int | None, special_tokens: SpecialTokens
) -> dict[str, torch.Tensor]:
    lengths = sequences.lengths
    batch = sequences.pad(np.arange(len(lengths)), pad_to_multiple_of or 1, special_tokens)
    inside = np.arange(batch["input_ids"].shape[1]) < lengths[:, None]
    batch["attention_mask"] = inside.astype(np.int64)
    return {name: torch.from_numpy(array) for name, array in batch.items()}
