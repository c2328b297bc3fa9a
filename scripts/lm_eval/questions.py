"""What birthplaces.yaml asks."""

from datasets import Dataset

from hf_mingpt.data.questions import read_questions
from hf_mingpt.evaluation.scoring import is_exact_match


def load(questions_file: str, **_) -> dict[str, Dataset]:
    questions = read_questions(questions_file)
    return {"test": Dataset.from_list([{"question": question, "place": place} for question, place in questions])}


def mark(document: dict[str, str], results: list[str]) -> dict[str, float]:
    return {"exact_match": float(is_exact_match(results[0], document["place"]))}
