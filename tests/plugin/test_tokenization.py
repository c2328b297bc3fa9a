import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from hf_mingpt.data.encoding import load_tokenizer
from hf_mingpt.system.files import check_utf8
from hf_mingpt.tokenization_mingpt import (
    MASK,
    MASK_ID,
    PAD,
    PAD_ID,
    SpecialTokens,
    add_special_tokens,
    build_tokenizer,
    build_vocabulary,
    character_table,
    check_marks,
    code_points,
    decode_each,
    encode_texts,
    find_bad_character,
    find_bad_text,
    is_character_tokenizer,
    tokenize,
    vocabulary_size,
)

from ..conftest import TEXT
from ..data.other_tokenizers import byte_bpe, with_an_added_token, word_piece


def test_vocabulary_is_pad_mask_and_sorted_characters():
    assert build_vocabulary([["ba", "é\n", "a"]]) == [PAD, MASK, "\n", "a", "b", "é"]


@pytest.mark.parametrize("reserved", [PAD, MASK])
def test_reserved_characters_in_the_corpus_are_an_error(reserved):
    with pytest.raises(ValueError, match=f"U\\+{ord(reserved):04X}"):
        build_vocabulary([["fine", f"not {reserved} fine"]])


def test_auto_tokenizer_loads_it_without_our_code(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = f"Zoë\n{MASK}{PAD} Ada"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.pad_token_id, loaded.mask_token_id, loaded.unk_token_id) == (PAD_ID, MASK_ID, PAD_ID)
    assert (loaded.model_max_length, loaded.padding_side) == (48, "left")
    assert not list(tmp_path.glob("*.py"))


@given(st.text(st.sampled_from([*sorted(set(TEXT)), MASK, PAD])))
def test_decoding_inverts_encoding(text):
    tokenizer = build_tokenizer(build_vocabulary([[TEXT]]), 48)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(st.text())
def test_each_character_is_one_token_and_unknown_ones_are_pad(text):
    tokenizer = build_tokenizer(build_vocabulary([[TEXT]]), 48)
    ids = tokenizer(text)["input_ids"]
    known = set(TEXT) | {MASK}
    assert [i == PAD_ID for i in ids] == [character not in known for character in text]


@given(st.lists(st.text(st.sampled_from([*sorted(set(TEXT)), MASK]))))
def test_encode_texts_agrees_with_the_tokenizer(texts):
    tokenizer = build_tokenizer(build_vocabulary([[TEXT]]), 48)
    ids, offsets = encode_texts(texts, character_table(tokenizer))
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert ids[start:end].tolist() == tokenizer(text)["input_ids"]


def test_the_first_bad_character_is_found(tokenizer):
    table = character_table(tokenizer)
    assert find_bad_character(["Ada", "London"], table) is None
    index, message = find_bad_character(["Ada", "", "in X"], table)
    assert (index, message) == (2, "character 4, 'X' (U+0058), is not in the vocabulary")
    index, message = find_bad_character([f"A{MASK}"], table)
    assert "mark of the data format" in message


def test_a_vocabulary_without_marks_is_an_error():
    with pytest.raises(ValueError, match="starts with"):
        build_tokenizer(["a", "b"], 8)


def test_offsets_count_characters(tokenizer):
    encoded = tokenizer("Zoë in", return_offsets_mapping=True)
    assert encoded["offset_mapping"] == [(i, i + 1) for i in range(6)]
    assert np.array(tokenizer(["Ada", "in"], padding=True)["input_ids"])[1, 0] == PAD_ID


def test_word_ids():
    tokenizer = build_tokenizer(build_vocabulary([["Ada was born."]]), 32)
    assert tokenizer("Ada was born.").word_ids() == [0] * 3 + [1] * 4 + [2] * 6


class TestOtherTokenizers:
    """A tokenizer that is not a character tokenizer of this package is taken as any other."""

    def saved(self, tokenizer, folder, change):
        tokenizer.save_pretrained(folder)
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content["model"]["vocab"])
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return str(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda ids: ids.update(ab=ids.pop("a")), "the token 'ab', which is not a single character"),
            (lambda ids: ids.update(a=500), "has 39 tokens and the id 500"),
            (lambda ids: ids.update({PAD: MASK_ID, MASK: PAD_ID}), "as ids 1 and 0, not as 0 and 1"),
        ],
    )
    def test_have_no_table(self, tokenizer, tmp_path, change, said):
        assert is_character_tokenizer(tokenizer)
        other = load_tokenizer(self.saved(tokenizer, tmp_path, change))
        assert not is_character_tokenizer(other)
        with pytest.raises(ValueError, match=said):
            character_table(other)

    def test_equal_ids_are_refused(self, tokenizer, tmp_path):
        folder = self.saved(tokenizer, tmp_path, lambda ids: ids.update(a=ids["b"]))
        with pytest.raises(ValueError, match=r"the tokens '[ab]' and '[ab]' have the same id"):
            load_tokenizer(folder)

    def test_a_class_that_wants_more_than_text_is_refused(self, tmp_path):
        (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LayoutLMv2Tokenizer"}')
        with pytest.raises(ValueError, match=r"a LayoutLMv2Tokenizer, cannot be used \(.*boxes\): use one that"):
            load_tokenizer(str(tmp_path))

    @pytest.mark.parametrize("content", ["", "[]", "null", "{}", "[" * 100_000, "9" * 5_000])
    def test_damaged_files_are_reported(self, tokenizer, tmp_path, content):
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="has no readable tokenizer"):
            load_tokenizer(str(tmp_path))


def test_a_mark_in_the_corpus_is_reported_with_document_and_character():
    with pytest.raises(ValueError, match="Document 4: character 3, '⁇'"):
        build_vocabulary([["a", ""], ["b", f"cd{MASK}"]])


def test_a_mark_in_a_text_is_reported_with_its_line():
    check_marks("a\nb", "x")
    with pytest.raises(ValueError, match=r"x, line 2: '□' \(U\+25A1\) is a mark"):
        check_marks(f"a\nb{PAD}\n", "x")


def test_the_table_covers_every_code_point():
    table = character_table(build_tokenizer([PAD, MASK, "a", "\U0010ffff"], 8))
    assert table.shape == (0x110000,)
    assert table[[ord("a"), 0x10FFFF, ord(PAD), ord(MASK)]].tolist() == [2, 3, 0, 1]
    assert (table == -1).sum() == 0x110000 - 4
    assert build_vocabulary([["\U0010ffff"]]) == [PAD, MASK, "\n", "\U0010ffff"]


@pytest.mark.parametrize("slicing", [slice(0, 4), slice(1, 3), slice(2, 3), slice(3, 4), slice(4, 4)])
def test_code_points_of_a_slice_of_an_array(slicing):
    texts = ["aé", None, "\U0001f469b", "c"]
    part = ["" if text is None else text for text in texts[slicing]]
    for array in (pa.array(texts)[slicing], pa.array(texts, pa.large_string())[slicing]):
        points, offsets = code_points(array)
        assert "".join(map(chr, points)) == "".join(part)
        assert np.diff(offsets).tolist() == [len(text) for text in part]
        assert offsets[0] == 0


def test_the_position_of_a_bad_character():
    table = character_table(build_tokenizer([PAD, MASK, "a", "b"], 8))
    for texts, place in ((["Xa"], (0, 1)), (["", "", "ab", "aX"], (3, 2)), (["a", "X", "X"], (1, 1))):
        index, message = find_bad_character(texts, table)
        assert (index, message) == (place[0], f"character {place[1]}, 'X' (U+0058), is not in the vocabulary")
    assert find_bad_character([f"ab{PAD}"], table) == (
        0,
        f"character 3, '{PAD}' (U+25A1), is a mark of the data format",
    )
    assert find_bad_character([], table) is None


@pytest.mark.parametrize(
    ("content", "line", "byte"), [(b"\xff", 1, 0), (b"a\n\n\xff\n", 3, 3), (b"a" * 2**20 + b"bc\nd\xff", 2, 2**20 + 4)]
)
def test_a_byte_that_is_not_utf8(tmp_path, content, line, byte):
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(ValueError, match=rf"line {line}: not UTF-8 \(byte {byte}\)"):
        check_utf8(tmp_path / "bad")
    (tmp_path / "good").write_bytes("é".encode() * 2**20 + b"\n")
    check_utf8(tmp_path / "good")


def test_a_vocabulary_with_one_mark_is_an_error():
    with pytest.raises(ValueError, match=rf"this one with \['{PAD}', 'a'\]"):
        build_tokenizer([PAD, "a", "b"], 8)


class TestSpecialTokens:
    def test_those_of_the_tokenizer_are_kept(self, tokenizer):
        assert add_special_tokens(tokenizer) == SpecialTokens() == (PAD_ID, MASK_ID)
        pieces = word_piece("abc")
        size = len(pieces)
        assert add_special_tokens(pieces) == (3, 4) == tuple(pieces.convert_tokens_to_ids(["[PAD]", "[MASK]"]))
        assert len(pieces) == vocabulary_size(pieces) == size

    def test_missing_ones_are_added(self):
        tokenizer = byte_bpe(marks=False)
        with pytest.raises(ValueError, match="has no pad token: finetune the model first"):
            SpecialTokens.of(tokenizer)
        size = len(tokenizer)
        assert add_special_tokens(tokenizer) == (size, size + 1)
        assert tokenizer(f"Ada{MASK}{PAD}")["input_ids"][-2:] == [size + 1, size]

    def test_a_tokenizer_without_a_place_for_them(self):
        class Closed(type(byte_bpe())):
            def add_special_tokens(self, *arguments, **options):
                raise NotImplementedError

        tokenizer = byte_bpe(marks=False)
        tokenizer.__class__ = Closed
        with pytest.raises(ValueError, match="a Closed, has no pad_token and no mask_token, and none can be added"):
            add_special_tokens(tokenizer)

    def test_a_tokenizer_that_has_no_such_attribute(self, tmp_path, monkeypatch):
        """As the one of mistral-common, which has a pad token alone."""

        class Closed(type(byte_bpe())):
            def __getattr__(self, name):
                if name == "mask_token_id":
                    raise AttributeError(f"Closed has no attribute {name}")
                return super().__getattr__(name)

            def add_special_tokens(self, *arguments, **options):
                raise NotImplementedError

        tokenizer = byte_bpe(marks=False)
        tokenizer.pad_token = "a"
        tokenizer.__class__ = Closed
        with pytest.raises(ValueError, match="a Closed, has no mask_token, and none can be added: use a tokenizer"):
            add_special_tokens(tokenizer)
        monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: tokenizer)
        with pytest.raises(ValueError, match=r"its tokenizer, a Closed, cannot be used \(.*mask_token_id.*\)"):
            load_tokenizer(str(tmp_path))

    def test_pad_and_mask_must_differ(self):
        tokenizer = word_piece("a")
        tokenizer.pad_token = "[MASK]"
        with pytest.raises(ValueError, match=r"'\[MASK\]' as pad token and as mask token"):
            add_special_tokens(tokenizer)


def test_bad_texts_with_other_tokenizers():
    tokenizer = byte_bpe()
    assert find_bad_text(["Ada", "Ω"], tokenizer) is None  # bytes
    assert find_bad_text([], tokenizer) is None
    assert find_bad_text(["Ada", f"in{MASK}"], tokenizer) == (1, f"character 3, {MASK!r}, is a mark of the data format")
    assert find_bad_text(["a", "\x07"], word_piece("a")) == (1, "it has no tokens with this tokenizer")
    slow = ByT5Tokenizer()
    add_special_tokens(slow)
    assert find_bad_text(["Ada", f"in{MASK}"], slow) == (1, f"its token {MASK!r} is a mark of the data format")
    with_token = with_an_added_token("Ada")
    assert find_bad_text(["Ada X"], with_token) == (0, "character 4, ' ', is not in the vocabulary")


def test_a_text_that_a_tokenizer_fails_on_is_named():
    words = Tokenizer(models.WordLevel({"Ada": 0, "Byron": 1}))  # without an unknown token
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert tokenize(["Ada Byron", "Byron"], tokenizer)["input_ids"] == [[0, 1], [1]]
    with pytest.raises(ValueError, match=r"a TokenizersBackend, fails on 'Ada Mir' \(.*\): use another"):
        tokenize(["Ada Byron", "Ada Mir", "Bra"], tokenizer)


def test_each_token_keeps_the_space_before_it():
    vocabulary = {"<unk>": 0, "▁Ada": 1, "▁was": 2, "s": 3}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert words.decode([1]) == "Ada"
    assert decode_each([1, 2, 3], words) == [" Ada", " was", "s"]
    pieces = word_piece("adson")
    assert "".join(decode_each(pieces("ada son", add_special_tokens=False)["input_ids"], pieces)) == " ada son"
    for tokenizer in (byte_bpe(), build_tokenizer(build_vocabulary([["éA \n"]]), 128)):
        ids = tokenizer("A A", add_special_tokens=False)["input_ids"]
        assert "".join(decode_each(ids, tokenizer)) == tokenizer.decode(ids)
