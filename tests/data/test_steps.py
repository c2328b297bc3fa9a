from collections import Counter

import datasets
import numpy as np
import pytest
import torch

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.draws import permute
from hf_mingpt.data.encoding import encode_documents, encode_questions
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.objectives import NextTokenPrediction, QuestionAnswering, SpanCorruption
from hf_mingpt.data.questions import Question
from hf_mingpt.data.steps import Mixture, StreamedSteps, TrainingSteps, step_loader
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from ..conftest import LINES, TEXT, rows_of
from .texts import documents_of


def encoded(texts: list[str]) -> datasets.Dataset:
    return datasets.Dataset(documents_of(texts).to_table())


def texts_in(batches) -> list[str]:
    return ["".join(map(chr, row)) for row in rows_of(batches)]


class TestMixture:
    """Questions that are mixed into the documents of every step."""

    shape = BatchShape(5, 2)

    def questions(self, tokenizer, number=7):
        names = [TEXT[i : i + 3].replace("⁇", "a") for i in range(number)]
        return encode_questions([Question(f"Where was {name} born?", "London") for name in names], tokenizer, 48)

    def test_every_question_occurs_equally_often(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.3, seed=1)
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, mixture=mixture)
        assert steps.steps_per_epoch == 10  # seven documents and three questions each
        rows = [row for step in range(14) for row in rows_of(steps[step])]
        asked = Counter(row for row in rows if MASK_ID in row)
        assert set(asked.values()) == {6}
        assert len(asked) == 7
        first_epoch = [row for step in range(10) for row in rows_of(steps[step]) if MASK_ID not in row]
        assert sorted(first_epoch) == sorted(tuple(row) for row in documents["input_ids"])

    def test_questions_have_labels_on_the_answer_and_documents_everywhere(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.5, seed=1)
        for batch in TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, mixture=mixture)[0]:
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                labeled = tokenizer.decode(labels[labels != -100])
                expected = f"{MASK}London{MASK}" if MASK_ID in ids else tokenizer.decode(ids[ids != PAD_ID])
                assert labeled == expected

    def test_a_stream_is_mixed_in_the_same_way(self, text_file, tokenizer, documents):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.3, seed=1)
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = step_loader(StreamedSteps(stream, NextTokenPrediction(), self.shape, mixture=mixture), 12)
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, shuffle=False, mixture=mixture)
        assert [rows_of(batches) for batches in streamed] == [rows_of(steps[step]) for step in range(12)]

    def test_no_questions_are_an_error(self, tokenizer):
        with pytest.raises(ValueError, match="dataset to mix into the documents is empty"):
            Mixture(self.questions(tokenizer).select([]), QuestionAnswering(), 0.3, seed=1)

    @pytest.mark.parametrize("ratio", [0.01, 0.99])
    def test_a_ratio_that_is_nothing_or_all_is_an_error(self, documents, tokenizer, ratio):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), ratio, seed=1)
        with pytest.raises(ValueError, match=f"questions_ratio {ratio}"):
            TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, mixture=mixture)


class TestSteps:
    shape = BatchShape(5, 2)

    def steps(self, documents, **options):
        return TrainingSteps(documents, SpanCorruption(48, 0), self.shape, seed=3, **options)

    def test_an_epoch_sees_every_example_once_in_a_new_order(self, documents):
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3)
        assert steps.steps_per_epoch == 7
        for epoch in (0, 1):
            batches = [b for step in range(7 * epoch, 7 * epoch + 7) for b in steps[step]]
            assert rows_of(batches) == sorted(tuple(row) for row in documents["input_ids"])
        assert rows_of(steps[0]) != rows_of(steps[7])

    def test_without_shuffle_the_order_is_that_of_the_file(self, documents):
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, shuffle=False)
        assert rows_of(steps[1]) == sorted(tuple(row) for row in documents[10:20]["input_ids"])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_make_no_difference(self, documents, workers):
        steps = self.steps(documents)
        for step, batches in enumerate(step_loader(steps, 9, workers)):
            for ours, expected in zip(batches, steps[step], strict=True):
                assert all(torch.equal(ours[name], expected[name]) for name in expected)
        assert step == 8

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_a_stream_keeps_the_order_of_the_file(self, text_file, tokenizer, documents, workers):
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = list(step_loader(StreamedSteps(stream, SpanCorruption(48, 0), self.shape), 9, workers))
        indexed = list(step_loader(self.steps(documents, shuffle=False), 9))
        assert [rows_of(batches) for batches in streamed] == [rows_of(batches) for batches in indexed]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_do_not_split_the_shards_of_a_stream(self, tokenizer, documents, workers):
        """`datasets` would give each worker some of the shards if the stream were read row by row."""
        shards = encode_documents(
            datasets.Dataset.from_dict({"text": LINES}).to_iterable_dataset(num_shards=4), tokenizer
        )
        streamed = list(step_loader(StreamedSteps(shards, SpanCorruption(48, 0), self.shape), 9, workers))
        indexed = list(step_loader(self.steps(documents, shuffle=False), 9))
        assert [rows_of(batches) for batches in streamed] == [rows_of(batches) for batches in indexed]


class TestLiteral:
    def test_index_of_a_step(self):
        documents = encoded(list("abcdefg"))
        steps = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1, 3), seed=5, shuffle=False)
        assert steps.steps_per_epoch == 3
        assert [steps.index(step).tolist() for step in range(4)] == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2]]
        shuffled = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1, 3), seed=5)
        for step in range(6):
            epoch, place = step // 3, step % 3 * 3
            order = permute(np.arange(7), 7, seed=5, epoch=epoch)
            assert shuffled.index(step).tolist() == order[place : place + 3].tolist()
            assert texts_in(shuffled[step]) == sorted("abcdefg"[i] for i in shuffled.index(step))

    def test_a_mixture_of_half_the_step(self):
        mixture = Mixture(encoded(list("vwxyz")), NextTokenPrediction(), 0.5, seed=8)
        orders = [permute(np.arange(5), 5, seed=8, epoch=epoch) for epoch in range(3)]
        series = "".join("vwxyz"[i] for order in orders for i in order)
        steps = TrainingSteps(encoded(list("abcdefg")), NextTokenPrediction(), BatchShape(4), seed=5, mixture=mixture)
        for step in range(7):
            mixed = [text for text in texts_in(steps[step]) if text in "vwxyz"]
            assert mixed == sorted(series[2 * step : 2 * step + 2])
        assert steps.documents_per_step == 2
        assert steps.steps_per_epoch == 4

    def test_the_objective_gets_the_epoch_and_the_index_of_each_example(self):
        seen = []

        class Seen(NextTokenPrediction):
            def __call__(self, examples, epoch, index):
                seen.append((epoch, index.tolist(), examples.token_ids.tolist()))
                return super().__call__(examples, epoch, index)

        mixture = Mixture(encoded(list("xyz")), Seen(), 0.5, seed=8)
        mixture.sequences(1, BatchShape(4))  # the last example of one epoch, the first of the next
        (first, second), orders = seen, [permute(np.arange(3), 3, seed=8, epoch=epoch) for epoch in range(2)]
        assert first == (0, [orders[0][2]], [ord("xyz"[orders[0][2]])])
        assert second == (1, [orders[1][0]], [ord("xyz"[orders[1][0]])])
        seen.clear()
        steps = TrainingSteps(encoded(list("abc")), Seen(), BatchShape(2), seed=5, shuffle=False)
        assert [texts_in(steps[step]) for step in (1, 2)] == [["c"], ["a", "b"]]
        assert seen == [(0, [2], [ord("c")]), (1, [0, 1], [ord("a"), ord("b")])]
        seen.clear()
        stream = encoded(list("abc")).to_iterable_dataset()
        assert len(list(step_loader(StreamedSteps(stream, Seen(), BatchShape(2)), 4))) == 4
        assert [(epoch, index) for epoch, index, _ in seen][:4] == [(0, [0, 1]), (0, [2]), (1, [0, 1]), (1, [2])]

    @pytest.mark.parametrize(("ratio", "total", "count"), [(0.5, 4, 2), (0.3, 10, 3), (0.1, 8, 1), (0.9, 8, 7)])
    def test_mixture_count(self, ratio, total, count):
        mixture = Mixture(encoded(["a"]), NextTokenPrediction(), ratio, seed=0)
        assert mixture.count(BatchShape(total)) == count

    @pytest.mark.parametrize(("ratio", "count"), [(0.04, 0), (0.96, 8)])
    def test_none_or_all_are_an_error(self, ratio, count):
        with pytest.raises(
            ValueError, match=f"{ratio} gives {count} questions in a step of 8 examples: change the ratio"
        ):
            Mixture(encoded(["a"]), NextTokenPrediction(), ratio, seed=0).count(BatchShape(8))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_steps_start_anywhere(self, workers):
        documents = encoded(list("abcde"))
        steps = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1), seed=0, shuffle=False)
        stream = StreamedSteps(documents.to_iterable_dataset(), NextTokenPrediction(), BatchShape(1))
        for source in (steps, stream):
            loaded = step_loader(source, 7, workers, start=3)
            assert [texts_in(batches) for batches in loaded] == [["d"], ["e"], ["a"], ["b"]]

    def test_the_loader_draws_nothing_from_torch(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        next(iter(step_loader(TrainingSteps(encoded(["a"]), NextTokenPrediction(), BatchShape(1), seed=0), 1)))
        assert torch.rand(1) == expected
