import re
from collections import Counter
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch

from hf_mingpt.data.batching import BatchShape, make_micro_batches
from hf_mingpt.data.draws import uniform_draws
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, encode_questions, take
from hf_mingpt.data.masking_policy import AnswerPolicy
from hf_mingpt.data.objectives import (
    NextTokenPrediction,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
    SpanFinder,
)
from hf_mingpt.data.questions import Question
from hf_mingpt.data.sequences import SegmentedSequences, Segments, TokenSequences, join_segments, stack_sequences
from hf_mingpt.data.span_corruption import draw_spans, move_spans
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from ..conftest import rows_of


class TestObjectives:
    def test_span_corruption_is_the_pure_function(self, documents):
        index = np.array([40, 3, 17])
        (batch,) = make_micro_batches(SpanCorruption(48, seed=9)(take(documents, index), 5, index), BatchShape(4))
        for i in index:
            ids = np.array(documents[int(i)]["input_ids"])
            spans = draw_spans(np.array([len(ids)]), block_size=48, seed=9, epoch=5, index=np.array([i]))
            pieces = move_spans(np.array([0]), spans)
            row = join_segments(ids, pieces, mask_id=MASK_ID, pad_id=PAD_ID)[0]
            assert tuple(row) in rows_of([batch])
        assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(batch["input_ids"] == PAD_ID, -100))

    def test_span_corruption_is_new_in_every_epoch(self, documents):
        index = np.arange(64)
        examples = take(documents, index)
        first, again, second = (
            rows_of(make_micro_batches(SpanCorruption(48, 0)(examples, epoch, index), BatchShape(64)))
            for epoch in (0, 0, 1)
        )
        assert first == again != second

    def test_as_many_spans_are_lost_as_it_is_told(self, documents):
        rows = SpanCorruption(48, 0, num_spans=3)(take(documents, np.arange(64)), 0, np.arange(64))
        marks = rows.join(np.arange(64))["input_ids"] == MASK_ID
        assert set(marks.sum(axis=1)) == {6}

    def test_answers_have_labels_on_the_answer_only(self, tokenizer):
        dataset = encode_questions([Question("Where was Ada born?", "Rome".replace("R", "L"))], tokenizer, 48)
        (batch,) = make_micro_batches(
            QuestionAnswering()(take(dataset, np.array([0])), 0, np.array([0])), BatchShape(1)
        )
        labels = batch["labels"][0]
        assert tokenizer.decode(labels[labels != -100]) == f"{MASK}Lome{MASK}"
        assert (labels[:19] == -100).all()

    def test_next_token_learns_all(self, documents):
        (batch,) = make_micro_batches(
            NextTokenPrediction()(take(documents, np.array([9])), 0, np.array([9])), BatchShape(1)
        )
        assert torch.equal(batch["labels"], batch["input_ids"])


class TestWindows:
    TEXTS = ("Ada. " + "abcdefghijklmnopqrstuvwxyz" * 3, "Ada. she was born in London", "a" * 60 + ". b", "c" * 60)

    def rows(self, epochs):
        texts = datasets.Dataset.from_dict({"text": list(self.TEXTS)})
        tokenizer = build_corpus_tokenizer(texts, 48)
        index = np.arange(len(self.TEXTS))
        examples = take(encode_documents(texts, tokenizer), index)
        for epoch in range(epochs):
            both = []
            for objective in (RandomWindow(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0)):
                rows = objective(examples, epoch, index).join(index)["input_ids"]
                both.append([tokenizer.decode(row[row != PAD_ID]) for row in rows])
            yield both

    def test_all_parts_of_a_long_document_are_seen_behind_its_title(self):
        """What follows the title in a row with a whole title: any letter of the alphabet, where it was always "a"."""
        starts = [[], []]
        for both in self.rows(1000):
            for (long, *_), seen in zip(both, starts, strict=True):
                prefix = long.split(MASK)[0]
                if len(prefix) > 5:
                    assert prefix.startswith("Ada. ")
                    assert prefix[5:] in self.TEXTS[0]
                    seen.append(prefix[5])
        assert set(starts[1]) == {"a"}
        assert len(set(starts[0])) == 26
        assert Counter(starts[0])["a"] < len(starts[0]) / 8

    def test_short_documents_and_mere_titles_are_as_they_were(self):
        for (_, *windows), (_, *plain) in self.rows(40):
            assert windows[0] == plain[0]
            assert len(windows[1]) == len(plain[1])


class TestClozes:
    def test_share_of_the_draws(self, documents, tokenizer):
        examples, index = take(documents, np.arange(64)), np.arange(64)

        def clozes(share, epoch):
            rows = SalientSpanMasking(48, 0, probability=share, tokenizer=tokenizer)(examples, epoch, index)
            return [row for row in rows_of(make_micro_batches(rows, BatchShape(64))) if row.count(MASK_ID) == 3]

        plain = rows_of(make_micro_batches(SpanCorruption(48, 0)(examples, 2, index), BatchShape(64)))
        assert (
            rows_of(
                make_micro_batches(
                    SalientSpanMasking(48, 0, probability=0, tokenizer=tokenizer)(examples, 2, index), BatchShape(64)
                )
            )
            == plain
        )
        assert len(clozes(1, 2)) > 50  # those that have a name
        assert 0.3 < np.mean([len(clozes(0.5, epoch)) for epoch in range(20)]) / len(clozes(1, 2)) < 0.7
        assert clozes(1, 2) == clozes(1, 2) != clozes(1, 3)

    def test_the_other_draws_go_otherwise(self, documents, tokenizer):
        examples, index = take(documents, np.arange(64)), np.arange(64)
        for other in (RandomWindow(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0, num_spans=2)):
            mixed = SalientSpanMasking(48, 0, probability=0.5, fallback=other, tokenizer=tokenizer)(examples, 1, index)
            clozes = SalientSpanMasking(48, 0, probability=1.0, tokenizer=tokenizer)(examples, 1, index)
            rows = [part.join(index)["input_ids"] for part in (mixed, clozes, other(examples, 1, index))]
            texts = [[tokenizer.decode(row[row != PAD_ID]) for row in part] for part in rows]
            is_cloze = [a == b for a, b, _ in zip(*texts, strict=True)]
            assert all(one or a == c for one, a, _, c in zip(is_cloze, *texts, strict=True))
            assert 0.2 < np.mean(is_cloze) < 0.8

    def test_numbers_and_long_contexts_can_be_left_out(self, tokenizer):
        """Of "Ada. born in 1815 and in London, ..." without numbers and context only the place is asked."""
        texts = datasets.Dataset.from_dict({"text": ["Ada. she was born in 1815 and in London, as was said"]})
        examples, index = take(encode_documents(texts, tokenizer), np.array([0])), np.array([0])

        def rows(**options):
            objective = SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=1.0, **options)
            return {
                tokenizer.decode(objective(examples, epoch, index).join(index)["input_ids"][0]) for epoch in range(60)
            }

        assert {row.split(MASK)[2] for row in rows()} == {"1815", "London"}
        assert {row.split(MASK)[2] for row in rows(numbers=False)} == {"London"}
        contexts = {tuple(row.split(MASK)[:2]) for row in rows(numbers=False, max_context=(3, 1))}
        short = {(f"Ada. {before}", after) for before in ("", " ", "n ", "in ") for after in ("", ",")}
        assert contexts == short
        both = {
            tuple(row.split(MASK)[:2]) for row in rows(numbers=False, max_context=(3, 1), long_context_probability=0.5)
        }
        assert max(len(before) for before, _ in both) == len("Ada. ") + 24
        assert {len(after) for _, after in both} == {0, 1, 2, 3, 4}
        assert contexts & both

    def test_what_is_sought_is_asked_for_more_often(self, tokenizer):
        texts = datasets.Dataset.from_dict({"text": ["Ada. she saw London, Bath, and London"] * 400})
        examples, index = take(encode_documents(texts, tokenizer), np.arange(400)), np.arange(400)

        def share_of_bath(answers=(), policy_probability=1.0):
            options = {"policy": AnswerPolicy(answers, tokenizer), "policy_probability": policy_probability}
            rows = SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=1.0, **options)(examples, 0, index)
            asked = [tokenizer.decode(row).split(MASK)[2] for row in rows.join(index)["input_ids"]]
            assert set(asked) <= {"London", "Bath"}
            return asked.count("Bath") / 400

        assert share_of_bath() == pytest.approx(1 / 3, abs=0.07)
        assert share_of_bath(["Bath", "Bat", "ath", "London, Bath"]) == 1.0
        assert share_of_bath(["Bath"], policy_probability=0.7) == pytest.approx(0.8, abs=0.07)
        assert share_of_bath(["", "Lon", "\u2603"]) == share_of_bath()


def pieces_of(*rows: tuple[list[int], list[int], int]) -> Segments:
    """Pieces of rows of (starts, lengths, first label)."""
    return Segments(*(np.array(part) for part in zip(*rows, strict=True)))


class TestRows:
    """Of the tokens 10 to 17 the row 11 12 ⁇ 15 16 17, learnt from its ⁇ on, and the row 10, all of it learnt."""

    rows = SegmentedSequences(np.arange(10, 18), pieces_of(([1, -1, 5], [2, 1, 3], 2), ([0, 0, 0], [1, 0, 0], 0)))

    def test_are_joined_in_any_order_and_padded(self):
        batch = self.rows.join(np.array([1, 0]), pad_to_multiple_of=4)
        assert batch["input_ids"].tolist() == [[10, 0, 0, 0, 0, 0, 0, 0], [11, 12, 1, 15, 16, 17, 0, 0]]
        assert batch["labels"].tolist() == [[10] + [-100] * 7, [-100, -100, 1, 15, 16, 17, -100, -100]]
        assert self.rows.join(np.array([0]))["input_ids"].shape == (1, 6)

    def test_are_joined_one_after_the_other(self):
        batch = self.rows.join_flat(np.array([0, 1]), pad_to_multiple_of=5)
        assert batch["input_ids"].tolist() == [[11, 12, 1, 15, 16, 17, 10, 0, 0, 0]]
        assert batch["labels"].tolist() == [[-100, -100, 1, 15, 16, 17] + [-100] * 4]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 0, 1, 2]]
        assert self.rows.join_flat(np.array([0, 1]))["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0]]

    def test_of_several_sources_are_stacked(self):
        other = SegmentedSequences(np.array([20, 21]), pieces_of(([-1, 1], [1, 1], 1)))
        batch = stack_sequences([self.rows, other, self.rows]).join(np.arange(5))
        ours = [[11, 12, 1, 15, 16, 17], [10, 0, 0, 0, 0, 0]]
        assert batch["input_ids"].tolist() == [*ours, [1, 21, 0, 0, 0, 0], *ours]
        assert batch["labels"][2].tolist() == [-100, 21, -100, -100, -100, -100]


def test_sequences_are_read_from_any_part_of_a_table():
    table = TokenSequences(np.arange(1, 7), np.array([0, 1, 3, 3, 6])).to_table()
    assert table["input_ids"].to_pylist() == [[1], [2, 3], [], [4, 5, 6]]
    part = TokenSequences.from_table(table.slice(1, 3))
    assert (part.token_ids.tolist(), part.offsets.tolist()) == ([2, 3, 4, 5, 6], [0, 2, 2, 5])
    assert part.lengths.tolist() == [2, 0, 3]


def test_every_example_has_a_row_of_its_own():
    examples = TokenSequences(np.array([5, 6, 1, 7, 1, 8, 1, 9, 1]), np.array([0, 5, 9]))
    for objective, learnt_from in ((NextTokenPrediction(), [0, 0]), (QuestionAnswering(), [2, 1])):
        ids, (starts, lengths, first_label) = objective(examples, 0, np.arange(2))
        assert ids is examples.token_ids
        assert (starts.tolist(), lengths.tolist(), first_label.tolist()) == ([[0], [5]], [[5], [4]], learnt_from)


class TestByHand:
    """What the docstrings say, one document at a time and on strings."""

    BLOCK, SEED = 48, 3

    def encode(self, texts):
        dataset = datasets.Dataset.from_dict({"text": texts})
        tokenizer = build_corpus_tokenizer(dataset, self.BLOCK)
        return take(encode_documents(dataset, tokenizer), np.arange(len(texts))), tokenizer

    def decode(self, rows, tokenizer):
        order = np.arange(len(rows.pieces.starts))
        return [tokenizer.decode(row[row != PAD_ID]) for row in rows.join(order)["input_ids"]]

    def cloze(self, text, draws, max_context):
        title = text[: text.find(". ") + 2] if ". " in text else ""
        names = list(re.finditer(r"[A-Z]\w+", text[len(title) :]))
        if not names:
            return None
        name = names[int(draws[1] * len(names))]
        before, after = text[len(title) :][: name.start()], text[len(title) :][name.end() :]
        room = self.BLOCK - len(title) - len(name[0]) - 3
        num_before = int(draws[2] * (min(len(before), room, max_context[0]) + 1))
        num_after = int(draws[3] * (min(len(after), room - num_before, max_context[1]) + 1))
        return f"{title}{before[len(before) - num_before :]}{MASK}{after[:num_after]}{MASK}{name[0]}{MASK}"

    def test_a_row_is_a_cloze_or_else_goes_otherwise(self):
        texts = ["Ada. she was born in London, and saw Rome and Oslo too", "Bo. no name", "in Bath", "Cy. a Kiel"] * 20
        examples, tokenizer = self.encode(texts)
        index = np.arange(len(texts)) * 7
        draws = uniform_draws(self.SEED + 1, 2, index, 5)
        other = SpanCorruption(self.BLOCK, self.SEED)
        plain = self.decode(other(examples, 2, index), tokenizer)
        for options, short in (({}, (48, 48)), ({"max_context": (3, 1)}, (3, 1))):
            objective = SalientSpanMasking(
                self.BLOCK, self.SEED, tokenizer=tokenizer, probability=0.6, long_context_probability=0.3, **options
            )
            expected = []
            for text, draw, otherwise in zip(texts, draws, plain, strict=True):
                cloze = self.cloze(text, draw, (24, 4) if draw[4] < 0.3 else short)
                expected.append(cloze if cloze and draw[0] < 0.6 else otherwise)
            assert self.decode(objective(examples, 2, index), tokenizer) == expected
        assert 20 < sum(row.count(MASK) == 3 for row in expected) < 60
        always = self.decode(
            SalientSpanMasking(self.BLOCK, self.SEED, tokenizer=tokenizer, probability=1.0)(examples, 2, index),
            tokenizer,
        )
        assert always == [self.cloze(t, d, (48, 48)) or p for t, d, p in zip(texts, draws, plain, strict=True)]

    def test_a_window_leaves_out_what_follows_the_title(self):
        class Seen:
            block_size, seed = self.BLOCK, self.SEED

            def __call__(self, examples, epoch, index):
                ids, offsets = examples
                return [tokenizer.decode(ids[a:b]) for a, b in pairwise(offsets.tolist())], epoch, index

        letters = "abcdefghijklmnopqrstuvwxyz"
        texts = [f"Ada. {letters}{letters}", "Bo. x", letters + letters, f"{letters}{letters} z. x", "a" * 42, "b" * 43]
        examples, tokenizer = self.encode(texts * 20)
        index = np.arange(len(texts) * 20) + 5
        seen, epoch, same_index = RandomWindow(Seen(), tokenizer)(examples, 4, index)
        expected = []
        for text, draw in zip(texts * 20, uniform_draws(self.SEED + 2, 4, index, 1)[:, 0], strict=True):
            title = text.find(". ") + 2 if ". " in text else 0
            left_out = int(draw * (max(len(text) - max(42, title), 0) + 1))  # 42 is 7/8 of the block
            expected.append(text[:title] + text[title + left_out :])
        assert seen == expected
        assert len({len(text) for text in seen[5::6]}) == 2  # one character too many is left out or not
        assert epoch == 4
        assert same_index is index

    def test_a_vocabulary_without_stops_has_no_titles(self):
        examples, tokenizer = self.encode(["Ada", "Bo"])
        assert SpanFinder(tokenizer).find_titles(examples).tolist() == [0, 0]

    def test_a_block_without_room_is_an_error(self):
        with pytest.raises(ValueError, match="block_size 4"):
            SpanCorruption(4, 0)
