"""Runs whose folders end alike are told apart."""

import json
import runpy
import shutil

from hf_mingpt.system.writing import write_json

from ..conftest import SCRIPTS
from .running import refused, works


class TestRunsOfOneName:
    def test_in_a_plot(self, home, tmp_path):
        reports = {"a": 0.25, "b": 0.5}
        for name, accuracy in reports.items():
            shutil.copytree(
                home / "pretrained", tmp_path / name / "run", ignore=shutil.ignore_patterns("*.safetensors")
            )
            row = {"accuracy": accuracy, "interval_95": [0.0, 1.0]}
            results = {"model": row, "always London": row, "the same": {"accuracy": 0.75, "interval_95": [0.5, 1.0]}}
            write_json(tmp_path / name / "run/report.json", {"results": results})
        folders = [tmp_path / name / "run" for name in reports]
        rows = runpy.run_path(str(SCRIPTS / "plot_run.py"))["read_accuracies"](folders)
        assert {name: row["accuracy"] for name, row in rows.items()} == {
            "a/run": 0.25, "b/run": 0.5, "always London": 0.25, "always London, b/run": 0.5, "the same": 0.75,
        }  # fmt: skip
        plot = ["--output_file", tmp_path / "plot.png", "--runs"]
        works("plot_run.py", *plot, ",".join(map(str, folders)))
        plot.insert(0, "--overwrite_output_dir")
        refused("run is named twice", "plot_run.py", *plot, f"{folders[0]},{folders[0]}")
        for content in ("", "[]", '{"results": {"model": {"accuracy": 7, "interval_95": [0, 1]}}}', '{"results": 1}'):
            (folders[0] / "report.json").write_text(content)
            refused("report.json is no", "plot_run.py", *plot, folders[0])

    def test_in_an_ensemble(self, home, tmp_path):
        runs = [tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/ensemble"]
        for run, folder in zip(("finetuned", "scratch", "scratch"), runs, strict=True):
            shutil.copytree(home / run, folder)
        data = ["--questions_file", home / "data/birth_dev.tsv", "--output_dir", tmp_path / "all", "--use_cpu"]
        works("ensemble.py", *runs, *data)
        results = json.loads((tmp_path / "all/report.json").read_text())["results"]
        assert list(results)[:4] == ["a/run", "b/run", "the run ensemble", "ensemble"]
