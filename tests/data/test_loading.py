from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.draws import permute
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, encode_questions, group_into_blocks, take
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.objectives import NextTokenPrediction, QuestionAnswering, SpanCorruption
from hf_mingpt.data.questions import Question
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.steps import Mixture, StreamedSteps, TrainingSteps, step_loader
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, PAD_ID

from ..conftest import LINES, TEXT, rows_of

ODD = "e\u0301 \u05e9\u05dc \u202eabc \U0001f469\u200d\U0001f467"  # combining, right to left, overridden, joined


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


class TestMixture:
    """Questions that join the documents of every step."""

    shape = BatchShape(5, 2)

    def questions(self, tokenizer, number=7):
        names = [TEXT[i : i + 3].replace("⁇", "a") for i in range(number)]
        return encode_questions([Question(f"Where was {name} born?", "London") for name in names], tokenizer, 48)

    def test_every_question_comes_as_often_as_the_others(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.3, seed=1)
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, mixture=mixture)
        assert steps.steps_per_epoch == 10  # seven documents and three questions each
        rows = [row for step in range(14) for row in rows_of(steps[step])]
        asked = Counter(row for row in rows if MASK_ID in row)
        assert set(asked.values()) == {6}
        assert len(asked) == 7
        first_epoch = [row for step in range(10) for row in rows_of(steps[step]) if MASK_ID not in row]
        assert sorted(first_epoch) == sorted(tuple(row) for row in documents["input_ids"])

    def test_of_questions_the_answer_is_learnt_and_of_documents_all(self, documents, tokenizer):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.5, seed=1)
        for batch in TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, mixture=mixture)[0]:
            for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
                learnt = tokenizer.decode(labels[labels != -100])
                expected = f"{MASK}London{MASK}" if MASK_ID in ids else tokenizer.decode(ids[ids != PAD_ID])
                assert learnt == expected

    def test_a_stream_is_joined_in_the_same_way(self, text_file, tokenizer, documents):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), 0.3, seed=1)
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = step_loader(StreamedSteps(stream, NextTokenPrediction(), self.shape, mixture=mixture), 12)
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, shuffle=False, mixture=mixture)
        assert [rows_of(batches) for batches in streamed] == [rows_of(steps[step]) for step in range(12)]

    def test_no_questions_are_an_error(self, tokenizer):
        with pytest.raises(ValueError, match="no examples to join"):
            Mixture(self.questions(tokenizer).select([]), QuestionAnswering(), 0.3, seed=1)

    @pytest.mark.parametrize("share", [0.01, 0.99])
    def test_a_share_that_is_nothing_or_all_is_an_error(self, documents, tokenizer, share):
        mixture = Mixture(self.questions(tokenizer), QuestionAnswering(), share, seed=1)
        with pytest.raises(ValueError, match=f"share of {share}"):
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

    def test_without_shuffling_the_order_is_that_of_the_file(self, documents):
        steps = TrainingSteps(documents, NextTokenPrediction(), self.shape, seed=3, shuffle=False)
        assert rows_of(steps[1]) == sorted(tuple(row) for row in documents[10:20]["input_ids"])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_workers_change_nothing(self, documents, workers):
        steps = self.steps(documents)
        for step, batches in enumerate(step_loader(steps, 9, workers)):
            for ours, expected in zip(batches, steps[step], strict=True):
                assert all(torch.equal(ours[name], expected[name]) for name in expected)
        assert step == 8

    @pytest.mark.parametrize("workers", [0, 1, 2])
    def test_a_stream_is_the_file_in_its_order(self, text_file, tokenizer, documents, workers):
        stream = encode_documents(load_texts(str(text_file), streaming=True), tokenizer)
        streamed = list(step_loader(StreamedSteps(stream, SpanCorruption(48, 0), self.shape), 9, workers))
        indexed = list(step_loader(self.steps(documents, shuffle=False), 9))
        assert [rows_of(batches) for batches in streamed] == [rows_of(batches) for batches in indexed]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_stream_of_several_files_is_split_among_no_workers(self, tokenizer, documents, workers):
        """`datasets` would give each of them some of the shards, if it were iterated over row by row."""
        shards = encode_documents(
            datasets.Dataset.from_dict({"text": LINES}).to_iterable_dataset(num_shards=4), tokenizer
        )
        streamed = list(step_loader(StreamedSteps(shards, SpanCorruption(48, 0), self.shape), 9, workers))
        indexed = list(step_loader(self.steps(documents, shuffle=False), 9))
        assert [rows_of(batches) for batches in streamed] == [rows_of(batches) for batches in indexed]


def letters_of(texts: list[str]) -> datasets.Dataset:
    """Documents whose tokens are the letters' place in the alphabet, from 10 on."""
    ids = np.array([ord(letter) - ord("a") + 10 for text in texts for letter in text])
    return datasets.Dataset(TokenSequences(ids, np.append(0, np.cumsum([len(text) for text in texts]))).to_table())


def written(batches) -> list[str]:
    return ["".join(chr(i - 10 + ord("a")) for i in row) for row in rows_of(batches)]


class TestByHand:
    @pytest.mark.parametrize(
        ("texts", "block_size", "blocks"),
        [
            (["abc", "d", "efg"], 5, ["abc\nd", "\nefg\n"]),
            (["abc", "d", "ef"], 5, ["abc\nd", "\nef\n"]),
            (["abc", "de"], 5, ["abc\nd", "e\n"]),
            (["abc", "d"], 5, ["abc\nd"]),  # of the line end alone nothing can be learnt
            (["abc"], 5, ["abc\n"]),
            (["a"], 2, ["a\n"]),
        ],
    )
    def test_blocks(self, texts, block_size, blocks):
        grouped = group_into_blocks(letters_of(texts), block_size, 2)["input_ids"]
        assert ["".join("\n" if i == 2 else chr(i + 87) for i in block) for block in grouped] == blocks

    def test_documents_of_a_step(self):
        documents = letters_of(list("abcdefg"))
        steps = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1, 3), seed=5, shuffle=False)
        assert steps.steps_per_epoch == 3
        assert [steps.index(step).tolist() for step in range(4)] == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2]]
        shuffled = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1, 3), seed=5)
        for step in range(6):
            epoch, place = step // 3, step % 3 * 3
            order = permute(np.arange(7), 7, seed=5, epoch=epoch)
            assert shuffled.index(step).tolist() == order[place : place + 3].tolist()
            assert written(shuffled[step]) == sorted("abcdefg"[i] for i in shuffled.index(step))

    def test_what_joins_a_step(self):
        """Of three a step each second one is of the mixture, in an order of its own."""
        mixture = Mixture(letters_of(list("vwxyz")), NextTokenPrediction(), 0.5, seed=8)
        orders = [permute(np.arange(5), 5, seed=8, epoch=epoch) for epoch in range(3)]
        series = "".join("vwxyz"[i] for order in orders for i in order)
        steps = TrainingSteps(
            letters_of(list("abcdefg")), NextTokenPrediction(), BatchShape(4), seed=5, mixture=mixture
        )
        for step in range(7):
            joined = [text for text in written(steps[step]) if text in "vwxyz"]
            assert joined == sorted(series[2 * step : 2 * step + 2])
        assert steps.documents_per_step == 2
        assert steps.steps_per_epoch == 4

    def test_each_example_is_drawn_with_its_epoch_and_place(self):
        seen = []

        class Seen(NextTokenPrediction):
            def __call__(self, examples, epoch, index):
                seen.append((epoch, index.tolist(), examples.token_ids.tolist()))
                return super().__call__(examples, epoch, index)

        mixture = Mixture(letters_of(list("xyz")), Seen(), 0.5, seed=8)
        mixture.rows(1, BatchShape(4))  # the last of one epoch, the first of another
        (first, second), orders = seen, [permute(np.arange(3), 3, seed=8, epoch=epoch) for epoch in range(2)]
        assert first == (0, [orders[0][2]], [orders[0][2] + 33])
        assert second == (1, [orders[1][0]], [orders[1][0] + 33])
        seen.clear()
        steps = TrainingSteps(letters_of(list("abc")), Seen(), BatchShape(2), seed=5, shuffle=False)
        assert [written(steps[step]) for step in (1, 2)] == [["c"], ["a", "b"]]
        assert seen == [(0, [2], [12]), (1, [0, 1], [10, 11])]
        seen.clear()
        stream = letters_of(list("abc")).to_iterable_dataset()
        assert len(list(step_loader(StreamedSteps(stream, Seen(), BatchShape(2)), 4))) == 4
        assert [(epoch, index) for epoch, index, _ in seen][:4] == [(0, [0, 1]), (0, [2]), (1, [0, 1]), (1, [2])]

    @pytest.mark.parametrize(("share", "total", "count"), [(0.5, 4, 2), (0.3, 10, 3), (0.1, 8, 1), (0.9, 8, 7)])
    def test_how_many_join_a_step(self, share, total, count):
        mixture = Mixture(letters_of(["a"]), NextTokenPrediction(), share, seed=0)
        assert mixture.count(BatchShape(total)) == count

    @pytest.mark.parametrize(("share", "count"), [(0.04, 0), (0.96, 8)])
    def test_none_or_all_are_an_error(self, share, count):
        with pytest.raises(ValueError, match=f"A share of {share} of the 8 examples of a step is {count}"):
            Mixture(letters_of(["a"]), NextTokenPrediction(), share, seed=0).count(BatchShape(8))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_steps_go_on_from_anywhere(self, workers):
        documents = letters_of(list("abcde"))
        steps = TrainingSteps(documents, NextTokenPrediction(), BatchShape(1), seed=0, shuffle=False)
        stream = StreamedSteps(documents.to_iterable_dataset(), NextTokenPrediction(), BatchShape(1))
        for source in (steps, stream):
            loaded = step_loader(source, 7, workers, start=3)
            assert [written(batches) for batches in loaded] == [["d"], ["e"], ["a"], ["b"]]

    def test_where_steps_start_draws_nothing_from_torch(self):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        next(iter(step_loader(TrainingSteps(letters_of(["a"]), NextTokenPrediction(), BatchShape(1), seed=0), 1)))
        assert torch.rand(1) == expected

    def test_sequences_are_taken_in_any_order(self):
        ids, offsets = take(letters_of(["ab", "", "c", "def"]), np.array([3, 0, 1, 3]))
        assert ids.tolist() == [13, 14, 15, 10, 11, 13, 14, 15]
        assert offsets.tolist() == [0, 3, 5, 5, 8]

    @pytest.mark.parametrize(("number", "dtype"), [(254, np.uint8), (255, np.uint16)])
    def test_a_token_takes_a_byte_if_it_can(self, number, dtype):
        letters = "".join(chr(0x4E00 + i) for i in range(number - 1))  # and PAD, MASK and the line end
        texts = datasets.Dataset.from_dict({"text": [letters]})
        encoded = encode_documents(texts, build_corpus_tokenizer(texts, 48))
        assert encoded.features["input_ids"].feature.dtype == np.dtype(dtype).name
        assert encoded["input_ids"][0][-1] == number + 1

    def test_a_question_may_fill_the_block(self, tokenizer):
        ids = encode_questions([Question("Where was Ada born?", "London")], tokenizer, 27)["input_ids"][0]
        assert tokenizer.decode(ids) == f"Where was Ada born?{MASK}London{MASK}"
        with pytest.raises(ValueError, match=r"Question 1, .* needs 27 tokens"):
            encode_questions([Question("Where was Ada born?", "London")], tokenizer, 26)

    def test_the_marks_of_a_vocabulary_file_count(self, tmp_path):
        (tmp_path / "more.txt").write_text("\ufeffbc\n", encoding="utf-8")
        texts = datasets.Dataset.from_dict({"text": ["a"]})
        tokenizer = build_corpus_tokenizer(texts, 48, str(tmp_path / "more.txt"))
        assert tokenizer.get_vocab() == {"□": 0, MASK: 1, "\n": 2, "a": 3, "b": 4, "c": 5}
