from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from hf_mingpt.data.biographies import MAX_PEOPLE, MAX_PLACES, RELATIONS, BiographyRecipe, generate_corpus
from hf_mingpt.data.questions import read_questions

SMALL = {"num_train_people": 60, "num_dev_people": 40, "num_test_people": 20, "num_other_people": 30}


def test_the_same_seed_gives_the_same_corpus():
    assert generate_corpus(BiographyRecipe(**SMALL)) == generate_corpus(BiographyRecipe(**SMALL))
    assert generate_corpus(BiographyRecipe(**SMALL)) != generate_corpus(BiographyRecipe(**SMALL, seed=1))


@pytest.mark.parametrize("phrasings", [1, 3])
def test_every_biography_tells_the_birthplace(phrasings):
    corpus = generate_corpus(BiographyRecipe(**SMALL, phrasings_per_person=phrasings))
    lines: dict[str, list[str]] = {}
    for document in corpus.documents:
        lines.setdefault(document.split(".")[0], []).append(document)
    assert len(lines) == 150
    assert all(len(set(texts)) == phrasings for texts in lines.values())
    for question, place in corpus.train + corpus.dev + corpus.test:
        name = question.removeprefix("Where was ").removesuffix(" born?")
        assert all(place in text for text in lines[name])


def test_groups_of_people_are_disjoint():
    corpus = generate_corpus(BiographyRecipe(**SMALL))
    questions = [question for question, _ in corpus.train + corpus.dev + corpus.test]
    assert len(set(questions)) == len(questions) == 120


def test_places_follow_zipfs_law():
    corpus = generate_corpus(BiographyRecipe(**SMALL | {"num_train_people": 4000}, num_places=50, zipf_exponent=1.0))
    counts = [count for _, count in Counter(place for _, place in corpus.train).most_common()]
    assert counts[0] / 4000 == pytest.approx(1 / sum(1 / rank for rank in range(1, 51)), abs=0.03)
    assert counts[0] > 1.5 * counts[1] > 2 * counts[3]


def test_distractors_are_other_places():
    recipe = BiographyRecipe(**SMALL, num_places=10, distractor_probability=1.0, phrasings_per_person=1)
    corpus = generate_corpus(recipe)
    places = {place for _, place in corpus.train + corpus.dev + corpus.test}
    named = [sum(place in document for place in places) for document in corpus.documents]
    assert set(named) == {2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phrasings_per_person": 99}, "99"),
        ({"num_places": 1}, "num_places is 1"),
        ({"num_dev_people": 0}, "at least one"),
        ({"distractor_probability": 2.0}, "distractor_probability"),
        ({"num_train_people": 10_000_000}, "possible names"),
    ],
)
def test_bad_values_are_errors(changes, said):
    with pytest.raises(ValueError, match=said):
        BiographyRecipe(**changes)


def test_the_corpus_of_the_repository_is_reproduced():
    """If a draw changes, every number measured on this corpus changes."""
    folder = Path(__file__).parents[2] / "data/generated"
    corpus = generate_corpus(
        BiographyRecipe(num_train_people=100, num_dev_people=60, num_places=40, phrasings_per_person=3)
    )
    assert corpus.documents == (folder / "biographies.txt").read_text(encoding="utf-8").splitlines()
    for name, questions in (("places_train", corpus.train), ("dev", corpus.dev), ("test", corpus.test)):
        assert questions == read_questions(folder / f"birth_{name}.tsv")


def test_sentences_can_keep_their_order():
    first, second, third, *others = generate_corpus(
        BiographyRecipe(**SMALL | {"num_train_people": 3}, permute_sentences=False, seed=1)
    ).documents
    birth = ("was born", "birthplace", "Born in", "who was born", "came into the world", "A native of", "(born")
    for line in (first, second, third, *others):
        name, said = line.split(". ", maxsplit=1)
        one, other = said.removesuffix(".").split(". ")
        assert name in one
        assert any(words in one for words in birth)
        assert name not in other
        assert name.split()[1] in other


def test_defaults():
    people = {"num_train_people": 130, "num_dev_people": 130, "num_test_people": 40, "num_other_people": 20}
    text = {"num_places": 80, "zipf_exponent": 0.4, "phrasings_per_person": 4, "permute_sentences": True}
    assert asdict(BiographyRecipe()) == {**people, **text, "distractor_probability": 0.3, "seed": 0}
    assert BiographyRecipe().num_people == 320
    assert (MAX_PEOPLE, MAX_PLACES) == (
        20 * 8 * 15 * 20 * 8 * 12 // 4,
        20 * 8 * 8 * 10 // 4,
    )  # a quarter of all combinations


def test_smallest_and_largest_values():
    least = BiographyRecipe(num_train_people=1, num_dev_people=1, num_test_people=1, num_other_people=0, num_places=2)
    assert len(generate_corpus(least).documents) == 3 * 4
    BiographyRecipe(phrasings_per_person=1, distractor_probability=0.0, num_places=MAX_PLACES)
    BiographyRecipe(phrasings_per_person=8, distractor_probability=1.0, num_train_people=MAX_PEOPLE - 190)
    for one_more in (
        {"num_train_people": 0},
        {"num_test_people": 0},
        {"num_other_people": -1},
        {"phrasings_per_person": 0},
        {"phrasings_per_person": 9},
        {"num_places": MAX_PLACES + 1},
        {"num_train_people": MAX_PEOPLE - 189},
    ):
        with pytest.raises(ValueError, match=r"needs|use|possible names"):
            BiographyRecipe(**one_more)


@pytest.mark.parametrize("relation", RELATIONS)
def test_what_questions_ask_for_is_in_the_text(relation):
    """The text is the same whatever the questions ask for."""
    corpus = generate_corpus(BiographyRecipe(**SMALL), relation)
    assert corpus.documents == generate_corpus(BiographyRecipe(**SMALL)).documents
    before, after = RELATIONS[relation].split("{name}")
    held = [
        any(answer in line for line in corpus.documents if line.startswith(f"{question[len(before) : -len(after)]}. "))
        for question, answer in corpus.train + corpus.dev + corpus.test
    ]
    assert sum(held) >= 0.9 * len(held)  # one in seventy has no biography with a date
