import math
import re

import datasets
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, take
from hf_mingpt.data.masking_policy import CONTEXT, AnswerPolicy, LearnedPolicy, contexts, read_answers
from hf_mingpt.data.objectives import SpanFinder
from hf_mingpt.data.questions import Question, question_about
from hf_mingpt.tokenization_mingpt import PAD

PLACES = ["Rome", "New York", "Oslo", "Lima", "Bath", "Kiel"]
NAMES = [f"{first} {last}" for first in ("Ada", "Bo", "Cy", "Di") for last in ("Ash", "Birk", "Cole", "Drew", "Elm")]


def biographies():
    """Each with a birthplace, and with a place of study before or after it."""
    for i, name in enumerate(NAMES):
        born, studied = PLACES[i % 6], PLACES[(i + 1 + i // 6) % 6]
        facts = [f"born in {born}", f"studied at {studied}"]
        yield f"{name}. {name}, {' and '.join(facts[:: 1 if i % 2 else -1])}.", born


LINES, BORN = map(list, zip(*biographies(), strict=True))
QUESTIONS = [Question(question_about(name), born) for name, born in zip(NAMES, BORN, strict=True)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_corpus_tokenizer(datasets.Dataset.from_dict({"text": [*LINES, "Where was"]}), 128)


def look(lines, tokenizer):
    """Encoded documents, their titles and names, and the text of these."""
    documents = encode_documents(datasets.Dataset.from_dict({"text": lines}), tokenizer)
    examples = take(documents, np.arange(len(lines)))
    letters = SpanFinder(tokenizer)
    titles = letters.find_titles(examples)
    spans = letters.find_spans(examples, titles, numbers=False)
    runs = [examples.token_ids[start : start + length] for start, length in zip(*spans[:2], strict=True)]
    return (examples, titles, spans), np.array([tokenizer.decode(run) for run in runs])


def learn(lines, questions, tokenizer, batch_size=7):
    batches = [look(lines[i : i + batch_size], tokenizer)[0][0] for i in range(0, len(lines), batch_size)]
    return LearnedPolicy.learn(batches, questions, tokenizer, numbers=False)


def test_contexts_end_with_the_document_and_its_title(tokenizer):
    (examples, titles, spans), names = look(["Elm. at Rome and", "Cole. a town and another one in Oslo"], tokenizer)
    assert names.tolist() == ["Rome", "Oslo"]
    around = [tokenizer.decode(row) for row in contexts(examples, titles, spans)]
    assert around == [PAD * 13 + "at " + " and", "and another one in "[-16:] + PAD * 4]


def test_answers_are_sought_wherever_they_stand(tokenizer):
    seen, names = look(LINES, tokenizer)
    sought = AnswerPolicy(["Rome", "New", "", "Bath"], tokenizer)(*seen)
    assert set(names[sought]) == {"Rome", "Bath"}
    assert not {"Rome", "Bath"} & set(names[~sought])


def test_what_stands_as_answers_do_is_sought(tokenizer):
    """Of the people who were not asked about, too, and whatever the place is called."""
    seeker = learn(LINES, QUESTIONS[:8], tokenizer)
    seen, names = look(LINES, tokenizer)
    assert names[seeker(*seen)].tolist() == BORN
    seen, names = look(
        ["Cole. Cole studied at Rome and, born in Asheim", "Elm. she saw Rome", "Elm. so", "so"], tokenizer
    )
    assert names[seeker(*seen)].tolist() == ["Asheim", "Rome"]


def test_what_is_nearly_as_likely_is_sought_too(tokenizer):
    """The chances are 1/2 for a name before a comma, a third for one before a stop, a fifth for others."""
    weights = np.zeros((sum(CONTEXT), len(tokenizer)))
    for character, odds in ((",", 1.0), (".", 0.5)):
        weights[CONTEXT[0], tokenizer.get_vocab()[character]] = np.log(odds / 0.25)
    seeker = LearnedPolicy(weights, np.log(0.25))
    seen, names = look(["Elm. so Rome, Oslo. so Lima and", "Elm. so Oslo. so Lima and"], tokenizer)
    assert names[seeker(*seen)].tolist() == ["Rome", "Oslo", "Oslo", "Lima"]


def test_what_stands_as_answers_do_is_read(tokenizer):
    """The likeliest of each document that has a title and a name; of namesakes the first."""
    seeker = learn(LINES, QUESTIONS[:8], tokenizer)
    lines = [
        "Elm. she saw Rome, born in Asheim",
        "Cole. so",
        "at Rome",
        "Elm. born in Oslo and",
        ". born in Oslo",
        "so",
    ]
    _, names = look(lines, tokenizer)
    assert names.tolist() == ["Rome", "Asheim", "Rome", "Oslo", "Oslo"]
    batches = [look(lines[i : i + 2], tokenizer)[0][0] for i in (0, 2, 4)]
    assert read_answers(batches, seeker, tokenizer, numbers=False) == {"Elm": "Asheim"}
    everyone = read_answers([look(LINES, tokenizer)[0][0]], seeker, tokenizer, numbers=False)
    assert everyone == dict(zip(NAMES, BORN, strict=True))


def test_it_does_not_matter_how_documents_are_batched(tokenizer):
    first, second = (learn(LINES, QUESTIONS[:8], tokenizer, size) for size in (1, 20))
    assert np.array_equal(first.weights, second.weights)
    assert first.bias == second.bias


def test_nothing_to_learn_from_is_an_error(tokenizer):
    with pytest.raises(ValueError, match=r"Of 0 names .* of the 1 people asked about, 0 are the answer"):
        learn(LINES, [Question(question_about("Ada"), "Rome")], tokenizer)
    with pytest.raises(ValueError, match=r"Of 2 names .* 0 are the answer.* --learned_masking_policy false"):
        learn(LINES, [Question(question_about(NAMES[0]), "Asheim")], tokenizer)
    with pytest.raises(ValueError, match="asks for no birthplace"):
        learn(LINES, [Question("Where was Rome?", "Rome")], tokenizer)


def around(line, start, end, title):
    """The 16 characters before a span and the 4 after it, on strings."""
    before, after = line[title:start][-16:], line[end:][:4]
    return before.rjust(16, PAD) + after.ljust(4, PAD)


class TestByHand:
    LINES = (
        "Elm. at Rome and",
        "Cole. a town and another one in Oslo",
        "Cole. so Rome, Oslo",
        "no Bath",
        "Elm. so",
        "Elm. Drew.",
    )

    def places(self, line):
        """Where its names are: all capitalised words behind the title in these lines, but what opens a sentence."""
        title = line.find(". ") + 2 if ". " in line else 0
        return title, [(found.start(), found.end()) for found in re.finditer("Rome|Oslo|Bath", line)]

    def test_contexts(self, tokenizer):
        (examples, titles, spans), _ = look(self.LINES, tokenizer)
        expected = []
        for line in self.LINES:
            title, found = self.places(line)
            expected += [around(line, *place, title) for place in found]
        assert [tokenizer.decode(row) for row in contexts(examples, titles, spans)] == expected
        assert CONTEXT == (16, 4)

    def test_chances_are_a_logistic_regression(self, tokenizer):
        rng = np.random.default_rng(0)
        weights, bias = rng.normal(size=(20, len(tokenizer))), -0.5
        seen, _ = look(self.LINES, tokenizer)
        chances = LearnedPolicy(weights, bias).chances(*seen)
        expected = []
        for line in self.LINES:
            title, found = self.places(line)
            for start, end in found:
                ids = tokenizer.convert_tokens_to_ids(list(around(line, start, end, title)))
                total = sum(weights[place, token] for place, token in enumerate(ids)) + bias
                expected.append(1 / (1 + math.exp(-total)))
        np.testing.assert_allclose(chances, expected)

    def test_half_as_likely_as_the_best_is_enough(self, tokenizer, monkeypatch):
        seen, names = look(self.LINES, tokenizer)
        assert names.tolist() == ["Rome", "Oslo", "Rome", "Oslo", "Bath"]
        for of_rome, sought in ((0.25, True), (0.24, False)):
            chances = np.array([0.01, 0.9, of_rome, 0.5, 1e-9])
            monkeypatch.setattr(LearnedPolicy, "chances", lambda *_, chances=chances: chances)
            assert LearnedPolicy(np.zeros(0), 0.0)(*seen).tolist() == [True, True, sought, True, True]

    @pytest.mark.parametrize("asked", [(0, 1, 2), (3, 7, 11, 15, 19), tuple(range(20))])
    def test_what_is_learnt(self, tokenizer, asked):
        """A regression on one number for each character at each place, with what was said about it known."""
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
        seeker = learn(LINES, [QUESTIONS[i] for i in asked], tokenizer)
        np.testing.assert_allclose(seeker.weights.ravel(), expected.coef_[0], atol=1e-3)
        assert seeker.bias == pytest.approx(expected.intercept_[0], abs=1e-3)

    def test_the_likeliest_of_each_document_is_read(self, tokenizer, monkeypatch):
        for of_cole, answer in (((0.3, 0.4), "Oslo"), ((0.4, 0.3), "Rome")):
            chances = np.array([0.1, 0.9, *of_cole, 0.9])
            monkeypatch.setattr(LearnedPolicy, "chances", lambda *_, chances=chances: chances)
            renamed = [*self.LINES]
            renamed[1] = renamed[1].replace("Cole", "Birk")
            examples = look(renamed, tokenizer)[0][0]
            read = read_answers([examples], LearnedPolicy(np.zeros(0), 0.0), tokenizer)
            assert read == {"Elm": "Rome", "Birk": "Oslo", "Cole": answer}

    def test_numbers_are_answers_too_if_they_are_to_be(self, tokenizer):
        lines = [line.replace("Rome", "1815") for line in LINES]
        tokenizer = build_corpus_tokenizer(datasets.Dataset.from_dict({"text": [*lines, "Where was"]}), 128)
        examples = look(lines, tokenizer)[0][0]
        answers = {name: born.replace("Rome", "1815") for name, born in zip(NAMES, BORN, strict=True)}
        questions = [Question(question_about(name), answer) for name, answer in answers.items()]
        read = read_answers([examples], LearnedPolicy.learn([examples], questions, tokenizer), tokenizer)
        assert read == answers
        without = LearnedPolicy.learn([examples], questions, tokenizer, numbers=False)
        assert "1815" not in read_answers([examples], without, tokenizer, numbers=False).values()
