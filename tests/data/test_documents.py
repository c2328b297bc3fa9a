"""Documents are read as text without guessing types, and read again when a file changes."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mingpt.data.documents import read_documents
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents
from hf_mingpt.data.loading import load_texts

# what other readers parse as missing values, numbers, dates and booleans
AMBIGUOUS = [
    "NA",
    "null",
    "nan",
    "1.0",
    "007",
    "1e5",
    "-0",
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "true",
    " x ",
    'a "b"',
]


def texts(source, **options) -> list[str]:
    return [row["text"] for row in load_texts(str(source), **options)]


class TestText:
    @pytest.mark.parametrize("kind", ["txt", "tsv", "csv", "json", "jsonl", "parquet"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_every_cell_is_text(self, tmp_path, kind, streaming):
        path = tmp_path / f"table.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"n": range(len(AMBIGUOUS)), "text": AMBIGUOUS}), path)
        else:
            rows = [{"n": n, "text": text} for n, text in enumerate(AMBIGUOUS)]
            lines = {
                "txt": AMBIGUOUS,
                "tsv": ["n\ttext", *(f"{row['n']}\t{row['text']}" for row in rows)],
                "csv": ["n,text", *(f'{row["n"]},"{row["text"].replace(chr(34), chr(34) * 2)}"' for row in rows)],
                "json": [json.dumps(rows)],
                "jsonl": map(json.dumps, rows),
            }[kind]
            path.write_text("".join(f"{line}\n" for line in lines))
        assert texts(path, streaming=streaming) == AMBIGUOUS

    def test_a_column_of_numbers_is_text(self, tmp_path):
        (tmp_path / "n.csv").write_text("text\n007\n1.0\n")
        assert texts(tmp_path / "n.csv") == ["007", "1.0"]

    def test_a_csv_in_a_folder_has_no_missing_values(self, tmp_path):
        (tmp_path / "a.csv").write_text("text\nNA\nLondon\n")
        assert texts(tmp_path) == ["NA", "London"]

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.jsonl", '{"text": "a"}\n{"text": 1}\n', "line 2: text is 1, not a string"),
            ("a.jsonl", '{"text": null}', "line 1: text is null, not a string"),
            ("a.jsonl", '{"text": ["a"]}', "line 1: text is a list, not a string"),
            ("a.jsonl", '{"text": NaN}', "line 1: text is NaN, not a string"),
            ("a.jsonl", '{"text": "a"}\n{"bio": "a"}', "line 2 has no 'text'"),
            ("a.jsonl", '{"text": "a"}\n\n{"text": "b"', "line 3 is not valid JSON"),
            ("a.jsonl", '"a"', "line 1 is not a JSON object"),
            ("a.jsonl", '{"text": "\\ud800"}', "line 1: text has half of a surrogate pair"),
            ("a.jsonl", "[" * 100_000, "nested too deeply"),
            ("a.jsonl", '{"text": ' + "9" * 5_000 + "}", "line 1 is not valid JSON"),
            ("a.jsonl", '{"text": "a", "text": "b"}', "duplicate key 'text'"),
            ("a.json", '[{"text": "a"}, {"text": 2}]', "row 2: text is 2, not a string"),
            ("a.json", '[{"text": "a"}\n, {]', r"is not valid JSON.* \(line 2, column 4\)"),
            ("a.csv", "n,text\n1,a,b\n", "line 2: 3 cells, but 2 in the first line"),
            ("a.csv", 'n,text\n1,"a\n', "line 2: unexpected end of data"),
            ("a.csv", "text,text\na,b\n", "more than one column 'text'"),
            ("a.tsv", "n\ttext\n\n1\n", "line 3: 1 cell, but 2 in the first line"),
            ("a.parquet", "PAR1", "cannot be read as parquet"),
            ("a.txt", "ab\n".encode("utf-16"), "is UTF-16"),
            ("a.csv", "text\nab\n".encode("utf-16"), "is UTF-16"),
        ],
    )
    def test_what_is_not_text_is_refused_with_its_line(self, tmp_path, name, content, said, streaming):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=said) as error:
            load_texts(str(tmp_path / name), streaming=streaming)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("column", "said"),
        [([1, 2], "type int64"), (["a", None], "row 2: text is null, not a string")],
    )
    def test_what_is_not_text_in_a_parquet_is_refused(self, tmp_path, column, said):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=said):
            load_texts(str(tmp_path / "a.parquet"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [("text\n1\n2\n", "type int64"), ("text,n\na\n\xff", "no readable text: 'utf-8'")],
    )
    def test_types_that_datasets_has_guessed_are_refused(self, tmp_path, content, said):
        """`datasets` reads folders."""
        (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=said):
            build_corpus_tokenizer(load_texts(str(tmp_path)), 48)


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f'text\n"{"a" * 200_000}"\n')
    assert list(map(len, next(read_documents(tmp_path / "a.csv")))) == [200_000]


class TestCaching:
    """A cached text is used only if the content of the file is the same."""

    @pytest.mark.parametrize("inside", ["text.txt", "folder/text.txt"])
    def test_new_content_with_the_same_size_and_time_is_read(self, tmp_path, tokenizer, inside):
        path = tmp_path / inside
        path.parent.mkdir(exist_ok=True)
        source = path if path.parent == tmp_path else path.parent
        for text in ("Ada", "Byr"):
            path.write_text(f"{text}\n")
            os.utime(path, (1_000_000_000, 1_000_000_000))
            assert texts(source) == [text]
            (ids,) = encode_documents(load_texts(str(source)), tokenizer)["input_ids"]
            assert tokenizer.decode(ids) == text

    def test_a_copy_of_a_file_is_not_read_again(self, tmp_path, monkeypatch):
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("Ada\n")
        assert texts(tmp_path / "a.txt") == ["Ada"]
        monkeypatch.setattr("hf_mingpt.data.loading.read_documents", None)
        assert texts(tmp_path / "b.txt") == ["Ada"]

    def test_a_text_that_was_not_read_to_its_end_is_not_cached(self, tmp_path):
        path = tmp_path / "a.jsonl"
        for _ in range(2):
            path.write_text('{"text": "a"}\n{"text": 1}\n')
            with pytest.raises(ValueError, match="line 2"):
                load_texts(str(path))
