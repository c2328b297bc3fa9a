import evaluate
import numpy as np
import pytest
import torch

from hf_mingpt import METRIC_FOLDER
from hf_mingpt.birthplaces import Question, extract_prediction, read_questions
from hf_mingpt.evaluation import (
    accuracy,
    answer_questions,
    baselines,
    continue_prompt,
    format_table,
    wilson_interval,
    write_predictions,
)
from hf_mingpt.report import format_page, report_honesty
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID

from .conftest import small_model


def assignment_way(model, tokenizer, question: str) -> str:
    """One question, no cache, always 32 characters: what the assignment's code does."""
    ids = tokenizer(question + MASK, return_tensors="pt")["input_ids"]
    for _ in range(min(32, 48 - ids.shape[1])):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return extract_prediction(tokenizer.decode(ids[0]), MASK)


def test_batched_cached_answers_are_the_assignments(variant, tokenizer):
    model = small_model(variant, vocab_size=len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[0] = 0  # never PAD, as in a trained model
        model.lm_head.weight[MASK_ID] *= 1.5  # some answers end early, some never do
    questions = [Question(f"Where was {name} born?", None) for name in ("Ada", "Zoë Quist", "Byron", "A", "Ada Byron")]
    answers = answer_questions(model, tokenizer, questions, batch_size=2)
    assert answers == [assignment_way(model, tokenizer, question) for question, _ in questions]
    assert len(set(map(len, answers))) > 1


def test_a_question_over_the_block_is_an_error(tokenizer):
    with pytest.raises(ValueError, match=r"Question 1, .* has 50 characters"):
        answer_questions(small_model("rope", vocab_size=len(tokenizer)), tokenizer, [Question("a" * 50, None)])


def test_metric_loads_offline_and_counts():
    metric = evaluate.load(METRIC_FOLDER)
    scores = metric.compute(predictions=["Rome", "rome", "Paris ", ""], references=["Rome", "Rome", "Paris", "Oslo"])
    assert scores == {"accuracy": 0.5, "correct": 2, "total": 4}  # white space around an answer does not count
    for prediction in ("Rome", "Oslo"):
        metric.add(prediction=prediction, reference="Rome")
    assert metric.compute()["accuracy"] == 0.5


def test_wilson_interval():
    low, high = wilson_interval(77, 500)  # the reference run of the assignment; figures from the closed form
    assert (low, high) == pytest.approx((0.1250, 0.1882), abs=5e-4)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == pytest.approx(1)


def test_baselines():
    train = [Question("a", "Rome"), Question("b", "Oslo"), Question("c", "Rome")]
    scores = baselines(train, ["Rome", "London", "Bonn", "Bern"])
    assert {name: row["accuracy"] for name, row in scores.items()} == {
        "most frequent (Rome)": 0.25,
        "always London": 0.25,
    }
    assert baselines(None, ["Rome"]) == {}
    assert "| most frequent (Rome) | 25.0% | 1 of 4 |" in format_table(scores)
    assert accuracy(["a"], ["a"])["interval_95"] == [0.2065, 1.0]


def test_predictions_are_one_a_line(tmp_path):
    write_predictions(tmp_path / "p.txt", ["Rome", "", "a\nb"])
    assert (tmp_path / "p.txt").read_text() == "Rome\n\na b\n"


def test_a_prompt_is_continued_past_the_block(tokenizer):
    model = small_model("learned", vocab_size=len(tokenizer))
    text = continue_prompt(model, tokenizer, "Ada", 100, do_sample=False)
    assert text.startswith("Ada")
    assert len(text) == 103
    torch.manual_seed(0)
    assert len(continue_prompt(model, tokenizer, "Ada" * 30, 20, do_sample=True)) == 110
    for prompt, said in (("", "is empty"), ("AX", "character 2, 'X'")):
        with pytest.raises(ValueError, match=said):
            continue_prompt(model, tokenizer, prompt, 5)


REFERENCE = """\
Where was Ada born?\tLondon
Where was Bo born?\t Rome
Where was Cy born?\tOslo\u00a0
Where was Di born?\tNew York
"""


def evaluate_places(lines: list[str], predicted_places: list[str]) -> int:
    """The reference evaluation, written out anew: it strips both sides before it compares."""
    true_places = [line.strip().split("\t")[1].strip() for line in lines]
    return sum(place == predicted.strip() for place, predicted in zip(true_places, predicted_places, strict=True))


def test_answers_are_compared_as_the_reference_does(tmp_path):
    """By the metric, and wherever right answers are counted."""
    (tmp_path / "q.tsv").write_text(REFERENCE, encoding="utf-8")
    questions = read_questions(tmp_path / "q.tsv", answers=True)
    references = [question.answer for question in questions]
    said = ["London ", "Rome", "\tOslo\n", "NewYork"]
    expected = evaluate_places(REFERENCE.splitlines(), said)
    assert expected == 3
    assert accuracy(said, references)["correct"] == expected
    assert evaluate.load(METRIC_FOLDER).compute(predictions=said, references=references)["correct"] == expected
    report = report_honesty(
        questions, said, np.array([0.9, 0.8, 0.7, 0.6]), threshold=0.5, of_invented=np.array([0.1]),
        train=[Question("q", " London ")] * 5, documents=["Bo. Bo was born in Rome .", "Cy. Oslo"], block_size=64,
    )  # fmt: skip
    assert len(report["probabilities"]["right"]) == expected
    assert report["accuracy_by"]["the place"]["frequent"] == {"right": 1, "total": 1}
    assert report["accuracy_by"]["the biography"]["says it in the block"] == {"right": 2, "total": 2}
    assert "but it was" not in format_page(report, title="t").split("## Wrong")[0]
    assert baselines([Question("q", "Rome "), Question("r", " Rome"), Question("s", "Bonn")], references) == {
        "most frequent (Rome)": accuracy(["Rome"] * 4, references),
        "always London": accuracy(["London"] * 4, references),
    }


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ([], [], "no answers to compare"),
        (["a"], ["a", "b"], "1 predictions and 2 references"),
        (["a", "b"], ["a", None], "Reference 2 is None"),
        ([None, "b"], ["a", "b"], "Prediction 1 is None"),
        ([7], ["7"], "Prediction 1 is 7"),
    ],
)
def test_what_cannot_be_compared_is_refused(predictions, references, said):
    with pytest.raises(ValueError, match=said):
        accuracy(predictions, references)


def test_the_metric_refuses_what_cannot_be_compared():
    metric = evaluate.load(METRIC_FOLDER)
    for predictions, references, said in (
        ([], [], "no answers to compare"),
        (["a"], ["a", "b"], "number of predictions"),
        (["a", "b"], ["a", None], "Reference 2 is None"),
    ):
        with pytest.raises(ValueError, match=said):
            metric.compute(predictions=predictions, references=references)
    assert metric.compute(predictions=["a", "b"], references=["a", "c"])["accuracy"] == 0.5
