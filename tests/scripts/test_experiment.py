"""The scripts of the experiment, in order, on a small generated corpus."""

import json
import shutil

from .running import TINY, refused, works


def test_the_whole_experiment(home, tmp_path):
    run = shutil.copytree(home / "finetuned", tmp_path / "finetuned")
    shown = works(
        "evaluate_birthplaces.py",
        *("--model_name_or_path", run, "--questions_file", home / "data/birth_dev.tsv"),
        *("--train_questions_file", home / "data/birth_places_train.tsv", "--without_pretraining", home / "scratch"),
        "--use_cpu",
    )
    report = json.loads((run / "report.json").read_text())
    assert list(report["results"])[:2] == ["model", "without pretraining"]
    assert report["results"]["model"]["total"] == 8
    assert len(report["questions"]["sha256"]) == 64
    assert "| most frequent (" in shown
    assert len((run / "predictions.txt").read_text().splitlines()) == 8
    assert "8 questions of `birth_dev.tsv`" in (run / "README.md").read_text()

    works("plot_run.py", "--runs", f"{home}/pretrained,{run}", "--output_file", tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


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
    refused(
        "questions_ratio 0.2 gives 0 questions in a step of 1 example: change the ratio or the batch size", *again, *few
    )


def test_split_questions(home, tmp_path):
    questions = home / "data/birth_places_train.tsv"
    works("split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds", "--num_folds", 3)
    held_out = [(tmp_path / f"folds/fold-{i}/held_out.tsv").read_text() for i in range(3)]
    assert sorted("".join(held_out).splitlines()) == sorted(questions.read_text().splitlines())
    refused("is not empty", "split_questions.py", "--questions_file", questions, "--output_dir", tmp_path / "folds")


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


def test_a_text_is_learned_and_continued(home, tmp_path):
    (tmp_path / "book.txt").write_text("the cat sat on the mat. the dog sat on the log.\n" * 40)
    run = ["--train_file", tmp_path / "book.txt", "--output_dir", tmp_path / "book", "--preset", "causal"]
    fast = ["--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 1, "--learning_rate", 0.01]
    works("pretrain.py", *run, *TINY, "--max_position_embeddings", 32, "--max_steps", 100, *fast)
    text = works("sample.py", "--model_name_or_path", tmp_path / "book", "--prompt", "the cat", "--greedy")
    assert text.startswith("the cat")
    assert len(text) == 7 + 200 + 1
    assert "sat on the" in text
    draws = [works("sample.py", "--model_name_or_path", tmp_path / "book", "--seed", seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
