import re
from collections import Counter
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.batching import BatchShape, make_micro_batches
from hf_mingpt.data.draws import uniform_draws
from hf_mingpt.data.encoding import (
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    take,
)
from hf_mingpt.data.masking_policy import AnswerPolicy
from hf_mingpt.data.objectives import (
    NextTokenPrediction,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from hf_mingpt.data.questions import Question
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.span_corruption import draw_spans, move_spans
from hf_mingpt.data.title_prefixes import TitlePrefixes
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from ..conftest import rows_of


class TestObjectives:
    def test_span_corruption_is_a_function_of_each_document(self, documents):
        index = np.array([40, 3, 17])
        (batch,) = make_micro_batches(SpanCorruption(48, seed=9)(take(documents, index), 5, index), BatchShape(4))
        for i in index:
            ids = np.array(documents[int(i)]["input_ids"])
            spans = draw_spans(np.array([len(ids)]), block_size=48, seed=9, epoch=5, index=np.array([i]))
            sequences = move_spans(TokenSequences(ids, np.array([0, len(ids)])), spans)
            (moved,) = sequences.pad(np.array([0]))["input_ids"]
            assert tuple(moved) in rows_of([batch])
        assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(batch["input_ids"] == PAD_ID, -100))

    def test_span_corruption_differs_in_every_epoch(self, documents):
        index = np.arange(64)
        examples = take(documents, index)
        first, again, second = (
            rows_of(make_micro_batches(SpanCorruption(48, 0)(examples, epoch, index), BatchShape(64)))
            for epoch in (0, 0, 1)
        )
        assert first == again != second

    def test_span_corruption_masks_num_spans(self, documents):
        sequences = SpanCorruption(48, 0, num_spans=3)(take(documents, np.arange(64)), 0, np.arange(64))
        masks = sequences.pad(np.arange(64))["input_ids"] == MASK_ID
        assert set(masks.sum(axis=1)) == {6}

    def test_questions_have_labels_on_the_answer_only(self, tokenizer):
        dataset = encode_questions([Question("Where was Ada born?", "Lome")], tokenizer, 48)
        (batch,) = make_micro_batches(
            QuestionAnswering()(take(dataset, np.array([0])), 0, np.array([0])), BatchShape(1)
        )
        labels = batch["labels"][0]
        assert tokenizer.decode(labels[labels != -100]) == f"{MASK}Lome{MASK}"
        assert (labels[:19] == -100).all()

    def test_next_token_prediction_has_labels_everywhere(self, documents):
        (batch,) = make_micro_batches(
            NextTokenPrediction()(take(documents, np.array([9])), 0, np.array([9])), BatchShape(1)
        )
        assert torch.equal(batch["labels"], batch["input_ids"])


class TestWindows:
    TEXTS = ("Ada. " + "abcdefghijklmnopqrstuvwxyz" * 3, "Ada. she was born in London", "a" * 60 + ". b", "c" * 60)

    def pairs(self, epochs):
        """For each epoch, the sequences with a random window and without."""
        texts = datasets.Dataset.from_dict({"text": list(self.TEXTS)})
        tokenizer = build_corpus_tokenizer(texts, 48)
        index = np.arange(len(self.TEXTS))
        examples = take(encode_documents(texts, tokenizer), index)
        for epoch in range(epochs):
            both = []
            for objective in (RandomWindow(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0)):
                ids = objective(examples, epoch, index).pad(index)["input_ids"]
                both.append([tokenizer.decode(row[row != PAD_ID]) for row in ids])
            yield both

    def test_the_window_starts_anywhere_behind_the_title(self):
        """What follows a whole title: any letter of the alphabet with a window, "a" without."""
        starts = [[], []]
        for both in self.pairs(1000):
            for (long, *_), seen in zip(both, starts, strict=True):
                prefix = long.split(MASK)[0]
                if len(prefix) > 5:
                    assert prefix.startswith("Ada. ")
                    assert prefix[5:] in self.TEXTS[0]
                    seen.append(prefix[5])
        assert set(starts[1]) == {"a"}
        assert len(set(starts[0])) == 26
        assert Counter(starts[0])["a"] < len(starts[0]) / 8

    def test_short_documents_are_their_own_window(self):
        for (_, *windows), (_, *plain) in self.pairs(40):
            assert windows[0] == plain[0]
            assert len(windows[1]) == len(plain[1])


class TestSalientSpanMasking:
    def test_probability_is_the_frequency_of_masked_spans(self, documents, tokenizer):
        examples, index = take(documents, np.arange(64)), np.arange(64)

        def sequences(objective, epoch):
            return rows_of([objective(examples, epoch, index).pad(index)])

        def masked(probability, epoch):
            objective = SalientSpanMasking(48, 0, probability=probability, tokenizer=tokenizer)
            return [ids for ids in sequences(objective, epoch) if ids.count(MASK_ID) == 3]

        never = SalientSpanMasking(48, 0, probability=0, tokenizer=tokenizer)
        assert sequences(never, 2) == sequences(SpanCorruption(48, 0), 2)
        assert len(masked(1, 2)) > 50  # the documents with a name
        assert 0.3 < np.mean([len(masked(0.5, epoch)) for epoch in range(20)]) / len(masked(1, 2)) < 0.7
        assert masked(1, 2) == masked(1, 2) != masked(1, 3)

    def test_the_other_draws_use_the_fallback(self, documents, tokenizer):
        examples, index = take(documents, np.arange(64)), np.arange(64)
        for other in (RandomWindow(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0, num_spans=2)):
            mixed = SalientSpanMasking(48, 0, probability=0.5, fallback=other, tokenizer=tokenizer)(examples, 1, index)
            always = SalientSpanMasking(48, 0, probability=1.0, tokenizer=tokenizer)(examples, 1, index)
            padded = [part.pad(index)["input_ids"] for part in (mixed, always, other(examples, 1, index))]
            texts = [[tokenizer.decode(row[row != PAD_ID]) for row in part] for part in padded]
            is_masked = [a == b for a, b, _ in zip(*texts, strict=True)]
            assert all(one or a == c for one, a, _, c in zip(is_masked, *texts, strict=True))
            assert 0.2 < np.mean(is_masked) < 0.8

    def test_numbers_and_max_context(self, tokenizer):
        texts = datasets.Dataset.from_dict({"text": ["Ada. she was born in 1815 and in London, as was said"]})
        examples, index = take(encode_documents(texts, tokenizer), np.array([0])), np.array([0])

        def masked(**options):
            objective = SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=1.0, **options)
            rows = [objective(examples, epoch, index).pad(index)["input_ids"][0] for epoch in range(60)]
            return [tokenizer.decode(row).split(MASK) for row in rows]

        assert {span for _, _, span, _ in masked()} == {"1815", "London"}
        assert {span for _, _, span, _ in masked(numbers=False)} == {"London"}
        contexts = {(before, after) for before, after, *_ in masked(numbers=False, max_context=(3, 1))}
        short = {(f"Ada. {before}", after) for before in ("", " ", "n ", "in ") for after in ("", ",")}
        assert contexts == short
        both = masked(numbers=False, max_context=(3, 1), long_context_probability=0.5)
        both = {(before, after) for before, after, *_ in both}
        assert max(len(before) for before, _ in both) == len("Ada. ") + 24
        assert {len(after) for _, after in both} == {0, 1, 2, 3, 4}
        assert contexts & both

    def test_the_spans_of_the_policy_are_masked_more_often(self, tokenizer):
        texts = datasets.Dataset.from_dict({"text": ["Ada. she saw London, Bath, and London"] * 400})
        examples, index = take(encode_documents(texts, tokenizer), np.arange(400)), np.arange(400)

        def frequency_of_bath(answers=(), policy_probability=1.0):
            options = {
                "policy": AnswerPolicy(answers, Alphabet.of(tokenizer)),
                "policy_probability": policy_probability,
            }
            objective = SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=1.0, **options)
            rows = objective(examples, 0, index).pad(index)["input_ids"]
            masked = [tokenizer.decode(row).split(MASK)[2] for row in rows]
            assert set(masked) <= {"London", "Bath"}
            return masked.count("Bath") / 400

        assert frequency_of_bath() == pytest.approx(1 / 3, abs=0.07)
        assert frequency_of_bath(["Bath", "Bat", "ath", "London, Bath"]) == 1.0
        assert frequency_of_bath(["Bath"], policy_probability=0.7) == pytest.approx(0.8, abs=0.07)
        assert frequency_of_bath(["", "Lon", "\u2603"]) == frequency_of_bath()

    def test_the_policy_may_pick_a_part_of_a_name_by_the_index_of_the_document(self, tokenizer):
        """It picks "Bath" of the even documents, and nothing of the odd ones."""
        texts = datasets.Dataset.from_dict({"text": ["Ada. she saw London Bath too"] * 8})
        index = np.array([4, 7, 0, 2, 1, 3, 6, 5])
        examples = take(encode_documents(texts, tokenizer), index)

        def policy(spans, index):
            picked = spans.select(index % 2 == 0)  # one name in each document
            return picked._replace(starts=picked.starts + 7, lengths=picked.lengths - 7)

        options = {"probability": 1.0, "policy": policy, "policy_probability": 1.0}
        rows = SalientSpanMasking(48, 0, tokenizer=tokenizer, **options)(examples, 0, index).pad(np.arange(8))
        masked = [tokenizer.decode(row).split(MASK)[2] for row in rows["input_ids"]]
        assert masked == ["London Bath" if i % 2 else "Bath" for i in index]

    def test_a_prefix_precedes_a_title_where_there_is_room(self):
        """In a context of 48, the second example and its prefix just fit, the third and its prefix do not."""
        num_letters = 48 - len("when . ⁇⁇Rome⁇")
        titles = ["Ada. ", f"{'B' * num_letters}. ", f"{'B' * num_letters}B. "]
        lines = [*(f"{title}when she saw Rome" for title in titles), "so in Rome", "Cy. no name"]
        texts = datasets.Dataset.from_dict({"text": lines})
        tokenizer = build_corpus_tokenizer(texts, 48)
        examples = take(encode_documents(texts, tokenizer), np.arange(5))

        class When:
            token_ids = np.array(tokenizer("so when ")["input_ids"])

            def draw(self, draws, probability, relations):
                assert (draws.shape, probability, relations) == ((5, 3), 0.25, None)
                return np.full(5, 3), np.full(5, 5)

        def masked(**options):
            objective = SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=1.0, max_context=(0, 0), **options)
            sequences = objective(examples, 1, np.arange(5))
            rows = sequences.pad(np.arange(5))["input_ids"]
            texts = [tokenizer.decode(row[row != PAD_ID]) for row in rows]
            return texts, [text[first:] for text, first in zip(texts, sequences.first_label, strict=True)]

        plain, labels = masked()
        texts, same_labels = masked(prefixes=When(), prefix_probability=0.25)
        rome = f"{MASK}{MASK}Rome{MASK}"
        assert texts == [f"when {titles[0]}{rome}", f"when {titles[1]}{rome}", f"{titles[2]}{rome}", rome, plain[4]]
        assert [len(text) for text in texts[1:3]] == [48, 44]
        assert same_labels == labels == [rome[1:]] * 4 + [plain[4]]

    def test_the_title_carries_loss_too(self, tokenizer):
        """The same examples; the labels of a half of them begin at the title, behind the prefix."""
        texts, index = datasets.Dataset.from_dict({"text": ["Ada. she saw London"] * 400}), np.arange(400)
        examples, before = take(encode_documents(texts, tokenizer), index), np.array(tokenizer("so ")["input_ids"])
        one = np.array([0])

        def masked(probability):
            prefixes = {"prefixes": TitlePrefixes(before, one, one + 3, 3), "prefix_probability": 1.0}
            objective = SalientSpanMasking(
                128, 0, tokenizer=tokenizer, probability=1.0, title_loss_probability=probability, **prefixes
            )
            sequences = objective(examples, 1, index)
            prefix_lengths = sequences.segment_lengths[:, 0]
            return sequences, sequences.first_label == prefix_lengths

        (plain, never), (some, half), (_, always) = masked(0.0), masked(0.5), masked(1.0)
        assert (never.any(), always.all()) == (False, True)
        assert half.mean() == pytest.approx(0.5, abs=0.06)
        for field in ("segment_starts", "segment_lengths"):
            np.testing.assert_array_equal(getattr(plain, field), getattr(some, field))
        np.testing.assert_array_equal(some.first_label[~half], plain.first_label[~half])
        row = some.pad(np.flatnonzero(half)[:1])
        assert tokenizer.decode(row["labels"][row["labels"] >= 0]).startswith("Ada. ")

    def test_a_prefix_asks_for_the_kind_of_the_span(self, tokenizer):
        texts = datasets.Dataset.from_dict({"text": ["Ada. she saw London, Bath, and Bond"] * 64})
        examples, index = take(encode_documents(texts, tokenizer), np.arange(64)), np.arange(64)

        def policy(spans, _):  # London answers the first kind of question, Rome the second one
            kind = np.arange(len(spans.starts)) % 3
            return spans._replace(relations=kind // 2).select(kind != 1)

        before = "a b "
        ids = np.array(tokenizer(before)["input_ids"])
        prefixes = TitlePrefixes(ids, np.array([0, 2]), np.array([2, 2]), 3, np.array([0, 1]))
        options = {"policy": policy, "policy_probability": 0.75, "prefixes": prefixes, "prefix_probability": 1.0}
        objective = SalientSpanMasking(128, 0, tokenizer=tokenizer, probability=1.0, **options)
        rows = objective(examples, 0, index).pad(index)["input_ids"]
        texts = [tokenizer.decode(row[row != PAD_ID]) for row in rows]
        asked = {(text[:2], text.split(MASK)[2]) for text in texts if text[:6] in ("a Ada.", "b Ada.")}
        assert asked == {("a ", "London"), ("b ", "Bond"), ("a ", "Bath"), ("b ", "Bath")}

    def test_the_draws_of_prefixes_are_their_own(self, tokenizer):
        texts, index = (
            datasets.Dataset.from_dict({"text": ["Ada. she saw London, Bath, and London"] * 64}),
            np.arange(64),
        )
        examples = take(encode_documents(texts, tokenizer), index)
        text = np.array(tokenizer("bath" * 4)["input_ids"])
        none = np.zeros(0, dtype=np.int64)

        def masked(probability):
            options = {"prefixes": TitlePrefixes(text, none, none, 0), "prefix_probability": probability}
            objective = SalientSpanMasking(128, 0, tokenizer=tokenizer, probability=0.5, **options)
            rows = objective(examples, 1, index).pad(index)["input_ids"]
            return [tokenizer.decode(row[row != PAD_ID]) for row in rows]

        plain, some, many = masked(0.0), masked(0.5), masked(1.0)
        assert all(a.endswith(b) and c.endswith(b) for a, b, c in zip(some, plain, many, strict=True))
        changed = [np.not_equal(texts, plain).sum() for texts in (some, many)]
        assert 0 < changed[0] < changed[1] == sum(text.count(MASK) == 3 for text in plain)


def test_an_example_without_masking_is_one_segment():
    examples = TokenSequences(np.array([5, 6, 1, 7, 1, 8, 1, 9, 1]), np.array([0, 5, 9]))
    for objective, labels_from in ((NextTokenPrediction(), [0, 0]), (QuestionAnswering(), [2, 1])):
        ids, starts, lengths, first_label = objective(examples, 0, np.arange(2))
        assert ids is examples.token_ids
        assert (starts.tolist(), lengths.tolist(), first_label.tolist()) == ([[0], [5]], [[5], [4]], labels_from)


class TestReference:
    """The same on strings, one document at a time."""

    BLOCK, SEED = 48, 3

    def encode(self, texts):
        dataset = datasets.Dataset.from_dict({"text": texts})
        tokenizer = build_corpus_tokenizer(dataset, self.BLOCK)
        return take(encode_documents(dataset, tokenizer), np.arange(len(texts))), tokenizer

    def decode(self, sequences, tokenizer):
        order = np.arange(len(sequences.lengths))
        return [tokenizer.decode(row[row != PAD_ID]) for row in sequences.pad(order)["input_ids"]]

    def mask(self, text, draws, max_context):
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

    def test_salient_span_masking(self):
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
            for text, draw, corrupted in zip(texts, draws, plain, strict=True):
                masked = self.mask(text, draw, (24, 4) if draw[4] < 0.3 else short)
                expected.append(masked if masked and draw[0] < 0.6 else corrupted)
            assert self.decode(objective(examples, 2, index), tokenizer) == expected
        assert 20 < sum(text.count(MASK) == 3 for text in expected) < 60
        always = self.decode(
            SalientSpanMasking(self.BLOCK, self.SEED, tokenizer=tokenizer, probability=1.0)(examples, 2, index),
            tokenizer,
        )
        assert always == [self.mask(t, d, (48, 48)) or p for t, d, p in zip(texts, draws, plain, strict=True)]

    def test_a_window_skips_what_follows_the_title(self):
        class Seen:
            block_size, seed = self.BLOCK, self.SEED

            def __call__(self, examples, epoch, index):
                ids, offsets, _ = examples
                return [tokenizer.decode(ids[a:b]) for a, b in pairwise(offsets.tolist())], epoch, index

        alphabet = "abcdefghijklmnopqrstuvwxyz"
        texts = [
            f"Ada. {alphabet}{alphabet}",
            "Bo. x",
            alphabet + alphabet,
            f"{alphabet}{alphabet} z. x",
            "a" * 42,
            "b" * 43,
        ]
        examples, tokenizer = self.encode(texts * 20)
        index = np.arange(len(texts) * 20) + 5
        seen, epoch, same_index = RandomWindow(Seen(), tokenizer)(examples, 4, index)
        expected = []
        for text, draw in zip(texts * 20, uniform_draws(self.SEED + 2, 4, index, 1)[:, 0], strict=True):
            title = text.find(". ") + 2 if ". " in text else 0
            skipped = int(draw * (max(len(text) - max(42, title), 0) + 1))  # 42 is 7/8 of the block
            expected.append(text[:title] + text[title + skipped :])
        assert seen == expected
        assert len({len(text) for text in seen[5::6]}) == 2  # either 0 or 1 character is skipped
        assert epoch == 4
        assert same_index is index

    def test_a_context_without_room_is_an_error(self):
        with pytest.raises(ValueError, match="block_size 4"):
            SpanCorruption(4, 0)
