"""A vocabulary that lacks characters says which, or gets them."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_mingpt.data.vocabulary import complete_vocabulary

TEXTS = ["Where was Ωmega born?⁇x", "Ada", "Ω and Ξ"]


def test_missing_characters_are_named_with_the_number_of_texts(tokenizer):
    said = (
        r"2 of 3 questions have characters that the vocabulary of the model lacks: 'Ω' \(U\+03A9\), .*'Ξ' \(U\+039E\)"
    )
    with pytest.raises(ValueError, match=said) as error:
        complete_vocabulary(tokenizer, TEXTS, extend=False)
    assert "Give --extend_vocabulary" in str(error.value)
    with pytest.raises(ValueError, match=r"The text has characters .*: 'Ξ'"):
        complete_vocabulary(tokenizer, ["Ξ"], extend=False, noun="text")
    with pytest.raises(ValueError, match=r"and 10 more\. Give"):
        complete_vocabulary(tokenizer, ["".join(map(chr, range(0x3B1, 0x3B1 + 20)))], extend=False)


def test_a_complete_vocabulary_stays_as_it_is(tokenizer):
    assert complete_vocabulary(tokenizer, ["Ada was born"], extend=True) is tokenizer


def test_new_characters_get_new_ids(tokenizer, tmp_path):
    longer = complete_vocabulary(tokenizer, TEXTS, extend=True)
    ids, more = tokenizer.get_vocab(), longer.get_vocab()
    assert {character: more[character] for character in ids} == ids
    new = sorted(set("".join(TEXTS)) - ids.keys())
    assert [more[character] for character in new] == list(range(len(ids), len(ids) + len(new)))
    assert longer.decode(longer("Ω Ada")["input_ids"]) == "Ω Ada"
    assert longer.model_max_length == tokenizer.model_max_length


def test_another_tokenizer_lacks_nothing():
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")))
    assert complete_vocabulary(tokenizer, ["Ω"], extend=True) is tokenizer
