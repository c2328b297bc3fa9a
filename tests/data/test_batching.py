import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.batching import BatchShape, make_micro_batches, select_labels, split_by_cost
from hf_mingpt.data.encoding import encode_questions, take
from hf_mingpt.data.objectives import QuestionAnswering, SpanCorruption
from hf_mingpt.data.questions import Question
from hf_mingpt.data.sequences import SegmentedSequences
from hf_mingpt.tokenization_mingpt import PAD_ID

from ..conftest import rows_of, small_model


class TestMicroBatches:
    @pytest.mark.parametrize("number", [1, 2, 5, 16, 17])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_every_example_is_in_one_shard_and_shards_have_equally_many_batches(self, documents, number, processes):
        index = np.arange(number)
        examples = take(documents, index)
        alone = make_micro_batches(SpanCorruption(48, 0)(examples, 0, index), BatchShape(64))
        shards = [
            make_micro_batches(SpanCorruption(48, 0)(examples, 0, index), BatchShape(2, 3, processes, rank))
            for rank in range(processes)
        ]
        assert len({len(shard) for shard in shards}) == 1
        assert rows_of([b for shard in shards for b in shard], "labels")[-number:] == rows_of(alone, "labels")

    def test_widths_can_be_rounded_up(self, documents):
        sequences = SpanCorruption(48, 0)(take(documents, np.arange(64)), 0, np.arange(64))
        exact, rounded = (make_micro_batches(sequences, BatchShape(8, 8, pad_to_multiple_of=n)) for n in (1, 8))
        assert {batch["input_ids"].shape[1] % 8 for batch in rounded} == {0}
        assert max(batch["input_ids"].shape[1] for batch in rounded) <= 48
        for name in ("input_ids", "labels"):
            assert rows_of(exact, name) == rows_of(rounded, name)

    def test_padding_free_is_the_same_sequences_in_one(self, documents):
        sequences = SpanCorruption(48, 0)(take(documents, np.arange(10)), 0, np.arange(10))
        (batch,) = make_micro_batches(sequences, BatchShape(10, pad_to_multiple_of=8, padding_free=True))
        assert batch["input_ids"].shape[1] % 8 == 0
        starts = np.flatnonzero(batch["position_ids"][0] == 0)
        flat = [tuple(row[row != PAD_ID].tolist()) for row in np.split(batch["input_ids"][0].numpy(), starts)]
        assert sorted(row for row in flat if row) == rows_of(make_micro_batches(sequences, BatchShape(10)))
        labels = batch["input_ids"].masked_fill((batch["position_ids"] == 0) | (batch["input_ids"] == PAD_ID), -100)
        assert torch.equal(batch["labels"], labels)

    def test_grouping_by_length_saves_padding(self, documents):
        index = np.arange(64)
        examples = take(documents, index)
        padding = []
        for size in (64, 8):
            batches = make_micro_batches(SpanCorruption(48, 0)(examples, 0, index), BatchShape(size, 64 // size))
            total = sum(b["input_ids"].numel() for b in batches)
            padding.append(1 - sum(int((b["input_ids"] != PAD_ID).sum()) for b in batches) / total)
        assert padding[0] > 0.3
        assert padding[1] < 0.12


class TestSplitByCost:
    """Micro-batches of as many sequences as make the step cheapest."""

    @given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(0, 60), st.integers(5, 40))
    def test_is_the_cheapest_of_all_ways(self, widths, overhead, max_longest):
        widths = np.sort(np.array(widths))[::-1]
        ends = split_by_cost(widths, overhead=overhead, max_longest=max_longest)
        max_tokens = max_longest * widths[0]

        def cost(ends) -> float:
            parts = [(end - start) * widths[start] for start, end in itertools.pairwise([0, *ends])]
            return sum(parts) + overhead * len(parts) if max(parts) <= max_tokens else math.inf

        possible = [*range(min(8, max_longest), len(widths), min(8, max_longest))]
        ways = (some for n in range(len(possible) + 1) for some in itertools.combinations(possible, n))
        assert ends[-1] == len(widths)
        assert cost(ends) == min(cost([*some, len(widths)]) for some in ways)

    def test_the_same_sequences_take_fewer_tokens(self, documents):
        sequences = SpanCorruption(48, 0)(take(documents, np.arange(64)), 0, np.arange(64))
        even, cheap = (
            make_micro_batches(sequences, BatchShape(32, 2, pad_to_multiple_of=8, overhead=n)) for n in (None, 20)
        )
        for name in ("input_ids", "labels"):
            assert rows_of(even, name) == rows_of(cheap, name)
        assert sum(batch["input_ids"].numel() for batch in cheap) < sum(batch["input_ids"].numel() for batch in even)
        assert {len(batch["input_ids"]) % 8 for batch in cheap} == {0}

    def test_every_process_gets_its_shard(self, documents):
        sequences = SpanCorruption(48, 0)(take(documents, np.arange(50)), 0, np.arange(50))
        shards = [make_micro_batches(sequences, BatchShape(8, 3, 2, rank, overhead=5)) for rank in range(2)]
        assert len(shards[0]) == len(shards[1])
        labels = rows_of([batch for shard in shards for batch in shard], "labels")
        assert [row for row in labels if row] == rows_of(make_micro_batches(sequences, BatchShape(50)), "labels")


class TestSelectLabels:
    """Logits only at positions with a label."""

    @given(st.integers(0, 2**24 - 1), st.integers(1, 4), st.integers(1, 4))
    def test_every_label_is_predicted_from_the_position_before_it(self, bits, rows, pad_to_multiple_of):
        has_label = np.array([bits >> i & 1 for i in range(24)], dtype=bool).reshape(rows, -1)
        labels = np.where(has_label, np.arange(24).reshape(rows, -1), -100)
        selected = select_labels(labels, pad_to_multiple_of)
        most = max(has_label[:, 1:].sum(axis=1).max(), 1)
        if not selected:
            assert most > has_label.shape[1] - pad_to_multiple_of
            return
        positions, next_labels = selected["logits_to_keep"], selected["shift_labels"]
        assert positions.shape == next_labels.shape
        assert most <= positions.shape[1] < most + pad_to_multiple_of
        for row in range(rows):
            found = {int(place) + 1: int(label) for place, label in zip(positions[row], next_labels[row], strict=True)}
            assert {place: label for place, label in found.items() if label != -100} == {
                place: int(labels[row, place]) for place in np.flatnonzero(has_label[row, 1:]) + 1
            }

    @pytest.mark.parametrize("padding_free", [False, True])
    def test_loss_and_gradient_equal_those_of_all_logits(self, variant, tokenizer, padding_free):
        questions = [Question(f"Where was {'Ada ' * n}born?", "London"[:n]) for n in range(1, 6)]
        index = np.arange(len(questions))
        examples = take(encode_questions(questions, tokenizer, 48), index)
        shape = BatchShape(8, pad_to_multiple_of=4, padding_free=padding_free)
        (batch,) = make_micro_batches(QuestionAnswering()(examples, 0, index), shape)
        assert batch["logits_to_keep"].shape[1] < batch["input_ids"].shape[1]
        full = {name: array for name, array in batch.items() if name not in ("logits_to_keep", "shift_labels")}
        gradients = []
        for inputs in (batch, full):
            model = small_model(variant)
            loss = model(**inputs).loss
            loss.backward()
            gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
        for ours, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


class TestLiteral:
    """Sequences of 5, 2, 3, 1 and 4 tokens; the labels of the first begin at its third token."""

    sequences = SegmentedSequences(
        np.arange(10, 25),
        np.array([[0], [5], [7], [10], [11]]),
        np.array([[5], [2], [3], [1], [4]]),
        np.array([2, 1, 3, 0, 0]),
    )

    def batches(self, *args, **options):
        return make_micro_batches(self.sequences, BatchShape(*args, **options))

    def test_two_sequences_per_process(self):
        first, second = (self.batches(2, 1, 2, rank) for rank in (0, 1))
        assert [batch["input_ids"].tolist() for batch in first] == [
            [[10, 11, 12, 13, 14], [17, 18, 19, 0, 0]],
            [[20]],
        ]
        assert [batch["labels"].tolist() for batch in first] == [[[-100, -100, 12, 13, 14], [-100] * 5], [[20]]]
        assert [batch["input_ids"].tolist() for batch in second] == [[[21, 22, 23, 24], [15, 16, 0, 0]], [[20]]]
        assert [batch["labels"].tolist() for batch in second] == [
            [[21, 22, 23, 24], [-100, 16, -100, -100]],
            [[-100]],
        ]

    @pytest.mark.parametrize("padding_free", [False, True])
    def test_num_items_in_batch_counts_the_labels_of_the_step(self, padding_free):
        batches = self.batches(2, padding_free=padding_free)
        assert {int(batch["num_items_in_batch"]) for batch in batches} == {3 + 1 + 0 + 0 + 3}
        assert len(batches) == 3

    def test_padding_free(self):
        first, *_ = self.batches(2, padding_free=True, pad_to_multiple_of=4, overhead=7)
        assert first["input_ids"].tolist() == [[10, 11, 12, 13, 14, 21, 22, 23, 24, 0, 0, 0]]
        assert first["labels"].tolist() == [[-100, -100, 12, 13, 14, -100, 22, 23, 24, -100, -100, -100]]
        assert first["logits_to_keep"].shape == (1, 8)

    def test_widths_are_rounded_before_the_split(self):
        """Rounded up to 8 they are equally wide, so one batch is cheapest; unrounded, 2 + 2 + 1 is."""
        assert [len(batch["input_ids"]) for batch in self.batches(2, overhead=0)] == [2, 2, 1]
        assert [len(batch["input_ids"]) for batch in self.batches(5, overhead=0, pad_to_multiple_of=8)] == [5]
        assert [len(batch["input_ids"]) for batch in self.batches(1, overhead=1)] == [1, 1, 1, 2]

    def test_every_process_pays_the_overhead(self):
        """On two processes: 10 + 6 + 1 tokens in three, or 10 + 9 in two, cheaper once a micro-batch costs 2."""
        assert [len(self.batches(1, 1, 2, 0, overhead=overhead)) for overhead in (0, 1)] == [3, 2]

    def test_shape(self):
        assert BatchShape(3) == BatchShape(3, 1, 1, 0, 1, False, None)
        assert BatchShape(3, 5, 7).total == 105


@pytest.mark.parametrize(
    ("widths", "overhead", "max_longest", "ends"),
    [
        ([9] * 8 + [4] * 8, 20, 16, [8, 16]),  # 72 + 32 + 2 * 20 < 144 + 20
        ([9] * 8 + [4] * 8, 41, 16, [16]),  # 72 + 32 + 2 * 41 > 144 + 41
        ([9] * 8 + [4] * 8, 39, 16, [8, 16]),
        ([8, 4, 4], 0, 1, [1, 3]),  # two of half the length have no more tokens
        ([8, 5, 4], 0, 1, [1, 2, 3]),
        ([3], 5, 1, [1]),
        ([6, 6, 1], 4, 2, [2, 3]),
    ],
)
def test_split_by_cost(widths, overhead, max_longest, ends):
    assert split_by_cost(np.array(widths), overhead=overhead, max_longest=max_longest) == ends


def test_positions_with_a_label_come_first():
    labels = np.array([[7, -100, 5, -100, 6, -100], [-100, -100, -100, -100, 9, 8]])
    assert {name: array.tolist() for name, array in select_labels(labels, 1).items()} == {
        "logits_to_keep": [[1, 3], [3, 4]],
        "shift_labels": [[5, 6], [9, 8]],
    }
    rounded = select_labels(labels, 4)
    assert rounded["logits_to_keep"].tolist() == [[1, 3, 0, 2], [3, 4, 0, 1]]
    assert rounded["shift_labels"].tolist() == [[5, 6, -100, -100], [9, 8, -100, -100]]
    assert select_labels(labels, 6) == {}
    assert select_labels(np.full((2, 3), -100), 1)["logits_to_keep"].tolist() == [[0], [0]]
