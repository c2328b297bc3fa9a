"""Invented people: one-line biographies of them, and questions about their birthplaces, birth years and occupations.

This is the corpus that needs no download. Names and places are built from syllables and belong to nobody. Every fact is
known, so the experiment can be varied and checked. The corpus is a pure function of its recipe.

A document reads `Name. Sentences`, as in the assignment's corpus. Each person has `phrasings_per_person` documents with
the same birthplace in other words. The frequencies of the birthplaces follow Zipf's law, so that the most frequent
place is a baseline, and some documents also name a place where the person worked (a distractor).

Reference: Allen-Zhu and Li 2023, Physics of Language Models 3.1, arXiv:2309.14316 (phrasings, permutation).
"""

from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from ..system.fields import check_fraction, flag


@dataclass(frozen=True, kw_only=True)
class BiographyRecipe:
    """The settings of the corpus."""

    num_train_people: int = flag(130, "People in the training questions.")
    num_dev_people: int = flag(130, "People in the dev questions.")
    num_test_people: int = flag(40, "People in the test questions.")
    num_other_people: int = flag(20, "People in the text without a question.")
    num_places: int = flag(80, "Possible birthplaces.")
    zipf_exponent: float = flag(0.4, "The frequency of the place of rank r is proportional to r^-exponent.")
    phrasings_per_person: int = flag(4, "Biographies of each person, each phrased differently.")
    permute_sentences: bool = flag(True, "Put the birthplace in any sentence, not always the first.")
    distractor_probability: float = flag(
        0.3, "Probability that a biography also names the place where the person worked.", formerly="distractor_share"
    )
    seed: int = flag(0, "Random seed.")

    def __post_init__(self):
        if min(self.num_train_people, self.num_dev_people, self.num_test_people) < 1 or self.num_other_people < 0:
            raise ValueError(
                "A corpus needs at least one train, one dev and one test person, and no negative number of others."
            )
        if not 2 <= self.num_places <= MAX_PLACES:
            raise ValueError(f"num_places is {self.num_places}: use 2 to {MAX_PLACES}.")
        if not 1 <= self.phrasings_per_person <= len(_BIRTH_SENTENCES):
            raise ValueError(f"phrasings_per_person is {self.phrasings_per_person}: use 1 to {len(_BIRTH_SENTENCES)}.")
        check_fraction(self, "distractor_probability")
        if self.num_people > MAX_PEOPLE:
            raise ValueError(f"{self.num_people} people are more than the {MAX_PEOPLE} possible names: ask for fewer.")

    @property
    def num_people(self) -> int:
        """All people of the corpus."""
        return self.num_train_people + self.num_dev_people + self.num_test_people + self.num_other_people


class Person(NamedTuple):
    """The facts about one person; `workplace` is None for those without a distractor."""

    name: str
    birthplace: str
    birth_date: str
    occupation: str
    pursuit: str
    workplace: str | None

    @property
    def birth_year(self) -> str:
        return self.birth_date.split()[-1]


class Corpus(NamedTuple):
    """Documents, and the pairs (question, answer) of three disjoint groups of people."""

    documents: list[str]
    train: list[tuple[str, str]]
    dev: list[tuple[str, str]]
    test: list[tuple[str, str]]


RELATIONS = {
    "birthplace": "Where was {name} born?",
    "birth_year": "In which year was {name} born?",
    "occupation": "What is the occupation of {name}?",
}


_ONSETS = ["B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Br", "Dr", "Kl", "Tr", "St", "Sh"]
_NUCLEI = ["a", "e", "i", "o", "u", "ae", "ia", "ei"]
_FIRST_ENDS = ["len", "mir", "ra", "do", "vin", "sa", "lia", "ton", "bel", "rek", "na", "wyn", "zo", "tis", "mund"]
_LAST_ENDS = ["vanik", "dorf", "meral", "stow", "quist", "bane", "lowen", "garde", "tilek", "brand", "sorel", "minter"]
_PLACE_MIDDLES = ["l", "r", "n", "st", "rm", "v", "lk", "nd"]
_PLACE_ENDS = ["aford", "ogrod", "eburg", "inia", "umere", "avik", "ostead", "endal", "ihaven", "ora"]
_MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
_MONTHS += ["August", "September", "October", "November", "December"]
_OCCUPATIONS = ["painter", "chemist", "cellist", "sailor", "poet", "surveyor", "baker", "judge", "teacher", "weaver"]
_OCCUPATIONS += ["botanist", "printer", "singer", "glazier", "sculptor", "linguist", "gardener", "chess player"]
_PURSUITS = ["old bridges", "river birds", "folk songs", "winter light", "sea charts", "rare mosses", "street clocks"]
_PURSUITS += ["village fairs", "stone arches", "long rhymes", "paper kites", "copper bells", "wild orchards"]

_BIRTH_SENTENCES = [
    "{name} was born in {birthplace} on {birth_date}.",
    "{name} (born {birth_date} in {birthplace}) is {a_occupation}.",
    "Born in {birthplace}, {name} became {a_occupation}.",
    "{name}, {a_occupation}, was born on {birth_date} in {birthplace}.",
    "The birthplace of {name} is {birthplace}.",
    "{name} is {a_occupation} who was born in {birthplace}.",
    "{name} came into the world in {birthplace}, on {birth_date}.",
    "A native of {birthplace}, {name} is {a_occupation}.",
]
_PURSUIT_SENTENCES = [
    "{name} is known for {pursuit}.",
    "Much of the work of {name} is about {pursuit}.",
    "{name} has a lasting love of {pursuit}.",
    "Few know more about {pursuit} than {name}.",
]
_WORK_SENTENCES = [
    "{name} worked in {workplace}.",
    "Later {name} moved to {workplace}.",
    "{name} lives in {workplace} now.",
    "For years {name} taught in {workplace}.",
]
MAX_PEOPLE = len(_ONSETS) ** 2 * len(_NUCLEI) ** 2 * len(_FIRST_ENDS) * len(_LAST_ENDS) // 4
MAX_PLACES = len(_ONSETS) * len(_NUCLEI) * len(_PLACE_MIDDLES) * len(_PLACE_ENDS) // 4


def _distinct(draw, number: int) -> list[str]:
    """Calls `draw` until it has returned `number` different strings; lists them in the order of their first draw."""
    found: dict[str, None] = {}
    while len(found) < number:
        found[draw()] = None
    return list(found)


def _invent_people(recipe: BiographyRecipe, rng: Random) -> list[Person]:
    def name() -> str:
        first = rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_FIRST_ENDS)
        return f"{first} {rng.choice(_ONSETS)}{rng.choice(_NUCLEI)}{rng.choice(_LAST_ENDS)}"

    def place() -> str:
        return rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_PLACE_MIDDLES) + rng.choice(_PLACE_ENDS)

    places = _distinct(place, recipe.num_places)
    frequencies = [rank**-recipe.zipf_exponent for rank in range(1, recipe.num_places + 1)]
    people = []
    for person in _distinct(name, recipe.num_people):
        birthplace = rng.choices(places, frequencies)[0]
        workplace = rng.choice([p for p in places if p != birthplace])
        people.append(
            Person(
                name=person,
                birthplace=birthplace,
                birth_date=f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(1850, 1990)}",
                occupation=rng.choice(_OCCUPATIONS),
                pursuit=rng.choice(_PURSUITS),
                workplace=workplace if rng.random() < recipe.distractor_probability else None,
            )
        )
    return people


def _write_biographies(person: Person, recipe: BiographyRecipe, rng: Random) -> list[str]:
    """One document for each phrasing: the birth sentence, and one about the workplace or else the pursuit."""
    facts = {**person._asdict(), "a_occupation": f"a {person.occupation}"}
    surname = person.name.split()[-1]
    lines = []
    for birth_sentence in rng.sample(_BIRTH_SENTENCES, recipe.phrasings_per_person):
        sentences = [birth_sentence, rng.choice(_WORK_SENTENCES if person.workplace else _PURSUIT_SENTENCES)]
        if recipe.permute_sentences:
            rng.shuffle(sentences)
        called = [person.name] + [surname] * (len(sentences) - 1)
        text = " ".join(s.format(**{**facts, "name": n}) for s, n in zip(sentences, called, strict=True))
        lines.append(f"{person.name}. {text}")
    return lines


def generate_corpus(recipe: BiographyRecipe, relation: str = "birthplace") -> Corpus:
    """Invents the people of a recipe and writes their biographies and questions.

    Args:
        recipe: decides everything but the questions.
        relation: one of `RELATIONS`, what the questions ask for.

    Returns:
        The documents in random order, and the questions about the train, dev and test people.
    """
    rng = Random(recipe.seed)
    people = _invent_people(recipe, rng)
    documents = [line for person in people for line in _write_biographies(person, recipe, rng)]
    rng.shuffle(documents)
    questions = [(RELATIONS[relation].format(name=person.name), getattr(person, relation)) for person in people]
    dev_start = recipe.num_train_people
    test_start = dev_start + recipe.num_dev_people
    test_end = test_start + recipe.num_test_people
    return Corpus(documents, questions[:dev_start], questions[dev_start:test_start], questions[test_start:test_end])
