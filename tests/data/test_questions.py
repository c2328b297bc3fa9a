import numpy as np
import pytest
import torch

from hf_mingpt.data.questions import (
    MAX_ANSWER_TOKENS,
    Question,
    add_pseudo_labels,
    answer_starts,
    extract_prediction,
    invent_names,
    join_questions,
    name_asked,
    paraphrase_answers,
    question_about,
    read_questions,
    split_folds,
    write_questions,
)
from hf_mingpt.data.sequences import IGNORE_ID


def write(tmp_path, content: bytes):
    path = tmp_path / "questions.tsv"
    path.write_bytes(content)
    return path


def test_reads_questions_with_answers(tmp_path):
    path = write(tmp_path, "\ufeffWhere was Zoë born?\tÅlesund\r\nWhere was A\u2028B born?\tRome\r\n".encode())
    assert read_questions(path) == [
        Question("Where was Zoë born?", "Ålesund"),
        Question("Where was A\u2028B born?", "Rome"),
    ]


@pytest.mark.parametrize("content", ["Where?\tRome\r\r\n", "\ufeff\ufeffWhere?\tRome\n"])
def test_what_was_converted_twice_is_read_and_written_alike(tmp_path, content):
    questions = read_questions(write(tmp_path, content.encode()))
    assert questions == [Question("Where?", "Rome")]
    write_questions(tmp_path / "again.tsv", questions)
    assert read_questions(tmp_path / "again.tsv") == questions


def test_reads_questions_without_answers(tmp_path):
    assert read_questions(write(tmp_path, b"Where was A born?\nWhere was B born?")) == [
        Question("Where was A born?", None),
        Question("Where was B born?", None),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"Q1\tA\nQ2 A\n", "line 2: 0 tabs"),
        (b"Q1\tA\nQ2\tA\tB\n", "line 2: 2 tabs"),
        (b"Q1\nQ2\tA\n", "line 2: a tab"),
        (b"Q1\tA\n\nQ2\tA\n", "line 2: 0 tabs"),
        (b"Q1\tA\nQ2\t \n", "line 2: an empty"),
        (b"Q1\tA\nQ2\t\xff\n", "line 2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        read_questions(write(tmp_path, content))


def test_answers_can_be_demanded(tmp_path):
    with pytest.raises(ValueError, match="line 1: 0 tabs"):
        read_questions(write(tmp_path, b"Q1\nQ2\n"), answers=True)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.tsv"):
        read_questions(tmp_path / "nothing.tsv")


def test_every_question_is_held_out_once():
    questions = [Question(f"Q{i}?", "Rome") for i in range(11)]
    folds = split_folds(questions, 3)
    assert sorted(q for _, held_out in folds for q in held_out) == sorted(questions)
    for train, held_out in folds:
        assert sorted(train + held_out) == sorted(questions)
        assert 3 <= len(held_out) <= 4
    assert folds == split_folds(questions, 3) != split_folds(questions, 3, seed=1)
    repeated = questions + questions[:4]  # as in the course's file, where nine people are asked about twice
    for train, held_out in split_folds(repeated, 3):
        assert not set(train) & set(held_out)
        assert sorted(train + held_out) == sorted(repeated)
    for number in (1, 12):
        with pytest.raises(ValueError, match=f"num_folds is {number}"):
            split_folds(questions, number)


def test_what_is_written_is_read(tmp_path):
    questions = [Question("Where was Zoë born?", "Ålesund"), Question("Where was Bo born?", "New York")]
    write_questions(tmp_path / "q.tsv", questions)
    assert read_questions(tmp_path / "q.tsv") == questions


def test_format():
    assert join_questions([Question("Q?", "Rome")], "⁇") == ["Q?⁇Rome⁇"]


def test_answers_are_written_as_documents():
    pairs = [Question("Where was Ada Byron born?", "London"), Question("Where was Zoë born?", "Bath")]
    once, twice = paraphrase_answers(pairs, 1), paraphrase_answers(pairs, 2)
    assert once == ["Ada Byron. Ada Byron was born in London .", "Zoë. The birthplace of Zoë is Bath ."]
    assert twice[::2] == once
    assert len({*twice, *paraphrase_answers(pairs, 4)}) == 8
    assert paraphrase_answers(pairs, 0) == []
    with pytest.raises(ValueError, match="phrasings are 5: there are up to 4"):
        paraphrase_answers(pairs, 5)
    with pytest.raises(ValueError, match="asks for no birthplace"):
        paraphrase_answers([Question("Who?", "Ada")], 1)


def test_what_is_learnt_starts_at_the_first_mask():
    examples = np.array([5, 6, 1, 7, 1, 5, 1, 7, 8, 9, 1])
    assert answer_starts(examples, np.array([0, 5, 11]), mask_id=1).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "prediction"),
    [("Q?⁇Rome⁇⁇x", "Rome"), ("Q?⁇Rome", "Rome"), ("Q?⁇⁇", ""), ("Q?", "")],
)
def test_prediction_stands_between_the_first_two_masks(text, prediction):
    assert extract_prediction(text, "⁇") == prediction


class TestNames:
    def test_a_question_holds_a_name(self):
        assert name_asked(question_about("Ada Byron")) == "Ada Byron"
        with pytest.raises(ValueError, match="asks for no birthplace"):
            name_asked("Who was Ada Byron?")
        for empty in ("", " "):
            with pytest.raises(ValueError, match="name is empty"):
                question_about(empty)

    def test_invented_names_are_new(self):
        names = ["Ada Byron", "Zoë Quist", "Jan van Eyck", "Plato"]
        invented = invent_names(names, 4, documents=["Zoë van Eyck. A painter ."])
        assert len(set(invented)) == 4
        assert set(invented) < {f"{a} {b}" for a in ("Ada", "Zoë", "Jan") for b in ("Byron", "Quist", "van Eyck")}
        assert not set(invented) & {*names, "Zoë van Eyck"}
        assert invent_names(names, 4, seed=1) != invented
        with pytest.raises(ValueError, match="of 9 names could be made up"):
            invent_names(names, 9)


def test_what_is_known_is_not_distilled():
    known = [Question("Where was Ada born?", "London")]
    asked = [
        "Where was Bo born?",
        "Where was Ada born?",
        "Where was Cy born?",
        "Where was Dee born?",
        "Where was E\t born?",
    ]
    labelled = add_pseudo_labels(known, asked, ["Bonn", "Rome", " ", "Ro\nme", "Kiel"])
    assert labelled == [*known, Question("Where was Bo born?", "Bonn")]


@pytest.mark.parametrize(("content", "line"), [("a⁇\tb\n", 1), ("a\tb\nc\t□\n", 2)])
def test_a_reserved_mark_in_a_question_or_an_answer_is_named(tmp_path, content, line):
    with pytest.raises(ValueError, match=rf"questions\.tsv, line {line}: .* is a mark of the data format"):
        read_questions(write(tmp_path, content.encode()))


def test_a_question_is_read_as_it_stands(tmp_path):
    questions = [Question(' NA "x"', "007 "), Question("1e5", "null"), Question("\x85b", "2020-01-01")]
    write_questions(tmp_path / "q.tsv", questions)
    assert read_questions(tmp_path / "q.tsv") == questions


def test_questions_without_answers_are_written_without(tmp_path):
    write_questions(tmp_path / "q.tsv", [Question("a", None), Question("b", None)])
    assert (tmp_path / "q.tsv").read_text() == "a\nb\n"
    assert read_questions(tmp_path / "q.tsv") == [Question("a", None), Question("b", None)]


def test_utf16_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is UTF-16: save the file as UTF-8"):
        read_questions(write(tmp_path, "a\tb\n".encode("utf-16")))


class TestByHand:
    names = ("Ada Byron", "Zoë Quist", "Jan van Eyck", "Plato")

    def test_invented_names_by_seed(self):
        assert invent_names(self.names, 3) == ["Jan Quist", "Zoë Byron", "Ada van Eyck"]
        assert invent_names(self.names, 3, seed=0) == invent_names(self.names, 3)
        assert invent_names(["A b", "C d"], 2) == ["C b", "A d"]
        assert invent_names(["A b", "C d"], 1, documents=["what C b did"]) == ["A d"]
        for names, number in (([], 1), (["Plato"], 1), (["A b"], 1)):
            with pytest.raises(ValueError, match=f"Only 0 of {number} names"):
                invent_names(names, number)

    def test_folds_by_seed(self):
        questions = [Question(letter, "Rome") for letter in "abcdefg"]
        folds = split_folds(questions, 3)
        assert [[question for question, _ in held_out] for _, held_out in folds] == [
            list("cdf"),
            list("bg"),
            list("ae"),
        ]
        assert [[question for question, _ in train] for train, _ in folds] == [
            list("abeg"),
            list("acdef"),
            list("bcdfg"),
        ]
        assert folds == split_folds(questions, 3, seed=0)
        assert len(split_folds(questions, 2)) == 2
        assert [len(held_out) for _, held_out in split_folds(questions, 7)] == [1] * 7

    def test_what_carries_no_loss_is_what_torch_leaves_out(self):
        assert torch.nn.CrossEntropyLoss().ignore_index == IGNORE_ID
        assert MAX_ANSWER_TOKENS == 32

    def test_phrasings_go_round(self):
        pairs = [Question(f"Where was {name} born?", "Rome") for name in "ABCDE"]
        second = [f"{name}. {text}" for name, text in [
            ("A", "The birthplace of A is Rome ."),
            ("B", "Born in Rome, B is a native of it ."),
            ("C", "C comes from Rome ."),
            ("D", "D was born in Rome ."),
            ("E", "The birthplace of E is Rome ."),
        ]]  # fmt: skip
        assert paraphrase_answers(pairs, 2)[1::2] == second
        with pytest.raises(ValueError, match="phrasings are -1"):
            paraphrase_answers(pairs, -1)

    def test_any_part_of_a_name_is_asked_about(self):
        assert question_about("Ada Byron") == "Where was Ada Byron born?"
        assert name_asked("Where was Where was born? born?") == "Where was born?"
        for no_question in ("Where was  born?", "Where was Ada", "Ada born?"):
            with pytest.raises(ValueError, match="asks for no birthplace"):
                name_asked(no_question)

    @pytest.mark.parametrize("answers", [True, None])
    def test_columns_are_demanded_of_every_line(self, tmp_path, answers):
        with pytest.raises(ValueError, match="line 2: 2 tabs"):
            read_questions(write(tmp_path, b"Q1\tA\nQ2\tA\tB\n"), answers=answers)
        with pytest.raises(ValueError, match="line 2: an empty"):
            read_questions(write(tmp_path, b"Q1\tA\n \tA\n"), answers=answers)

    def test_answers_can_be_refused(self, tmp_path):
        with pytest.raises(ValueError, match="line 1: a tab"):
            read_questions(write(tmp_path, b"Q1\tA\nQ2\tA\n"), answers=False)
        assert read_questions(write(tmp_path, b"Q1\n"), answers=False) == [Question("Q1", None)]

    def test_an_answer_starts_in_its_own_example(self):
        examples = np.array([1, 1, 6, 7, 1, 5, 1, 9, 1])
        assert answer_starts(examples, np.array([0, 2, 5, 9]), mask_id=1).tolist() == [0, 2, 1]


def test_a_reserved_mark_is_not_distilled():
    assert add_pseudo_labels([], ["Where was Ada born?", "Where was Bo born?"], ["R□me", "Bonn"])[0].answer == "Bonn"
