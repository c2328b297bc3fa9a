"""The scripts that answer questions: with a probability, on a page, several runs together, out of the text."""

import json
import re

from .running import refused, script, works


def test_answers_come_with_probabilities(home, calibrated):
    said = works(
        "ask.py", "Bra Mir", "Mir Bra", "--model_name_or_path", calibrated, "--use_cpu",
        "--train_file", home / "data/biographies.txt",
    )  # fmt: skip
    reply = r"(.+ \(\d+%|I don't know \(.* is \d+%) likely to be correct\)"
    assert re.search(rf"Bra Mir: {reply}\n    alternatives: (Bra|Mir) \d+%", said)
    for arguments, message in (
        (["--model_name_or_path", calibrated], "No name"),
        (["Bra", "--model_name_or_path", home / "finetuned"], "has no calibration.json: write it with"),
        (["B☃", "--model_name_or_path", calibrated, "--use_cpu"], "'☃'"),
    ):
        refused(message, "ask.py", *arguments)


def test_questions_without_answers_get_predictions(home, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("Where was Bra Mir born?\nWhere was Bradon Drador born?\n")
    run = ["--model_name_or_path", home / "finetuned", "--questions_file", questions, "--use_cpu"]
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.txt"]
    assert len((tmp_path / "out/predictions.txt").read_text().splitlines()) == 2
    refused("holds predictions", "evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")


def test_an_answer_is_explained_on_one_page(home, tmp_path):
    page = tmp_path / "pages" / "bra.html"
    said = works("explain_answer.py", home / "finetuned", "Bra Mir", "--output_file", page)
    assert said.startswith("Where was Bra Mir born?")
    text = page.read_text(encoding="utf-8")
    assert "<h1>Where was Bra Mir born?" in text
    assert text.count("</svg>") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', text)  # nothing from elsewhere
    refused("give --overwrite_output_dir", "explain_answer.py", home / "finetuned", "Bra", "--output_file", page)


def test_the_page_needs_a_calibration_and_says_so(home):
    done = script("demo.py", home / "finetuned")
    assert done.returncode == 2
    assert re.search("has no calibration.json|gradio is not installed", done.stderr)


def test_several_runs_answer_together(home, tmp_path):
    data, train = home / "data/birth_dev.tsv", home / "data/birth_places_train.tsv"
    run = ["--questions_file", data, "--train_questions_file", train, "--output_dir", tmp_path / "all", "--use_cpu"]
    shown = works("ensemble.py", home / "finetuned", home / "scratch", *run)
    assert "| ensemble | " in shown
    report = json.loads((tmp_path / "all/report.json").read_text())
    assert report["results"]["ensemble"]["total"] == 8
    said = (tmp_path / "all/predictions.txt").read_text().splitlines()
    assert len(said) == 8
    distilled = (tmp_path / "all/distilled.tsv").read_text()
    assert distilled.startswith(train.read_text())
    assert len(distilled.splitlines()) == 12 + sum(map(bool, said))
    for runs, message in (([home / "finetuned"], "two runs or more, not 1"), ([home, home], "holds predictions")):
        refused(message, "ensemble.py", *runs, *run)


def test_an_open_book_baseline_extracts_answers(home, tmp_path):
    data, train = home / "data", home / "data/birth_places_train.tsv"
    run = ["--train_file", data / "biographies.txt", "--questions_file", train, "--output_dir", tmp_path / "read"]
    shown = works("read_answers.py", *run, "--dev_questions_file", data / "birth_dev.tsv")
    assert "| open-book extractive baseline | 100.0% | 8 of 8 |" in shown
    lines = (tmp_path / "read/with_reader.tsv").read_text().splitlines()
    assert lines[:12] == train.read_text().splitlines()
    assert set((data / "birth_dev.tsv").read_text().splitlines()) <= set(lines[12:])
    refused("give --overwrite_output_dir", "read_answers.py", *run)
