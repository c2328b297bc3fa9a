"""Objectives on the tokens of tokenizers that are not of characters."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.answer_extraction import learn_extractors
from hf_mingpt.data.encoding import (
    encode_documents,
    encode_texts_aligned,
    iterate,
    take,
)
from hf_mingpt.data.masking_policy import LearnedPolicy
from hf_mingpt.data.objectives import (
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from hf_mingpt.data.salient_spans import find_salient_spans
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.tokenization_mingpt import MASK, PAD_ID, SpecialTokens

from .biographies import LINES as BIOGRAPHIES
from .biographies import QUESTIONS, make_tokenizer
from .other_tokenizers import KINDS, byte_bpe, word_piece


class TestOtherTokenizers:
    @pytest.mark.parametrize("trims", [True, False])
    def test_a_name_is_masked_whole_with_its_space(self, trims):
        """London is the only name that the title lacks."""
        tokenizer, number = byte_bpe(trims=trims), 40
        documents = take(encode(["Ada. Ada, born in London, saw Ada."] * number, tokenizer), np.arange(number))

        def masked(*max_context):
            options = {"tokenizer": tokenizer, "probability": 1.0, "max_context": max_context}
            sequences = SalientSpanMasking(32, 0, **options)(documents, 0, np.arange(number))
            batch = sequences.pad(np.arange(number), special_tokens=SpecialTokens.of(tokenizer))
            rows = zip(batch["input_ids"].tolist(), (batch["labels"] == -100).sum(axis=1).tolist(), strict=True)
            return {(*tokenizer.convert_ids_to_tokens([i for i in row if i != PAD_ID]), n) for row, n in rows}

        title, answer = ("ĠAda", "."), (MASK, "ĠLondon", MASK)
        assert masked(0, 0) == {(*title, MASK, *answer, 3)}  # labels from the second MASK on
        some = {(*title, *before, MASK, *after, *answer) for before in ((), ("Ġin",)) for after in ((), (",",))}
        assert {row[:-1] for row in masked(1, 1)} == some

    def test_a_random_window_keeps_the_title(self):
        tokenizer, seen = byte_bpe(), []

        class Seen(SpanCorruption):
            def __call__(self, examples, epoch, index):
                seen.append(examples)
                return super().__call__(examples, epoch, index)

        documents = take(encode(["Ada. " + "in London " * 40], tokenizer), np.arange(1))
        for epoch in range(30):
            RandomWindow(Seen(16, 0), tokenizer)(documents, epoch, np.arange(1))
        assert {tuple(tokenizer.convert_ids_to_tokens(x.token_ids[:2].tolist())) for x in seen} == {("ĠAda", ".")}
        assert len({len(window.token_ids) for window in seen}) > 10

    def test_the_learned_policy_picks_in_the_characters(self):
        """Its picks are places in the text, which are the same with every tokenizer."""
        lines, questions = BIOGRAPHIES, QUESTIONS[:8]
        picked = []
        for tokenizer in (make_tokenizer(), byte_bpe(), word_piece("".join([*BIOGRAPHIES, "?"]))):
            batches = [documents.characters for documents in iterate(encode(lines, tokenizer))]
            extractors = learn_extractors(batches, questions, Alphabet.of(tokenizer))
            policy = LearnedPolicy(list(extractors.values()), batches)
            picked.append((policy.starts.tolist(), policy.lengths.tolist(), policy.offsets.tolist()))
        assert picked[0] == picked[1] == picked[2]
        assert len(picked[0][0]) > 10

    def test_tokens_without_their_text_are_refused(self):
        tokenizer, tokens = byte_bpe(), TokenSequences(np.arange(2, 9), np.array([0, 7]))
        for objective in (
            SalientSpanMasking(16, 0, tokenizer=tokenizer, probability=1.0),
            RandomWindow(SpanCorruption(16, 0), tokenizer),
        ):
            with pytest.raises(ValueError, match="unknown: encode_documents"):
                objective(tokens, 0, np.arange(1))

    @pytest.mark.parametrize("kind", KINDS)
    @given(st.text(st.sampled_from("Ab. 1-Zé,LondonAda李"), min_size=1, max_size=60))
    @settings(deadline=None, max_examples=50)
    def test_mapped_spans_are_the_fewest_tokens_that_cover_them(self, kind, text):
        text = f"Ada. {text}"
        tokenizer = TOKENIZERS.setdefault(kind, KINDS[kind]("Ab. 1-Zé,LondonAda李"))
        documents = encode_texts_aligned([text], tokenizer)
        spans = find_salient_spans(documents.characters, Alphabet.of(tokenizer).classes)
        for start, length, first, number in zip(
            spans.starts, spans.lengths, *documents.cover(spans.starts, spans.lengths), strict=True
        ):
            span, ids = text[start : start + length], documents.token_ids[first : first + number]
            starts, ends = documents.alignment.starts, documents.alignment.ends
            assert starts[first] <= start < ends[first]
            assert starts[first + number - 1] < start + length <= ends[first + number - 1]
            if "[UNK]" not in (decoded := tokenizer.decode(ids)):
                assert plain(span) in plain(decoded)
        (title,) = documents.count_covered(spans.titles)
        assert plain(tokenizer.decode(documents.token_ids[:title])) == "ada."


TOKENIZERS: dict = {}


def plain(text):
    """What WordPiece leaves of a text."""
    return text.replace(" ", "").replace("é", "e").lower()


def encode(lines, tokenizer):
    return encode_documents(datasets.Dataset.from_dict({"text": lines}), tokenizer, aligned=True)
