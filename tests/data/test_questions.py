import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mingpt.data.questions import (
    MAX_ANSWER_TOKENS,
    Question,
    add_pseudo_labels,
    answer_starts,
    extract_prediction,
    read_questions,
    split_folds,
    write_questions,
)
from hf_mingpt.data.sequences import TokenSequences


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
def test_text_that_was_converted_twice_is_cleaned(tmp_path, content):
    questions = read_questions(write(tmp_path, content.encode()))
    assert questions == [Question("Where?", "Rome")]
    write_questions(tmp_path / "again.tsv", questions)
    assert read_questions(tmp_path / "again.tsv") == questions


ROWS = [("Where was Ada born?", "London, England"), ("When was Ada born?", "1815")]
QUOTED = 'id,question,answer\n1,Where was Ada born?,"London, England"\n2,When was Ada born?,1815\n'


class TestTables:
    @pytest.mark.parametrize("header", ["question\tanswer\n", "\ufeffQuestion\tAnswer\r\n", ""])
    def test_a_header_is_no_question(self, tmp_path, header):
        lines = "".join(f"{question}\t{answer}\n" for question, answer in ROWS)
        assert read_questions(write(tmp_path, (header + lines).encode()), answers=True) == ROWS
        with pytest.raises(ValueError, match=f"line {4 if header else 3}: 0 tabs"):
            read_questions(write(tmp_path, f"{header}{lines}x\n".encode()))

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
    def test_the_columns_are_question_and_answer(self, tmp_path, suffix):
        path, rows = tmp_path / f"q{suffix}", [dict(zip(("question", "answer"), row, strict=True)) for row in ROWS]
        if suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            lines = "\n".join(map(json.dumps, rows))
            path.write_text({".csv": QUOTED, ".jsonl": lines, ".json": json.dumps(rows)}[suffix])
        assert read_questions(path, answers=True) == ROWS

    def test_answers_may_be_missing(self, tmp_path):
        path = tmp_path / "q.csv"
        path.write_text("question\nWho?\nWhat?\n")
        assert read_questions(path) == [("Who?", None), ("What?", None)]
        with pytest.raises(ValueError, match="without answers: add the column 'answer'"):
            read_questions(path, answers=True)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("q.tsv", "question\tanswer\n", "has a header only"),
            ("q.csv", "question,answer\n", "has no rows"),
            ("q.csv", "Question,Answer\nA,B\n", r"no column 'question', only \['Question', 'Answer'\]: rename"),
            ("q.csv", "question,answer,answer\nA,B,C\n", "more than one column 'answer'"),
            ("q.csv", "question,answer\nA,\n", "an empty question or answer"),
            ("q.csv", 'question,answer\nA,"B\nC"\n', "has a tab or a line end"),
            ("q.jsonl", '{"question": "A", "answer": 1815}', "answer is 1815, not a string"),
        ],
    )
    def test_mistakes(self, tmp_path, name, content, said):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=said):
            read_questions(tmp_path / name)


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
def test_errors_name_the_line(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        read_questions(write(tmp_path, content))


def test_answers_can_be_required(tmp_path):
    with pytest.raises(ValueError, match="line 1: 0 tabs"):
        read_questions(write(tmp_path, b"Q1\nQ2\n"), answers=True)


def test_a_missing_file_is_an_error(tmp_path):
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
    repeated = questions + questions[:4]  # as in the course's file, which has nine questions twice
    for train, held_out in split_folds(repeated, 3):
        assert not set(train) & set(held_out)
        assert sorted(train + held_out) == sorted(repeated)
    for number in (1, 12):
        with pytest.raises(ValueError, match=f"num_folds is {number}"):
            split_folds(questions, number)
    with pytest.raises(ValueError, match="two different questions or more"):
        split_folds(questions[:1] * 3, 2)


def test_write_then_read(tmp_path):
    questions = [Question("Where was Zoë born?", "Ålesund"), Question("Where was Bo born?", "New York")]
    write_questions(tmp_path / "q.tsv", questions)
    assert read_questions(tmp_path / "q.tsv") == questions


@pytest.mark.parametrize(
    ("token_ids", "offsets", "starts"),
    [([5, 6, 1, 7, 1, 5, 1, 7, 8, 9, 1], [0, 5, 11], [2, 1]), ([1, 1, 6, 7, 1, 5, 1, 9, 1], [0, 2, 5, 9], [0, 2, 1])],
)
def test_labels_start_at_the_first_mask_of_each_example(token_ids, offsets, starts):
    assert answer_starts(TokenSequences(np.array(token_ids), np.array(offsets))).tolist() == starts


@pytest.mark.parametrize(
    ("text", "prediction"),
    [("Q?⁇Rome⁇⁇x", "Rome"), ("Q?⁇Rome", "Rome"), ("Q?⁇⁇", ""), ("Q?", "")],
)
def test_the_prediction_is_between_the_first_two_masks(text, prediction):
    assert extract_prediction(text, "⁇") == prediction


def test_pseudo_labels_skip_labeled_questions_and_unusable_texts():
    labeled = [Question("Where was Ada born?", "London")]
    unlabeled = [
        "Where was Bo born?",
        "Where was Ada born?",
        "Where was Cy born?",
        "Where was Dee born?",
        "Where was E\t born?",
    ]
    added = add_pseudo_labels(labeled, unlabeled, ["Bonn", "Rome", " ", "Ro\nme", "Kiel"])
    assert added == [*labeled, Question("Where was Bo born?", "Bonn")]


@pytest.mark.parametrize(("content", "line"), [("a⁇\tb\n", 1), ("a\tb\nc\t□\n", 2)])
def test_a_reserved_character_is_an_error(tmp_path, content, line):
    with pytest.raises(ValueError, match=rf"questions\.tsv, line {line}: .* is a mark of the data format"):
        read_questions(write(tmp_path, content.encode()))


def test_text_that_looks_like_a_value_stays_text(tmp_path):
    questions = [Question(' NA "x"', "007 "), Question("1e5", "null"), Question("\x85b", "2020-01-01")]
    write_questions(tmp_path / "q.tsv", questions)
    assert read_questions(tmp_path / "q.tsv") == questions


def test_write_then_read_without_answers(tmp_path):
    write_questions(tmp_path / "q.tsv", [Question("a", None), Question("b", None)])
    assert (tmp_path / "q.tsv").read_text() == "a\nb\n"
    assert read_questions(tmp_path / "q.tsv") == [Question("a", None), Question("b", None)]


def test_utf16_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is UTF-16: save the file as UTF-8"):
        read_questions(write(tmp_path, "a\tb\n".encode("utf-16")))


def test_exact_folds_by_seed():
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


@pytest.mark.parametrize("answers", [True, None])
def test_every_line_needs_both_columns(tmp_path, answers):
    with pytest.raises(ValueError, match="line 2: 2 tabs"):
        read_questions(write(tmp_path, b"Q1\tA\nQ2\tA\tB\n"), answers=answers)
    with pytest.raises(ValueError, match="line 2: an empty"):
        read_questions(write(tmp_path, b"Q1\tA\n \tA\n"), answers=answers)


def test_answers_can_be_forbidden(tmp_path):
    with pytest.raises(ValueError, match="line 1: a tab"):
        read_questions(write(tmp_path, b"Q1\tA\nQ2\tA\n"), answers=False)
    assert read_questions(write(tmp_path, b"Q1\n"), answers=False) == [Question("Q1", None)]


def test_the_longest_answer_is_the_assignments():
    assert MAX_ANSWER_TOKENS == 32


def test_pseudo_labels_skip_reserved_characters():
    assert add_pseudo_labels([], ["Where was Ada born?", "Where was Bo born?"], ["R□me", "Bonn"])[0].answer == "Bonn"
