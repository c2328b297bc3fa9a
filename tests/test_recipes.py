import runpy
import sys
from pathlib import Path

import pytest

from hf_mingpt.presets import FINETUNE_PRESETS, MODEL_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.recipes import FinetuneRecipe, PretrainRecipe, build_config, parse_recipe

NEEDED = ["--output_dir", "out", "--train_file", "text.txt"]


def parse(*argv):
    return parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [*NEEDED, *argv])


def test_flags_win_over_yaml_and_yaml_over_the_preset(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "preset: assignment\nseed: 5\nlearning_rate: 1.0e-4\nuse_cpu: true\ntrain_file: a.txt\noutput_dir: o\n"
    )
    recipe = parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [str(path), "--seed", "7"])
    assert (recipe.seed, recipe.learning_rate, recipe.use_cpu) == (7, 1e-4, True)
    assert (recipe.num_train_epochs, recipe.shuffle, recipe.lr_scheduler_type) == (650.0, False, "assignment")
    assert parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [str(path), "--preset", "demo"]).model_preset == "demo"


def test_the_first_preset_is_the_default():
    assert parse() == parse("--preset", "short")
    assert parse().optim == "muon"


@pytest.mark.parametrize("name", PRETRAIN_PRESETS)
def test_pretraining_presets_are_recipes(name):
    questions = {"questions_file": "q"} if "questions_share" in PRETRAIN_PRESETS[name] else {}
    PretrainRecipe(train_file="a", output_dir="b", **questions, **PRETRAIN_PRESETS[name])


@pytest.mark.parametrize("name", FINETUNE_PRESETS)
def test_finetuning_presets_are_recipes(name):
    FinetuneRecipe(model_name_or_path="m", train_file="a", output_dir="b", **FINETUNE_PRESETS[name])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--preset", "quick"], "'quick' is unknown: choose one of short"),
        (["--optim", "sgd"], "'sgd' is unknown"),
        (["--model_preset", "gpt9"], "'gpt9' is unknown"),
        (["--lr_scheduler_type", "sgdr"], "'sgdr' is unknown"),
        (["--decay_epochs", "3"], "takes decay_epochs"),
        (["--decay_share", "0"], "decay_share is 0"),
        (["--report_to", "paper"], "'paper' is unknown"),
        (["--objective", "x"], "'x' is unknown"),
        (["--learning_rate", "0"], "learning_rate is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--dropout", "1"], "dropout is 1"),
        (["--long_context_share", "0.5"], "give salient_share, context_before and context_after"),
        (["--answers_share", "0.5"], "those of a questions_file: give both"),
        (["--preset", "fast"], "give both, or --answers_share 0 and --seek_contexts false."),
        (["--phrasings_per_answer", "2"], "they are of the answers of a questions_file"),
        (["--preset", "causal", "--num_spans", "2"], "num_spans 2 goes with the objective 'span_corruption' only"),
        (["--seek_contexts"], "give answers_share, and not streaming"),
        (["--average_decay", "1"], "average_decay is 1"),
        (["--streaming"], "give max_steps and tokenizer_name"),
        (["--learning_rte", "1"], "unrecognized arguments: --learning_rte"),
        (["--max_steps", "many"], "invalid int value"),
    ],
)
def test_mistakes_end_with_one_sentence(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_yaml_file_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, ["nowhere.yaml"])
    assert "No file at nowhere.yaml" in capsys.readouterr().err


def test_what_stands_first_may_do_without_its_flag(capsys):
    def read(*argv):
        return parse_recipe(PretrainRecipe, None, argv, positionals=("train_file", "output_dir"))

    assert read("a", "b", "--seed", "3") == read("--seed", "3", "--train_file", "a", "--output_dir", "b")
    assert read("a", "--output_dir", "b").output_dir == "b"
    for argv, said in ((["a", "b", "c"], "unrecognized arguments: c"), (["a"], "required: --output_dir")):
        with pytest.raises(SystemExit):
            read(*argv)
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        read("-h")
    assert stop.value.code == 0


def test_config_of_a_recipe():
    config = build_config(parse("--position_embedding_type", "rope", "--dropout", "0.3"), 256)
    assert (config.position_embedding_type, config.hidden_dropout, config.vocab_size) == ("rope", 0.3, 256)
    config = build_config(parse("--model_preset", "gpt-nano", "--max_position_embeddings", "64"), 90)
    assert (config.hidden_size, config.max_position_embeddings, config.vocab_size) == (48, 64, 90)
    assert build_config(parse("--model_preset", "gpt2"), 90).max_position_embeddings == 1024
    assert set(MODEL_PRESETS) >= {"gpt-nano", "gpt-micro", "gpt-mini", "gopher-44m", "gpt2-xl", "openai-gpt"}


def test_a_block_over_the_models_is_an_error():
    with pytest.raises(ValueError, match="block_size 200 is over the model's 128"):
        build_config(parse("--block_size", "200"), 256)


ROOT = Path(__file__).parent.parent
RUN = ["--model_name_or_path", "run", "--questions_file", "q"]


@pytest.mark.parametrize(
    ("script", "given", "flag", "values"),
    [
        ("pretrain", NEEDED, "--learning_rate", ["nan", "inf", "1e999"]),
        ("pretrain", NEEDED, "--muon_learning_rate", ["nan"]),
        ("pretrain", [*NEEDED, "--preset", "assignment"], "--decay_epochs", ["nan", "-1"]),
        ("finetune", [*NEEDED, "--model_name_or_path", "run"], "--max_grad_norm", ["nan", "inf"]),
        ("evaluate_birthplaces", RUN, "--batch_size", ["0", "-1"]),
        ("evaluate_birthplaces", RUN, "--num_invented_names", ["0"]),
        ("calibrate", [*RUN, "--train_file", "t"], "--answer_accuracy", ["nan", "1.5"]),
        ("calibrate", [*RUN, "--train_file", "t"], "--num_unknown_names", ["0"]),
        ("ensemble", ["--questions_file", "q", "--output_dir", "o"], "--batch_size", ["0"]),
        ("sample", ["--model_name_or_path", "run"], "--temperature", ["nan", "inf"]),
        ("sample", ["--model_name_or_path", "run"], "--num_samples", ["0"]),
        ("generate_biographies", ["--output_dir", "o"], "--zipf_exponent", ["nan", "inf"]),
        ("generate_biographies", ["--output_dir", "o"], "--distractor_share", ["nan"]),
        ("split_questions", ["--questions_file", "q", "--output_dir", "o"], "--seed", ["-1"]),
        ("show_examples", ["--corpus_file", "c"], "--block_size", ["0"]),
        ("explore_attention", [], "--training_steps", ["0"]),
    ],
)
def test_numbers_are_finite_and_in_their_range(script, given, flag, values, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for value in values:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *given, flag, value])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
        assert stop.value.code == 2
        assert f"{flag.removeprefix('--')} is {float(value):g}" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


class TestYaml:
    """A value is what is written."""

    def read(self, tmp_path, content, *argv):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [str(path), *NEEDED, *argv])

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("mixed_precision: no", "no"),
            ("learning_rate: 1e-3", 1e-3),
            ("use_cpu: yes", True),
            ("use_cpu: on", True),
            ("shuffle: off", False),
            ("seed: 0010", 10),
            ("text_column: 2020-01-01", "2020-01-01"),
            ("text_column: 1:30", "1:30"),
            ("text_column: 'null'", "null"),
            ("text_column: NA", "NA"),
            ("text_column: --seed", "--seed"),
            ("text_column: ' a b '", " a b "),
            ("dataset-split: x", "x"),
            ("report_to: null", None),
            ("max_steps: ~", None),
            ("save_steps:", None),
        ],
    )
    def test_is_what_is_written(self, tmp_path, line, value):
        assert getattr(self.read(tmp_path, f"{line}\n"), line.split(":")[0].replace("-", "_")) == value

    def test_null_wins_over_the_preset(self, tmp_path):
        lines = "preset: fast\nquestions_file: q\nlong_context_share: 0\ncontext_before: null\n"
        assert self.read(tmp_path, lines).context_before is None

    def test_marks_and_line_ends_are_those_of_any_text(self, tmp_path):
        assert self.read(tmp_path, b"\xef\xbb\xbfseed: 3\r\nuse_cpu: true\r\n").seed == 3

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("seed: 1\nseed: 2\n", "line 2: seed is there twice"),
            ("seed: 1\n\tuse_cpu: true", "line 2 is no YAML"),
            ("seed: [1]", "line 1: seed has no plain value"),
            ("seed: {a: 1}", "line 1: seed has no plain value"),
            ("seed: !!python/object:os.system 1", "line 1: seed has no plain value"),
            ("seed:\n", "line 1: seed has no value"),
            ("dropout: null", "line 1: dropout has no value"),
            ("? [a]\n: 1", "line 1 begins with no name of a flag"),
            ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 1: a has no plain value"),
            ("[" * 5_000, "is no YAML"),
            ("seed: *a", "is no YAML"),
            ("seed: 1\n---\nseed: 2\n", "is no YAML"),
            ("a\0: 1", "is no YAML"),
            ("- seed\n", "holds no `name: value` lines"),
            ("", "holds no `name: value` lines"),
            ("seed: 1".encode("utf-16"), "is UTF-16"),
            ("use_cpu: perhaps", "Truthy value expected"),
            ("max_steps: 1:30", "invalid int value: '1:30'"),
        ],
    )
    def test_mistakes_end_with_one_sentence(self, tmp_path, content, said, capsys):
        with pytest.raises(SystemExit) as stop:
            self.read(tmp_path, content)
        assert stop.value.code == 2
        assert said in capsys.readouterr().err.splitlines()[-1]

    def test_a_bomb_of_aliases_does_not_hang(self, tmp_path, capsys):
        lines = ["a0: &a0 [x]"] + [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(100)]
        with pytest.raises(SystemExit):
            self.read(tmp_path, "\n".join(lines))
        assert "a0 has no plain value" in capsys.readouterr().err
