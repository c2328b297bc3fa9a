import itertools
import math
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mingpt.batching import BatchShape, cut_rows, deal, select_learnt
from hf_mingpt.birthplaces import Question
from hf_mingpt.corruption import draw_spans, join_pieces, move_spans
from hf_mingpt.data import (
    Mixture,
    StreamedSteps,
    TrainingSteps,
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    group_into_blocks,
    load_texts,
    step_loader,
    take,
)
from hf_mingpt.objectives import Answers, NextToken, SalientCorruption, SpanCorruption, Windows
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from .conftest import TEXT, small_model

LINES = [TEXT[:n].strip() for n in range(5, 69)]  # 64 documents of 4 to 68 characters

ODD = "e\u0301 \u05e9\u05dc \u202eabc \U0001f469\u200d\U0001f467"  # combining, right to left, overridden, joined


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture
def documents(text_file, tokenizer):
    return encode_documents(load_texts(str(text_file)), tokenizer)


class TestLoading:
    def test_text_file(self, text_file):
        assert load_texts(str(text_file))["text"][:] == LINES

    @pytest.mark.parametrize("kind", ["tsv", "csv", "parquet", "jsonl"])
    def test_tables(self, tmp_path, kind):
        table = datasets.Dataset.from_dict({"id": [1, 2], "bio": ['He said "hi', "Ada, of London"]})
        path = tmp_path / f"table.{kind}"
        if kind == "tsv":
            path.write_text('id\tbio\n1\tHe said "hi\n2\tAda, of London\n')
        else:
            {"csv": table.to_csv, "parquet": table.to_parquet, "jsonl": table.to_json}[kind](path)
        loaded = load_texts(str(path), text_column="bio")
        assert loaded.column_names == ["text"]
        assert loaded["text"][:] == table["bio"][:]
        with pytest.raises(ValueError, match="no column 'text'"):
            load_texts(str(path))

    def test_streaming(self, text_file):
        stream = load_texts(str(text_file), streaming=True)
        assert isinstance(stream, datasets.IterableDataset)
        assert [row["text"] for row in stream] == LINES

    def test_dataset_by_name_config_and_split(self, tmp_path):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "held.txt").write_text("a\nb\n")
        (tmp_path / "README.md").write_text(
            "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: held\n    path: one/held.txt\n---\n"
        )
        assert load_texts(str(tmp_path), name="small", split="held")["text"][:] == ["a", "b"]  # as from the Hub

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        ("content", "documents"),
        [
            (b"\xef\xbb\xbfAda\nByron\n", ["Ada", "Byron"]),  # a byte order mark is dropped
            (b"Ada\r\nBy\rron\n", ["Ada", "By", "ron"]),  # CRLF and CR end a line
            ("a\u2028b\x85c\x0bd\x0ce\x1cf\ng".encode(), ["a\u2028b\x85c\x0bd\x0ce\x1cf", "g"]),  # these do not
            (b"A\0da\n", ["A\0da"]),
            (f"{ODD}\n".encode(), [ODD]),
            (b"a" * 10_000_000 + b"\nb\n", ["a" * 10_000_000, "b"]),
        ],
        ids=["mark", "line ends", "separators", "NUL", "combining, right to left, emoji", "10 MB"],
    )
    def test_every_character_is_kept(self, tmp_path, content, documents, streaming):
        path = tmp_path / "odd.txt"
        path.write_bytes(content)
        texts = load_texts(str(path), streaming=streaming)
        assert [row["text"] for row in texts] == documents
        tokenizer = build_corpus_tokenizer(texts, 48)
        encoded = [row["input_ids"] for row in encode_documents(texts, tokenizer)]
        assert ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in encoded] == documents

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff⁇□"), min_size=1)))
    def test_any_text_comes_back(self, tmp_path_factory, documents):
        path = tmp_path_factory.mktemp("any") / "any.txt"
        path.write_bytes("".join(f"{document}\n" for document in documents).encode() or b"\n")
        texts = load_texts(str(path), streaming=True)
        assert [row["text"] for row in texts] == (documents or [""])
        tokenizer = build_corpus_tokenizer(texts, 48)
        encoded = [row["input_ids"] for row in encode_documents(texts, tokenizer)]
        assert ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in encoded] == documents

    @pytest.mark.parametrize("before", [0, 3, 1_500_000])
    def test_a_byte_that_is_not_utf8_is_named(self, tmp_path, before):
        path = tmp_path / "bad.txt"
        path.write_bytes(b"Ada\n" * before + b"By\xffron\nx\n")
        message = rf"bad\.txt, line {before + 1}: not UTF-8 \(byte {4 * before + 2}\)"
        with pytest.raises(ValueError, match=message):
            load_texts(str(path), streaming=True)
        with pytest.raises(ValueError, match=message):
            build_corpus_tokenizer(datasets.Dataset.from_dict({"text": ["A"]}), 48, str(path))

    @pytest.mark.parametrize(("name", "content", "said"), [
        ("no.txt", None, "No file at"), ("empty.txt", "", "is empty"), ("x.docx", "a", "cannot read '.docx'"),
    ])  # fmt: skip
    def test_bad_files_are_named(self, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            load_texts(str(tmp_path / name))


class TestEncoding:
    def test_is_the_tokenizer(self, documents, tokenizer):
        assert documents["input_ids"][:] == [tokenizer(line)["input_ids"] for line in LINES]

    def test_empty_documents_are_dropped(self, tokenizer):
        encoded = encode_documents(datasets.Dataset.from_dict({"text": ["Ada", "", "in"]}), tokenizer)
        assert [len(row) for row in encoded["input_ids"]] == [3, 2]

    @pytest.mark.parametrize("bad", ["X", MASK])
    def test_bad_characters_are_named(self, tokenizer, bad):
        texts = datasets.Dataset.from_dict({"text": ["Ada", f"in {bad}"]})
        with pytest.raises(ValueError, match=f"Document 2: character 4, '{bad}'"):
            encode_documents(texts, tokenizer)

    def test_questions_that_do_not_fit_are_named(self, tokenizer):
        questions = [Question("Where was Ada born?", "London"), Question("Where was Ada Byron born?", "London")]
        with pytest.raises(ValueError, match=r"Question 2, .* needs 33 tokens"):
            encode_questions(questions, tokenizer, 32)
        with pytest.raises(ValueError, match=r"Question 1.*'X'"):
            encode_questions([Question("Where was X born?", "London")], tokenizer, 48)

    def test_blocks_are_the_whole_text(self, documents, tokenizer):
        blocks = group_into_blocks(documents, 48, tokenizer.convert_tokens_to_ids("\n"))["input_ids"]
        assert {len(block) for block in blocks[:-1]} == {48}
        assert tokenizer.decode([i for block in blocks for i in block]) == "".join(f"{line}\n" for line in LINES)


def rows_of(batches, name="input_ids"):
    return sorted(tuple(i for i in row.tolist() if i not in (PAD_ID, -100)) for b in batches for row in b[name])


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

    def test_answers_have_labels_on_the_answer_only(self, tokenizer):
        dataset = encode_questions([Question("Where was Ada born?", "Rome".replace("R", "L"))], tokenizer, 48)
        (batch,) = deal(Answers()(take(dataset, np.array([0])), 0, np.array([0])), BatchShape(1))
        labels = batch["labels"][0]
        assert tokenizer.decode(labels[labels != -100]) == f"{MASK}Lome{MASK}"
        assert (labels[:19] == -100).all()

    def test_next_token_learns_all(self, documents):
        (batch,) = deal(NextToken()(take(documents, np.array([9])), 0, np.array([9])), BatchShape(1))
        assert torch.equal(batch["labels"], batch["input_ids"])


class TestDealing:
    @pytest.mark.parametrize("number", [1, 2, 5, 16, 17])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_every_example_is_dealt_once_to_equally_many_batches(self, documents, number, processes):
        index = np.arange(number)
        examples = take(documents, index)
        alone = deal(SpanCorruption(48, 0)(examples, 0, index), BatchShape(64))
        shares = [
            deal(SpanCorruption(48, 0)(examples, 0, index), BatchShape(2, 3, processes, rank))
            for rank in range(processes)
        ]
        assert len({len(share) for share in shares}) == 1
        assert rows_of([b for share in shares for b in share], "labels")[-number:] == rows_of(alone, "labels")

    def test_widths_can_be_rounded_up(self, documents):
        rows = SpanCorruption(48, 0)(take(documents, np.arange(64)), 0, np.arange(64))
        exact, rounded = (deal(rows, BatchShape(8, 8, pad_to_multiple_of=n)) for n in (1, 8))
        assert {batch["input_ids"].shape[1] % 8 for batch in rounded} == {0}
        assert max(batch["input_ids"].shape[1] for batch in rounded) <= 48
        for name in ("input_ids", "labels"):
            assert rows_of(exact, name) == rows_of(rounded, name)

    def test_padding_free_is_the_same_rows_in_one(self, documents):
        rows = SpanCorruption(48, 0)(take(documents, np.arange(10)), 0, np.arange(10))
        (batch,) = deal(rows, BatchShape(10, pad_to_multiple_of=8, padding_free=True))
        assert batch["input_ids"].shape[1] % 8 == 0
        starts = np.flatnonzero(batch["position_ids"][0] == 0)
        flat = [tuple(row[row != PAD_ID].tolist()) for row in np.split(batch["input_ids"][0].numpy(), starts)]
        assert sorted(row for row in flat if row) == rows_of(deal(rows, BatchShape(10)))
        learnt = batch["input_ids"].masked_fill((batch["position_ids"] == 0) | (batch["input_ids"] == PAD_ID), -100)
        assert torch.equal(batch["labels"], learnt)

    def test_grouping_by_length_saves_padding(self, documents):
        index = np.arange(64)
        examples = take(documents, index)
        share = []
        for size in (64, 8):
            batches = deal(SpanCorruption(48, 0)(examples, 0, index), BatchShape(size, 64 // size))
            total = sum(b["input_ids"].numel() for b in batches)
            share.append(1 - sum(int((b["input_ids"] != PAD_ID).sum()) for b in batches) / total)
        assert share[0] > 0.3
        assert share[1] < 0.12


class TestCutting:
    """Micro-batches of as many rows as make the step cheapest."""

    @given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(0, 60), st.integers(5, 40))
    def test_costs_no_more_than_any_other_way(self, widths, overhead, most_rows):
        widths = np.sort(np.array(widths))[::-1]
        ends = cut_rows(widths, overhead=overhead, most_rows=most_rows)
        most_tokens = most_rows * widths[0]

        def cost(ends) -> float:
            parts = [(end - start) * widths[start] for start, end in itertools.pairwise([0, *ends])]
            return sum(parts) + overhead * len(parts) if max(parts) <= most_tokens else math.inf

        places = [*range(min(8, most_rows), len(widths), min(8, most_rows))]
        ways = (some for n in range(len(places) + 1) for some in itertools.combinations(places, n))
        assert ends[-1] == len(widths)
        assert cost(ends) == min(cost([*some, len(widths)]) for some in ways)

    def test_deals_the_same_rows_in_fewer_tokens(self, documents):
        rows = SpanCorruption(48, 0)(take(documents, np.arange(64)), 0, np.arange(64))
        even, cut = (deal(rows, BatchShape(32, 2, pad_to_multiple_of=8, overhead=n)) for n in (None, 20))
        for name in ("input_ids", "labels"):
            assert rows_of(even, name) == rows_of(cut, name)
        assert sum(batch["input_ids"].numel() for batch in cut) < sum(batch["input_ids"].numel() for batch in even)
        assert {len(batch["input_ids"]) % 8 for batch in cut} == {0}

    def test_every_process_gets_its_share(self, documents):
        rows = SpanCorruption(48, 0)(take(documents, np.arange(50)), 0, np.arange(50))
        shares = [deal(rows, BatchShape(8, 3, 2, rank, overhead=5)) for rank in range(2)]
        assert len(shares[0]) == len(shares[1])
        dealt = rows_of([batch for share in shares for batch in share], "labels")
        assert [row for row in dealt if row] == rows_of(deal(rows, BatchShape(50)), "labels")


class TestSelecting:
    """Logits only where there is something to learn."""

    @given(st.integers(0, 2**24 - 1), st.integers(1, 4), st.integers(1, 4))
    def test_every_label_is_predicted_from_the_place_before_it(self, bits, rows, pad_to_multiple_of):
        learnt = np.array([bits >> place & 1 for place in range(24)], dtype=bool).reshape(rows, -1)
        labels = np.where(learnt, np.arange(24).reshape(rows, -1), -100)
        selected = select_learnt(labels, pad_to_multiple_of)
        most = max(learnt[:, 1:].sum(axis=1).max(), 1)
        if not selected:
            assert most > learnt.shape[1] - pad_to_multiple_of
            return
        places, following = selected["logits_to_keep"], selected["shift_labels"]
        assert places.shape == following.shape
        assert most <= places.shape[1] < most + pad_to_multiple_of
        for row in range(rows):
            found = {int(place) + 1: int(label) for place, label in zip(places[row], following[row], strict=True)}
            assert {place: label for place, label in found.items() if label != -100} == {
                place: int(labels[row, place]) for place in np.flatnonzero(learnt[row, 1:]) + 1
            }

    @pytest.mark.parametrize("padding_free", [False, True])
    def test_the_loss_and_its_gradient_are_those_of_all_logits(self, variant, tokenizer, padding_free):
        questions = [Question(f"Where was {'Ada ' * n}born?", "London"[:n]) for n in range(1, 6)]
        index = np.arange(len(questions))
        examples = take(encode_questions(questions, tokenizer, 48), index)
        shape = BatchShape(8, pad_to_multiple_of=4, padding_free=padding_free)
        (batch,) = deal(Answers()(examples, 0, index), shape)
        assert batch["logits_to_keep"].shape[1] < batch["input_ids"].shape[1]
        every = {name: rows for name, rows in batch.items() if name not in ("logits_to_keep", "shift_labels")}
        gradients = []
        for inputs in (batch, every):
            model = small_model(variant)
            loss = model(**inputs).loss
            loss.backward()
            gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
        for ours, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


class TestMixture:
    """Questions that join the documents of every step."""

    shape = BatchShape(5, 2)

    def questions(self, tokenizer, number=7):
        names = [TEXT[i : i + 3].replace("⁇", "a") for i in range(number)]
        return encode_questions([Question(f"Where was {name} born?", "London") for name in names], tokenizer, 48)

    def test_every_question_comes_as_often_as_the_others(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), Answers(), 0.3, seed=1)
        steps = TrainingSteps(documents, NextToken(), self.shape, seed=3, mixture=mixture)
        assert steps.steps_per_epoch == 10  # seven documents and three questions each
        rows = [row for step in range(14) for row in rows_of(steps[step])]
        asked = Counter(row for row in rows if MASK_ID in row)
        assert set(asked.values()) == {6}
        assert len(asked) == 7
        first_epoch = [row for step in range(10) for row in rows_of(steps[step]) if MASK_ID not in row]
        assert sorted(first_epoch) == sorted(tuple(row) for row in documents["input_ids"])

    def test_of_questions_the_answer_is_learnt_and_of_documents_all(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), Answers(), 0.5, seed=1)
        for batch in TrainingSteps(documents, NextToken(), self.shape, seed=3, mixture=mixture)[0]:
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                learnt = tokenizer.decode(labels[labels != -100])
                expected = f"{MASK}London{MASK}" if MASK_ID in ids else tokenizer.decode(ids[ids != PAD_ID])
                assert learnt == expected

    def test_a_stream_is_joined_in_the_same_way(self, text_file, tokenizer, documents):
        mixture = Mixture(self.questions(tokenizer), Answers(), 0.3, seed=1)
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = step_loader(StreamedSteps(stream, NextToken(), self.shape, mixture=mixture), 12)
        steps = TrainingSteps(documents, NextToken(), self.shape, seed=3, shuffle=False, mixture=mixture)
        assert [rows_of(batches) for batches in streamed] == [rows_of(steps[step]) for step in range(12)]

    @pytest.mark.parametrize("share", [0.01, 0.99])
    def test_a_share_that_is_nothing_or_all_is_an_error(self, documents, tokenizer, share):
        mixture = Mixture(self.questions(tokenizer), Answers(), share, seed=1)
        with pytest.raises(ValueError, match=f"share of {share}"):
            TrainingSteps(documents, NextToken(), self.shape, seed=3, mixture=mixture)


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

        def share_of_bath(**options):
            rows = SalientCorruption(48, 0, tokenizer=tokenizer, share=1.0, **options)(examples, 0, index)
            asked = [tokenizer.decode(row).split(MASK)[2] for row in rows.join(index)["input_ids"]]
            assert set(asked) <= {"London", "Bath"}
            return asked.count("Bath") / 400

        assert share_of_bath() == pytest.approx(1 / 3, abs=0.07)
        qualified = {"sought": ["Bath"], "sought_share": 1.0, "seek_qualified": True}  # the first London too
        assert share_of_bath(**qualified) == pytest.approx(1 / 2, abs=0.07)
        assert share_of_bath(sought=["Bath", "Bat", "ath", "London, Bath"], sought_share=1.0) == 1.0
        assert share_of_bath(sought=["Bath"], sought_share=0.7) == pytest.approx(0.8, abs=0.07)
        assert share_of_bath(sought=["", "Lon", "\u2603"], sought_share=1.0) == share_of_bath()


class TestSteps:
    shape = BatchShape(5, 2)

    def steps(self, documents, **options):
        return TrainingSteps(documents, SpanCorruption(48, 0), self.shape, seed=3, **options)

    def test_an_epoch_sees_every_example_once_in_a_new_order(self, documents):
        steps = TrainingSteps(documents, NextToken(), self.shape, seed=3)
        assert steps.steps_per_epoch == 7
        for epoch in (0, 1):
            batches = [b for step in range(7 * epoch, 7 * epoch + 7) for b in steps[step]]
            assert rows_of(batches) == sorted(tuple(row) for row in documents["input_ids"])
        assert rows_of(steps[0]) != rows_of(steps[7])

    def test_without_shuffling_the_order_is_that_of_the_file(self, documents):
        steps = TrainingSteps(documents, NextToken(), self.shape, seed=3, shuffle=False)
        assert rows_of(steps[1]) == sorted(tuple(row) for row in documents[10:20]["input_ids"])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_change_nothing(self, documents, workers):
        steps = self.steps(documents)
        for step, batches in enumerate(step_loader(steps, 9, workers)):
            for ours, expected in zip(batches, steps[step], strict=True):
                assert all(torch.equal(ours[name], expected[name]) for name in expected)
        assert step == 8

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_stream_is_the_file_in_its_order(self, text_file, tokenizer, documents, workers):
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = list(step_loader(StreamedSteps(stream, SpanCorruption(48, 0), self.shape), 9, workers))
        indexed = list(step_loader(self.steps(documents, shuffle=False), 9))
        assert [rows_of(batches) for batches in streamed] == [rows_of(batches) for batches in indexed]
