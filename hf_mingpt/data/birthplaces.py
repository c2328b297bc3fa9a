"""Birthplace questions: their template, and paraphrases of the answers; invented names, of people or anything else.

Everything that knows the sentence "Where was NAME born?" is here.

References: CS224n, assignment 5 (the questions); Allen-Zhu and Li 2023, Physics of Language Models 3.1,
arXiv:2309.14316 (paraphrases: the "celebrities" whose many phrasings help a model to recall facts about the others).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..system.wording import count, quote
from .questions import Question
from .subjects import Template, match

BIRTHPLACE = Template("Where was ", " born?")


def question_about(name: str) -> str:
    """The question about a person's birthplace.

    Raises:
        ValueError: if the name is empty.
    """
    return BIRTHPLACE.fill(name)


def invent_names(names: Sequence[str], number: int, *, seed: int = 0, documents: Iterable[str] = ()) -> list[str]:
    """Makes up names of nobody that look like others.

    If at least half of the names have several words, an invented one has the first word of a name and the rest of
    another. Otherwise it has the first letters of a name and the last letters of another, at least two of each: "Peru"
    and "Mali" give "Peli".

    Args:
        names: to draw from.
        number: of names to make up.
        seed: of the draws.
        documents: texts in which none of the names may occur.

    Raises:
        ValueError: if there are not enough names to combine.
    """
    parts = [name.split(maxsplit=1) for name in names if " " in name]
    rng = np.random.default_rng(seed)
    if len(parts) >= len(names) / 2:
        pairs = rng.integers(0, len(parts), (20 * number, 2)).tolist() if parts else []
        invented = dict.fromkeys(f"{parts[first][0]} {parts[rest][1]}" for first, rest in pairs)
    else:
        whole = [name for name in dict.fromkeys(names) if len(name) >= 4]
        places = rng.integers(0, len(whole), (20 * number, 2)).tolist() if len(whole) > 1 else []
        cuts = rng.random((len(places), 2)).tolist()
        invented = dict.fromkeys(
            whole[first][: _cut(whole[first], one)] + whole[last][_cut(whole[last], two) :]
            for (first, last), (one, two) in zip(places, cuts, strict=True)
            if first != last
        )
    for document in (*names, *documents):
        for name in [name for name in invented if name in document]:
            del invented[name]
    if len(invented) < number:
        raise ValueError(
            f"Combining {count(len(names), 'name')} gives {len(invented)} new ones, not {number}: ask for fewer, or "
            "give more questions."
        )
    return list(invented)[:number]


def _cut(name: str, draw: float) -> int:
    """A place in a name with at least two characters on each side."""
    return 2 + int(draw * (len(name) - 3))


def invent_for_templates(
    questions: Sequence[str], templates: Sequence[Template], number: int, *, seed: int, documents: Sequence[str]
) -> dict[Template, list[str]]:
    """Invents names for each template, from the subjects of its questions; a template without questions gets none.

    Args:
        questions: their subjects are the names to combine, and none of them is invented.
        templates: of the questions.
        number: of names for each template.
        seed: of the draws.
        documents: texts in which none of the names may occur.

    Raises:
        ValueError: if there are not enough names to combine.
    """
    invented, taken = dict[Template, list[str]](), list[str]()
    for template in templates:
        own = [question for question in questions if match(question, templates) == template]
        if subjects := [str(template.subject_of(question)) for question in own]:
            invented[template] = invent_names(subjects, number, seed=seed, documents=[*documents, *taken])
            taken += invented[template]
    return invented


_SENTENCES = [
    "{name} was born in {place} .",
    "The birthplace of {name} is {place} .",
    "Born in {place}, {name} is a native of it .",
    "{name} comes from {place} .",
]


def paraphrase_answers(questions: Sequence[Question], paraphrases: int) -> list[str]:
    """Writes each question and its answer as documents, each a paraphrase of the other.

    A model that reads several phrasings about some people stores facts about the others in a form that questions can
    reach. The documents add no facts to the questions.

    Raises:
        ValueError: if a question does not ask for a birthplace, or if there are fewer sentences than paraphrases.

    Example: `Where was Ada Byron born?` and `London` give "Ada Byron. Ada Byron was born in London ."
    """
    if not 0 <= paraphrases <= len(_SENTENCES):
        raise ValueError(f"paraphrases_per_answer is {paraphrases}: use 0 to {len(_SENTENCES)}.")
    facts = [(BIRTHPLACE.subject_of(question), answer) for question, answer in questions]
    for (name, _), (question, _) in zip(facts, questions, strict=True):
        if name is None:
            raise ValueError(
                f"{quote(question)} does not ask for a birthplace, and only `{question_about('NAME')}` has "
                "paraphrases: give --paraphrases_per_answer 0."
            )
    return [
        f"{name}. {_SENTENCES[(person + k) % len(_SENTENCES)].format(name=name, place=place)}"
        for person, (name, place) in enumerate(facts)
        for k in range(paraphrases)
    ]
