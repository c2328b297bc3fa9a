from collections import Counter

import datasets
import numpy as np
import pytest
import torch

from hf_mingpt.batching import BatchShape, deal
from hf_mingpt.birthplaces import Question
from hf_mingpt.corruption import draw_spans, join_pieces, move_spans
from hf_mingpt.data import (
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    take,
)
from hf_mingpt.objectives import Answers, NextToken, SalientCorruption, SpanCorruption, Windows
from hf_mingpt.seeking import AnswerSeeker
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from .conftest import rows_of


class TestObjectives:
    def test_span_corruption_is_the_pure_function(self, documents):
        index = np.array([40, 3, 17])
        (batch,) = deal(SpanCorruption(48, seed=9)(take(documents, index), 5, index), BatchShape(4))
        for i in index:
            ids = np.array(documents[int(i)]["input_ids"])
            spans = draw_spans(np.array([len(ids)]), block_size=48, seed=9, epoch=5, index=np.array([i]))
            pieces = move_spans(np.array([0]), spans)
            row = join_pieces(ids, pieces, mask_id=MASK_ID, pad_id=PAD_ID)[0]
            assert tuple(row) in rows_of([batch])
        assert torch.equal(batch["labels"], batch["input_ids"].masked_fill(batch["input_ids"] == PAD_ID, -100))

    def test_span_corruption_is_new_in_every_epoch(self, documents):
        index = np.arange(64)
        examples = take(documents, index)
        first, again, second = (
            rows_of(deal(SpanCorruption(48, 0)(examples, epoch, index), BatchShape(64))) for epoch in (0, 0, 1)
        )
        assert first == again != second

    def test_as_many_spans_are_lost_as_it_is_told(self, documents):
        rows = SpanCorruption(48, 0, num_spans=3)(take(documents, np.arange(64)), 0, np.arange(64))
        marks = rows.join(np.arange(64))["input_ids"] == MASK_ID
        assert set(marks.sum(axis=1)) == {6}

    def test_answers_have_labels_on_the_answer_only(self, tokenizer):
        dataset = encode_questions([Question("Where was Ada born?", "Rome".replace("R", "L"))], tokenizer, 48)
        (batch,) = deal(Answers()(take(dataset, np.array([0])), 0, np.array([0])), BatchShape(1))
        labels = batch["labels"][0]
        assert tokenizer.decode(labels[labels != -100]) == f"{MASK}Lome{MASK}"
        assert (labels[:19] == -100).all()

    def test_next_token_learns_all(self, documents):
        (batch,) = deal(NextToken()(take(documents, np.array([9])), 0, np.array([9])), BatchShape(1))
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
            for objective in (Windows(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0)):
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
            rows = SalientCorruption(48, 0, share=share, tokenizer=tokenizer)(examples, epoch, index)
            return [row for row in rows_of(deal(rows, BatchShape(64))) if row.count(MASK_ID) == 3]

        plain = rows_of(deal(SpanCorruption(48, 0)(examples, 2, index), BatchShape(64)))
        assert (
            rows_of(deal(SalientCorruption(48, 0, share=0, tokenizer=tokenizer)(examples, 2, index), BatchShape(64)))
            == plain
        )
        assert len(clozes(1, 2)) > 50  # those that have a name
        assert 0.3 < np.mean([len(clozes(0.5, epoch)) for epoch in range(20)]) / len(clozes(1, 2)) < 0.7
        assert clozes(1, 2) == clozes(1, 2) != clozes(1, 3)

    def test_the_other_draws_go_otherwise(self, documents, tokenizer):
        examples, index = take(documents, np.arange(64)), np.arange(64)
        for other in (Windows(SpanCorruption(48, 0), tokenizer), SpanCorruption(48, 0, num_spans=2)):
            mixed = SalientCorruption(48, 0, share=0.5, otherwise=other, tokenizer=tokenizer)(examples, 1, index)
            clozes = SalientCorruption(48, 0, share=1.0, tokenizer=tokenizer)(examples, 1, index)
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
            objective = SalientCorruption(48, 0, tokenizer=tokenizer, share=1.0, **options)
            return {
                tokenizer.decode(objective(examples, epoch, index).join(index)["input_ids"][0]) for epoch in range(60)
            }

        assert {row.split(MASK)[2] for row in rows()} == {"1815", "London"}
        assert {row.split(MASK)[2] for row in rows(numbers=False)} == {"London"}
        contexts = {tuple(row.split(MASK)[:2]) for row in rows(numbers=False, max_context=(3, 1))}
        short = {(f"Ada. {before}", after) for before in ("", " ", "n ", "in ") for after in ("", ",")}
        assert contexts == short
        both = {tuple(row.split(MASK)[:2]) for row in rows(numbers=False, max_context=(3, 1), long_share=0.5)}
        assert max(len(before) for before, _ in both) == len("Ada. ") + 24
        assert {len(after) for _, after in both} == {0, 1, 2, 3, 4}
        assert contexts & both

    def test_what_is_sought_is_asked_for_more_often(self, tokenizer):
        texts = datasets.Dataset.from_dict({"text": ["Ada. she saw London, Bath, and London"] * 400})
        examples, index = take(encode_documents(texts, tokenizer), np.arange(400)), np.arange(400)

        def share_of_bath(answers=(), sought_share=1.0):
            options = {"seeker": AnswerSeeker(answers, tokenizer), "sought_share": sought_share}
            rows = SalientCorruption(48, 0, tokenizer=tokenizer, share=1.0, **options)(examples, 0, index)
            asked = [tokenizer.decode(row).split(MASK)[2] for row in rows.join(index)["input_ids"]]
            assert set(asked) <= {"London", "Bath"}
            return asked.count("Bath") / 400

        assert share_of_bath() == pytest.approx(1 / 3, abs=0.07)
        assert share_of_bath(["Bath", "Bat", "ath", "London, Bath"]) == 1.0
        assert share_of_bath(["Bath"], sought_share=0.7) == pytest.approx(0.8, abs=0.07)
        assert share_of_bath(["", "Lon", "\u2603"]) == share_of_bath()
