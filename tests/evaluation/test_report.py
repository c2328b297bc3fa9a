import numpy as np
import pytest

from hf_mingpt.data.questions import Question
from hf_mingpt.data.subjects import find_documents
from hf_mingpt.evaluation.report import (
    build_report,
    count_wrong_answers,
    format_metrics,
    format_page,
    split_accuracy,
)

TRAIN = [Question(f"Where was {name} born?", "Rome") for name in "abcde"] + [Question("Where was f born?", "Oslo")]
ASKED = [
    Question("Where was Ada Byron born?", "Rome"),
    Question("Where was Bo Ek born?", "Oslo"),
    Question("Where was Cy Young born?", "Gilmore"),
    Question("Where was Dee Dee born?", "Rome"),
]
TEXTS = [
    "Ada Byron. Ada Byron was born in Rome .",
    "Bo Ek. Bo Ek (born in 1903) became a painter of the sea, and died in Oslo .",
    "Cy Young. Cy Young played baseball .",
]


class TestReport:
    def test_accuracy_is_split_by_place_and_biography(self):
        correct = np.array([True, False, True, False])
        split = split_accuracy(
            ASKED,
            correct,
            train=TRAIN,
            found=find_documents([question for question, _ in ASKED], TEXTS),
            context_length=64,
        )
        assert split["the answer"] == {
            "frequent": {"correct": 1, "total": 2},
            "not in training answers": {"correct": 1, "total": 1},
            "rare": {"correct": 0, "total": 1},
        }
        assert split["the document"] == {
            "does not say it": {"correct": 1, "total": 2},
            "says it within the context": {"correct": 1, "total": 1},
            "says it too late": {"correct": 0, "total": 1},
        }
        in_words = split_accuracy(
            ASKED[1:2],
            correct[:1],
            train=None,
            found=TEXTS[1:2],
            context_length=64,
            count_tokens=lambda text: len(text.split()),
        )
        assert in_words == {"the document": {"says it within the context": {"correct": 1, "total": 1}}}
        without = split_accuracy(ASKED, correct, train=TRAIN, found=None, context_length=64)
        assert without == {"the answer": split["the answer"]}
        assert split_accuracy(ASKED, correct, train=None, found=None, context_length=64) == {}

    def test_a_wrong_answer_is_not_in_the_text_or_not_recalled(self):
        asked = [*ASKED, Question("Where was Ada Byron born?", " Rome ")]
        said = ["Bonn", "Bonn", "Bonn", "Bonn", "Oslo"]
        assert count_wrong_answers(asked, said, TEXTS) == {"not in the text": 2, "not recalled": 3}
        assert count_wrong_answers(asked, [str(answer) for _, answer in asked], TEXTS) == {
            "not in the text": 0,
            "not recalled": 0,
        }

    def test_each_document_of_a_title_counts(self):
        """Ada's birthplace is in the second of her documents, behind the context."""
        texts, late = [TEXTS[0].replace("Rome", "May"), f"Ada Byron. {'x' * 64} Rome"], ASKED[:1]
        assert count_wrong_answers(late, ["Bonn"], texts) == {"not in the text": 0, "not recalled": 1}
        report = build_report(
            [*late, ASKED[0]], ["Bonn", "Rome"], np.array([0.9, 0.8]), threshold=0.5,
            invented_probability=np.array([0.6]), train=None, documents=texts, context_length=64,
        )  # fmt: skip
        assert report["accuracy_by"]["the document"] == {"says it too late": {"correct": 1, "total": 2}}
        assert report["worst"][0]["document"] == texts[1]

    @pytest.fixture
    def report(self):
        return build_report(
            ASKED, ["Rome", "Bonn", "Gilmore", "Paris"], np.array([0.9, 0.8, 0.4, 0.1]), threshold=0.5,
            invented_probability=np.array([0.6, 0.2]), train=TRAIN, documents=TEXTS, context_length=64,
        )  # fmt: skip

    def test_holds_metrics_and_examples(self, report):
        assert report["false_answers_on_invented_names"] == 0.5
        assert report["scores"]["accuracy_of_given_answers"] == 0.5
        assert [found["prediction"] for found in report["best"]] == ["Rome", "Gilmore"]
        assert [found["prediction"] for found in report["worst"]] == ["Bonn", "Paris"]
        assert report["worst"][0]["document"] == TEXTS[1]
        assert report["probabilities"] == {"correct": [0.9, 0.4], "wrong": [0.8, 0.1], "invented": [0.6, 0.2]}

    def test_is_a_page(self, report):
        page = format_page(report, title="Calibration")
        assert "| answers given to 2 invented names | 0.500 | |" in page
        assert "| says it too late | 0.0% | 1 |" in page
        assert f"- Where was Bo Ek born? **Bonn** (80%), correct: Oslo\n  > {TEXTS[1]}" in page
        said = ["Bonn", "Oslo", "Bonn", "Rome"]
        report = build_report(
            ASKED, said, np.array([0.9, 0.8, 0.4, 0.1]), threshold=0.5, invented_probability=np.array([0.6]),
            train=None, documents=TEXTS, context_length=64,
        )  # fmt: skip
        page = format_page(report, title="Calibration")
        assert "**Bonn** (90%), correct: Rome\n" in page
        assert "**Bonn** (40%), correct: Gilmore, which the document does not say\n" in page


class TestSplitsByHand:
    def test_frequent_places_have_five_questions(self):
        train = [Question(str(n), "Rome") for n in range(5)] + [Question(str(n), "Oslo") for n in range(4)]
        asked = [Question("", place) for place in ("Rome", "Oslo", "Oslo", "Bonn")]
        correct = np.array([True, True, False, False])
        assert split_accuracy(asked, correct, train=train, found=None, context_length=48) == {
            "the answer": {
                "frequent": {"correct": 1, "total": 1},
                "not in training answers": {"correct": 0, "total": 1},
                "rare": {"correct": 1, "total": 2},
            }
        }

    def test_the_context_is_read_up_to_seven_eighths(self):
        """42 of 48 characters: a place that ends with the 42nd is read, one that ends later is not."""
        texts = ["x" * 38 + "Rome", "x" * 39 + "Rome", "Rome" + "x" * 60 + "Rome", None]
        split = split_accuracy([Question("", "Rome")] * 4, np.ones(4, bool), train=None, found=texts, context_length=48)
        assert {part: counts["total"] for part, counts in split["the document"].items()} == {
            "does not say it": 1,
            "says it within the context": 2,
            "says it too late": 1,
        }


class TestPageByHand:
    def report(self, number=12):
        asked = [Question(f"Where was {letter} born?", "Rome") for letter in "abcdefghijkl"[:number]]
        predictions = ["Rome" if i % 2 else "Oslo" for i in range(number)]
        probability = np.array([0.9 - 0.05 * i for i in range(number)])
        return build_report(
            asked, predictions, probability, threshold=0.7, invented_probability=np.array([0.7, 0.69, 0.12346]),
            train=None, documents=None, context_length=48,
        )  # fmt: skip

    def test_five_examples_of_each_kind_the_most_probable_first(self):
        report = self.report()
        assert [found["question"][10] for found in report["best"]] == list("bdfhj")
        assert [found["question"][10] for found in report["worst"]] == list("acegi")
        assert [found["probability"] for found in report["worst"]] == [0.9, 0.8, 0.7, 0.6, 0.5]
        assert report["best"][0] == {
            "question": "Where was b born?", "prediction": "Rome", "answer": "Rome", "probability": 0.85,
            "document": None,
        }  # fmt: skip
        assert (report["threshold"], report["invented_names"]) == (0.7, 3)
        assert report["false_answers_on_invented_names"] == pytest.approx(1 / 3)
        assert report["probabilities"]["invented"] == [0.7, 0.69, 0.1235]
        assert report["risk_by_coverage"][:3] == [1, 0.5, 0.6667]
        assert report["accuracy_by"] == {}

    def test_lines(self):
        page = format_page(self.report(), title="A title").splitlines()
        assert page[:2] == ["# A title", ""]
        assert "at least 0.7." in page[2]
        assert "| coverage | 0.417 | 0.167 to 0.667 |" in page
        assert "| answers given to 3 invented names | 0.333 | |" in page
        best, worst = page.index("## Most probable correct answers"), page.index("## Most probable wrong answers")
        assert page[best + 2] == "- Where was b born? **Rome** (85%)"
        assert page[worst + 2] == "- Where was a born? **Oslo** (90%), correct: Rome"
        assert (len(page) - worst, worst - best) == (7, 8)

    def test_undefined_metrics_are_none(self):
        report = {**self.report(), "accuracy_by": {"the answer": {"rare": {"correct": 1, "total": 8}}}}
        report["scores"] = {"auroc": None, "brier": 0.25}
        report["intervals_95"] = {"auroc": None, "brier": [0.0, 0.5]}
        report["invented_names"] = 1
        assert format_metrics(report).splitlines()[2:] == [
            "| auroc | none |  |",
            "| brier | 0.250 | 0.000 to 0.500 |",
            "| answers given to 1 invented name | 0.333 | |",
            "",
            "| the answer | accuracy | questions |",
            "|---|---|---|",
            "| rare | 12.5% | 8 |",
        ]
