import pytest
from datasets import Dataset

from hf_mingpt.data.assembly import build_steps
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.questions import Question
from hf_mingpt.data.recipe import DataRecipe

from ..conftest import rows_of

QUESTION = Question("Where was Ada Byron born?", "Kent")
WROTE = "she wrote and wrote, " * 6
LINES = [f"{name}. {WROTE}to Deal, {place}, Ohio and Rome" for name, place in (("Ada Byron", "Kent"), ("Bo", "Lima"))]


@pytest.mark.parametrize(
    "changes",
    [
        {"num_spans": 2},
        {"document_windows": True},
        {"ssm_probability": 1.0},
        {"ssm_probability": 1.0, "masking_policy_probability": 1.0},
        {"ssm_probability": 1.0, "masking_policy_probability": 1.0, "learned_masking_policy": True},
    ],
)
def test_every_field_changes_the_examples(changes):
    """Compares with the same recipe without the last field."""
    texts = Dataset.from_dict({"text": [*LINES * 16, QUESTION.question]})
    tokenizer = build_corpus_tokenizer(texts, 128)

    def first_step(**fields):
        recipe = DataRecipe(train_file="x", questions_file="q", **fields)
        steps = build_steps(recipe, texts, [QUESTION], tokenizer, BatchShape(32), block_size=128, seed=0, shuffle=True)
        return rows_of(steps[0])

    plain = dict(list(changes.items())[:-1])
    assert first_step(**changes) == first_step(**changes) != first_step(**plain)
