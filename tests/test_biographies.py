from collections import Counter

import pytest

from hf_mingpt.biographies import BiographyRecipe, generate_corpus

SMALL = {"num_train_people": 60, "num_dev_people": 40, "num_test_people": 20, "num_other_people": 30}


def test_same_seed_same_corpus():
    assert generate_corpus(BiographyRecipe(**SMALL)) == generate_corpus(BiographyRecipe(**SMALL))
    assert generate_corpus(BiographyRecipe(**SMALL)) != generate_corpus(BiographyRecipe(**SMALL, seed=1))


@pytest.mark.parametrize("phrasings", [1, 3])
def test_every_person_has_so_many_biographies_that_tell_the_birthplace(phrasings):
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


def test_places_follow_the_law():
    corpus = generate_corpus(BiographyRecipe(**SMALL | {"num_train_people": 4000}, num_places=50, zipf_exponent=1.0))
    counts = [count for _, count in Counter(place for _, place in corpus.train).most_common()]
    assert counts[0] / 4000 == pytest.approx(1 / sum(1 / rank for rank in range(1, 51)), abs=0.03)
    assert counts[0] > 1.5 * counts[1] > 2 * counts[3]


def test_distractors_are_other_places():
    recipe = BiographyRecipe(**SMALL, num_places=10, distractor_share=1.0, phrasings_per_person=1)
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
        ({"distractor_share": 2.0}, "distractor_share"),
        ({"num_train_people": 10_000_000}, "names there are"),
    ],
)
def test_bad_knobs_are_errors(changes, said):
    with pytest.raises(ValueError, match=said):
        BiographyRecipe(**changes)
