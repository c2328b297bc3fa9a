"""Collators: the batches of our objectives, the same for any number of workers, new in every epoch, whoever trains."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import ByteLevelBPETokenizer
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

import hf_mingpt
from hf_mingpt.data.assembly import build_objective
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import encode_documents, encode_questions, take
from hf_mingpt.data.objectives import SpanCorruption
from hf_mingpt.data.questions import Question
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.tokenization_mingpt import MASK
from hf_mingpt.training.loop import train
from hf_mingpt.training.setup import build_accelerator

from ..conftest import LINES, small_model
from ..training.small_runs import have_same_weights, read_metrics, small_recipe

PEOPLE = [
    f"{name}. {name} was born in {place} in 1815 ."
    for name, place in zip(("Ada Byron", "Zoë Quist", "Ada Quist", "Zoë Byron"), ("London", "Ålesund") * 2, strict=True)
]


@pytest.fixture
def rows(documents):
    return hf_mingpt.add_index(documents)


@pytest.fixture
def collator(tokenizer):
    return hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 48, seed=3, pad_to_multiple_of=8)


def equal(batches, others) -> bool:
    pairs = list(zip(batches, others, strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_a_batch_is_that_of_the_objective(rows, collator, documents):
    index = np.array([40, 3, 17])
    collator.set_epoch(5)
    batch = collator([rows[int(i)] for i in index])
    expected = SpanCorruption(48, 3)(take(documents, index), 5, index)
    padded = expected.pad(np.arange(3), 8)
    assert batch["input_ids"].tolist() == padded["input_ids"].tolist()
    assert batch["labels"].tolist() == padded["labels"].tolist()
    assert batch["attention_mask"].sum(dim=1).tolist() == expected.lengths.tolist()
    assert batch["attention_mask"].dtype == torch.int64
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_rows_of_any_format_give_the_same_batch(rows, collator, kind):
    expected = collator([rows[i] for i in range(4)])
    formatted = rows.with_format(kind)
    assert equal([collator([formatted[i] for i in range(4)])], [expected])


def test_options_are_those_of_the_recipe(tokenizer, rows):
    many = hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 48, num_spans=3)
    assert set((many([rows[i] for i in range(40, 60)])["input_ids"] == tokenizer.mask_token_id).sum(1).tolist()) == {6}
    window = hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 24, document_windows=True)
    plain = hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 24)
    assert not equal([window([rows[63]])], [plain([rows[63]])])


class TestEpochs:
    def test_draws_change_with_the_epoch_and_with_nothing_else(self, rows, collator):
        batches = []
        for epoch in (0, 1, 0):
            collator.set_epoch(epoch)
            batches.append(list(DataLoader(rows, batch_size=16, collate_fn=collator)))
        assert equal(batches[0], batches[2])
        assert not equal(batches[0], batches[1])

    @pytest.mark.parametrize("persistent", [False, True])
    def test_workers_draw_what_one_process_draws(self, rows, collator, persistent):
        options = {"batch_size": 16, "collate_fn": collator}
        here = DataLoader(rows, **options)
        there = DataLoader(rows, **options, num_workers=2, persistent_workers=persistent)
        for epoch in range(2):
            collator.set_epoch(epoch)
            assert equal(here, there)

    def test_a_collator_that_was_sent_to_a_spawned_worker_follows_the_epoch(self, rows, collator):
        sent = pickle.loads(ForkingPickler.dumps(collator))
        collator.set_epoch(7)
        assert sent.epoch == 7
        assert equal([sent([rows[9]])], [collator([rows[9]])])

    def test_a_stream_has_the_indices_of_its_rows(self, documents, rows, collator):
        stream = hf_mingpt.add_index(documents.to_iterable_dataset())
        assert equal(DataLoader(stream, batch_size=16, collate_fn=collator),
                     DataLoader(rows, batch_size=16, collate_fn=collator))  # fmt: skip
        assert pickle.loads(pickle.dumps(stream))


def arguments(folder, **changes) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        **{
            "num_train_epochs": 2,
            "per_device_train_batch_size": 24,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "adam_beta2": 0.95,
            "logging_steps": 1,
            "remove_unused_columns": False,
            "train_sampling_strategy": "sequential",
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **changes,
        },
    )


def losses_of(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_trainer_learns_what_our_loop_learns(tmp_path, rows, collator, documents):
    """Two epochs of span corruption, so that the draws of both must agree, and the last step of an epoch is short."""
    recipe = small_recipe(
        tmp_path, num_train_epochs=2, learning_rate=1e-2, lr_scheduler_type="constant", weight_decay=0.0
    )
    steps = TrainingSteps(documents, SpanCorruption(48, 3), BatchShape(24), seed=0, shuffle=False)
    ours = train(small_model("rope"), steps, recipe, build_accelerator(recipe))
    expected = [record["loss"] for record in read_metrics(tmp_path)]
    theirs = small_model("rope").train()
    trainer = Trainer(
        theirs, arguments(tmp_path / "trainer"), train_dataset=rows, data_collator=collator, callbacks=[collator]
    )
    trainer.train()
    assert len(expected) == 6
    assert losses_of(trainer) == pytest.approx(expected, rel=1e-4)
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if not name.endswith("k_proj.bias"):  # its gradient is rounding noise, which Adam blows up
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("step", [3, 4])  # at the end of an epoch, and within one
def test_trainer_resumes_with_the_draws_of_the_epoch(tmp_path, rows, tokenizer, step):
    def run(**options):
        collator = hf_mingpt.DataCollatorForSpanCorruption(tokenizer, 48, seed=3)
        changes = {"save_strategy": "steps", "save_steps": step, "train_sampling_strategy": "random"}
        trainer = Trainer(
            small_model("rope").train(),
            arguments(tmp_path, **changes),
            train_dataset=rows,
            data_collator=collator,
            callbacks=[collator],
        )
        trainer.train(**options)
        assert collator.epoch == 1
        return trainer

    whole = run()
    resumed = run(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert losses_of(resumed) == losses_of(whole)
    assert len(losses_of(whole)) == 6
    assert have_same_weights(whole.model, resumed.model)


@pytest.mark.parametrize("kind", ["mingpt", "gpt2"])
def test_padding_on_the_right_needs_no_mask(rows, collator, kind):
    config = GPT2Config(vocab_size=37, n_positions=48, n_embd=32, n_layer=2, n_head=4)
    model = small_model("learned") if kind == "mingpt" else GPT2LMHeadModel(config).eval()
    batch = collator([rows[i] for i in (3, 60, 30)])
    assert not batch["attention_mask"].all()
    with_mask = model(**batch).loss
    torch.testing.assert_close(model(**{**batch, "attention_mask": None}).loss, with_mask, rtol=1e-6, atol=0)


class TestSalientSpans:
    def test_it_is_the_objective_of_the_recipe(self, tokenizer):
        """With a learned policy and prefixes of titles, whose recipe needs documents and questions."""
        documents = encode_documents(Dataset.from_dict({"text": PEOPLE}), tokenizer)
        pairs = [(f"Where was {line.split('.')[0]} born?", line.split()[-4]) for line in PEOPLE]
        options = {"context_before": 12, "context_after": 1, "masking_policy_probability": 0.9}
        options |= {"learned_masking_policy": True, "title_prefix_probability": 0.5}
        collator = hf_mingpt.DataCollatorForSalientSpans(
            tokenizer, 48, seed=1, ssm_probability=0.8, documents=documents, questions=pairs, **options
        )
        rows = hf_mingpt.add_index(documents)
        recipe = DataRecipe(train_file="x", questions_file="y", ssm_probability=0.8, **options)
        objective = build_objective(recipe, documents, [Question(*p) for p in pairs], tokenizer, block_size=48, seed=1)
        index = np.array([2, 0, 3, 1])
        for epoch in range(5):
            collator.set_epoch(epoch)
            expected = objective(take(documents, index), epoch, index).pad(np.arange(4))
            batch = collator([rows[int(i)] for i in index])
            assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
            assert batch["labels"].tolist() == expected["labels"].tolist()

    def test_answers_are_masked_in_a_text_that_the_collator_does_not_know(self, tokenizer):
        options = {"masking_policy_probability": 1.0, "questions": [("Where was Ada Byron born?", "London")]}
        collator = hf_mingpt.DataCollatorForSalientSpans(tokenizer, 48, ssm_numbers=True, **options)
        (row, *_) = hf_mingpt.add_index(encode_documents(Dataset.from_dict({"text": PEOPLE}), tokenizer))
        for epoch in range(5):
            collator.set_epoch(epoch)
            assert tokenizer.decode(collator([row])["input_ids"][0]).endswith("⁇London⁇")

    @pytest.mark.parametrize(("numbers", "expected"), [(True, {"London", "1815"}), (False, {"London"})])
    def test_it_masks_one_name_or_number(self, tokenizer, numbers, expected):
        rows = hf_mingpt.add_index(encode_documents(Dataset.from_dict({"text": PEOPLE}), tokenizer))
        collator = hf_mingpt.DataCollatorForSalientSpans(tokenizer, 48, ssm_numbers=numbers)
        seen = set()
        for epoch in range(20):
            collator.set_epoch(epoch)
            batch = collator([rows[0]])
            masked = tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
            seen.add(masked.strip(MASK))
        assert seen == expected

    def test_what_must_be_learned_needs_the_documents(self, tokenizer):
        with pytest.raises(ValueError, match="give documents"):
            hf_mingpt.DataCollatorForSalientSpans(tokenizer, 48, title_prefix_probability=0.5)


@pytest.fixture(scope="module")
def bpe():
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(PEOPLE * 4, vocab_size=300, min_frequency=1, special_tokens=["</s>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>")
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "mask_token": "[MASK]"})
    return tokenizer


class TestAnyTokenizer:
    """A BPE whose pad and mask token have other ids, and whose tokens are several characters long."""

    @pytest.fixture
    def rows(self, bpe):
        return hf_mingpt.add_index(encode_documents(Dataset.from_dict({"text": PEOPLE}), bpe, aligned=True))

    def test_the_mask_is_that_of_the_tokenizer(self, bpe, rows):
        batch = hf_mingpt.DataCollatorForSpanCorruption(bpe, 48)(list(rows))
        assert (batch["input_ids"] == bpe.mask_token_id).sum(1).tolist() == [2] * 4
        assert ((batch["input_ids"] == bpe.pad_token_id) == (batch["attention_mask"] == 0)).all()

    def test_names_are_found_in_the_text(self, bpe, rows):
        collator = hf_mingpt.DataCollatorForSalientSpans(bpe, 48, ssm_numbers=False)
        labels = collator(list(rows))["labels"]
        masked = {bpe.decode(row[row != -100], skip_special_tokens=True).strip() for row in labels}
        assert masked == {"London", "Ålesund"}

    def test_tokens_alone_do_not_say_where_names_are(self, bpe, rows):
        collator = hf_mingpt.DataCollatorForSalientSpans(bpe, 48)
        with pytest.raises(ValueError, match=r"no column 'characters', .* hf_mingpt.encode_documents\("):
            collator(list(rows.select_columns(["input_ids", "index"])))

    def test_a_question_with_the_marks_of_the_tokenizer(self, bpe):
        batch = hf_mingpt.DataCollatorForQuestionAnswering(bpe, 48)([{"question": "Ada?", "answer": "London"}])
        assert bpe.decode(batch["input_ids"][0]) == "Ada?[MASK]London[MASK]"

    def test_a_tokenizer_without_a_mask_is_refused(self, bpe):
        bare = PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer, pad_token="[PAD]")
        with pytest.raises(ValueError, match=r"no mask_token: add one with tokenizer.add_special_tokens"):
            hf_mingpt.DataCollatorForSpanCorruption(bare, 48)


def test_questions_as_texts_or_as_tokens(tokenizer):
    pairs = [Question("Where was Ada born?", "London"), Question("Was Zoë?", "Ålesund")]
    collator = hf_mingpt.DataCollatorForQuestionAnswering(tokenizer, 48, pad_to_multiple_of=8)
    batch = collator([{"question": q, "answer": a} for q, a in pairs])
    assert equal([batch], [collator(list(encode_questions(pairs, tokenizer, 48)))])
    assert batch["input_ids"].shape == (2, 32)
    for (question, answer), row in zip(pairs, range(2), strict=True):
        labels, inside = batch["labels"][row], batch["attention_mask"][row] == 1
        assert tokenizer.decode(batch["input_ids"][row][inside]) == f"{question}{MASK}{answer}{MASK}"
        assert tokenizer.decode(labels[labels != -100]) == f"{MASK}{answer}{MASK}"
    with pytest.raises(ValueError, match="over the context length of 48"):
        collator([{"question": "Where was Ada born?" * 3, "answer": "London"}])


class TestMistakes:
    def test_rows_without_an_index(self, documents, collator):
        with pytest.raises(ValueError, match=r"no column 'index', only 'input_ids': .* remove_unused_columns=False"):
            collator([documents[0]])

    def test_rows_without_tokens(self, collator):
        with pytest.raises(ValueError, match="A row has no tokens"):
            collator([{"input_ids": [5, 6], "index": 0}, {"input_ids": [], "index": 1}])

    def test_a_dataset_that_has_an_index(self, rows):
        with pytest.raises(ValueError, match="has a column 'index' already"):
            hf_mingpt.add_index(rows)

    def test_the_index_survives_a_shuffle(self, rows):
        shuffled = rows.shuffle(seed=0)
        assert [LINES[i] for i in shuffled["index"]] != LINES
        assert all(shuffled[i]["input_ids"] == rows[shuffled[i]["index"]]["input_ids"] for i in range(64))
