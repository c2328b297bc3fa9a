"""Files are found by literal paths; line ends, byte order marks and JSON are read in the same way everywhere."""

import pytest

from hf_mingpt.data.encoding import build_corpus_tokenizer, load_tokenizer
from hf_mingpt.data.loading import load_texts
from hf_mingpt.system.files import (
    HubDataset,
    check_source,
    hub_dataset,
    is_path,
    name_apart,
    parse_json,
    read_lines,
    read_text,
)

ODD_NAMES = ["a[1]", "*", "?", "{x}", "50%", "a b", "é", "a::b", "zip::a", "~", "#a", "$HOME", "hf:", "--a"]


def texts(source, **options) -> list[str]:
    return [row["text"] for row in load_texts(str(source), **options)]


@pytest.fixture
def no_network(monkeypatch):
    """Fails a test that looks something up on the Hub."""

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
    def test_a_file_name_is_not_a_pattern(self, tmp_path, monkeypatch, name, streaming):
        monkeypatch.chdir(tmp_path)
        for other in ("a1", "b", "x", "axb"):
            (tmp_path / f"{other}.txt").write_text("another\n")
        (tmp_path / f"{name}.txt").write_text("this\n")
        assert texts(f"{name}.txt", streaming=streaming) == ["this"]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_a_folder_name_is_not_a_pattern(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        for folder, text in (("a1", "another"), ("b", "another"), (name, "this")):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "text.txt").write_text(f"{text}\n")
        assert texts(name) == texts(name, streaming=True) == ["this"]

    @pytest.mark.parametrize(
        "name",
        ["./none", "../none", "/none", "~/none", "none/", "here/none", "a/b/c", "none.txt", "none.docx", "a b", ""],
    )
    def test_a_missing_path_is_not_looked_up_on_the_hub(self, tmp_path, monkeypatch, no_network, name):
        from hf_mingpt.hub.loading import load_calibration, load_run

        monkeypatch.chdir(tmp_path)
        (tmp_path / "here").mkdir()
        for load in (load_texts, load_tokenizer, load_run, load_calibration):
            with pytest.raises(FileNotFoundError, match="check the path"):
                load(name)

    def test_a_name_that_the_hub_allows_may_be_on_the_hub(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("owner/name", "gpt2", "owner/model-v1.5"):
            assert not is_path(name)
            check_source(name, "model")
        with pytest.raises(FileNotFoundError, match="No run folder at gpt2"):
            check_source("gpt2", "run folder", has_owner=True)
        (tmp_path / "gpt2").mkdir()
        check_source("gpt2", "run folder", has_owner=True)

    def test_a_dataset_on_the_hub_may_have_a_configuration_and_a_split(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name, expected in {
            "you/people": ("you/people", None, None),
            "you/people:dev": ("you/people", None, "dev"),
            "you/people/questions:dev": ("you/people", "questions", "dev"),
        }.items():
            assert hub_dataset(name) == HubDataset(*expected)
        (tmp_path / "data").mkdir()
        paths = ("people", "people:dev", "you/people/dev", "you/people.tsv", "data/x", "data/x:dev", "/a/b", "")
        for path in (*paths, "you/people/dev.tsv"):
            assert hub_dataset(path) is None

    def test_the_shortest_distinct_names_of_paths(self):
        assert name_apart(["runs/a/fast", "runs/b/fast", "runs/b/slow"]) == ["a/fast", "b/fast", "slow"]
        assert name_apart(["x/", "./y"]) == ["x", "y"]
        with pytest.raises(ValueError, match="is named twice"):
            name_apart(["x", "./x/"])


class TestLines:
    """Byte order marks and line ends are handled in the same way everywhere."""

    CONTENTS = pytest.mark.parametrize(
        "content",
        [b"a\nb\n", b"a\nb", b"a\r\nb\r\n", b"a\rb\r", b"a\rb", b"\xef\xbb\xbfa\nb\n", b"a\r\r\nb\r\r\n"],
        ids=["LF", "no end", "CRLF", "CR", "CR, no end", "mark", "CR CR LF"],
    )

    @CONTENTS
    def test_in_every_reader_of_text(self, tmp_path, content):
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

    def test_line_ends_across_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr("hf_mingpt.system.files._CHUNK", 3)
        (tmp_path / "a.txt").write_bytes(b"ab\r\ncd\r\r\ne\r\rf\r")
        assert [line for lines in read_lines(tmp_path / "a.txt") for line in lines] == ["ab", "cd", "e", "", "f"]

    def test_many_line_ends_take_linear_time(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\r" * 1_000_000 + b"a")
        assert sum(map(len, read_lines(tmp_path / "a.txt"))) == 1_000_001


def test_json_with_a_duplicate_key_is_refused():
    assert parse_json('{"a": {"b": 1}}', "x") == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="x is not valid JSON: duplicate key 'b'"):
        parse_json('{"a": {"b": 1, "b": 2}}', "x")
