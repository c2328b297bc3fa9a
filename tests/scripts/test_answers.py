"""The scripts that answer questions: with a probability, on a page, several runs together, out of the text."""

import json
import re
import runpy

from hf_mingpt.evaluation.calibration import Answer

from ..conftest import SCRIPTS
from .running import refused, script, works


def test_answers_come_with_probabilities(home, calibrated):
    said = works(
        "ask.py", "Bra Mir", "Mir Bra", "--model_name_or_path", calibrated, "--use_cpu",
        "--train_file", home / "data/biographies.txt",
    )  # fmt: skip
    likely = r"(over |under )?\d+% likely to be correct"
    reply = rf"(.+ \({likely}|I don't know \(.* is {likely}, below the threshold of [\d.]+%)\)"
    assert re.search(rf"Bra Mir: {reply}\n    alternatives: (Bra|Mir) (over |under )?\d+%", said)
    said = works("ask.py", "Who is Bra?", "Where was Bra Mir born?", "--model_name_or_path", calibrated, "--use_cpu")
    assert re.search(rf"Who is Bra\?: {reply}\n    alternatives: .*\n    note: the run was not calibrated on", said)
    assert re.search(rf"Where was Bra Mir born\?: {reply}\n    alternatives: .*\n    why: The model .*\.\n$", said)
    gap = works("ask.py", "Bra Mir was born in [MASK].", "--model_name_or_path", calibrated, "--use_cpu")
    assert re.search(rf"Bra Mir was born in ⁇\.: {reply}\n", gap)
    for arguments, message in (
        (["--model_name_or_path", calibrated], "No question: give one or a name"),
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


def test_a_reply_names_the_threshold_and_is_never_certain():
    describe = runpy.run_path(str(SCRIPTS / "ask.py"))["describe"]
    sure, unsure = Answer("Ada?", "Rome", 0.9996, True, [("Bo", 0.0002)]), Answer("Ada?", "Rome", 0.914, False, [])
    assert (
        describe(sure, None, 0.5, "Ada") == "Ada: Rome (over 99% likely to be correct)\n    alternatives: Bo under 1%"
    )
    said = describe(unsure, "Ada. A line.", 0.97258, "Ada")
    assert said.startswith("Ada: I don't know (Rome is 91% likely to be correct, below the threshold of 97.26%)\n")
    assert said.endswith("text: Ada. A line.")


def test_questions_with_unknown_characters_are_asked_with_a_warning(home, tmp_path):
    questions = tmp_path / "questions.tsv"
    questions.write_text("Where was Bra Mir born?\tBra\nWhere was Ωmega born?\tBra\n", encoding="utf-8")
    run = ["--questions_file", questions, "--use_cpu"]
    one = ["--model_name_or_path", home / "finetuned", "--output_dir", tmp_path / "one"]
    together = [home / "finetuned", home / "scratch", "--output_dir", tmp_path / "together"]
    for name, arguments in (("evaluate_birthplaces.py", one), ("ensemble.py", together)):
        done = script(name, *arguments, *run)
        assert done.returncode == 0
        warning = f"{name}: warning: Of 2 questions, 1 with characters that are not in the vocabulary: 'Ω' (U+03A9)."
        assert done.stderr.count(warning) == 1
    assert len((tmp_path / "one/predictions.txt").read_text().splitlines()) == 2


def test_an_answer_is_explained_on_one_page(home, tmp_path):
    page = tmp_path / "pages" / "bra.html"
    said = works("explain_answer.py", home / "finetuned", "Bra Mir", "--output_file", page)
    assert said.startswith("Where was Bra Mir born?")
    text = page.read_text(encoding="utf-8")
    assert "<h1>Where was Bra Mir born?" in text
    assert text.count("</svg>") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', text)  # nothing from elsewhere
    said = works("explain_answer.py", home / "finetuned", "Who is Bra?", "--output_file", tmp_path / "other.html")
    assert said.startswith("Who is Bra?")
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
    asked = ["--questions_file", train, *run[2:], "--overwrite_output_dir"]
    said = "warning: Of 12 questions, 12 are training questions too: on these, the accuracy measures memory."
    assert said in script("ensemble.py", home / "finetuned", home / "scratch", *asked).stderr
    for runs, message in (([home / "finetuned"], "two runs or more, not 1"), ([home, home], "holds predictions")):
        refused(message, "ensemble.py", *runs, *run)
    refused("give --train_file and", "ensemble.py", home / "finetuned", *run, "--masked_forms", "2")


def test_one_run_answers_in_several_phrasings(home, tmp_path):
    data = home / "data"
    run = ["--questions_file", data / "birth_dev.tsv", "--train_questions_file", data / "birth_places_train.tsv"]
    run += ["--output_dir", tmp_path, "--use_cpu", "--masked_forms", "2"]
    shown = works("ensemble.py", home / "finetuned", *run, "--train_file", data / "biographies.txt")
    assert re.search(r"Where was \.\.\. born\? is also asked as '\.\.\.\. .*\[MASK\]", shown)
    assert json.loads((tmp_path / "report.json").read_text())["results"]["ensemble"]["total"] == 8
    (tmp_path / "other.txt").write_text("Nobody. Nobody was anywhere\n")
    options = ["--train_file", tmp_path / "other.txt", "--overwrite_output_dir"]
    refused("no masked form of these questions", "ensemble.py", home / "finetuned", *run, *options)


def test_an_open_book_baseline_extracts_answers(home, tmp_path):
    data, train = home / "data", home / "data/birth_places_train.tsv"
    run = ["--train_file", data / "biographies.txt", "--questions_file", train, "--output_dir", tmp_path / "read"]
    shown = works("read_answers.py", *run, "--dev_questions_file", data / "birth_dev.tsv")
    assert "| open-book extractive baseline | 100.0% | 8 of 8 |" in shown
    lines = (tmp_path / "read/with_reader.tsv").read_text().splitlines()
    assert lines[:12] == train.read_text().splitlines()
    assert set((data / "birth_dev.tsv").read_text().splitlines()) <= set(lines[12:])
    refused("give --overwrite_output_dir", "read_answers.py", *run)
    again = script("read_answers.py", *run, "--overwrite_output_dir", "--dev_questions_file", train)
    assert "warning: Of 12 questions, 12 are training questions too" in again.stderr
