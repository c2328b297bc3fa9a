"""The scripts as a user calls them, on a small generated corpus."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_mingpt.evaluation.calibration import ConfidenceFeatures, fit_calibration
from hf_mingpt.system.writing import write_json

from ..conftest import SCRIPTS, run_script

TINY = ["--use_cpu", "--mixed_precision", "no", "--model_preset", "gpt-nano", "--position_embedding_type", "rope"]
TINY += ["--learning_rate", "0.003", "--optim", "adamw", "--dropout", "0", "--logging_steps", "1"]


def script(name: str, *arguments, launcher=()) -> subprocess.CompletedProcess:
    if not launcher:
        return run_script(name, *arguments)
    command = [sys.executable, *launcher, SCRIPTS / name, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)


def works(name: str, *arguments, **options) -> str:
    done = script(name, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a generated corpus, a pretrained, a finetuned and a from-scratch run."""
    home = tmp_path_factory.mktemp("home")
    people = ["--num_train_people", 12, "--num_dev_people", 8, "--num_test_people", 4, "--num_other_people", 2]
    works("generate_biographies.py", "--output_dir", home / "data", *people)
    data = ["--train_file", home / "data/biographies.txt", "--vocabulary_file", home / "data/birth_dev.tsv"]
    works("pretrain.py", *data, "--output_dir", home / "pretrained", "--max_steps", 4, *TINY)
    finetune = ["--model_name_or_path", home / "pretrained", "--questions_file", home / "data/birth_places_train.tsv"]
    finetune += ["--use_cpu", "--max_steps", 3]
    works("finetune.py", *finetune, "--output_dir", home / "finetuned")
    works("finetune.py", *finetune, "--output_dir", home / "scratch", "--preset", "assignment_short_from_scratch")
    return home


def test_the_whole_experiment(home):
    shown = works(
        "evaluate_birthplaces.py",
        *("--model_name_or_path", home / "finetuned", "--questions_file", home / "data/birth_dev.tsv"),
        *("--train_questions_file", home / "data/birth_places_train.tsv", "--without_pretraining", home / "scratch"),
        "--use_cpu",
    )
    report = json.loads((home / "finetuned/report.json").read_text())
    assert list(report["results"])[:2] == ["model", "without pretraining"]
    assert report["results"]["model"]["total"] == 8
    assert len(report["questions"]["sha256"]) == 64
    assert "| most frequent (" in shown
    assert len((home / "finetuned/predictions.txt").read_text().splitlines()) == 8
    assert "8 questions of `birth_dev.tsv`" in (home / "finetuned/README.md").read_text()

    works("plot_run.py", "--runs", f"{home}/pretrained,{home}/finetuned", "--output_file", home / "runs.png")
    assert (home / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_questions_read_along_with_the_text_need_no_finetuning(home, tmp_path):
    data = ["--train_file", home / "data/biographies.txt", "--vocabulary_file", home / "data/birth_dev.tsv"]
    data += ["--questions_file", home / "data/birth_places_train.tsv", "--output_dir", tmp_path / "fast"]
    works("pretrain.py", *data, "--preset", "closed_book", "--max_steps", 4, *TINY)
    questions = ["--questions_file", home / "data/birth_dev.tsv", "--use_cpu"]
    works("evaluate_birthplaces.py", "--model_name_or_path", tmp_path / "fast", *questions)
    assert json.loads((tmp_path / "fast/report.json").read_text())["results"]["model"]["total"] == 8
    assert json.loads((tmp_path / "fast/generation_config.json").read_text())["eos_token_id"] == 1

    pieces = ["--num_spans", 2, "--document_windows", True, "--ssm_probability", 0.5, "--paraphrases_per_answer", 4]
    pieces += ["--ema_decay", 0.9, "--num_train_epochs", 1, "--overwrite_output_dir"]
    works("pretrain.py", *data, "--preset", "closed_book", *pieces, *TINY)
    assert json.loads((tmp_path / "fast/metrics.jsonl").read_text().splitlines()[-1])["step"] == 2  # 104 + 48 by 115
    done = script("pretrain.py", *data, "--preset", "closed_book", "--num_spans", 9, *TINY, "--overwrite_output_dir")
    assert (done.returncode, "num_spans is 9: with block_size 128, use 1 to 8" in done.stderr) == (2, True)

    few = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 1]
    done = script("pretrain.py", *data, "--preset", "closed_book", *TINY, *few, "--overwrite_output_dir")
    assert done.returncode == 2
    assert "questions_ratio 0.1 is 0 of the 1 examples of a step: change the ratio or the batch size" in done.stderr


def test_split_questions(home, tmp_path):
    questions = home / "data/birth_places_train.tsv"
    works("split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds", "--num_folds", 3)
    held_out = [(tmp_path / f"folds/fold-{i}/held_out.tsv").read_text() for i in range(3)]
    assert sorted("".join(held_out).splitlines()) == sorted(questions.read_text().splitlines())
    again = script("split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds")
    assert again.returncode == 2
    assert "is not empty" in again.stderr


@pytest.fixture
def calibrated(home, tmp_path):
    """The finetuned run with a calibration; its few steps taught it nothing, so one is fitted to other signs."""
    run = tmp_path / "calibrated"
    shutil.copytree(home / "finetuned", run, ignore=shutil.ignore_patterns("predictions.txt", "report.json"))
    rng = np.random.default_rng(0)
    signs = ConfidenceFeatures(*rng.normal(size=(3, 50)))
    calibration = fit_calibration(signs, signs.contrast > 0, places=["Bra", "Mir"], unknown_names=["Ka Ma", "Ma Ka"])
    write_json(run / "calibration.json", asdict(calibration))
    return run


def test_answers_come_with_probabilities(home, calibrated):
    said = works(
        "ask.py", "Bra Mir", "Mir Bra", "--model_name_or_path", calibrated, "--use_cpu",
        "--train_file", home / "data/biographies.txt",
    )  # fmt: skip
    verdict = r"\(\d+% likely to be right: (retrieved|a guess: I don't know)\)"
    assert re.search(rf"Bra Mir: .* {verdict}\n    other places, .*: (Bra|Mir) \d+%", said)
    for arguments, message in (
        (["--model_name_or_path", calibrated], "No name"),
        (["Bra", "--model_name_or_path", home / "finetuned"], "has no calibration.json: make it with"),
        (["B☃", "--model_name_or_path", calibrated, "--use_cpu"], "'☃'"),
    ):
        done = script("ask.py", *arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_an_answer_is_explained_on_one_page(home, tmp_path):
    page = tmp_path / "pages" / "bra.html"
    said = works("explain_answer.py", home / "finetuned", "Bra Mir", "--output_file", page)
    assert said.startswith("Where was Bra Mir born?")
    text = page.read_text(encoding="utf-8")
    assert "<h1>Where was Bra Mir born?" in text
    assert text.count("</svg>") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', text)  # nothing from elsewhere
    again = script("explain_answer.py", home / "finetuned", "Bra", "--output_file", page)
    assert (again.returncode, "give --overwrite_output_dir" in again.stderr) == (2, True)


def test_the_page_needs_a_calibration_and_says_so(home):
    done = script("demo.py", home / "finetuned")
    assert done.returncode == 2
    assert re.search("has no calibration.json|gradio is not installed", done.stderr)


def test_a_calibrated_run_reports_honesty(home, calibrated):
    data = home / "data"
    works(
        "evaluate_birthplaces.py", "--model_name_or_path", calibrated, "--questions_file", data / "birth_dev.tsv",
        "--train_questions_file", data / "birth_places_train.tsv", "--train_file", data / "biographies.txt",
        "--num_invented_names", 20, "--use_cpu",
    )  # fmt: skip
    honesty = json.loads((calibrated / "report.json").read_text())["honesty"]
    assert sum(part["total"] for part in honesty["accuracy_by"]["the biography"].values()) == 8
    assert len(honesty["probabilities"]["invented"]) == 20
    assert (calibrated / "honesty.png").read_bytes().startswith(b"\x89PNG")
    assert "20 invented names" in (calibrated / "honesty.md").read_text()
    assert "## How far to trust an answer" in (calibrated / "README.md").read_text()


def test_calibration_needs_questions_that_were_held_out(home, tmp_path):
    train, dev = (home / "data" / name for name in ("birth_places_train.tsv", "birth_dev.tsv"))
    run = ["--model_name_or_path", home / "pretrained", "--train_questions_file", train, "--num_unknown_names", 5]
    run += ["--num_invented_names", 20, "--use_cpu"]
    for questions, message in ((train, "is in both files"), (dev, "0 of 8 answers are right")):
        done = script("calibrate.py", *run, "--questions_file", questions)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    done = script("calibrate.py", *run, "--questions_file", dev, "--max_false_answer_rate", 10)
    assert (done.returncode, "max_false_answer_rate is 10.0: it must be from 0 to 1" in done.stderr) == (2, True), (
        done.stderr
    )
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
    assert "4 of 8 right" in shown
    calibration = json.loads((run / "calibration.json").read_text())
    assert calibration["fitted_on"] == 8
    assert len(calibration["unknown_names"]) == 5
    again = script("calibrate.py", *data, held_out, *options)
    assert (again.returncode, "give --overwrite_output_dir" in again.stderr) == (2, True)


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
        done = script("ensemble.py", *runs, *run)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_an_open_book_baseline_extracts_answers(home, tmp_path):
    data, train = home / "data", home / "data/birth_places_train.tsv"
    run = ["--train_file", data / "biographies.txt", "--questions_file", train, "--output_dir", tmp_path / "read"]
    shown = works("read_answers.py", *run, "--dev_questions_file", data / "birth_dev.tsv")
    assert "| open-book extractive baseline | 100.0% | 8 of 8 |" in shown
    lines = (tmp_path / "read/with_reader.tsv").read_text().splitlines()
    assert lines[:12] == train.read_text().splitlines()
    assert set((data / "birth_dev.tsv").read_text().splitlines()) <= set(lines[12:])
    again = script("read_answers.py", *run)
    assert (again.returncode, "give --overwrite_output_dir" in again.stderr) == (2, True)


def test_questions_without_answers_get_predictions(home, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("Where was Bra Mir born?\nWhere was Bradon Drador born?\n")
    run = ["--model_name_or_path", home / "finetuned", "--questions_file", questions, "--use_cpu"]
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.txt"]
    assert len((tmp_path / "out/predictions.txt").read_text().splitlines()) == 2
    again = script("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")
    assert again.returncode == 2
    assert "holds predictions" in again.stderr


def test_a_text_is_learnt_and_continued(home, tmp_path):
    (tmp_path / "book.txt").write_text("the cat sat on the mat. the dog sat on the log.\n" * 40)
    run = ["--train_file", tmp_path / "book.txt", "--output_dir", tmp_path / "book", "--preset", "causal"]
    works("pretrain.py", *run, *TINY, "--max_position_embeddings", 32, "--max_steps", 250)
    text = works("sample.py", "--model_name_or_path", tmp_path / "book", "--prompt", "the cat", "--greedy")
    assert text.startswith("the cat")
    assert len(text) == 7 + 200 + 1
    assert "sat on the" in text
    draws = [works("sample.py", "--model_name_or_path", tmp_path / "book", "--seed", seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_examples_are_shown_x_above_y(home):
    data = home / "data"
    shown = works(
        "show_examples.py", "--train_file", data / "biographies.txt", "--vocabulary_file", data / "birth_dev.tsv",
        "--questions_file", data / "birth_places_train.tsv",
    )  # fmt: skip
    x, y = shown.split("span corruption\n")[1].splitlines()[:2]
    assert x.startswith("x: ")
    assert x[4:] == y[3:-1]  # y is x, shifted by one
    answer = shown.split("question answering\n")[1].splitlines()
    question = answer[0].removeprefix("x: ").split("⁇")[0]
    assert answer[1].removeprefix("y: ").startswith("□" * (len(question) - 1) + "⁇")


LETS_GO = """
import runpy, sys
import torch.distributed as dist
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not dist.is_initialized(), "gloo's threads may abort an interpreter that is being finalized"
"""


@pytest.fixture
def lets_go(tmp_path) -> Path:
    """A script that runs another, and fails if that leaves its process group behind."""
    path = tmp_path / "lets_go.py"
    path.write_text(LETS_GO)
    return path


@pytest.mark.parametrize(("optim", "processes"), [("adamw", 2), ("adamw", 4), ("muon", 2)])
def test_several_processes_learn_what_one_learns(home, lets_go, tmp_path, optim, processes):
    """Losses and weights within 1e-5; with Muon, whose own arithmetic is bf16, within 1e-3 and 5e-3."""
    data = ["--train_file", home / "data/biographies.txt", *TINY, "--max_steps", 6, "--optim", optim]
    data += ["--max_grad_norm", "100"]
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", "1"]
    several += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", lets_go]
    works("pretrain.py", *data, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 8)
    arguments = [*data, "--output_dir", tmp_path / "several", "--per_device_train_batch_size", 8 // processes]
    works("pretrain.py", *arguments, launcher=several)
    runs = [json.loads((tmp_path / name / "run.json").read_text())["num_processes"] for name in ("one", "several")]
    assert runs == [1, processes]
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "several")
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5 if optim == "adamw" else 1e-3)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "several"))
    difference = max((one[name] - other[name]).abs().max().item() for name in one)
    assert difference < (1e-5 if optim == "adamw" else 5e-3)
    moved = load_file(home / "pretrained/model.safetensors")
    assert max((one[name] - moved[name]).abs().max().item() for name in one if "layers" in name) > 0.01


@pytest.mark.parametrize(("questions", "processes"), [(7, 3), (2, 3)])
def test_several_processes_answer_what_one_answers(home, calibrated, lets_go, tmp_path, questions, processes):
    lines = (home / "data/birth_places_train.tsv").read_text().splitlines(keepends=True)
    asked = tmp_path / "asked.tsv"
    asked.write_text("".join(lines[:questions]))
    run = ["--model_name_or_path", calibrated, "--questions_file", asked, "--num_invented_names", 2, "--use_cpu"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, lets_go]
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "one")
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "several", launcher=several)
    one, other = ((tmp_path / name / "predictions.txt").read_text() for name in ("one", "several"))
    assert one == other
    assert len(one.splitlines()) == questions
    one, other = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "several"))
    assert one["results"] == other["results"]
    assert one["honesty"]["probabilities"] == other["honesty"]["probabilities"]


class TestBadInput:
    """One sentence with the value and the remedy, before training, exit code 2, and nothing written."""

    @pytest.fixture(autouse=True)
    def in_this_process(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def refused(self, said: str, name: str, *arguments, untouched: Path | None = None):
        self.monkeypatch.setattr(sys, "argv", [str(part) for part in (SCRIPTS / name, *arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        assert stop.value.code == 2
        assert said in self.capsys.readouterr().err.splitlines()[-1]
        assert untouched is None or not untouched.exists()

    def pretrain(self, tmp_path, said, *arguments):
        out = tmp_path / "out"
        self.refused(said, "pretrain.py", "--output_dir", out, "--use_cpu", *arguments, untouched=out)

    def test_pretraining(self, home, tmp_path):
        (tmp_path / "empty.txt").touch()
        (tmp_path / "marked.txt").write_text("a ⁇ b\n")
        corpus = home / "data/biographies.txt"
        self.pretrain(tmp_path, "No file at nothing.txt", "--train_file", "nothing.txt")
        self.pretrain(tmp_path, "is empty", "--train_file", tmp_path / "empty.txt")
        self.pretrain(tmp_path, "U+2047", "--train_file", tmp_path / "marked.txt")
        self.pretrain(tmp_path, "'fastest' is unknown", "--train_file", corpus, "--preset", "fastest")
        self.pretrain(tmp_path, "got dense", "--train_file", corpus, "--attention_type", "dense")
        self.pretrain(tmp_path, "over the model's 128", "--train_file", corpus, "--block_size", 256)
        (tmp_path / "other.txt").write_text("Xylophon\n")
        tokenizer = ["--tokenizer_name", home / "pretrained"]
        self.pretrain(tmp_path, "'X' (U+0058)", "--train_file", tmp_path / "other.txt", *tokenizer)

    def test_output_folder_of_another_run(self, home):
        before = (home / "pretrained/model.safetensors").read_bytes()
        corpus = home / "data/biographies.txt"
        self.refused(
            "--overwrite_output_dir", "pretrain.py", "--train_file", corpus, "--output_dir", home / "pretrained"
        )
        assert (home / "pretrained/model.safetensors").read_bytes() == before

    def test_finetuning(self, home, tmp_path):
        out = tmp_path / "out"
        questions = tmp_path / "q.tsv"
        run = ["--model_name_or_path", home / "pretrained", "--questions_file", questions, "--output_dir", out]
        for content, said in (
            ("Where?\tThere\nWhere\n", "line 2: 0 tabs"),
            (f"{'a' * 130}\tB\n", "needs 133 tokens"),
            ("Where was Ωmega born?\tB\n", "'Ω' (U+03A9)"),
        ):
            questions.write_text(content)
            self.refused(said, "finetune.py", *run, untouched=out)
        questions.write_text("Where was A born?\tB\n")
        self.refused(
            "No run folder at", "finetune.py", *run[2:], "--model_name_or_path", tmp_path / "none", untouched=out
        )

    def test_a_vocabulary_that_does_not_match(self, home, tmp_path):
        broken = tmp_path / "broken"
        shutil.copytree(home / "pretrained", broken)
        content = json.loads((broken / "tokenizer.json").read_text())
        content["model"]["vocab"]["Ω"] = len(content["model"]["vocab"])
        (broken / "tokenizer.json").write_text(json.dumps(content))
        run = ["--model_name_or_path", broken, "--questions_file", home / "data/birth_places_train.tsv"]
        out = tmp_path / "out"
        self.refused(
            "use the tokenizer that was saved with the model", "finetune.py", *run, "--output_dir", out, untouched=out
        )


class TestNamedFiles:
    """What a user names or types is read literally, and refused in one sentence."""

    @pytest.fixture(autouse=True)
    def in_this_process(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def call(self, name: str, *arguments) -> tuple[int, str]:
        """The exit code, and the last line of what is said."""
        self.monkeypatch.setattr(sys, "argv", [str(part) for part in (SCRIPTS / name, *arguments)])
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as stop:
            return stop.code, self.capsys.readouterr().err.splitlines()[-1]
        return 0, self.capsys.readouterr().out

    def refused(self, said: str, name: str, *arguments):
        code, line = self.call(name, *arguments)
        assert (code, said in line) == (2, True), line

    def test_pretraining(self, home, tmp_path):
        corpus, out = home / "data/biographies.txt", ["--output_dir", tmp_path / "out", "--use_cpu"]
        for name, content in {"blank.txt": "\n\r\n", "marked.txt": "a\nb□\n", "q.tsv": "a\tb⁇\n"}.items():
            (tmp_path / name).write_text(content)
        blank, marked = tmp_path / "blank.txt", tmp_path / "marked.txt"
        stream = ["--streaming", "--tokenizer_name", home / "pretrained", "--max_steps", 1]
        self.refused("blank.txt has no documents", "pretrain.py", *out, "--train_file", blank)
        self.refused("has no documents", "pretrain.py", *out, "--train_file", blank, *stream)
        self.refused("Document 2: character 2, '□'", "pretrain.py", *out, "--train_file", marked)
        self.refused("Document 2: character 2, '□'", "pretrain.py", *out, "--train_file", marked, *stream)
        data = [*out, "--train_file", corpus]
        self.refused("marked.txt, line 2: '□'", "pretrain.py", *data, "--vocabulary_file", marked)
        self.refused("q.tsv, line 1: '⁇'", "pretrain.py", *data, "--questions_file", tmp_path / "q.tsv")
        self.refused("No tokenizer at gpt2: check the path", "pretrain.py", *data, "--tokenizer_name", "gpt2")
        assert not (tmp_path / "out").exists()

    def test_marks_in_what_is_typed(self, home, tmp_path):
        run = ["--model_name_or_path", home / "pretrained", "--prompt"]
        self.refused("The prompt's character 3, '□'", "sample.py", *run, "⁇B□")
        self.refused("The prompt's character 2, 'Ω'", "sample.py", *run, "⁇Ω")
        assert self.call("sample.py", *run, "B⁇", "--max_new_tokens", 1)[0] == 0
        page = ["--output_file", tmp_path / "page.html"]
        self.refused("'A⁇': character 12, '⁇'", "explain_answer.py", home / "finetuned", "A⁇", *page)

    def test_a_plot_of_runs_of_one_name(self, home, tmp_path):
        reports = {"a": 0.25, "b": 0.5}
        for name, accuracy in reports.items():
            shutil.copytree(
                home / "pretrained", tmp_path / name / "run", ignore=shutil.ignore_patterns("*.safetensors")
            )
            row = {"accuracy": accuracy, "interval_95": [0.0, 1.0]}
            results = {"model": row, "always London": row, "the same": reports_row()}
            write_json(tmp_path / name / "run/report.json", {"results": results})
        folders = [tmp_path / name / "run" for name in reports]
        rows = runpy.run_path(str(SCRIPTS / "plot_run.py"))["read_accuracies"](folders)
        assert {name: row["accuracy"] for name, row in rows.items()} == {
            "a/run": 0.25, "b/run": 0.5, "always London": 0.25, "always London, b/run": 0.5, "the same": 0.75,
        }  # fmt: skip
        plot = ["--output_file", tmp_path / "plot.png", "--runs"]
        assert self.call("plot_run.py", *plot, ",".join(map(str, folders)))[0] == 0
        plot.insert(0, "--overwrite_output_dir")
        self.refused("run is named twice", "plot_run.py", *plot, f"{folders[0]},{folders[0]}")
        for content in ("", "[]", '{"results": {"model": {"accuracy": 7, "interval_95": [0, 1]}}}', '{"results": 1}'):
            (folders[0] / "report.json").write_text(content)
            self.refused("report.json is no", "plot_run.py", *plot, folders[0])

    def test_an_ensemble_of_runs_of_one_name(self, home, tmp_path):
        for name, run in (("a", "finetuned"), ("b", "scratch"), ("b", "ensemble")):
            folder = tmp_path / name / ("run" if run != "ensemble" else "ensemble")
            shutil.copytree(home / run if run != "ensemble" else home / "scratch", folder)
        runs = [tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/ensemble"]
        data = ["--questions_file", home / "data/birth_dev.tsv", "--output_dir", tmp_path / "all", "--use_cpu"]
        assert self.call("ensemble.py", *runs, *data)[0] == 0
        results = json.loads((tmp_path / "all/report.json").read_text())["results"]
        assert list(results)[:4] == ["a/run", "b/run", "the run ensemble", "ensemble"]

    @pytest.mark.parametrize(
        "content", [b"", b"x", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x04]\x94.", b"\x80\x05K\x01."]
    )
    def test_a_checkpoint_that_is_none(self, home, tmp_path, content):
        (tmp_path / "weights.pt").write_bytes(content)
        run = ["--checkpoint", tmp_path / "weights.pt", "--output_dir", tmp_path / "out"]
        code, line = self.call("convert_checkpoint.py", *run, "--vocabulary_file", home / "data/biographies.txt")
        assert (code, "weights.pt" in line or "unknown code" in line) == (2, True), line

    def test_a_conversion_of_what_is_not_there(self, tmp_path):
        run = ["--output_dir", tmp_path / "out", "--checkpoint"]
        for missing in (tmp_path / "none", "./none", "none.pt"):
            self.refused("check the path", "convert_checkpoint.py", *run, missing)


def reports_row() -> dict:
    return {"accuracy": 0.75, "interval_95": [0.5, 1.0]}
