import numpy as np
import pyarrow as pa
import pytest
import torch

from hf_mingpt.data.sequences import IGNORE_ID, SegmentedSequences, TokenSequences, align, stack_sequences
from hf_mingpt.tokenization_mingpt import SpecialTokens


def sequences_of(token_ids, *sequences: tuple[list[int], list[int], int]) -> SegmentedSequences:
    """Sequences of (segment starts, segment lengths, first label)."""
    return SegmentedSequences(np.asarray(token_ids), *(np.array(part) for part in zip(*sequences, strict=True)))


def test_token_sequences_are_read_from_any_part_of_a_table():
    table = TokenSequences(np.arange(1, 7), np.array([0, 1, 3, 3, 6])).to_table()
    assert table["input_ids"].to_pylist() == [[1], [2, 3], [], [4, 5, 6]]
    part = TokenSequences.from_table(table.slice(1, 3))
    assert (part.token_ids.tolist(), part.offsets.tolist()) == ([2, 3, 4, 5, 6], [0, 2, 2, 5])
    assert part.lengths.tolist() == [2, 0, 3]


class TestSegmentedSequences:
    """Of the tokens 10 to 17: 11 12 ⁇ 15 16 17 with labels from the ⁇ on, and 10 with a label."""

    sequences = sequences_of(range(10, 18), ([1, -1, 5], [2, 1, 3], 2), ([0, 0, 0], [1, 0, 0], 0))

    def test_lengths(self):
        assert self.sequences.lengths.tolist() == [6, 1]

    def test_select_keeps_the_flat_array(self):
        selected = self.sequences.select(np.array([1, 0, 1]))
        assert selected.token_ids is self.sequences.token_ids
        assert selected.lengths.tolist() == [1, 6, 1]
        assert selected.first_label.tolist() == [0, 2, 0]

    def test_prepend(self):
        longer = self.sequences.prepend(np.array([8, 9]), np.array([1, 0]), np.array([1, 2]))
        batch = longer.pad(np.arange(2))
        assert batch["input_ids"].tolist() == [[9, 11, 12, 1, 15, 16, 17], [8, 9, 10, 0, 0, 0, 0]]
        assert batch["labels"].tolist() == [[-100, -100, -100, 1, 15, 16, 17], [-100, -100, 10] + [-100] * 4]
        same = self.sequences.prepend(np.array([8, 9]), np.array([1, 0]), np.array([0, 0])).pad(np.arange(2))
        assert same["labels"].tolist() == self.sequences.pad(np.arange(2))["labels"].tolist()

    def test_pad(self):
        batch = self.sequences.pad(np.array([1, 0]), pad_to_multiple_of=4)
        assert batch["input_ids"].tolist() == [[10, 0, 0, 0, 0, 0, 0, 0], [11, 12, 1, 15, 16, 17, 0, 0]]
        assert batch["labels"].tolist() == [[10] + [-100] * 7, [-100, -100, 1, 15, 16, 17, -100, -100]]
        for multiple, width in ((1, 6), (2, 6), (3, 6), (5, 10)):
            assert self.sequences.pad(np.array([0]), pad_to_multiple_of=multiple)["input_ids"].shape == (1, width)

    def test_flatten(self):
        batch = self.sequences.flatten(np.array([0, 1]), pad_to_multiple_of=5)
        assert batch["input_ids"].tolist() == [[11, 12, 1, 15, 16, 17, 10, 0, 0, 0]]
        assert batch["labels"].tolist() == [[-100, -100, 1, 15, 16, 17] + [-100] * 4]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 0, 1, 2]]
        assert self.sequences.flatten(np.array([0, 1]))["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0]]

    def test_stack_joins_sources_of_different_arrays_and_numbers_of_segments(self):
        other = sequences_of([20, 21], ([-1, 1], [1, 1], 1))
        stacked = stack_sequences([self.sequences, other, self.sequences])
        assert stacked.segment_starts.shape == (5, 3)
        assert stacked.segment_lengths[2].tolist() == [1, 1, 0]
        assert stacked.first_label.tolist() == [2, 0, 1, 2, 0]
        batch = stacked.pad(np.arange(5))
        ours = [[11, 12, 1, 15, 16, 17], [10, 0, 0, 0, 0, 0]]
        assert batch["input_ids"].tolist() == [*ours, [1, 21, 0, 0, 0, 0], *ours]
        assert batch["labels"][2].tolist() == [-100, 21, -100, -100, -100, -100]


def test_ignored_labels_are_those_of_torch():
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE_ID


class TestAlignment:
    """ "ab cd", whose tokens are "ab", a token without characters, " c" and "d", and "x", a token of three bytes."""

    sequences = TokenSequences.from_table(
        align(
            TokenSequences(np.arange(7), np.array([0, 4, 7])).to_table(),
            pa.array(["ab cd", "x"]),
            np.array([[0, 2], [0, 0], [2, 4], [4, 5], [0, 1], [0, 1], [0, 1]]),
        )
    )

    def test_characters(self):
        characters = self.sequences.characters
        assert "".join(map(chr, characters.token_ids)) == "ab cdx"
        assert characters.offsets.tolist() == [0, 5, 6]
        without = TokenSequences(np.arange(3), np.array([0, 3]))
        assert without.characters is without

    def test_places_never_decrease(self):
        assert self.sequences.alignment.starts.tolist() == [0, 0, 2, 4, 5, 5, 5]
        assert self.sequences.alignment.ends.tolist() == [2, 2, 4, 5, 6, 6, 6]

    @pytest.mark.parametrize(
        ("lengths", "counts"),
        [([0, 0], [0, 0]), ([1, 1], [0, 3]), ([2, 0], [2, 0]), ([3, 1], [2, 3]), ([5, 1], [4, 3])],
    )
    def test_tokens_within_the_first_characters(self, lengths, counts):
        assert self.sequences.count_covered(np.array(lengths)).tolist() == counts

    @pytest.mark.parametrize(
        ("start", "length", "covered"),
        [
            (3, 1, (2, 1)),
            (3, 2, (2, 2)),
            (4, 1, (3, 1)),
            (1, 2, (0, 3)),
            (5, 1, (4, 3)),
            (0, 2, (0, 2)),
            (3, 0, (2, 0)),
        ],
    )
    def test_tokens_that_cover_a_span(self, start, length, covered):
        first, number = self.sequences.cover(np.array([start]), np.array([length]))
        assert (first.tolist(), number.tolist()) == ([covered[0]], [covered[1]])

    def test_without_an_alignment_each_token_is_a_character(self):
        plain = TokenSequences(np.arange(5), np.array([0, 2, 5]))
        assert plain.count_covered(np.array([1, 2])).tolist() == [1, 2]
        assert [part.tolist() for part in plain.cover(np.array([1]), np.array([3]))] == [[1], [3]]

    def test_a_part_of_a_table(self):
        lists = TokenSequences(np.arange(5), np.array([0, 2, 5])).to_table()
        table = align(lists, pa.array(["ab", "cde"]), np.array([[0, 1], [1, 2], [0, 1], [1, 2], [2, 3]]))
        part = TokenSequences.from_table(table.slice(1))
        assert part.token_ids.tolist() == [2, 3, 4]
        assert part.alignment.ends.tolist() == [1, 2, 3]
        assert "".join(map(chr, part.characters.token_ids)) == "cde"


def test_other_special_tokens():
    sequences = sequences_of(range(10, 18), ([1, -1, 5], [2, 1, 2], 2), ([0, 0, 0], [1, 0, 0], 0))
    batch = sequences.pad(np.arange(2), special_tokens=SpecialTokens(pad_id=12, mask_id=7))
    assert batch["input_ids"].tolist() == [[11, 12, 7, 15, 16], [10, 12, 12, 12, 12]]
    assert batch["labels"].tolist() == [[-100, -100, 7, 15, 16], [10, -100, -100, -100, -100]]
    flat = sequences.flatten(np.arange(2), 8, SpecialTokens(pad_id=12, mask_id=7))
    assert flat["input_ids"].tolist() == [[11, 12, 7, 15, 16, 10, 12, 12]]
    assert flat["labels"].tolist() == [[-100, -100, 7, 15, 16, -100, -100, -100]]
    assert flat["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 0, 1]]
