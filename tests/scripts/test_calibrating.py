"""Calibrating a run, and the report that follows."""

import json
import shutil

from .running import refused, works


def test_a_calibrated_run_reports_its_calibration(home, calibrated):
    data = home / "data"
    said = works(
        "evaluate_birthplaces.py", "--model_name_or_path", calibrated, "--questions_file", data / "birth_dev.tsv",
        "--train_questions_file", data / "birth_places_train.tsv", "--train_file", data / "biographies.txt",
        "--num_invented_names", 20, "--use_cpu",
    )  # fmt: skip
    report = json.loads((calibrated / "report.json").read_text())
    wrong = 8 - report["results"]["model"]["correct"]
    assert report["wrong_answers"] == {"not in the text": 0, "not recalled": wrong}
    assert f"Wrong answers: 0 not in the text, {wrong} not recalled." in said
    report = report["calibration"]
    assert sum(part["total"] for part in report["accuracy_by"]["the document"].values()) == 8
    assert len(report["probabilities"]["invented"]) == 20
    assert (calibrated / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "20 invented names" in (calibrated / "calibration.md").read_text()
    assert "## Calibration" in (calibrated / "README.md").read_text()


def test_calibration_needs_questions_that_were_held_out(home, tmp_path):
    train, dev = (home / "data" / name for name in ("birth_places_train.tsv", "birth_dev.tsv"))
    run = ["--model_name_or_path", home / "pretrained", "--train_questions_file", train, "--num_unknown_names", 5]
    run += ["--num_invented_names", 20, "--use_cpu"]
    for questions, message in ((train, "is a training question"), (dev, "correct answers is 0 of 8")):
        refused(message, "calibrate.py", *run, "--questions_file", questions)
    assert not (home / "pretrained/calibration.json").exists()


def test_calibration_learns_from_right_and_wrong_answers(home, tmp_path):
    run, train = tmp_path / "run", home / "data/birth_places_train.tsv"
    shutil.copytree(home / "finetuned", run)
    data = ["--model_name_or_path", home / "finetuned", "--use_cpu", "--questions_file"]
    works("evaluate_birthplaces.py", *data, home / "data/birth_dev.tsv", "--output_dir", tmp_path / "dev")
    asked = [line.split("\t")[0] for line in (home / "data/birth_dev.tsv").read_text().splitlines()]
    said = (tmp_path / "dev/predictions.txt").read_text().splitlines()
    assert all(said)
    held_out = tmp_path / "held_out.tsv"  # with what it says itself for half of the answers
    answers = [answer if i % 2 else "Elsewhere" for i, answer in enumerate(said)]
    held_out.write_text("".join(f"{pair[0]}\t{pair[1]}\n" for pair in zip(asked, answers, strict=True)))
    options = [
        "--train_questions_file",
        train,
        "--output_dir",
        run,
        "--num_unknown_names",
        5,
        "--num_invented_names",
        10,
    ]
    shown = works("calibrate.py", *data, held_out, *options)
    assert "4 of 8 correct" in shown
    calibration = json.loads((run / "calibration.json").read_text())
    assert calibration["fitted_on"] == 8
    assert len(calibration["unknown_names"]) == 5
    refused("give --overwrite_output_dir", "calibrate.py", *data, held_out, *options)
