"""Birthplace questions: their template, invented names, and paraphrases of the answers.

Everything that knows the sentence "Where was NAME born?" is here.

References: CS224n, assignment 5 (the questions); Allen-Zhu and Li 2023, Physics of Language Models 3.1,
arXiv:2309.14316 (paraphrases: the "celebrities" whose many phrasings help a model to recall facts about the others).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from ..system.wording import count
from .questions import Question


def question_about(name: str) -> str:
    """The question about a person's birthplace.

    Raises:
        ValueError: if the name is empty.
    """
    if not name.strip():
        raise ValueError("The name is empty: write one.")
    return f"Where was {name} born?"


def name_asked(question: str) -> str:
    """The name in a question.

    Raises:
        ValueError: if the question does not ask for a birthplace.
    """
    name = question.removeprefix("Where was ").removesuffix(" born?")
    if not name or question_about(name) != question:
        raise ValueError(f"{question!r} does not ask for a birthplace: write `{question_about('NAME')}`.")
    return name


def invent_names(names: Sequence[str], number: int, *, seed: int = 0, documents: Iterable[str] = ()) -> list[str]:
    """Makes up names of nobody that look like others: the first word of one name and the rest of another.

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
    pairs = rng.integers(0, len(parts), (20 * number, 2)).tolist() if parts else []
    invented = dict.fromkeys(f"{parts[first][0]} {parts[rest][1]}" for first, rest in pairs)
    for document in (*names, *documents):
        for name in [name for name in invented if name in document]:
            del invented[name]
    if len(invented) < number:
        raise ValueError(
            f"Combining {count(len(names), 'name')} gives {len(invented)} new ones, not {number}: ask for fewer."
        )
    return list(invented)[:number]


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
        ValueError: if a question does not ask for a birthplace, or if there are fewer templates than paraphrases.

    Example: `Where was Ada Byron born?` and `London` give "Ada Byron. Ada Byron was born in London ."
    """
    if not 0 <= paraphrases <= len(_SENTENCES):
        raise ValueError(f"paraphrases_per_answer is {paraphrases}: use 0 to {len(_SENTENCES)}.")
    facts = [(name_asked(question), answer) for question, answer in questions]
    return [
        f"{name}. {_SENTENCES[(person + k) % len(_SENTENCES)].format(name=name, place=place)}"
        for person, (name, place) in enumerate(facts)
        for k in range(paraphrases)
    ]
