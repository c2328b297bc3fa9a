"""Runs that are evaluated while they train, that continue from a model, and that extend a vocabulary."""

import json

import pytest

from .running import TINY, refused, works


def read_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def foreign(tmp_path):
    """Questions with a character that no biography has."""
    path = tmp_path / "foreign.tsv"
    path.write_text("Where was Ωmega Mir born?\tBra\nWhere was Ada Ka born?\tMir\n")
    return path


def test_finetuning_is_evaluated_as_the_script_evaluates_it(home, tmp_path):
    train, dev, run = home / "data/birth_places_train.tsv", home / "data/birth_dev.tsv", tmp_path / "run"
    works(
        "finetune.py",
        *("--model_name_or_path", home / "pretrained", "--questions_file", train, "--use_cpu", "--max_steps", 6),
        *("--validation_questions_file", dev, "--eval_steps", 2, "--load_best_model_at_end", "--output_dir", run),
        *("--report_to", "tensorboard"),
    )
    lines = [line for line in read_lines(run / "metrics.jsonl") if "eval_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    record = json.loads((run / "run.json").read_text())
    best = min(lines, key=lambda line: line["eval_loss"])
    assert record["best_step"] == record["validation"]["step"] == best["step"]
    assert len(read_lines(run / "samples.jsonl")) == 9
    assert f"At step {best['step']}, the best one" in (run / "README.md").read_text()
    works("evaluate_birthplaces.py", "--model_name_or_path", run, "--questions_file", dev, "--use_cpu")
    results = json.loads((run / "report.json").read_text())["results"]
    assert results["model"]["accuracy"] == record["validation"]["eval_accuracy"]
    predictions = (run / "predictions.txt").read_text().splitlines()
    of_best = [line for line in read_lines(run / "samples.jsonl") if line["step"] == best["step"]]
    assert of_best[0]["prediction"].replace("\n", " ") == predictions[0]
    works("plot_run.py", "--runs", run, "--output_file", tmp_path / "run.png")


def test_pretraining_continues_from_a_model(home, tmp_path, foreign):
    """With other characters, a longer context, and documents and questions held out."""
    text, run = tmp_path / "letters.txt", tmp_path / "run"
    text.write_text("".join(f"Ξ Letter {i}. Dear Mir, {'so ' * i}long.\n" for i in range(60)))
    command = ["pretrain.py", "--model_name_or_path", home / "pretrained", "--train_file", text, "--use_cpu"]
    command += ["--max_steps", 2, "--output_dir", run, "--mixed_precision", "no"]
    refused("The text has characters that the vocabulary of the model lacks: 'Ξ' (U+039E)", *command, untouched=run)
    more = ["--extend_vocabulary", "--max_position_embeddings", 192, "--rope_type", "yarn"]
    held_out = ["--validation_ratio", 0.2, "--validation_questions_file", foreign]
    said = works(*command, *more, *held_out)
    assert "Held out for evaluation: 12 of 60 documents." in said
    config, before = (json.loads((path / "config.json").read_text()) for path in (run, home / "pretrained"))
    assert config["max_position_embeddings"] == 192
    assert (config["rope_parameters"]["rope_type"], config["rope_parameters"]["factor"]) == ("yarn", 1.5)
    assert config["vocab_size"] == before["vocab_size"] + 2
    (line,) = [line for line in read_lines(run / "metrics.jsonl") if "eval_loss" in line]
    assert line.keys() > {"eval_loss", "eval_bits_per_character", "eval_questions_loss", "eval_accuracy"}
    assert "started from" in (run / "README.md").read_text()


def test_questions_lend_their_characters(home, tmp_path, foreign):
    """To a new vocabulary, from each file; a text that has them already keeps its vocabulary."""
    corpus = home / "data/biographies.txt"
    flags = ["pretrain.py", "--train_file", corpus, "--max_steps", 1, *TINY, "--num_spans", 1, "--output_dir"]
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("Ψ was here.\n")
    works(*flags, tmp_path / "a", "--validation_questions_file", foreign, "--validation_file", held_out)
    vocabulary, before = (
        json.loads((run / "tokenizer.json").read_text())["model"]["vocab"]
        for run in (tmp_path / "a", home / "pretrained")
    )
    assert vocabulary.keys() - before.keys() == {"Ω", "Ψ"}


def test_finetuning_extends_a_vocabulary(home, tmp_path, foreign):
    run = tmp_path / "run"
    command = ["finetune.py", "--model_name_or_path", home / "pretrained", "--questions_file", foreign, "--use_cpu"]
    command += ["--max_steps", 1, "--output_dir", run]
    said = "1 of 2 questions have characters that the vocabulary of the model lacks: 'Ω' (U+03A9). Give"
    refused(said, *command, untouched=run)
    works(*command, "--extend_vocabulary")
    vocabulary = json.loads((run / "tokenizer.json").read_text())["model"]["vocab"]
    assert json.loads((run / "config.json").read_text())["vocab_size"] == len(vocabulary) == vocabulary["Ω"] + 1


def test_mistakes(home, tmp_path, foreign):
    out, questions = tmp_path / "out", home / "data/birth_places_train.tsv"
    empty = tmp_path / "empty.tsv"
    empty.write_text("\n")
    finetune = ["finetune.py", "--model_name_or_path", home / "pretrained", "--questions_file", questions, "--use_cpu"]
    for said, *flags in (
        ("eval_steps needs held-out data", "--eval_steps", 5),
        ("load_best_model_at_end needs held-out data", "--load_best_model_at_end"),
        ("empty.tsv is empty", "--validation_questions_file", empty),
        ("both say what is held out", "--validation_questions_file", questions, "--validation_ratio", 0.5),
        ("validation_ratio is 1.0: it must be over 0 and under 1", "--validation_ratio", 1),
        ("validation_ratio 0.01 holds out 0 of 12 questions", "--validation_ratio", 0.01),
        ("there is only the one at the end: give eval_steps", "--validation_ratio", 0.5, "--load_best_model_at_end"),
        ("'f1' is not a metric of this run: choose one of eval_loss, eval_bits_per_character, eval_accuracy",
         "--validation_ratio", 0.5, "--metric_for_best_model", "f1"),
    ):  # fmt: skip
        refused(said, *finetune, "--output_dir", out, *flags, untouched=out)
    pretrain = ["pretrain.py", "--train_file", home / "data/biographies.txt", "--use_cpu", "--output_dir", out]
    continued = ["--model_name_or_path", home / "pretrained"]
    stream = ["--streaming", "--max_steps", 2, "--tokenizer_name", home / "pretrained"]
    for said, *flags in (
        ("validation_ratio cannot hold out a part of a stream: give a validation_file", *stream,
         "--validation_ratio", 0.1),
        ("'eval_accuracy' is not a metric of this run: choose one of eval_loss, eval_bits_per_character.",
         "--validation_ratio", 0.1, "--metric_for_best_model", "eval_accuracy"),
        ("model_preset 'gpt-nano' is for a new model", *continued, "--model_preset", "gpt-nano"),
        ("tokenizer_name 'x' is for a new model", *continued, "--tokenizer_name", "x"),
        ("attention_type 'dot_product' is for a new model", *continued, "--attention_type", "dot_product"),
        ("rope_type 'yarn' needs model_name_or_path", "--rope_type", "yarn"),
        ("extend_vocabulary True needs model_name_or_path", "--extend_vocabulary"),
        ("rope_type 'llama3' is unknown: choose one of None, linear, dynamic, yarn", *continued,
         "--rope_type", "llama3"),
        ("max_position_embeddings 64 is under the model's 128", *continued, "--max_position_embeddings", 64),
        ("block_size 300 is over the model's context length of 128", *continued, "--block_size", 300),
        ("No file at none.txt", "--validation_file", "none.txt"),
    ):  # fmt: skip
        refused(said, *pretrain, *flags, untouched=out)


def test_a_preset_may_continue_from_a_model_of_another_architecture(home, tmp_path):
    """`demo` names a model preset, which does not concern a model that exists."""
    flags = ["--train_file", home / "data/biographies.txt", "--max_steps", 1, "--use_cpu"]
    works("pretrain.py", "--preset", "demo", *flags, "--model_name_or_path", home / "pretrained",
          "--output_dir", tmp_path / "run")  # fmt: skip
    config, before = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path / "run", home / "pretrained")
    )
    assert config["hidden_size"] == before["hidden_size"] == 48
    assert json.loads((tmp_path / "run/recipe.json").read_text())["model_preset"] is None
