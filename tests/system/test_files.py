"""Files are read literally, as text, and as they are now."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, load_tokenizer
from hf_mingpt.data.loading import load_texts
from hf_mingpt.system.files import check_source, is_path, name_apart, parse_json, read_documents, read_lines, read_text

# what readers that guess take for missing values, numbers, dates and booleans
GUESSED = ["NA", "null", "nan", "1.0", "007", "1e5", "-0", "2020-01-01", "2020-01-01T00:00:00Z", "true", " x ", 'a "b"']
ODD_NAMES = ["a[1]", "*", "?", "{x}", "50%", "a b", "é", "a::b", "zip::a", "~", "#a", "$HOME", "hf:", "--a"]


def texts(source, **options) -> list[str]:
    return [row["text"] for row in load_texts(str(source), **options)]


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks the Hub, fails the test."""

    def ask(*args, **_):
        pytest.fail(f"{args} was looked for on the Hub")

    monkeypatch.setattr("hf_mingpt.data.loading.load_dataset", ask)
    monkeypatch.setattr("hf_mingpt.data.loading.load_dataset_builder", ask)
    monkeypatch.setattr("hf_mingpt.data.encoding.AutoTokenizer.from_pretrained", ask)
    monkeypatch.setattr("hf_mingpt.hub.loading.AutoModelForCausalLM.from_pretrained", ask)
    monkeypatch.setattr("hf_mingpt.hub.loading.hf_hub_download", ask)


class TestPaths:
    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_a_path_is_no_pattern(self, tmp_path, monkeypatch, name, streaming):
        monkeypatch.chdir(tmp_path)
        for other in ("a1", "b", "x", "axb"):
            (tmp_path / f"{other}.txt").write_text("another\n")
        (tmp_path / f"{name}.txt").write_text("this\n")
        assert texts(f"{name}.txt", streaming=streaming) == ["this"]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_the_name_of_a_folder_is_no_pattern(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        for folder, text in (("a1", "another"), ("b", "another"), (name, "this")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "text.txt").write_text(f"{text}\n")
        assert texts(name) == texts(name, streaming=True) == ["this"]

    @pytest.mark.parametrize(
        "name",
        ["./none", "../none", "/none", "~/none", "none/", "here/none", "a/b/c", "none.txt", "none.docx", "a b", ""],
    )
    def test_a_path_at_which_nothing_is_is_not_looked_for_on_the_hub(self, tmp_path, monkeypatch, no_network, name):
        from hf_mingpt.hub.loading import load_calibration, load_run

        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").mkdir()
        for load in (load_texts, load_tokenizer, load_run, load_calibration):
            with pytest.raises(FileNotFoundError, match="check the path"):
                load(name)

    def test_what_the_hub_allows_may_be_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("owner/name", "gpt2", "owner/model-v1.5"):
            assert not is_path(name)
            check_source(name, "model")
        with pytest.raises(FileNotFoundError, match="No run folder at gpt2"):
            check_source("gpt2", "run folder", has_owner=True)
        (tmp_path / "gpt2").mkdir()
        check_source("gpt2", "run folder", has_owner=True)

    def test_names_tell_paths_apart(self):
        assert name_apart(["runs/a/fast", "runs/b/fast", "runs/b/slow"]) == ["a/fast", "b/fast", "slow"]
        assert name_apart(["x/", "./y"]) == ["x", "y"]
        with pytest.raises(ValueError, match="is named twice"):
            name_apart(["x", "./x/"])


class TestText:
    @pytest.mark.parametrize("kind", ["txt", "tsv", "csv", "json", "jsonl", "parquet"])
    @pytest.mark.parametrize("streaming", [False, True])
    def test_nothing_is_guessed(self, tmp_path, kind, streaming):
        path = tmp_path / f"table.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"n": range(len(GUESSED)), "text": GUESSED}), path)
        else:
            rows = [{"n": n, "text": text} for n, text in enumerate(GUESSED)]
            lines = {
                "txt": GUESSED,
                "tsv": ["n\ttext", *(f"{row['n']}\t{row['text']}" for row in rows)],
                "csv": ["n,text", *(f'{row["n"]},"{row["text"].replace(chr(34), chr(34) * 2)}"' for row in rows)],
                "json": [json.dumps(rows)],
                "jsonl": map(json.dumps, rows),
            }[kind]
            path.write_text("".join(f"{line}\n" for line in lines))
        assert texts(path, streaming=streaming) == GUESSED

    def test_one_column_of_numbers_is_text(self, tmp_path):
        (tmp_path / "n.csv").write_text("text\n007\n1.0\n")
        assert texts(tmp_path / "n.csv") == ["007", "1.0"]

    def test_a_csv_in_a_folder_has_no_missing_values(self, tmp_path):
        (tmp_path / "a.csv").write_text("text\nNA\nLondon\n")
        assert texts(tmp_path) == ["NA", "London"]

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.jsonl", '{"text": "a"}\n{"text": 1}\n', "line 2: text is 1, which is no string"),
            ("a.jsonl", '{"text": null}', "line 1: text is null, which is no string"),
            ("a.jsonl", '{"text": ["a"]}', "line 1: text is a list, which is no string"),
            ("a.jsonl", '{"text": NaN}', "line 1: text is NaN, which is no string"),
            ("a.jsonl", '{"text": "a"}\n{"bio": "a"}', "line 2 has no 'text'"),
            ("a.jsonl", '{"text": "a"}\n\n{"text": "b"', "line 3 is no JSON"),
            ("a.jsonl", '"a"', "line 1 is no object"),
            ("a.jsonl", '{"text": "\\ud800"}', "line 1: text has half of a surrogate pair"),
            ("a.jsonl", "[" * 100_000, "nested too deeply"),
            ("a.jsonl", '{"text": ' + "9" * 5_000 + "}", "line 1 is no JSON"),
            ("a.jsonl", '{"text": "a", "text": "b"}', "'text' is there twice"),
            ("a.json", '[{"text": "a"}, {"text": 2}]', "row 2: text is 2, which is no string"),
            ("a.json", '[{"text": "a"}\n, {]', r"is no JSON .* \(line 2, column 4\)"),
            ("a.csv", "n,text\n1,a,b\n", "line 2: 3 cells, but 2 in the first line"),
            ("a.csv", 'n,text\n1,"a\n', "line 2: unexpected end of data"),
            ("a.csv", "text,text\na,b\n", "more than one column 'text'"),
            ("a.tsv", "n\ttext\n\n1\n", "line 3: 1 cells, but 2 in the first line"),
            ("a.parquet", "PAR1", "is no parquet file that can be read"),
            ("a.txt", "ab\n".encode("utf-16"), "is UTF-16"),
            ("a.csv", "text\nab\n".encode("utf-16"), "is UTF-16"),
        ],
    )
    def test_what_is_no_text_is_named(self, tmp_path, name, content, said, streaming):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=said) as error:
            load_texts(str(tmp_path / name), streaming=streaming)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("column", "said"),
        [([1, 2], "type int64, which is no string"), (["a", None], "row 2: text is null, which is no string")],
    )
    def test_what_is_no_text_in_a_parquet_is_named(self, tmp_path, column, said):
        pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=said):
            load_texts(str(tmp_path / "a.parquet"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [("text\n1\n2\n", "type int64, not strings"), ("text,n\na\n\xff", "no text that can be read: 'utf-8'")],
    )
    def test_what_others_have_guessed_is_refused(self, tmp_path, content, said):
        """`datasets` reads folders, by their cards."""
        (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=said):
            build_corpus_tokenizer(load_texts(str(tmp_path)), 48)

    def test_a_null_of_others_is_named(self, tokenizer):
        from datasets import Dataset

        missing = Dataset.from_dict({"text": ["Ada", None]})
        for read in (lambda: build_corpus_tokenizer(missing, 48), lambda: encode_documents(missing, tokenizer)):
            with pytest.raises(ValueError, match="Document 2 is null"):
                read()


class TestLines:
    """A byte order mark and a line end are the same everywhere."""

    CONTENTS = pytest.mark.parametrize(
        "content",
        [b"a\nb\n", b"a\nb", b"a\r\nb\r\n", b"a\rb\r", b"a\rb", b"\xef\xbb\xbfa\nb\n", b"a\r\r\nb\r\r\n"],
        ids=["LF", "no end", "CRLF", "CR", "CR, no end", "mark", "CR CR LF"],
    )

    @CONTENTS
    def test_in_every_place_that_takes_text(self, tmp_path, content):
        from hf_mingpt.data.questions import read_questions

        path = tmp_path / "text.txt"
        path.write_bytes(content)
        assert read_text(path).removesuffix("\n") == "a\nb"
        assert texts(path) == texts(path, streaming=True) == ["a", "b"]
        assert [question for question, _ in read_questions(path)] == ["a", "b"]
        corpus = tmp_path / "corpus.txt"
        corpus.write_text("c\n")
        tokenizer = build_corpus_tokenizer(load_texts(str(corpus)), 48, str(path))
        assert sorted(tokenizer.get_vocab()) == sorted("□⁇\nabc")
        for ending, first in (("tsv", b""), ("csv", b""), ("jsonl", b"")):
            table = tmp_path / f"table.{ending}"
            row = (lambda text: b'{"text": "%s"}' % text) if ending == "jsonl" else (lambda text: text)
            head = first if ending == "jsonl" else b"text" + content[content.index(b"a") + 1 : content.index(b"b")]
            table.write_bytes(content.replace(b"a", head + row(b"a")).replace(b"b", row(b"b")))
            assert texts(table) == ["a", "b"], ending

    def test_ends_at_the_border_of_what_is_read_at_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_mingpt.system.files._CHUNK", 3)
        (tmp_path / "a.txt").write_bytes(b"ab\r\ncd\r\r\ne\r\rf\r")
        assert [line for lines in read_lines(tmp_path / "a.txt") for line in lines] == ["ab", "cd", "e", "", "f"]

    def test_many_ends_take_no_longer_than_they_should(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\r" * 1_000_000 + b"a")
        assert sum(map(len, read_lines(tmp_path / "a.txt"))) == 1_000_001


class TestNow:
    """What is trained on is what the file holds now."""

    @pytest.mark.parametrize("inside", ["text.txt", "folder/text.txt"])
    def test_another_content_of_the_same_size_and_time(self, tmp_path, tokenizer, inside):
        path = tmp_path / inside
        path.parent.mkdir(exist_ok=True)
        source = path if path.parent == tmp_path else path.parent
        for text in ("Ada", "Byr"):
            path.write_text(f"{text}\n")
            os.utime(path, (1_000_000_000, 1_000_000_000))
            assert texts(source) == [text]
            (ids,) = encode_documents(load_texts(str(source)), tokenizer)["input_ids"]
            assert tokenizer.decode(ids) == text

    def test_a_copy_is_not_read_again(self, tmp_path, monkeypatch):
        for name in ("a.txt", "b.txt"):
            (tmp_path / name).write_text("Ada\n")
        assert texts(tmp_path / "a.txt") == ["Ada"]
        monkeypatch.setattr("hf_mingpt.data.loading.read_documents", None)
        assert texts(tmp_path / "b.txt") == ["Ada"]

    def test_what_was_not_read_to_its_end_is_not_kept(self, tmp_path):
        path = tmp_path / "a.jsonl"
        for _ in range(2):
            path.write_text('{"text": "a"}\n{"text": 1}\n')
            with pytest.raises(ValueError, match="line 2"):
                load_texts(str(path))


def test_json_with_a_key_twice_is_none():
    assert parse_json('{"a": {"b": 1}}', "x") == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="x is no JSON that can be read: 'b' is there twice"):
        parse_json('{"a": {"b": 1, "b": 2}}', "x")


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f'text\n"{"a" * 200_000}"\n')
    assert list(map(len, next(read_documents(tmp_path / "a.csv")))) == [200_000]
