"""Small biographies, with a question about each, for the tests of extractors and masking policies."""

import datasets
import numpy as np

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, take
from hf_mingpt.data.questions import Question

PLACES = ["Rome", "New York", "Oslo", "Lima", "Bath", "Kiel"]
NAMES = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Ash", "Birk", "Cole", "Drew", "Elm")]


def biographies():
    """Each names a birthplace, and a place of study before or after it."""
    for i, name in enumerate(NAMES):
        born, studied = PLACES[i % 6], PLACES[(i + 1 + i // 6) % 6]
        facts = [f"born in {born}", f"studied at {studied}"]
        yield f"{name}. {name}, {' and '.join(facts[:: 1 if i % 2 else -1])}.", born


LINES, BORN = map(list, zip(*biographies(), strict=True))
QUESTIONS = [Question(question_about(name), born) for name, born in zip(NAMES, BORN, strict=True)]


def make_tokenizer(*more):
    return build_corpus_tokenizer(datasets.Dataset.from_dict({"text": [*LINES, "Where was (1234567890)?", *more]}), 128)


def encode(lines, tokenizer):
    return take(encode_documents(datasets.Dataset.from_dict({"text": lines}), tokenizer), np.arange(len(lines)))


def encode_batches(lines, tokenizer, batch_size):
    return [encode(lines[i : i + batch_size], tokenizer) for i in range(0, len(lines), batch_size)]


def spans_as_text(spans, tokenizer):
    ids = spans.documents.token_ids
    return [tokenizer.decode(ids[a : a + n]) for a, n in zip(spans.starts, spans.lengths, strict=True)]
