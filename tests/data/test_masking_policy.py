import math
import re

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, take
from hf_mingpt.data.masking_policy import CONTEXT, AnswerPolicy, LearnedPolicy, contexts, read_answers
from hf_mingpt.data.questions import Question
from hf_mingpt.data.salient_spans import CharacterClasses, find_salient_spans
from hf_mingpt.tokenization_mingpt import PAD

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


@pytest.fixture(scope="module")
def tokenizer():
    return build_corpus_tokenizer(datasets.Dataset.from_dict({"text": [*LINES, "Where was"]}), 128)


def encode(lines, tokenizer):
    return take(encode_documents(datasets.Dataset.from_dict({"text": lines}), tokenizer), np.arange(len(lines)))


def find(lines, tokenizer):
    """The names in some documents, and their text."""
    documents = encode(lines, tokenizer)
    spans = find_salient_spans(documents, CharacterClasses.of_tokenizer(tokenizer), numbers=False)
    runs = [documents.token_ids[start : start + n] for start, n in zip(spans.starts, spans.lengths, strict=True)]
    return spans, np.array([tokenizer.decode(run) for run in runs])


def learn(lines, questions, tokenizer, batch_size=7):
    batches = [encode(lines[i : i + batch_size], tokenizer) for i in range(0, len(lines), batch_size)]
    return LearnedPolicy.learn(batches, questions, tokenizer, numbers=False)


def test_contexts_end_with_the_title_and_the_document(tokenizer):
    spans, names = find(["Elm. at Rome and", "Cole. a town and another one in Oslo"], tokenizer)
    assert names.tolist() == ["Rome", "Oslo"]
    around = [tokenizer.decode(row) for row in contexts(spans)]
    assert around == [PAD * 13 + "at " + " and", "and another one in "[-16:] + PAD * 4]


def test_the_answer_policy_picks_answers_in_any_context(tokenizer):
    spans, names = find(LINES, tokenizer)
    picked = AnswerPolicy(["Rome", "New", "", "Bath"], tokenizer)(spans)
    assert set(names[picked]) == {"Rome", "Bath"}
    assert not {"Rome", "Bath"} & set(names[~picked])


def test_the_learned_policy_picks_answer_like_contexts(tokenizer):
    """In documents about people without a question too, and for names that no question has."""
    policy = learn(LINES, QUESTIONS[:8], tokenizer)
    spans, names = find(LINES, tokenizer)
    assert names[policy(spans)].tolist() == BORN
    lines = ["Cole. Cole studied at Rome and, born in Asheim", "Elm. she saw Rome", "Elm. so", "so"]
    spans, names = find(lines, tokenizer)
    assert names[policy(spans)].tolist() == ["Asheim", "Rome"]


def test_the_learned_policy_picks_what_is_half_as_probable_as_the_best(tokenizer):
    """The probability is 1/2 for a name before a comma, 1/3 before a stop, 1/5 for others."""
    weights = np.zeros((sum(CONTEXT), len(tokenizer)))
    for character, odds in ((",", 1.0), (".", 0.5)):
        weights[CONTEXT[0], tokenizer.get_vocab()[character]] = np.log(odds / 0.25)
    policy = LearnedPolicy(weights, np.log(0.25))
    spans, names = find(["Elm. so Rome, Oslo. so Lima and", "Elm. so Oslo. so Lima and"], tokenizer)
    assert names[policy(spans)].tolist() == ["Rome", "Oslo", "Oslo", "Lima"]


def test_read_answers(tokenizer):
    """The most probable span of each document that has a title and a name; the first document of each title."""
    policy = learn(LINES, QUESTIONS[:8], tokenizer)
    lines = [
        "Elm. she saw Rome, born in Asheim",
        "Cole. so",
        "at Rome",
        "Elm. born in Oslo and",
        ". born in Oslo",
        "so",
    ]
    _, names = find(lines, tokenizer)
    assert names.tolist() == ["Rome", "Asheim", "Rome", "Oslo", "Oslo"]
    batches = [encode(lines[i : i + 2], tokenizer) for i in (0, 2, 4)]
    assert read_answers(batches, policy, tokenizer, numbers=False) == {"Elm": "Asheim"}
    everyone = read_answers([encode(LINES, tokenizer)], policy, tokenizer, numbers=False)
    assert everyone == dict(zip(NAMES, BORN, strict=True))


def test_the_batches_of_documents_make_no_difference(tokenizer):
    first, second = (learn(LINES, QUESTIONS[:8], tokenizer, size) for size in (1, 20))
    assert np.array_equal(first.weights, second.weights)
    assert first.bias == second.bias


def test_nothing_to_learn_from_is_an_error(tokenizer):
    with pytest.raises(
        ValueError, match=r"about 1 person, whose documents have 0 salient spans \(answers among them: 0\)"
    ):
        learn(LINES, [Question(question_about("Ada"), "Rome")], tokenizer)
    with pytest.raises(ValueError, match=r"2 salient spans \(answers among them: 0\): .*_masking_policy false"):
        learn(LINES, [Question(question_about(NAMES[0]), "Asheim")], tokenizer)
    with pytest.raises(ValueError, match="does not ask for a birthplace"):
        learn(LINES, [Question("Where was Rome?", "Rome")], tokenizer)


def around(line, start, end, title):
    """The 16 characters before a span and the 4 after it, on strings."""
    before, after = line[title:start][-16:], line[end:][:4]
    return before.rjust(16, PAD) + after.ljust(4, PAD)


class TestReference:
    """The same on strings, one span at a time."""

    LINES = (
        "Elm. at Rome and",
        "Cole. a town and another one in Oslo",
        "Cole. so Rome, Oslo",
        "no Bath",
        "Elm. so",
        "Elm. Drew.",
    )

    def places(self, line):
        """The length of the title, and where the names are."""
        title = line.find(". ") + 2 if ". " in line else 0
        return title, [(found.start(), found.end()) for found in re.finditer("Rome|Oslo|Bath", line)]

    def test_contexts(self, tokenizer):
        spans, _ = find(self.LINES, tokenizer)
        expected = []
        for line in self.LINES:
            title, found = self.places(line)
            expected += [around(line, *place, title) for place in found]
        assert [tokenizer.decode(row) for row in contexts(spans)] == expected
        assert CONTEXT == (16, 4)

    def test_probabilities_are_those_of_a_logistic_regression(self, tokenizer):
        rng = np.random.default_rng(0)
        weights, bias = rng.normal(size=(20, len(tokenizer))), -0.5
        spans, _ = find(self.LINES, tokenizer)
        expected = []
        for line in self.LINES:
            title, found = self.places(line)
            for start, end in found:
                ids = tokenizer.convert_tokens_to_ids(list(around(line, start, end, title)))
                total = sum(weights[place, token] for place, token in enumerate(ids)) + bias
                expected.append(1 / (1 + math.exp(-total)))
        np.testing.assert_allclose(LearnedPolicy(weights, bias).probabilities(spans), expected)

    def test_half_the_highest_probability_is_enough(self, tokenizer, monkeypatch):
        spans, names = find(self.LINES, tokenizer)
        assert names.tolist() == ["Rome", "Oslo", "Rome", "Oslo", "Bath"]
        for of_rome, picked in ((0.25, True), (0.24, False)):
            probabilities = np.array([0.01, 0.9, of_rome, 0.5, 1e-9])
            monkeypatch.setattr(LearnedPolicy, "probabilities", lambda *_, values=probabilities: values)
            assert LearnedPolicy(np.zeros(0), 0.0)(spans).tolist() == [True, True, picked, True, True]

    @pytest.mark.parametrize("asked", [(0, 1, 2), (3, 7, 11, 15, 19), tuple(range(20))])
    def test_what_is_learned(self, tokenizer, asked):
        """A regression on one indicator for each character at each position."""
        rows, labels = [], []
        for i in asked:
            title = LINES[i].find(". ") + 2
            for found in re.finditer("|".join(PLACES), LINES[i]):
                context = around(LINES[i], found.start(), found.end(), title)
                row = np.zeros((20, len(tokenizer)))
                row[np.arange(20), tokenizer.convert_tokens_to_ids(list(context))] = 1
                rows.append(row.ravel())
                labels.append(found[0] == BORN[i])
        expected = LogisticRegression(C=0.3, max_iter=1000).fit(np.array(rows), labels)
        policy = learn(LINES, [QUESTIONS[i] for i in asked], tokenizer)
        np.testing.assert_allclose(policy.weights.ravel(), expected.coef_[0], atol=1e-3)
        assert policy.bias == pytest.approx(expected.intercept_[0], abs=1e-3)

    def test_the_most_probable_span_of_each_document_is_read(self, tokenizer, monkeypatch):
        for of_cole, answer in (((0.3, 0.4), "Oslo"), ((0.4, 0.3), "Rome")):
            probabilities = np.array([0.1, 0.9, *of_cole, 0.9])
            monkeypatch.setattr(LearnedPolicy, "probabilities", lambda *_, values=probabilities: values)
            renamed = [*self.LINES]
            renamed[1] = renamed[1].replace("Cole", "Birk")
            read = read_answers([encode(renamed, tokenizer)], LearnedPolicy(np.zeros(0), 0.0), tokenizer)
            assert read == {"Elm": "Rome", "Birk": "Oslo", "Cole": answer}

    def test_numbers_can_be_answers(self, tokenizer):
        lines = [line.replace("Rome", "1815") for line in LINES]
        tokenizer = build_corpus_tokenizer(datasets.Dataset.from_dict({"text": [*lines, "Where was"]}), 128)
        documents = encode(lines, tokenizer)
        answers = {name: born.replace("Rome", "1815") for name, born in zip(NAMES, BORN, strict=True)}
        questions = [Question(question_about(name), answer) for name, answer in answers.items()]
        read = read_answers([documents], LearnedPolicy.learn([documents], questions, tokenizer), tokenizer)
        assert read == answers
        without = LearnedPolicy.learn([documents], questions, tokenizer, numbers=False)
        assert "1815" not in read_answers([documents], without, tokenizer, numbers=False).values()
