"""The characters of a text as ids: those of a character tokenizer, and code points for every other tokenizer."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.tokenization_mingpt import MASK, PAD, build_tokenizer, is_character_tokenizer


def byte_level():
    """Its tokens are single characters, as those of a character tokenizer, but they stand for bytes."""
    vocabulary = {token: i for i, token in enumerate([PAD, MASK, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, mask_token=MASK)


def test_the_ids_of_a_character_tokenizer():
    alphabet = Alphabet.of(build_tokenizer([PAD, MASK, " ", ".", "A", "b"], 8))
    ids, offsets = alphabet.encode(["Ab. ", "", "bX"])
    assert ids.tolist() == [4, 5, 3, 2, 5, -1]
    assert offsets.tolist() == [0, 4, 4, 6]
    assert alphabet.decode(ids[:4]) == "Ab. "
    assert (alphabet.classes.stop_id, alphabet.classes.space_id, alphabet.classes.open_id) == (3, 2, 0)
    assert alphabet.classes.upper.tolist() == [False] * 4 + [True, False]


def test_the_code_points_of_every_other_tokenizer():
    tokenizer = byte_level()
    assert not is_character_tokenizer(tokenizer)
    alphabet = Alphabet.of(tokenizer)
    assert alphabet.encode(["Aé", "\U0001f469"])[0].tolist() == [0x41, 0xE9, 0x1F469]
    assert [chr(i) for i in alphabet.classes[3:]] == [".", " ", "(", ")", ",", "-"]
    assert [bool(alphabet.classes.upper[ord(one)]) for one in "Éé1-"] == [True, False, False, False]
    assert [bool(alphabet.classes.word[ord(one)]) for one in "Éé1-_ "] == [True, True, True, True, False, False]


def test_a_character_tokenizer_with_an_added_token_is_another_one():
    tokenizer = build_tokenizer([PAD, MASK, "a"], 8)
    assert is_character_tokenizer(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert not is_character_tokenizer(tokenizer)
    assert Alphabet.of(tokenizer).encode(["a"])[0].tolist() == [ord("a")]


@given(st.lists(st.text()))
@settings(deadline=None)  # the first example makes the alphabet of all code points
def test_decoding_inverts_encoding(texts):
    alphabet = Alphabet.of(byte_level())
    ids, offsets = alphabet.encode(texts)
    assert [alphabet.decode(ids[a:b]) for a, b in pairwise(offsets)] == texts
    assert np.array_equal(ids, [ord(character) for text in texts for character in text])
