"""What the benchmarks measure in seconds, and what they say of their runs: the runs themselves take an hour."""

import json
from pathlib import Path

import pytest

from hf_mingpt.data.biographies import BiographyRecipe, generate_corpus
from hf_mingpt.data.questions import write_questions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_data_of_questions_with_characters_that_the_text_lacks(tmp_path):
    import bench

    corpus = generate_corpus(BiographyRecipe())
    assert not any("?" in document for document in corpus.documents)
    (tmp_path / "text.txt").write_text("\n".join(corpus.documents), encoding="utf-8")
    write_questions(tmp_path / "questions.tsv", corpus.dev)
    rates = bench.measure_data(str(tmp_path / "text.txt"), str(tmp_path / "questions.tsv"))
    assert len(rates) == 5
    assert all(rate > 10 for rate in rates.values())


def test_a_study_shows_the_mean_and_the_spread_of_each_arm(tmp_path):
    import study

    arms = {str(n): study.Arm(corpus={"num_dev_people": n, "permute_sentences": True}) for n in (50, 80)}
    told = [(50, 0, 1, 4.0), (50, 1, 3, 5.0), (80, 0, 4, 3.0)]  # people, seed, right, bits
    with (tmp_path / "results.jsonl").open("w", encoding="utf-8") as file:
        for people, seed, right, bits in told:
            row = {"arm": study.key_of(arms[str(people)]), "seed": seed, "right": right, "total": 4, "bits": bits}
            print(json.dumps({**row, "parameters": 1000}), file=file)
    results = study.read_results(tmp_path)
    assert study.render({"people": arms}, results).splitlines()[2:] == [
        "| people | 50 | 2 | 50.0% ± 35.4% | 4.50 | 0.23 |",
        "| people | 80 | 1 | 100.0% | 3.00 | 0.24 |",
    ]
    study.draw({"people": arms}, results, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_points_of_scaling_are_measured_in_processes_of_their_own():
    import scaling

    base = {**scaling.BASE, "kind": "model", "num_hidden_layers": 1, "rows": 2}
    point = scaling.run_point(**{**base, "hidden_size": 64})
    assert point["tokens_per_second"] == pytest.approx(2 * 64 / point["milliseconds"] * 1000)
    assert point["peak_megabytes"] > point["megabytes_of_the_passes"] >= 0
    point = scaling.run_point(kind="corpus", documents=1000, streaming=True)
    assert point["megabytes"] == pytest.approx(0.11, rel=0.05)
    assert point["milliseconds_of_data_per_step"] > 0
    with pytest.raises(RuntimeError, match=r"'hidden_size': 33.* failed:\n(.*\n)*.*an even head dimension, not 33"):
        scaling.run_point(**{**base, "hidden_size": 33})


def test_gpu_py_runs_small_on_a_cpu(tmp_path, monkeypatch, capsys):
    import gpu

    data = Path(__file__).parents[2] / "data" / "generated"
    flags = ["--device", "cpu", "--small", "true", "--seeds", "1", "--only", "learned,two gloo"]
    flags += ["--train_file", str(data / "biographies.txt"), "--output_dir", str(tmp_path)]
    flags += [
        "--questions_file",
        str(data / "birth_places_train.tsv"),
        "--dev_questions_file",
        str(data / "birth_dev.tsv"),
    ]
    monkeypatch.setattr("sys.argv", ["gpu.py", *flags])
    monkeypatch.setattr(gpu, "SPEEDRUNS", {"80 epochs": gpu.SPEEDRUNS["80 epochs"]})
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text())
    checks = {check["check"]: check["result"] for check in results["correctness"]}
    assert checks["loss and gradients, learned, sdpa, bf16"] == "passed"
    assert checks["padding-free batches, learned, eager"] == "passed"
    assert checks["two gloo processes on one GPU"] == "skipped"
    assert "FAILED" not in checks.values()
    assert [row["steps"] for row in results["speedrun"]] == [2]
    assert all(row["useful_tokens_per_second"] > 0 for row in results["throughput"]["small_model"])
    kernels = {kernel["name"]: kernel for kernel in results["profile"][0]["kernels"]}
    fractions = [kernel["fraction"] for kernel in kernels.values()]
    assert fractions == sorted(fractions, reverse=True)
    assert sum(fractions) <= 1 + 1e-9
    assert kernels["aten::mm"]["count"] >= 20  # how often, unlike how long, is the same on every machine
    assert "| 80 epochs | 0 | 0.0% | 2 |" in capsys.readouterr().out
