"""What extractors learn and read."""

from itertools import pairwise

import numpy as np
import pytest

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.answer_extraction import Counts, in_parts, learn_extractors, read_answers
from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.candidate_spans import CandidateKinds
from hf_mingpt.data.questions import Question
from hf_mingpt.data.salient_spans import is_among
from hf_mingpt.data.subjects import Template

from .biographies import BORN, LINES, NAMES, PLACES, QUESTIONS, encode, encode_batches, make_tokenizer, spans_as_text


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def learn(lines, questions, tokenizer, batch_size=7, numbers=False):
    """The extractor of the only relation."""
    (extractor,) = learn_all(lines, questions, tokenizer, batch_size, numbers).values()
    return extractor


def learn_all(lines, questions, tokenizer, batch_size=7, numbers=False):
    batches = encode_batches(lines, tokenizer, batch_size)
    return learn_extractors(batches, questions, Alphabet.of(tokenizer), numbers=numbers)


@pytest.fixture(scope="module")
def extractor(tokenizer):
    return learn(LINES, QUESTIONS[:8], tokenizer)


class TestWhatIsLearned:
    def test_probabilities_of_a_document_add_up_to_one(self, extractor, tokenizer):
        candidates = extractor.find(encode([*LINES, "Elm. so", "at Rome"], tokenizer))
        probabilities, null = extractor.probabilities(candidates)
        total = np.bincount(candidates.spans.document, probabilities, minlength=22) + null
        np.testing.assert_allclose(total, 1)
        assert null[20] == 1  # no candidate

    def test_documents_in_another_order_make_no_difference(self, extractor, tokenizer):
        order = np.random.default_rng(0).permutation(20)
        shuffled = learn([LINES[i] for i in order], QUESTIONS[:8][::-1], tokenizer)
        assert np.array_equal(shuffled.features, extractor.features)
        np.testing.assert_allclose(shuffled.weights, extractor.weights, atol=1e-4)
        for batch_size in (1, 20):
            again = learn(LINES, QUESTIONS[:8], tokenizer, batch_size)
            assert np.array_equal(again.weights, extractor.weights)
            assert again.null_score == extractor.null_score

    def test_probabilities_depend_on_the_document_alone(self, extractor, tokenizer):
        together = extractor.find(encode(LINES, tokenizer))
        probabilities, null = extractor.probabilities(together)
        for i, line in enumerate(LINES):
            alone, alone_null = extractor.probabilities(extractor.find(encode([line], tokenizer)))
            its = slice(together.spans.offsets[i], together.spans.offsets[i + 1])
            np.testing.assert_array_equal(alone, probabilities[its])
            assert alone_null == null[i]

    def test_a_document_without_an_answer_says_so(self, tokenizer):
        lines = [*LINES, *(f"{name} Fox. {name} Fox, studied at Rome." for name in ("Ada", "Bo", "Cy", "Di", "Ed"))]
        nowhere = [Question(question_about(f"{name} Fox"), "Pisa") for name in ("Ada", "Bo", "Cy")]
        extractor = learn(lines, [*QUESTIONS[:8], *nowhere], make_tokenizer("Fox Ed Pisa"))
        _, null = extractor.probabilities(extractor.find(encode(lines, make_tokenizer("Fox Ed Pisa"))))
        assert (null[:20] < 0.5).all()
        assert (null[20:] > 0.5).all()

    def test_a_part_of_a_name_is_an_answer(self, tokenizer):
        """The text says "Rome City", the questions "Rome"."""
        lines = [
            line.replace(f"born in {born}", f"born in {born} City") for line, born in zip(LINES, BORN, strict=True)
        ]
        tokenizer = make_tokenizer("City")
        extractor = learn(lines, QUESTIONS[:12], tokenizer)
        assert read_answers([encode(lines, tokenizer)], extractor, Alphabet.of(tokenizer)) == dict(
            zip(NAMES, BORN, strict=True)
        )

    def test_numbers_can_be_answers(self, tokenizer):
        lines = [line.replace("Rome", "1815") for line in LINES]
        answers = {name: born.replace("Rome", "1815") for name, born in zip(NAMES, BORN, strict=True)}
        questions = [Question(question_about(name), answer) for name, answer in answers.items()]
        read = read_answers(
            [encode(lines, tokenizer)], learn(lines, questions, tokenizer, numbers=True), Alphabet.of(tokenizer)
        )
        assert read == answers
        again = learn(lines, questions, tokenizer)  # the kinds are those of the answers
        assert read_answers([encode(lines, tokenizer)], again, Alphabet.of(tokenizer)) == answers
        names_only = learn(lines, [question for question in questions if question.answer != "1815"], tokenizer)
        assert names_only.kinds == CandidateKinds()

    def test_nothing_to_learn_from_is_an_error(self, tokenizer):
        with pytest.raises(
            ValueError, match=r"Of 1 question, 0 name the title of a document, .* 0 candidate .*: give questions"
        ):
            learn(LINES, [Question(question_about("Ada"), "Rome")], tokenizer)
        with pytest.raises(ValueError, match=r"Of 20 questions, 0 name the title of a document, .* 0 candidate spans"):
            learn([], QUESTIONS, tokenizer)
        with pytest.raises(
            ValueError, match=r"1 name the title .* 2 candidate spans, hold none of the answers: give answers"
        ):
            learn([*LINES, "Ada. at Rome, Oslo"], [Question(question_about("Ada"), "Elm")], tokenizer)

    def test_what_cannot_be_learned_from_is_counted(self, tokenizer, capsys):
        learn(LINES, QUESTIONS, tokenizer)
        assert "warning" not in capsys.readouterr().err
        learn(
            LINES, [*QUESTIONS, Question(question_about("Elm"), "Rome"), QUESTIONS[0]._replace(answer="Elm")], tokenizer
        )
        said = capsys.readouterr().err
        assert "Of 22 questions, 1 name no title of a document, and the documents of 1 more do not hold" in said
        assert "from the other 20" in said


class TestRelations:
    """Each document names a birthplace, a year and an occupation."""

    jobs, years = ("baker", "chess player", "poet"), ("1815", "1902")

    def lines(self):
        for i, name in enumerate(NAMES):
            facts = [f"born in {BORN[i]} in {self.years[i % 2]}", f"studied at {PLACES[i % 5]}"]
            yield f"{name}. {name}, a {self.jobs[i % 3]}, {' and '.join(facts[:: 1 if i % 3 else -1])}."

    def questions(self, number=20):
        asked = {"Where was {} born?": BORN, "In which year was {} born?": self.years, "What did {} do?": self.jobs}
        for template, answers in asked.items():
            for i, name in enumerate(NAMES[:number]):
                yield Question(template.format(name), answers[i % len(answers)])

    def test_each_has_an_extractor_of_its_own(self):
        tokenizer, lines = make_tokenizer(*self.lines(), "which"), list(self.lines())
        extractors = learn_all(lines, list(self.questions(12)), tokenizer)
        for template, expected in (
            (Template("Where was ", " born?"), BORN),
            (Template("In which year was ", " born?"), self.years),
            (Template("What did ", " do?"), self.jobs),
        ):
            read = read_answers([encode(lines, tokenizer)], extractors[template], Alphabet.of(tokenizer))
            assert read == {name: expected[i % len(expected)] for i, name in enumerate(NAMES)}
        assert extractors[Template("What did ", " do?")].kinds == CandidateKinds(names=False, phrase_words=2)

    def test_a_relation_alone_is_as_among_others(self):
        tokenizer, lines = make_tokenizer(*self.lines(), "which"), list(self.lines())
        questions = list(self.questions(12))
        among = learn_all(lines, questions, tokenizer)
        for template, extractor in among.items():
            own = [question for question in questions if template.subject_of(question.question)]
            (alone,) = learn_all(lines, own, tokenizer).values()
            assert np.array_equal(alone.weights, extractor.weights)

    def test_questions_without_a_template_share_one(self, tokenizer):
        free = [Question(f"{word} {name}", born) for word, name, born in zip("abcdef", NAMES, BORN, strict=False)]
        assert list(learn_all(LINES, free, tokenizer)) == [None]
        mixed = learn_all(LINES, [*QUESTIONS, *free[:2]], tokenizer)
        assert list(mixed) == [Template("Where was ", " born?"), None]

    def test_a_relation_without_an_answer_in_the_text_has_none(self, tokenizer):
        elsewhere = [Question(f"Who is {name}?", "nobody") for name in NAMES]
        assert list(learn_all(LINES, [*elsewhere, *QUESTIONS], tokenizer)) == [Template("Where was ", " born?")]

    def test_the_longest_title_counts(self):
        """The question about "Ada Ash King" is about neither Ada Ash nor King."""
        lines = [*LINES, "Ada Ash King. Ada Ash King, born in Pisa and studied at Rome."]
        tokenizer = make_tokenizer(*lines)
        extractor = learn(lines, [*QUESTIONS[:8], Question(question_about("Ada Ash King"), "Pisa")], tokenizer)
        spans = extractor.find(encode(lines, tokenizer)).spans
        assert is_among(spans.hashes(), extractor.answers.hashes)[-2:].tolist() == [True, True]
        read = read_answers([encode(lines, tokenizer)], extractor, Alphabet.of(tokenizer))
        assert (read["Ada Ash King"], read["Ada Ash"]) == ("Pisa", BORN[0])


@pytest.mark.parametrize("size", [1, 50, 200, 1 << 20])
def test_parts(monkeypatch, size, tokenizer):
    monkeypatch.setattr("hf_mingpt.data.answer_extraction._PART", size)
    parts = list(in_parts(encode_batches(LINES, tokenizer, 7)))
    decode = Alphabet.of(tokenizer).decode
    texts = [decode(part.token_ids[a:b]) for part in parts for a, b in pairwise(part.offsets)]
    assert texts == LINES
    assert len(parts) == {1: 20, 1 << 20: 3}.get(size, len(parts))
    assert all(part.offsets[0] == 0 for part in parts)


class TestKnownAnswers:
    """An answer counts as known if another question has it."""

    def counts(self, monkeypatch, questions, lines, tokenizer):
        """For each candidate: the other questions with this answer, and the other documents with it."""
        extractor = learn(lines, questions, tokenizer)
        seen = {}

        def describe(candidates, classes, **numbers):
            texts = spans_as_text(candidates.spans, tokenizer)
            for name, values in numbers.items():
                seen[name] = list(zip(candidates.spans.document.tolist(), texts, values.tolist(), strict=True))
            return np.zeros((len(texts), 1), dtype=np.uint64)

        monkeypatch.setattr("hf_mingpt.data.answer_extraction.describe_candidates", describe)
        extractor.probabilities(extractor.find(encode(lines, tokenizer)))
        return seen

    def test_by_hand(self, monkeypatch, tokenizer):
        lines = ["Ada. at Rome, Oslo", "Bo. at Rome, Rome", "Cy. at Rome", "Di. at Oslo, Lima", "Elm. at Rome, Lima"]
        asked = {"Ada": "Rome", "Bo": "Rome", "Cy": "Lima", "Di": "Oslo"}
        questions = [Question(question_about(name), answer) for name, answer in asked.items()]
        seen = self.counts(monkeypatch, [*questions, questions[0]], lines, tokenizer)  # a question that is there twice
        assert seen["num_answers"] == [
            (0, "Rome", 1),  # Bo's, not Ada's own
            (0, "Oslo", 1),
            (1, "Rome", 1),
            (1, "Rome", 1),
            (2, "Rome", 2),
            (3, "Oslo", 0),  # nobody else's
            (3, "Lima", 1),
            (4, "Rome", 2),  # no question asks about Elm
            (4, "Lima", 1),
        ]
        assert [number for *_, number in seen["num_documents"]] == [3, 1, 3, 3, 3, 1, 1, 3, 1]

    def test_counts(self):
        hashes = np.array([7, 3, 7, 2**64 - 1], dtype=np.uint64)
        asked = np.array([3, 7, 8, 0, 2**64 - 1], dtype=np.uint64)
        assert Counts.of(hashes).look_up(asked).tolist() == [1, 2, 0, 0, 1]
        assert Counts.of(hashes, least=2).look_up(asked).tolist() == [0, 2, 0, 0, 0]
        assert Counts.of(hashes[:0]).look_up(asked).tolist() == [0] * 5


def test_read_answers(extractor, tokenizer):
    """The most probable candidate of each document that has a title and a name; the first document of each title."""
    lines = [
        "Elm. she studied at Rome, born in Asheim.",
        "Cole. so",
        "at Rome",
        "Elm. born in Oslo and",
        ". born in Oslo",
        "so",
    ]
    assert read_answers(encode_batches(lines, tokenizer, 2), extractor, Alphabet.of(tokenizer)) == {"Elm": "Asheim"}
    assert read_answers([encode(LINES, tokenizer)], extractor, Alphabet.of(tokenizer)) == dict(
        zip(NAMES, BORN, strict=True)
    )
