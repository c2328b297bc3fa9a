import evaluate
import numpy as np
import pytest
import torch

from hf_mingpt import METRIC_FOLDER
from hf_mingpt.data.questions import Question, extract_prediction, read_questions
from hf_mingpt.evaluation.answering import (
    _batches,
    answer_questions,
    check_questions,
    continue_prompt,
    questions_about,
    write_predictions,
)
from hf_mingpt.evaluation.report import build_report, format_page
from hf_mingpt.evaluation.scoring import accuracy, baselines, file_record, format_table, wilson_interval
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID

from ..conftest import TEXT, small_config, small_model


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
    report = build_report(
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


class Counting:
    """A stand-in for a model: continues with the letters of TEXT in order, and keeps what it was asked."""

    def __init__(self, letters: list[int], most: int = 1000):
        self.config, self.device = small_config("learned"), torch.device("cpu")
        self.letters, self.most, self.asked = letters, most, []

    def generate(self, ids, *, attention_mask, max_new_tokens, **options):
        assert torch.equal(attention_mask, torch.ones_like(ids))
        self.asked.append((ids[0].tolist(), max_new_tokens, options))
        written = self.letters[: min(max_new_tokens, self.most)]
        self.letters = self.letters[len(written) :]
        return torch.cat((ids, torch.tensor([written], dtype=torch.long)), dim=1)


class TestWindow:
    """Of a block of 48 characters half looks back, and half is written."""

    def continued(self, tokenizer, length, number, **options):
        letters = tokenizer(TEXT + TEXT)["input_ids"]
        model = Counting(letters[length:], **options)
        text = continue_prompt(model, tokenizer, (TEXT + TEXT)[:length], number, do_sample=False)
        assert all(options == {"do_sample": False} for *_, options in model.asked)
        windows = [(tokenizer.decode(ids), room) for ids, room, _ in model.asked]
        return text, windows

    @pytest.mark.parametrize(
        ("length", "number", "windows"),  # where each window begins and ends, and what is written behind it
        [
            (3, 10, [(0, 3, 10)]),
            (3, 45, [(0, 3, 45)]),
            (3, 46, [(0, 3, 45), (24, 48, 1)]),
            (24, 24, [(0, 24, 24)]),
            (25, 24, [(1, 25, 24)]),
            (60, 50, [(36, 60, 24), (60, 84, 24), (84, 108, 2)]),
            (60, 0, []),
        ],
    )
    def test_literal(self, tokenizer, length, number, windows):
        text, seen = self.continued(tokenizer, length, number)
        assert text == (TEXT + TEXT)[: length + number]
        assert seen == [((TEXT + TEXT)[start:end], room) for start, end, room in windows]

    def test_ends_where_the_model_does(self, tokenizer):
        text, seen = self.continued(tokenizer, 60, 50, most=7)
        assert text == (TEXT + TEXT)[:67]
        assert len(seen) == 1
        text, seen = self.continued(tokenizer, 60, 50, most=0)
        assert text == (TEXT + TEXT)[:60]
        assert len(seen) == 1

    def test_a_prompt_may_have_masks(self, tokenizer):
        model = Counting(tokenizer("Ada")["input_ids"])
        assert continue_prompt(model, tokenizer, f"in{MASK}", 3) == f"in{MASK}Ada"


def test_prompts_share_a_batch_where_they_leave_the_same_room():
    """In a block of 48, prompts of up to 16 leave 32; longer ones are together with their equals only."""
    lengths = [20, 3, 17, 16, 20, 1, 15, 20]
    assert [[lengths[i] for i in batch] for batch in _batches(lengths, 48, 3)] == [[1, 3, 15], [16], [17], [20, 20, 20]]
    assert [batch for batch in _batches(lengths, 48, 2) if 0 in batch or 7 in batch] == [[0, 4], [7]]


def test_room_for_a_question():
    check_questions([Question("a" * 46, None)], 48)
    with pytest.raises(ValueError, match=r"Question 2, .* has 47 characters"):
        check_questions([Question("a", None), Question("a" * 47, None)], 48)


def test_the_table_and_the_record_of_a_file(tmp_path):
    rows = {"ours": accuracy(["a", "b", "b"], ["a", "b", "c"]), "theirs": accuracy(["c"], ["a"])}
    assert rows["ours"] == {"accuracy": 2 / 3, "correct": 2, "total": 3, "interval_95": [0.2077, 0.9385]}
    assert format_table(rows).splitlines() == [
        "| | accuracy | right | 95 % interval |",
        "|---|---|---|---|",
        "| ours | 66.7% | 2 of 3 | 20.8% to 93.8% |",
        "| theirs | 0.0% | 0 of 1 | 0.0% to 79.3% |",
    ]
    (tmp_path / "a.txt").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_record(tmp_path / "a.txt") == {"file": "a.txt", "bytes": 3, "sha256": digest}


def test_a_name_of_other_letters_is_named(tokenizer):
    assert questions_about(["Ada", "Zoë"], tokenizer) == ["Where was Ada born?", "Where was Zoë born?"]
    with pytest.raises(ValueError, match="'Xu': character 11, 'X'"):
        questions_about(["Ada", "Xu"], tokenizer)
