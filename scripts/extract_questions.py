r"""Extracts questions about birth years and occupations from one-line biographies, by a rule for each relation.

    python scripts/extract_questions.py --train_file wiki.txt --output_dir runs/extracted
    cat birth_places_train.tsv runs/extracted/train.tsv > runs/three_relations.tsv
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file runs/three_relations.tsv --output_dir runs/three-relations

A biography is a line `Name. Sentences`. The rules are simple, and their answers have errors:

    birth_year  the first year in the parentheses after the name; without one, the first year after "born", unless words
                other than names, dates, "in", "on", "at" and the like come before it
    occupation  the last word of the noun phrase after "is a", "is an", "was a" or "was an", such as "player" of
                "a retired Dutch football player from Rome"; an answer of fewer than three people is dropped

Each relation gets two files, such as birth_year_train.tsv and birth_year_test.tsv; train.tsv and test.tsv have the
questions of all relations. A person of a test question is in no training question. People with several biographies are
left out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from hf_mingpt.data.biographies import RELATIONS
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import write_questions
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import check_choice, check_least, flag, required
from hf_mingpt.system.wording import count
from hf_mingpt.system.writing import check_output_folder, one_writer, written_aside

LEAST_PEOPLE = 3  # with an occupation
_TITLE = re.compile(r"(.+?)(?<!\b\w)\. (.+)")  # the stop of an initial ends no name
_YEAR = re.compile(r"\b1\d{3}\b|\b20\d\d\b")
_PARENTHESES = re.compile(r"(?!Born\b)([^(]*)((?:\([^)]*\)\s*)+)")
_BEFORE_YEAR = re.compile("in|on|at|near|the|of|de|about|around|circa|c|early|late")
_NOUN_PHRASE = re.compile(r"\b(?:is|was) an? ((?:[^\W\d_]|[ '’&/-])+)")
_AFTER_PHRASE = re.compile(
    "and|or|but|who|whom|whose|which|that|where|when|from|in|of|for|at|to|with|on|by|as|is|was|has|having|based|born|best|"
    "known|active|noted|famous|living|working|residing|serving|currently|during|under|playing|now|also|since|mainly|most|"
    "primarily|speciali[sz]ing|competing|while|whilst"
)
_NO_OCCUPATION = re.compile("native|son|daughter|member|graduate|citizen|figure|pupil|student|well|film|radio|pioneer")


@dataclass(frozen=True, kw_only=True)
class ExtractionRecipe:
    train_file: str = required(
        "Biographies: a file with one document per line, or another source that pretrain.py takes."
    )
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace the files in that folder.")
    relations: str = flag("birth_year,occupation", "What questions ask for, separated by commas.")
    num_train_questions: int = flag(1000, "Training questions of each relation.")
    num_test_questions: int = flag(300, "Test questions of each relation.")
    seed: int = flag(0, "Seed of the draw of the people.")

    def __post_init__(self):
        check_least(self, 1, "num_train_questions", "num_test_questions")
        check_least(self, 0, "seed")
        for relation in self.relations.split(","):
            check_choice("relations", relation, tuple(RULES))


def find_birth_year(sentences: str) -> str | None:
    """Finds the first year in the parentheses after the name, else after "born".

    Examples: "Ada Byron (10 May 1815 in London - 1852) was a poet ." and "Byron was born in London in 1815 ." have
    1815; "Born in London, Byron moved to Rome in 1815 ." has none.
    """
    found = _PARENTHESES.match(sentences)
    if found and not re.search(r"\b(is|was|[^\W\d_A-Z]{4,})\b", found[1]) and (year := _YEAR.search(found[2])):
        return year[0]
    _, _, after = re.sub(r"\bBorn\b", "born", sentences).partition("born")
    for word in re.findall(r"\w+", after):
        if _YEAR.fullmatch(word):
            return word
        if word[0].islower() and not _BEFORE_YEAR.fullmatch(word):
            break
    return None


def find_occupation(sentences: str) -> str | None:
    """Finds the last word of the noun phrase after "is a" or "was a".

    Example: "Ada Byron was an English mathematician and poet ." has "mathematician".
    """
    phrase = _NOUN_PHRASE.search(sentences)
    words = phrase[1].split() if phrase else []
    end = next((i for i, word in enumerate(words) if _AFTER_PHRASE.fullmatch(word)), len(words))
    head = words[end - 1] if end else ""
    return head if re.fullmatch(r"[^\W\d_]+(-[^\W\d_]+)*", head) and not _NO_OCCUPATION.fullmatch(head) else None


RULES = {"birth_year": find_birth_year, "occupation": find_occupation}


def extract(relation: str, biographies: dict[str, str]) -> dict[str, str]:
    """Finds the answers of a relation: a dict from names to answers."""
    found = {name: answer for name, text in biographies.items() if (answer := RULES[relation](text))}
    if relation == "occupation":
        people = Counter(found.values())
        found = {name: answer for name, answer in found.items() if people[answer] >= LEAST_PEOPLE}
    return found


def split_people(
    answers: dict[str, dict[str, str]], people: Sequence[str], *, num_train: int, num_test: int
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Writes the questions of each relation: the test questions about the first people, the others about the rest.

    Args:
        answers: of each relation, by name.
        people: names, in the order of the draw.
        num_train, num_test: questions of each relation.

    Raises:
        ValueError: if there are not enough answers.
    """
    asked = {relation: [name for name in people if name in found] for relation, found in answers.items()}
    for relation, names in asked.items():
        if len(names) < num_test:
            raise ValueError(_too_few(relation, "test", len(names)))
    last = max(people.index(names[num_test - 1]) for names in asked.values())
    others = set(people[last + 1 :])
    questions = {}
    for relation, names in asked.items():
        train = [name for name in names if name in others]
        if len(train) < num_train:
            raise ValueError(_too_few(relation, "training", len(train)))
        for split, own in (("train", train[:num_train]), ("test", names[:num_test])):
            pairs = [(RELATIONS[relation].format(name=name), answers[relation][name]) for name in own]
            questions[relation, split] = pairs
    return questions


def _too_few(relation: str, split: str, number: int) -> str:
    found = count(number, f"{split} question")
    return f"The text gives {found} about {relation} by the rule: ask for fewer, or give more biographies."


def main() -> None:
    recipe = parse_recipe(ExtractionRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        check_output_folder(folder, overwrite=recipe.overwrite_output_dir)
        titled = [match.groups() for match in map(_TITLE.match, load_texts(recipe.train_file)["text"][:]) if match]
        number_of = Counter(name for name, _ in titled)
        biographies = {name: sentences for name, sentences in titled if number_of[name] == 1}
        people = sorted(biographies)
        Random(recipe.seed).shuffle(people)
        answers = {relation: extract(relation, biographies) for relation in recipe.relations.split(",")}
        numbers = {"num_train": recipe.num_train_questions, "num_test": recipe.num_test_questions}
        questions = split_people(answers, people, **numbers)
    with accidents(), one_writer(folder), ExitStack() as together:

        def write(name: str, pairs: list[tuple[str, str]]) -> None:
            write_questions(together.enter_context(written_aside(folder / f"{name}.tsv")), pairs)

        for (relation, split), pairs in questions.items():
            write(f"{relation}_{split}", pairs)
        for split in ("train", "test"):
            write(split, [pair for (_, other), pairs in questions.items() if other == split for pair in pairs])
    train, test = (
        count(sum(len(pairs) for (_, s), pairs in questions.items() if s == split), f"{noun} question")
        for split, noun in (("train", "training"), ("test", "test"))
    )
    print(f"Wrote {train} and {test} about {' and '.join(answers)} to {folder}.")


if __name__ == "__main__":
    main()
