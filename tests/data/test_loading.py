import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents
from hf_mingpt.data.loading import load_texts

from ..conftest import LINES, ROOT

ODD = "e\u0301 \u05e9\u05dc \u202eabc \U0001f469\u200d\U0001f467"  # combining, right to left, override, joiner


class TestLoading:
    def test_text_file(self, text_file):
        assert load_texts(str(text_file))["text"][:] == LINES

    @pytest.mark.parametrize("kind", ["tsv", "csv", "parquet", "jsonl"])
    def test_tables(self, tmp_path, kind):
        table = datasets.Dataset.from_dict({"id": [1, 2], "bio": ['He said "hi', "Ada, of London"]})
        path = tmp_path / f"table.{kind}"
        if kind == "tsv":
            path.write_text('id\tbio\n1\tHe said "hi\n2\tAda, of London\n')
        else:
            {"csv": table.to_csv, "parquet": table.to_parquet, "jsonl": table.to_json}[kind](path)
        loaded = load_texts(str(path), text_column="bio")
        assert loaded.column_names == ["text"]
        assert loaded["text"][:] == table["bio"][:]
        with pytest.raises(ValueError, match="no column 'text'"):
            load_texts(str(path))

    def test_streaming(self, text_file):
        stream = load_texts(str(text_file), streaming=True)
        assert isinstance(stream, datasets.IterableDataset)
        assert [row["text"] for row in stream] == LINES

    def test_dataset_by_name_config_and_split(self, tmp_path):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "held.txt").write_text("a\nb\n")
        (tmp_path / "README.md").write_text(
            "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: held\n    path: one/held.txt\n---\n"
        )
        assert load_texts(str(tmp_path), name="small", split="held")["text"][:] == ["a", "b"]  # as from the Hub

    def test_a_folder_with_several_configurations_needs_a_choice(self):
        said = r"several configurations, \['questions', 'biographies'\]: give --dataset_config_name"
        with pytest.raises(ValueError, match=said):
            load_texts(str(ROOT / "data/generated"))

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize(
        ("content", "documents"),
        [
            (b"\xef\xbb\xbfAda\nByron\n", ["Ada", "Byron"]),  # a byte order mark is dropped
            (b"Ada\r\nBy\rron\n", ["Ada", "By", "ron"]),  # CRLF and CR end a line
            ("a\u2028b\x85c\x0bd\x0ce\x1cf\ng".encode(), ["a\u2028b\x85c\x0bd\x0ce\x1cf", "g"]),  # these do not
            (b"A\0da\n", ["A\0da"]),
            (f"{ODD}\n".encode(), [ODD]),
            (b"a" * 5_000_000 + b"\nb\n", ["a" * 5_000_000, "b"]),  # longer than what is read at once
        ],
        ids=["mark", "line ends", "separators", "NUL", "combining, right to left, emoji", "5 MB"],
    )
    def test_every_character_is_kept(self, tmp_path, content, documents, streaming):
        path = tmp_path / "odd.txt"
        path.write_bytes(content)
        texts = load_texts(str(path), streaming=streaming)
        assert [row["text"] for row in texts] == documents
        tokenizer = build_corpus_tokenizer(texts, 48)
        encoded = [row["input_ids"] for row in encode_documents(texts, tokenizer)]
        assert ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in encoded] == documents

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\ufeff⁇□"), min_size=1)))
    def test_any_text_survives(self, tmp_path_factory, documents):
        path = tmp_path_factory.mktemp("any") / "any.txt"
        path.write_bytes("".join(f"{document}\n" for document in documents).encode() or b"\n")
        texts = load_texts(str(path), streaming=True)
        assert [row["text"] for row in texts] == (documents or [""])
        tokenizer = build_corpus_tokenizer(texts, 48)
        encoded = [row["input_ids"] for row in encode_documents(texts, tokenizer)]
        assert ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in encoded] == documents

    @pytest.mark.parametrize("before", [0, 3, 1_500_000])
    def test_errors_name_the_byte_that_is_not_utf8(self, tmp_path, before):
        path = tmp_path / "bad.txt"
        path.write_bytes(b"Ada\n" * before + b"By\xffron\nx\n")
        message = rf"bad\.txt, line {before + 1}: not UTF-8 \(byte {4 * before + 2}\)"
        with pytest.raises(ValueError, match=message):
            load_texts(str(path), streaming=True)
        with pytest.raises(ValueError, match=message):
            build_corpus_tokenizer(datasets.Dataset.from_dict({"text": ["A"]}), 48, str(path))

    @pytest.mark.parametrize(("name", "content", "said"), [
        ("no.txt", None, "No file at"), ("empty.txt", "", "is empty"), ("x.docx", "a", "cannot read '.docx'"),
    ])  # fmt: skip
    def test_errors_name_the_file(self, tmp_path, name, content, said):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            load_texts(str(tmp_path / name))
