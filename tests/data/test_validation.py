"""Held-out questions and documents: by seed, disjoint, and never all or none."""

import pytest
from datasets import Dataset, Features, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_mingpt.data.questions import Question, write_questions
from hf_mingpt.data.validation import split_documents, split_questions

QUESTIONS = [Question(f"Where was N{i} born?", f"P{i % 7}") for i in range(40)]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.25, 0.5]))
def test_a_part_of_the_questions_is_held_out(seed, ratio):
    kept, held_out = split_questions(QUESTIONS, file=None, ratio=ratio, seed=seed)
    assert len(held_out) == round(40 * ratio)
    assert sorted(kept + held_out, key=QUESTIONS.index) == QUESTIONS
    assert kept == sorted(kept, key=QUESTIONS.index)


def test_the_choice_is_that_of_the_seed():
    choices = [split_questions(QUESTIONS, file=None, ratio=0.25, seed=seed)[1] for seed in (0, 0, 1)]
    assert choices[0] == choices[1] != choices[2]


def test_every_question_is_held_out_equally_often():
    number = sum(QUESTIONS[0] in split_questions(QUESTIONS, file=None, ratio=0.25, seed=seed)[1] for seed in range(800))
    assert 150 < number < 250


def test_questions_of_the_same_wording_stay_together():
    twice = [Question("Where?", "A"), *QUESTIONS, Question("Where?", "B")]
    for seed in range(20):
        for side in split_questions(twice, file=None, ratio=0.5, seed=seed):
            assert sum(question == "Where?" for question, _ in side) in (0, 2)


def test_documents_keep_their_order():
    texts = Dataset.from_dict({"text": [str(i) for i in range(20)]})
    kept, held_out = split_documents(texts, held_out=None, ratio=0.2, seed=3)
    assert len(held_out) == 4
    assert sorted([*kept["text"], *held_out["text"]], key=int) == texts["text"][:]
    assert list(kept["text"]) == sorted(kept["text"], key=int)


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_a_ratio_that_leaves_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"validation_ratio {ratio} holds out \d+ of 40 questions: give a ratio"):
        split_questions(QUESTIONS, file=None, ratio=ratio, seed=0)
    with pytest.raises(ValueError, match="of 1 document"):
        split_documents(Dataset.from_dict({"text": ["a"]}), held_out=None, ratio=ratio, seed=0)


class TestWhatIsSaid:
    def test_of_a_ratio(self, capsys):
        split_questions(QUESTIONS, file=None, ratio=0.25, seed=0)
        split_documents(Dataset.from_dict({"text": list("abcd")}), held_out=None, ratio=0.25, seed=0)
        said = "Held out for evaluation: 10 of 40 questions.\nHeld out for evaluation: 1 of 4 documents.\n"
        assert capsys.readouterr().out == said

    def test_of_an_overlap(self, tmp_path, capsys):
        """The whole file is evaluated, and the run says what that measures."""
        write_questions(tmp_path / "dev.tsv", [*QUESTIONS[:3], ("Who?", "Me")])
        kept, held_out = split_questions(QUESTIONS, file=str(tmp_path / "dev.tsv"), ratio=None, seed=0)
        assert kept == QUESTIONS
        assert len(held_out) == 4
        assert "Of 4 validation questions, 3 are training questions too" in capsys.readouterr().err

    def test_of_an_overlap_of_documents(self, capsys):
        texts = Dataset.from_dict({"text": [*"abcab"]}).select([0, 1, 3, 4])  # without "c"
        held_out = Dataset.from_dict({"text": [*"dabdca"]}, Features({"text": Value("large_string")}))
        assert split_documents(texts, held_out=held_out, ratio=None, seed=0) == (texts, held_out)
        said = "Of 6 validation documents, 3 are training documents too: on these, the loss measures memory.\n"
        assert capsys.readouterr().err.endswith(said)

    def test_of_nothing(self, tmp_path, capsys):
        write_questions(tmp_path / "dev.tsv", [("Who?", "Me")])
        split_questions(QUESTIONS, file=str(tmp_path / "dev.tsv"), ratio=None, seed=0)
        assert split_questions(QUESTIONS, file=None, ratio=None, seed=0) == (QUESTIONS, [])
        texts, others = (Dataset.from_dict({"text": [text]}) for text in "ab")
        assert split_documents(texts, held_out=others, ratio=None, seed=0) == (texts, others)
        assert capsys.readouterr() == ("", "")
