"""The scripts as a user calls them, on a small generated corpus."""

import json
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

from hf_mingpt.evaluation.calibration import fit_calibration
from hf_mingpt.evaluation.confidence import ConfidenceFeatures
from hf_mingpt.system.writing import write_json

from ..conftest import SCRIPTS, run_script
from ..processes import run_ranks

TINY = ["--use_cpu", "--mixed_precision", "no", "--model_preset", "gpt-nano", "--position_embedding_type", "rope"]
TINY += ["--learning_rate", "0.003", "--optim", "adamw", "--dropout", "0", "--logging_steps", "1"]


def script(name: str, *arguments, launcher=(), ranks: list | None = None) -> subprocess.CompletedProcess:
    """Runs a script in this process, by a launcher, or as ranks: how many, and a script that runs it."""
    if ranks:
        return run_ranks(*ranks, SCRIPTS / name, *arguments)
    if launcher:
        command = list(map(str, [sys.executable, *launcher, SCRIPTS / name, *arguments]))
        return subprocess.run(command, capture_output=True, text=True, check=False)
    return run_script(name, *arguments)


def works(name: str, *arguments, **options) -> str:
    done = script(name, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(said: str, name: str, *arguments, untouched: Path | None = None) -> None:
    """One sentence, code 2, and nothing written."""
    done = script(name, *arguments)
    assert (done.returncode, said in done.stderr.splitlines()[-1]) == (2, True), done.stderr
    assert untouched is None or not untouched.exists()


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
    assert json.loads((tmp_path / "fast/metrics.jsonl").read_text().splitlines()[-1])["step"] == 2  # 104 + 48 by 102
    again = ["pretrain.py", *data, "--preset", "closed_book", *TINY, "--overwrite_output_dir"]
    refused("num_spans is 9: with block_size 128, use 1 to 8", *again, "--num_spans", 9)

    few = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 1]
    refused("questions_ratio 0.2 is 0 of the 1 examples of a step: change the ratio or the batch size", *again, *few)


def test_split_questions(home, tmp_path):
    questions = home / "data/birth_places_train.tsv"
    works("split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds", "--num_folds", 3)
    held_out = [(tmp_path / f"folds/fold-{i}/held_out.tsv").read_text() for i in range(3)]
    assert sorted("".join(held_out).splitlines()) == sorted(questions.read_text().splitlines())
    refused("is not empty", "split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds")


@pytest.fixture
def calibrated(home, tmp_path):
    """The finetuned run with a calibration; its few steps taught it nothing, so one is fitted to other signs."""
    run = tmp_path / "calibrated"
    shutil.copytree(home / "finetuned", run, ignore=shutil.ignore_patterns("predictions.txt", "report.json"))
    rng = np.random.default_rng(0)
    features = ConfidenceFeatures(*rng.normal(size=(3, 50)))
    calibration = fit_calibration(
        features, features.contrast > 0, candidates=["Bra", "Mir"], unknown_names=["Ka Ma", "Ma Ka"]
    )
    write_json(run / "calibration.json", asdict(calibration))
    return run


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


def test_a_calibrated_run_reports_its_calibration(home, calibrated):
    data = home / "data"
    works(
        "evaluate_birthplaces.py", "--model_name_or_path", calibrated, "--questions_file", data / "birth_dev.tsv",
        "--train_questions_file", data / "birth_places_train.tsv", "--train_file", data / "biographies.txt",
        "--num_invented_names", 20, "--use_cpu",
    )  # fmt: skip
    report = json.loads((calibrated / "report.json").read_text())["calibration"]
    assert sum(part["total"] for part in report["accuracy_by"]["the biography"].values()) == 8
    assert len(report["probabilities"]["invented"]) == 20
    assert (calibrated / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert "20 invented names" in (calibrated / "calibration.md").read_text()
    assert "## Calibration" in (calibrated / "README.md").read_text()


def test_calibration_needs_questions_that_were_held_out(home, tmp_path):
    train, dev = (home / "data" / name for name in ("birth_places_train.tsv", "birth_dev.tsv"))
    run = ["--model_name_or_path", home / "pretrained", "--train_questions_file", train, "--num_unknown_names", 5]
    run += ["--num_invented_names", 20, "--use_cpu"]
    for questions, message in ((train, "is a training question"), (dev, "0 of 8 answers are correct")):
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


def test_questions_without_answers_get_predictions(home, tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("Where was Bra Mir born?\nWhere was Bradon Drador born?\n")
    run = ["--model_name_or_path", home / "finetuned", "--questions_file", questions, "--use_cpu"]
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.txt"]
    assert len((tmp_path / "out/predictions.txt").read_text().splitlines()) == 2
    refused("holds predictions", "evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "out")


def test_a_text_is_learned_and_continued(home, tmp_path):
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
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", lets_go]
    is_launched = (optim, processes) == ("adamw", 2)  # the others have what it would give them
    several = {"launcher": launcher} if is_launched else {"ranks": [processes, lets_go]}
    works("pretrain.py", *data, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 8)
    arguments = [*data, "--output_dir", tmp_path / "several", "--per_device_train_batch_size", 8 // processes]
    works("pretrain.py", *arguments, **several)
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
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, lets_go]
    several = {"launcher": launcher} if questions == 7 else {"ranks": [processes, lets_go]}
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "one")
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "several", **several)
    one, other = ((tmp_path / name / "predictions.txt").read_text() for name in ("one", "several"))
    assert one == other
    assert len(one.splitlines()) == questions
    one, other = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "several"))
    assert one["results"] == other["results"]
    assert one["calibration"]["probabilities"] == other["calibration"]["probabilities"]


class TestMistakes:
    """What a user names or types is read literally, and refused before training."""

    def test_of_texts(self, home, tmp_path):
        corpus, out = home / "data/biographies.txt", tmp_path / "out"
        for name, content in {
            "blank.txt": "\n\r\n",
            "marked.txt": "a\nb□\n",
            "q.tsv": "a\tb⁇\n",
            "x.txt": "X\n",
        }.items():
            (tmp_path / name).write_text(content)
        marked, pretrained = tmp_path / "marked.txt", home / "pretrained"
        stream = ["--streaming", "--tokenizer_name", pretrained, "--max_steps", 1]
        for said, text, *flags in (
            ("No file at nothing.txt", "nothing.txt"),
            ("blank.txt has no documents", tmp_path / "blank.txt"),
            ("has no documents", tmp_path / "blank.txt", *stream),
            ("Document 2: character 2, '□'", marked),
            ("Document 2: character 2, '□'", marked, *stream),
            ("marked.txt, line 2: '□'", corpus, "--vocabulary_file", marked),
            ("q.tsv, line 1: '⁇'", corpus, "--questions_file", tmp_path / "q.tsv"),
            ("'X' (U+0058)", tmp_path / "x.txt", "--tokenizer_name", pretrained),
            ("No tokenizer at gpt2: check the path", corpus, "--tokenizer_name", "gpt2"),
            ("got dense", corpus, "--attention_type", "dense"),
        ):
            run = ["--train_file", text, "--output_dir", out, "--use_cpu", *flags]
            refused(said, "pretrain.py", *run, untouched=out)

    def test_of_questions(self, home, tmp_path):
        out, questions = tmp_path / "out", tmp_path / "q.tsv"
        run = ["--questions_file", questions, "--output_dir", out, "--model_name_or_path"]
        for content, said in (
            ("Where?\tThere\nWhere\n", "line 2: 0 tabs"),
            (f"{'a' * 130}\tB\n", "needs 133 tokens"),
            ("Where was Ωmega born?\tB\n", "'Ω' (U+03A9)"),
        ):
            questions.write_text(content)
            refused(said, "finetune.py", *run, home / "pretrained", untouched=out)
        questions.write_text("Where was A born?\tB\n")
        refused("No run folder at", "finetune.py", *run, tmp_path / "none", untouched=out)
        broken = tmp_path / "broken"
        shutil.copytree(home / "pretrained", broken)
        content = json.loads((broken / "tokenizer.json").read_text())
        content["model"]["vocab"]["Ω"] = len(content["model"]["vocab"])
        (broken / "tokenizer.json").write_text(json.dumps(content))
        refused("use the tokenizer that was saved with the model", "finetune.py", *run, broken, untouched=out)

    def test_of_prompts_and_names(self, home, tmp_path):
        run = ["--model_name_or_path", home / "pretrained", "--prompt"]
        refused("The prompt's character 3, '□'", "sample.py", *run, "⁇B□")
        refused("The prompt's character 2, 'Ω'", "sample.py", *run, "⁇Ω")
        works("sample.py", *run, "B⁇", "--max_new_tokens", 1)
        page = ["--output_file", tmp_path / "page.html"]
        refused("'A⁇': character 12, '⁇'", "explain_answer.py", home / "finetuned", "A⁇", *page)

    @pytest.mark.parametrize(
        "content", [b"", b"x", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x04]\x94.", b"\x80\x05K\x01."]
    )
    def test_of_files_of_weights(self, home, tmp_path, content):
        (tmp_path / "weights.pt").write_bytes(content)
        run = ["--checkpoint", tmp_path / "weights.pt", "--output_dir", tmp_path / "out"]
        refused("weights.pt", "convert_checkpoint.py", *run, "--vocabulary_file", home / "data/biographies.txt")

    def test_of_checkpoints(self, tmp_path):
        for missing in (tmp_path / "none", "./none", "none.pt"):
            refused(
                "check the path", "convert_checkpoint.py", "--output_dir", tmp_path / "out", "--checkpoint", missing
            )


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
