"""Which spans a masking policy picks."""

import numpy as np
import pytest

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.answer_extraction import AnswerExtractor, learn_extractors
from hf_mingpt.data.masking_policy import AnswerPolicy, LearnedPolicy, is_most_probable
from hf_mingpt.data.questions import Question
from hf_mingpt.data.salient_spans import find_salient_spans

from .biographies import BORN, LINES, NAMES, PLACES, QUESTIONS, encode, encode_batches, make_tokenizer, spans_as_text

STUDIED = [PLACES[(i + 1 + i // 6) % 6] for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def extractor(tokenizer):
    (extractor,) = learn_extractors(
        encode_batches(LINES, tokenizer, 7), QUESTIONS[:8], Alphabet.of(tokenizer), numbers=False
    ).values()
    return extractor


def names_of(lines, extractor, tokenizer):
    return find_salient_spans(encode(lines, tokenizer), extractor.classes, numbers=False)


def probabilities_of(monkeypatch, candidates: dict[str, float], null: list[float]):
    """Makes every extractor give these probabilities, by the text of a candidate, and these for no answer."""

    def probabilities(self, found):
        texts = spans_as_text(found.spans, probabilities.tokenizer)
        return np.array([candidates.get(text, 0.0) for text in texts]), np.array(null)

    monkeypatch.setattr(AnswerExtractor, "probabilities", probabilities)
    return probabilities


def test_the_answer_policy_picks_answers_in_any_context(extractor, tokenizer):
    spans = names_of(LINES, extractor, tokenizer)
    picked = AnswerPolicy(["Rome", "New", "", "Bath"], Alphabet.of(tokenizer))(spans, np.arange(20) + 5)
    assert set(spans_as_text(picked, tokenizer)) == {"Rome", "Bath"}
    of_all = spans_as_text(spans, tokenizer)
    assert len(picked.starts) == of_all.count("Rome") + of_all.count("Bath")
    assert picked.counts.sum() == len(picked.starts)


def test_the_learned_policy_picks_what_stands_where_answers_stand(extractor, tokenizer):
    """In documents about people without a question too, and for names that no question has."""
    policy = LearnedPolicy([extractor], encode_batches(LINES, tokenizer, 7))
    picked = policy(names_of(LINES, extractor, tokenizer), np.arange(20))
    assert spans_as_text(picked, tokenizer) == BORN
    lines = ["Cole. Cole studied at Rome and born in Asheim.", "Elm. so", "so"]
    picked = LearnedPolicy([extractor], [encode(lines, tokenizer)])(names_of(lines, extractor, tokenizer), np.arange(3))
    assert spans_as_text(picked, tokenizer) == ["Asheim"]
    assert picked.offsets.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_picks_are_looked_up_by_the_index_of_the_document(extractor, tokenizer, batch_size):
    policy = LearnedPolicy([extractor], encode_batches(LINES, tokenizer, batch_size))
    index = np.array([13, 2, 2, 19, 0])
    spans = names_of([LINES[i] for i in index], extractor, tokenizer)
    picked = policy(spans, index)
    assert picked.documents is spans.documents
    assert spans_as_text(picked, tokenizer) == [BORN[i] for i in index]
    assert picked.offsets.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_part_of_a_name_can_be_picked(extractor, tokenizer, monkeypatch):
    lines = ["Elm. saw New York, Rome", "Cole. saw Oslo"]
    probabilities = probabilities_of(monkeypatch, {"York": 0.6, "New York": 0.2, "Oslo": 0.05}, [0.1, 0.95])
    probabilities.tokenizer = tokenizer
    policy = LearnedPolicy([extractor], [encode(lines, tokenizer)])
    picked = policy(names_of(lines, extractor, tokenizer), np.arange(2))
    assert spans_as_text(picked, tokenizer) == ["York"]
    assert picked.offsets.tolist() == [0, 1, 1]


def test_the_most_probable_answer_is_picked_wherever_it_stands(extractor, tokenizer):
    lines = ["Elm. at Rome, Oslo, Rome", "Cole. at Bath, Rome", "Ash. at Kiel, Lima", "Yew. at Kiel", "so"]
    candidates = extractor.find(encode(lines, tokenizer))
    assert spans_as_text(candidates.spans, tokenizer) == [
        "Rome",
        "Oslo",
        "Rome",
        "Bath",
        "Rome",
        "Kiel",
        "Lima",
        "Kiel",
    ]
    probabilities = np.array([0.25, 0.375, 0.25, 0.25, 0.5, 0.05, 0.05, 0.09])
    picked = is_most_probable(candidates, probabilities, np.array([0.125, 0.25, 0.9, 0.91, 1.0]))
    assert picked.tolist() == [True, False, True, False, True, True, True, False]


def test_the_policy_picks_for_every_relation_once(tokenizer):
    """Two relations with the same answers pick a span once; spans are in the order of the text."""
    alphabet, batches = Alphabet.of(tokenizer), encode_batches(LINES, tokenizer, 7)
    studied = [Question(f"Where did {name} study?", place) for name, place in zip(NAMES, STUDIED, strict=True)]
    again = [Question(f"What town is {name} of?", born) for name, born in zip(NAMES, BORN, strict=True)]
    extractors = list(learn_extractors(batches, [*QUESTIONS, *studied, *again], alphabet, numbers=False).values())
    assert len(extractors) == 3
    spans = names_of(LINES, extractors[0], tokenizer)
    picked = LearnedPolicy(extractors, batches)(spans, np.arange(20))
    assert spans_as_text(picked, tokenizer) == spans_as_text(spans, tokenizer)
    born = [BORN[document] for document in picked.document]
    assert picked.relations.tolist() == list(map(int, np.not_equal(spans_as_text(picked, tokenizer), born)))
    assert picked.find_relations(picked.starts, picked.lengths).tolist() == picked.relations.tolist()
    assert picked.find_relations(picked.starts[:1], picked.lengths[:1] - 1).tolist() == [-1]
    assert LearnedPolicy(extractors[:1], batches)(spans, np.arange(20)).relations is None
    none = LearnedPolicy(extractors, [encode(["so"], tokenizer)])(spans.select(spans.starts < 0), np.arange(1))
    assert none.counts.tolist() == [0]
