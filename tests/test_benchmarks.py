"""What `make bench` measures in seconds, on generated biographies as there: its training takes a quarter of an hour."""

from pathlib import Path

import pytest

from hf_mingpt.biographies import BiographyRecipe, generate_corpus
from hf_mingpt.birthplaces import write_questions

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench

    return bench


def test_data_of_questions_with_characters_that_the_text_lacks(bench, tmp_path):
    corpus = generate_corpus(BiographyRecipe())
    assert not any("?" in document for document in corpus.documents)
    (tmp_path / "text.txt").write_text("\n".join(corpus.documents), encoding="utf-8")
    write_questions(tmp_path / "questions.tsv", corpus.dev)
    rates = bench.measure_data(str(tmp_path / "text.txt"), str(tmp_path / "questions.tsv"))
    assert len(rates) == 5
    assert all(rate > 10 for rate in rates.values())
