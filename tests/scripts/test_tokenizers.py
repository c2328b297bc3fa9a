"""The experiment with other tokenizers: a byte-level BPE of ours, a WordPiece as BERT's, a GPT-2 with its own."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_mingpt.evaluation.calibration import Calibration
from hf_mingpt.hub.loading import load_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import MASK, PAD, build_tokenizer, build_vocabulary
from hf_mingpt.training.presets import MODEL_PRESETS

from ..data.other_tokenizers import byte_bpe, word_piece
from .running import TINY, refused, works


@pytest.fixture(scope="module")
def words(home, tmp_path_factory):
    """A folder with a BPE tokenizer, a run of closed_book with it, and the flags of its text."""
    folder, data = tmp_path_factory.mktemp("words"), home / "data"
    text, questions = data / "biographies.txt", data / "birth_places_train.tsv"
    shared = ["--train_file", text, "--questions_file", questions]
    works("train_tokenizer.py", *shared, "--vocab_size", 400, "--output_dir", folder / "tokenizer")
    run = [*shared, "--tokenizer_name", folder / "tokenizer", "--preset", "closed_book", "--max_steps", 2, *TINY]
    works("pretrain.py", *run, "--output_dir", folder / "run")
    return folder


def test_a_trained_tokenizer(words, home):
    tokenizer = AutoTokenizer.from_pretrained(words / "tokenizer")
    assert len(tokenizer) == 400
    assert [tokenizer.pad_token, tokenizer.mask_token, tokenizer.eos_token] == [PAD, MASK, "<|endoftext|>"]
    assert tokenizer.convert_tokens_to_ids([PAD, MASK]) == [0, 1]
    question = tokenizer("Where was Bra Mir born?")["input_ids"]
    assert tokenizer.decode(question).strip() == "Where was Bra Mir born?"
    name = tokenizer("Bra Mir")["input_ids"]
    assert name in [question[i : i + len(name)] for i in range(len(question))]
    train = ["--train_file", home / "data/biographies.txt", "--output_dir"]
    refused("vocab_size is 258: it must be at least 259", "train_tokenizer.py", *train, "x", "--vocab_size", 258)
    refused("is not empty", "train_tokenizer.py", *train, words / "tokenizer")


def test_its_run_answers_and_is_calibrated(words, home, tmp_path):
    run = shutil.copytree(words / "run", tmp_path / "run")
    model, tokenizer = load_run(str(run))
    assert (model.config.vocab_size, len(tokenizer), model.generation_config.eos_token_id) == (400, 400, 1)
    dev = ["--questions_file", home / "data/birth_dev.tsv", "--use_cpu"]
    works("evaluate_birthplaces.py", "--model_name_or_path", run, *dev)
    assert len((run / "predictions.txt").read_text().splitlines()) == 8
    weights = dict.fromkeys(("log_odds", "entropy", "contrast"), 1.0)
    options = {"candidates": ["Bra", "Mir"], "unknown_names": ["Ka Ma"], "fitted_on": 8}
    write_json(run / "calibration.json", asdict(Calibration(weights=weights, bias=0.0, threshold=0.5, **options)))
    assert "likely to be correct" in works("ask.py", "Bra Mir", "--model_name_or_path", run, "--use_cpu")
    works("ensemble.py", run, home / "finetuned", *dev, "--output_dir", tmp_path / "ensemble")  # two tokenizers
    assert len((tmp_path / "ensemble/predictions.txt").read_text().splitlines()) == 8
    page = ["--output_file", tmp_path / "page.html"]
    works("explain_answer.py", "--model_name_or_path", run, "--name", "Bra Mir", *page)
    assert "<h1>Where was Bra Mir born? " in (tmp_path / "page.html").read_text()
    prompt = ["--model_name_or_path", run, "--prompt", "Where was Bra Mir born?⁇"]
    assert works("sample.py", *prompt, "--greedy", "--max_new_tokens", 1).startswith("Where was Bra Mir born?⁇")


@pytest.mark.parametrize("folder", ["tokenizer", "run"])
def test_examples_are_shown_token_above_token(words, home, folder):
    data = ["--train_file", home / "data/biographies.txt", "--questions_file", home / "data/birth_dev.tsv"]
    shown = works("show_examples.py", *data, "--tokenizer_name", words / folder, "--num_examples", 1)
    objectives = shown.strip().split("\n\n")
    assert [text.split("\n")[0] for text in objectives][::3] == ["span corruption", "question answering"]
    for text in objectives:
        x, y = (line.split("|") for line in text.split("\n")[1:])
        assert len(x) == len(y) > 5
    corrupted, questions = (objectives[i].split("\n") for i in (0, 3))
    x, y = ("".join(part.strip() for part in line[3:].split("|")) for line in corrupted[1:])
    assert y.startswith(x[1:9])
    assert questions[2].count("⁇") == 2


def test_its_run_is_finetuned(words, home, tmp_path):
    run = ["--model_name_or_path", words / "run", "--use_cpu", "--max_steps", 1, "--output_dir"]
    works("finetune.py", *run, tmp_path / "out", "--questions_file", home / "data/birth_places_train.tsv")
    record = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert record["step"] == 1
    (tmp_path / "long.tsv").write_text(f"Where was {'Bra ' * 200}born?\tMir\n")
    refused(
        "over the context length of 128",
        "finetune.py",
        *run,
        tmp_path / "no",
        "--questions_file",
        tmp_path / "long.tsv",
    )


@pytest.mark.parametrize("kind", ["WordPiece", "characters and a token"])
def test_other_kinds(home, tmp_path, kind):
    text = (home / "data/biographies.txt").read_text() + "Where was?"
    if kind == "WordPiece":
        tokenizer = word_piece(text.replace("\n", ""))
    else:
        tokenizer = build_tokenizer(build_vocabulary([[text]]), 128)
        tokenizer.add_tokens(["was born in"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = ["--train_file", home / "data/biographies.txt", "--tokenizer_name", tmp_path / "tokenizer"]
    data += ["--questions_file", home / "data/birth_places_train.tsv", "--output_dir", tmp_path / "run"]
    works("pretrain.py", *data, "--preset", "closed_book", "--max_steps", 1, *TINY)
    settings = json.loads((tmp_path / "run/generation_config.json").read_text())
    assert [settings["pad_token_id"], settings["eos_token_id"]] == [tokenizer.pad_token_id, tokenizer.mask_token_id]
    run = ["--model_name_or_path", tmp_path / "run", "--questions_file", home / "data/birth_dev.tsv", "--use_cpu"]
    works("evaluate_birthplaces.py", *run)
    assert len((tmp_path / "run/predictions.txt").read_text().splitlines()) == 8


def test_the_named_sizes_keep_their_vocabulary_and_context(words, home, tmp_path, monkeypatch):
    small = {"n_layer": 1, "n_head": 2, "n_embd": 16}
    monkeypatch.setitem(MODEL_PRESETS, "gpt2", {**MODEL_PRESETS["gpt2"], **small})
    run = ["--train_file", home / "data/biographies.txt", "--preset", "causal", "--position_embedding_type", "learned"]
    run += ["--model_preset", "gpt2", "--use_cpu", "--mixed_precision", "no", "--max_steps", 1]
    run += ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 1, "--output_dir"]
    works("pretrain.py", *run, tmp_path / "words", "--tokenizer_name", words / "tokenizer")
    config = json.loads((tmp_path / "words/config.json").read_text())
    assert (config["vocab_size"], config["max_position_embeddings"], config["pad_token_id"]) == (50257, 1024, 0)
    assert json.loads((tmp_path / "words/generation_config.json").read_text())["eos_token_id"] == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "words").eos_token == "<|endoftext|>"
    works("sample.py", "--model_name_or_path", tmp_path / "words", "--prompt", "Bra", "--max_new_tokens", 1)


def test_a_converted_gpt2_is_finetuned(home, tmp_path):
    """Its tokenizer has no marks: they are added, and two embeddings with them."""
    tokenizer = byte_bpe(marks=False)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=tokenizer.eos_token_id)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    works("convert_checkpoint.py", "--checkpoint", tmp_path / "gpt2", "--output_dir", tmp_path / "converted")
    works("sample.py", "--model_name_or_path", tmp_path / "converted", "--prompt", "Ada", "--max_new_tokens", 1)
    asked = ["--questions_file", home / "data/birth_dev.tsv", "--use_cpu"]
    refused(
        "The tokenizer has no pad token: finetune the model first", "evaluate_birthplaces.py", *asked,
        "--model_name_or_path", tmp_path / "converted", "--output_dir", tmp_path / "answers",
    )  # fmt: skip
    run = ["--questions_file", home / "data/birth_places_train.tsv", "--use_cpu", "--max_steps", 1]
    works("finetune.py", *run, "--model_name_or_path", tmp_path / "converted", "--output_dir", tmp_path / "run")
    model, marked = load_run(str(tmp_path / "run"))
    assert (marked.pad_token_id, marked.mask_token_id, marked.eos_token) == (271, 272, "<|endoftext|>")
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(marked) == 273
    assert (model.config.pad_token_id, model.generation_config.eos_token_id) == (271, 272)
    works("evaluate_birthplaces.py", *asked, "--model_name_or_path", tmp_path / "run")


def test_a_tokenizer_without_a_place_for_the_marks(words, home, tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LayoutLMv2Tokenizer"}')
    pretrain = ["pretrain.py", "--train_file", home / "data/biographies.txt", *TINY, "--output_dir", tmp_path / "run"]
    pretrain.append("--tokenizer_name")
    refused("a LayoutLMv2Tokenizer, cannot be used (You must provide", *pretrain, tmp_path)

    same = shutil.copytree(words / "tokenizer", tmp_path / "same")
    config = json.loads((same / "tokenizer_config.json").read_text())
    (same / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": MASK}))
    refused(f"{MASK!r} as pad token and as mask token: give it a pad token of its own", *pretrain, same)
    assert not (tmp_path / "run").exists()


def test_embeddings_and_vocabulary_of_different_sizes(words, tmp_path):
    """A model may have more embeddings than the tokenizer has tokens, and not fewer."""
    run = shutil.copytree(words / "run", tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(run)
    model.resize_token_embeddings(448)
    model.save_pretrained(run)
    assert load_run(str(run))[0].config.vocab_size == 448
    model.resize_token_embeddings(399)
    model.save_pretrained(run)
    prompt = ["--model_name_or_path", run, "--prompt", "Bra"]
    refused("the vocabulary has 400 tokens, the model 399: use the tokenizer that was saved", "sample.py", *prompt)
