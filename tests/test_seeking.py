import datasets
import numpy as np
import pytest

from hf_mingpt.birthplaces import Question, question_about
from hf_mingpt.data import build_corpus_tokenizer, encode_documents, take
from hf_mingpt.objectives import Letters
from hf_mingpt.seeking import CONTEXT, AnswerSeeker, ContextSeeker, contexts, read_answers
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
    letters = Letters(tokenizer)
    titles = letters.find_titles(examples)
    spans = letters.find_spans(examples, titles, numbers=False)
    runs = [examples.token_ids[start : start + length] for start, length in zip(*spans[:2], strict=True)]
    return (examples, titles, spans), np.array([tokenizer.decode(run) for run in runs])


def learn(lines, questions, tokenizer, batch_size=7):
    batches = [look(lines[i : i + batch_size], tokenizer)[0][0] for i in range(0, len(lines), batch_size)]
    return ContextSeeker.learn(batches, questions, tokenizer, numbers=False)


def test_contexts_end_with_the_document_and_its_title(tokenizer):
    (examples, titles, spans), names = look(["Elm. at Rome and", "Cole. a town and another one in Oslo"], tokenizer)
    assert names.tolist() == ["Rome", "Oslo"]
    around = [tokenizer.decode(row) for row in contexts(examples, titles, spans)]
    assert around == [PAD * 13 + "at " + " and", "and another one in "[-16:] + PAD * 4]


def test_answers_are_sought_wherever_they_stand(tokenizer):
    seen, names = look(LINES, tokenizer)
    sought = AnswerSeeker(["Rome", "New", "", "Bath"], tokenizer)(*seen)
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
    seeker = ContextSeeker(weights, np.log(0.25))
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
    with pytest.raises(ValueError, match=r"Of 2 names .* 0 are the answer.* --seek_contexts false"):
        learn(LINES, [Question(question_about(NAMES[0]), "Asheim")], tokenizer)
    with pytest.raises(ValueError, match="asks for no birthplace"):
        learn(LINES, [Question("Where was Rome?", "Rome")], tokenizer)
