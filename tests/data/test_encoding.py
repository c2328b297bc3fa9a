import datasets
import numpy as np
import pytest

from hf_mingpt.data.encoding import (
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    group_into_blocks,
    iterate,
    separator_ids,
    take,
)
from hf_mingpt.data.questions import Question
from hf_mingpt.tokenization_mingpt import MASK

from ..conftest import LINES
from .texts import documents_of


def encoded(texts: list[str]) -> datasets.Dataset:
    return datasets.Dataset(documents_of(texts).to_table())


class TestEncoding:
    def test_a_null_in_a_dataset_is_refused_with_its_row(self, tokenizer):
        missing = datasets.Dataset.from_dict({"text": ["Ada", None]})
        for read in (lambda: build_corpus_tokenizer(missing, 48), lambda: encode_documents(missing, tokenizer)):
            with pytest.raises(ValueError, match="Document 2 is null"):
                read()

    def test_a_dataset_without_documents_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="no documents"):
            encode_documents(datasets.Dataset.from_dict({"text": ["", ""]}), tokenizer)

    def test_equals_the_tokenizer(self, documents, tokenizer):
        assert documents["input_ids"][:] == [tokenizer(line)["input_ids"] for line in LINES]

    def test_empty_documents_are_dropped(self, tokenizer):
        encoded = encode_documents(datasets.Dataset.from_dict({"text": ["Ada", "", "in"]}), tokenizer)
        assert [len(row) for row in encoded["input_ids"]] == [3, 2]

    @pytest.mark.parametrize("bad", ["X", MASK])
    def test_errors_name_the_character(self, tokenizer, bad):
        texts = datasets.Dataset.from_dict({"text": ["Ada", f"in {bad}"]})
        with pytest.raises(ValueError, match=f"Document 2: character 4, '{bad}'"):
            encode_documents(texts, tokenizer)

    def test_errors_name_the_question(self, tokenizer):
        questions = [Question("Where was Ada born?", "London"), Question("Where was Ada Byron born?", "London")]
        with pytest.raises(ValueError, match=r"Question 2, .* needs 33 tokens"):
            encode_questions(questions, tokenizer, 32)
        with pytest.raises(ValueError, match=r"Question 1.*'X'"):
            encode_questions([Question("Where was X born?", "London")], tokenizer, 48)

    def test_blocks_hold_the_whole_text(self, documents, tokenizer):
        blocks = group_into_blocks(documents, 48, separator_ids(tokenizer))["input_ids"]
        assert {len(block) for block in blocks[:-1]} == {48}
        assert tokenizer.decode([i for block in blocks for i in block]) == "".join(f"{line}\n" for line in LINES)

    @pytest.mark.parametrize(
        ("texts", "block_size", "blocks"),
        [
            (["abc", "d", "efg"], 5, ["abc\nd", "\nefg\n"]),
            (["abc", "d", "ef"], 5, ["abc\nd", "\nef\n"]),
            (["abc", "de"], 5, ["abc\nd", "e\n"]),
            (["abc", "d"], 5, ["abc\nd"]),  # a newline alone has nothing to predict
            (["abc"], 5, ["abc\n"]),
            (["a"], 2, ["a\n"]),
        ],
    )
    def test_blocks(self, texts, block_size, blocks):
        grouped = group_into_blocks(encoded(texts), block_size, [ord("\n")])["input_ids"]
        assert ["".join(map(chr, block)) for block in grouped] == blocks

    def test_take_in_any_order(self):
        ids, offsets, _ = take(encoded(["ab", "", "c", "def"]), np.array([3, 0, 1, 3]))
        assert "".join(map(chr, ids)) == "defabdef"
        assert offsets.tolist() == [0, 3, 5, 5, 8]

    def test_iterate(self):
        (documents,) = iterate(encoded(["ab", "", "c"]))
        assert documents.offsets.tolist() == [0, 2, 2, 3]

    @pytest.mark.parametrize(("number", "dtype"), [(254, np.uint8), (255, np.uint16)])
    def test_a_token_takes_a_byte_if_the_vocabulary_allows(self, number, dtype):
        characters = "".join(chr(0x4E00 + i) for i in range(number - 1))  # besides PAD, MASK and the newline
        texts = datasets.Dataset.from_dict({"text": [characters]})
        encoded = encode_documents(texts, build_corpus_tokenizer(texts, 48))
        assert encoded.features["input_ids"].feature.dtype == np.dtype(dtype).name
        assert encoded["input_ids"][0][-1] == number + 1

    def test_a_question_may_fill_the_context(self, tokenizer):
        ids = encode_questions([Question("Where was Ada born?", "London")], tokenizer, 27)["input_ids"][0]
        assert tokenizer.decode(ids) == f"Where was Ada born?{MASK}London{MASK}"
        with pytest.raises(ValueError, match=r"Question 1, .* needs 27 tokens"):
            encode_questions([Question("Where was Ada born?", "London")], tokenizer, 26)

    def test_a_vocabulary_file_adds_its_characters(self, tmp_path):
        (tmp_path / "more.txt").write_text("\ufeffbc\n", encoding="utf-8")
        texts = datasets.Dataset.from_dict({"text": ["a"]})
        tokenizer = build_corpus_tokenizer(texts, 48, str(tmp_path / "more.txt"))
        assert tokenizer.get_vocab() == {"□": 0, MASK: 1, "\n": 2, "a": 3, "b": 4, "c": 5}
