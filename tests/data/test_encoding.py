import datasets
import numpy as np
import pytest
from transformers import ByT5Tokenizer

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.encoding import (
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    group_into_blocks,
    iterate,
    read_characters,
    separator_ids,
    take,
)
from hf_mingpt.data.questions import Question
from hf_mingpt.tokenization_mingpt import MASK, PAD, PAD_ID, add_special_tokens

from ..conftest import LINES
from .other_tokenizers import KINDS, byte_bpe, word_piece
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


class TestOtherTokenizers:
    TEXTS = ("Ada. Ada was born in London.", "", "Zoë born in Æ")

    def encode(self, tokenizer, texts=TEXTS, **options):
        return encode_documents(datasets.Dataset.from_dict({"text": list(texts)}), tokenizer, **options)

    def test_literal(self):
        tokenizer = byte_bpe()
        documents = take(self.encode(tokenizer, ["Ada in London", "Z"], aligned=True), np.arange(2))
        tokens = tokenizer.convert_ids_to_tokens(documents.token_ids.tolist())
        assert tokens == ["ĠAda", "Ġin", "ĠLondon", "Ġ", "Z"]
        assert documents.offsets.tolist() == [0, 3, 5]
        assert documents.alignment.starts.tolist() == [0, 4, 7, 13, 13]
        assert documents.alignment.ends.tolist() == [3, 6, 13, 13, 14]

    @pytest.mark.parametrize("kind", KINDS)
    def test_equals_the_tokenizer(self, kind):
        tokenizer = KINDS[kind]("".join(self.TEXTS))
        expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in self.TEXTS if text]
        for aligned in (False, True):
            encoded = self.encode(tokenizer, aligned=aligned)
            assert encoded["input_ids"][:] == expected
            assert encoded.column_names == ["input_ids"] + ["characters", "token_starts", "token_ends"] * aligned
            assert encoded.features["input_ids"].feature.dtype == ("uint8" if len(tokenizer) <= 256 else "uint16")

    def test_a_stream_equals_a_loaded_dataset(self):
        texts = datasets.Dataset.from_dict({"text": list(self.TEXTS)})
        for aligned in (False, True):
            streamed = encode_documents(texts.to_iterable_dataset(), byte_bpe(), aligned=aligned)
            assert list(streamed) == list(encode_documents(texts, byte_bpe(), aligned=aligned))

    def test_documents_without_tokens_are_dropped(self):
        encoded = self.encode(word_piece("abc"), ["a", " \u200b\x07", "c"], aligned=True)
        assert encoded["characters"][:] == ["a", "c"]
        with pytest.raises(ValueError, match="no documents: all of its lines are empty, or have no tokens"):
            self.encode(word_piece("abc"), ["\x07"])

    @pytest.mark.parametrize(
        ("kind", "text", "said"),
        [
            ("byte-level BPE", "in ⁇", "Document 2: character 4, '⁇', is a mark of the data format"),
            ("WordPiece", "a[PAD]", r"Document 2: character 2, '\[PAD\]', is a mark of the data format"),
            ("characters and a token", "Ad□", "Document 2: character 3, '□', is a mark of the data format"),
            ("characters and a token", "AdX", "Document 2: character 3, 'X', is not in the vocabulary"),
        ],
    )
    def test_errors_name_the_token(self, kind, text, said):
        with pytest.raises(ValueError, match=said):
            self.encode(KINDS[kind]("".join(self.TEXTS)), ["Ada", text])

    def test_a_mark_that_ends_texts_may_stand_in_a_text(self):
        tokenizer = byte_bpe()
        tokenizer.eos_token = PAD
        assert self.encode(tokenizer, ["Ada□"])["input_ids"][0][-1] == PAD_ID
        with pytest.raises(ValueError, match="'⁇', is a mark"):
            self.encode(tokenizer, ["Ada⁇"])

    def test_a_slow_tokenizer_does_not_know_where_its_tokens_are(self):
        tokenizer = ByT5Tokenizer()
        add_special_tokens(tokenizer)
        assert self.encode(tokenizer, ["Ada"])["input_ids"][:] == [[68, 103, 100]]
        with pytest.raises(ValueError, match="a ByT5Tokenizer, does not say it: use a fast tokenizer"):
            self.encode(tokenizer, ["Ada"], aligned=True)

    def test_characters_need_no_tokenizer(self):
        dataset, alphabet = datasets.Dataset.from_dict({"text": ["Ada□", "", "𝔅o"]}), Alphabet.of_unicode()
        (characters,) = read_characters(dataset, alphabet)
        assert (alphabet.decode(characters.token_ids), characters.offsets.tolist()) == ("Ada□𝔅o", [0, 4, 6])
        with pytest.raises(ValueError, match=r"Document 2 is null"):
            list(read_characters(datasets.Dataset.from_dict({"text": ["Ada", None]}), alphabet))

    def test_questions(self):
        """A name has the same tokens in a title, in a question and as an answer."""
        tokenizer = byte_bpe()
        (ids,) = encode_questions([Question("born in London", "Ada")], tokenizer, 48)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == ["Ġborn", "Ġin", "ĠLondon", MASK, "ĠAda", MASK]
        with pytest.raises(ValueError, match=r"Question 1, .* needs 6 tokens"):
            encode_questions([Question("born in London", "Ada")], tokenizer, 5)
        for question in (Question("Ada", "\x07"), Question("\x07", "Ada")):
            with pytest.raises(ValueError, match=r"Question 1, .*it has no tokens with this tokenizer"):
                encode_questions([question], word_piece("ad"), 48)

    def test_answers_that_the_tokenizer_changes_are_counted(self, capsys):
        questions = [Question("a", answer) for answer in ("Ada", " d ", "D a")]
        encode_questions(questions, byte_bpe(), 48)
        assert capsys.readouterr().err == ""
        encode_questions(questions, word_piece("ad"), 48)
        assert "changes 2 of 3 answers, such as 'Ada' to 'ada', and no prediction" in capsys.readouterr().err

    def test_blocks_end_documents_as_the_tokenizer_does(self):
        tokenizer = byte_bpe()
        assert tokenizer.convert_ids_to_tokens(separator_ids(tokenizer)) == ["Ġ", "Ċ"]
        blocks = group_into_blocks(self.encode(tokenizer, ["Ada", "in"]), 3, separator_ids(tokenizer))["input_ids"]
        assert [tokenizer.convert_ids_to_tokens(block) for block in blocks] == [["ĠAda", "Ġ", "Ċ"], ["Ġin", "Ġ", "Ċ"]]
        assert separator_ids(word_piece("a")) == []
        tokenizer.eos_token = MASK  # of a finetuned run
        assert len(separator_ids(tokenizer)) == 2
        tokenizer.add_special_tokens({"eos_token": "<end>"})
        assert separator_ids(tokenizer) == [tokenizer.eos_token_id]
