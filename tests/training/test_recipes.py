import json
import runpy
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass
from pathlib import Path

import pytest

from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import TOPICS, flag, required
from hf_mingpt.training.checkpoints import sums_of
from hf_mingpt.training.presets import FINETUNE_PRESETS, MODEL_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe, build_config
from hf_mingpt.training.resuming import find_checkpoint

ROOT = Path(__file__).parents[2]
RUN = ["--model_name_or_path", "run", "--questions_file", "q"]
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
    assert parse() == parse("--preset", "assignment_short")
    assert parse().optim == "muon"


@pytest.mark.parametrize("name", PRETRAIN_PRESETS)
def test_pretraining_presets_are_recipes(name):
    questions = {"questions_file": "q"} if "questions_ratio" in PRETRAIN_PRESETS[name].values else {}
    PretrainRecipe(train_file="a", output_dir="b", **questions, **PRETRAIN_PRESETS[name].values)


@pytest.mark.parametrize("name", FINETUNE_PRESETS)
def test_finetuning_presets_are_recipes(name):
    FinetuneRecipe(model_name_or_path="m", questions_file="a", output_dir="b", **FINETUNE_PRESETS[name].values)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--preset", "quick"], "'quick' is unknown: choose one of assignment_short"),
        (["--optim", "sgd"], "'sgd' is unknown"),
        (["--model_preset", "gpt9"], "'gpt9' is unknown"),
        (["--lr_scheduler_type", "sgdr"], "'sgdr' is unknown"),
        (["--decay_epochs", "3"], "decay_epochs is 3.0, but decay_epochs is gone: it is always 200.0."),
        (["--decay_ratio", "0"], "decay_ratio is 0"),
        (["--report_to", "paper"], "'paper' is unknown"),
        (["--objective", "x"], "'x' is unknown"),
        (["--learning_rate", "0"], "learning_rate is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--dropout", "1"], "dropout is 1"),
        (["--long_context_probability", "0.5"], "give ssm_probability, context_before and context_after"),
        (["--masking_policy_probability", "0.5"], "it needs salient span masking and the answers of a questions_file"),
        (
            ["--preset", "closed_book"],
            "questions_file, or --masking_policy_probability 0 and --learned_masking_policy false.",
        ),
        (["--paraphrases_per_answer", "2"], "it needs the answers of a questions_file"),
        (["--preset", "causal", "--num_spans", "2"], "num_spans 2 needs the objective 'span_corruption'"),
        (["--learned_masking_policy"], "learned_masking_policy needs masking_policy_probability"),
        (["--ema_decay", "1"], "ema_decay is 1"),
        (["--streaming"], "give max_steps and tokenizer_name"),
        (["--learning_rte", "1"], "--learning_rte is unknown: did you mean --learning_rate?"),
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


@dataclass(frozen=True, kw_only=True)
class WordsRecipe:
    run: str = required("A folder.")
    names: tuple[str, ...] = flag((), "Names.")
    use_cpu: bool = flag(False, "A boolean.")
    seed: int = flag(0, "A number.")


@pytest.mark.parametrize(
    "argv",
    [
        ["r", "Ada", "Bo Ek", "--seed", "3", "--use_cpu"],
        ["--seed", "3", "--use_cpu", "r", "Ada", "Bo Ek"],
        ["r", "--use_cpu", "Ada", "--seed=3", "Bo Ek"],
        ["Ada", "--run", "r", "Bo Ek", "--use_cpu", "yes", "--seed", "3"],
        ["--use-cpu", "r", "--seed", "3", "--", "Ada", "Bo Ek"],
    ],
)
def test_words_may_stand_anywhere_among_the_flags(argv):
    assert parse_recipe(WordsRecipe, argv=argv, positionals=("run", "names")) == WordsRecipe(
        run="r", names=("Ada", "Bo Ek"), use_cpu=True, seed=3
    )


def test_a_word_after_two_dashes_may_begin_with_one():
    assert parse_recipe(WordsRecipe, argv=["r", "--", "-x"], positionals=("run", "names")).names == ("-x",)


def test_a_yaml_file_may_stand_anywhere(tmp_path):
    (tmp_path / "r.yaml").write_text("seed: 3\nrun: r\n")
    argv = ["--use_cpu", str(tmp_path / "r.yaml"), "Ada"]
    recipe = parse_recipe(WordsRecipe, argv=argv, positionals=("names",))
    assert (recipe.run, recipe.names, recipe.seed, recipe.use_cpu) == ("r", ("Ada",), 3, True)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "b", "c"], "'c' belongs to no flag"),
        (["a"], "Some flags are required: give --output_dir."),
        (["a", "b", "--seed"], "argument --seed: expected one argument"),
    ],
)
def test_words_that_fit_no_flag_are_refused(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_recipe(PretrainRecipe, None, argv, positionals=("train_file", "output_dir"))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


class TestOldNames:
    """They work for one release, each with one line that names the new one."""

    def test_of_flags(self, capsys):
        old = ["--salient_share", "0.5", "--no_salient_numbers", "--decay-share=0.1", "--questions_file", "q"]
        old += ["--answers_share", "0.5", "--seek_contexts", "--average_decay", "0.9"]
        new = ["--ssm_probability", "0.5", "--no_ssm_numbers", "--decay_ratio=0.1", "--questions_file", "q"]
        new += ["--masking_policy_probability", "0.5", "--learned_masking_policy", "--ema_decay", "0.9"]
        assert parse(*new) == parse(*old)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 6
        assert any("warning: salient_share is now called ssm_probability." in line for line in lines)

    def test_of_presets(self, capsys):
        assert parse("--preset", "short") == parse()
        (line,) = capsys.readouterr().err.splitlines()
        assert "The preset short is now called assignment_short." in line

    def test_of_yaml_keys(self, tmp_path, capsys):
        (tmp_path / "r.yaml").write_text("preset: short\nsalient-share: 0.5\naverage_decay: null\n")
        assert parse(str(tmp_path / "r.yaml")) == parse("--ssm_probability", "0.5")
        assert len(capsys.readouterr().err.splitlines()) == 3

    def test_a_flag_under_both_names_is_an_error(self, tmp_path, capsys):
        (tmp_path / "r.yaml").write_text("salient_share: 0.5\nssm_probability: 0.5\n")
        for argv in ([str(tmp_path / "r.yaml")], ["--salient_share", "1", "--ssm_probability", "1"]):
            with pytest.raises(SystemExit) as stop:
                parse(*argv)
            assert stop.value.code == 2
            assert "ssm_probability and salient_share are two names of one flag" in capsys.readouterr().err

    def test_the_training_questions_of_evaluations(self):
        """`--train_file` is the text now; a table under it is understood as the questions, unless they are given."""
        (recipe_class,) = (
            value
            for name, value in runpy.run_path(str(ROOT / "scripts/evaluate_birthplaces.py")).items()
            if name == "EvaluationRecipe"
        )

        def read(*argv):
            recipe = parse_recipe(recipe_class, argv=[*RUN, *argv])
            return recipe.train_questions_file, recipe.train_file

        assert read("--train_file", "q.tsv", "--corpus_file", "t.txt") == ("q.tsv", "t.txt")
        assert read("--train_questions_file", "q.tsv", "--train_file", "t.tsv") == ("q.tsv", "t.tsv")
        assert read("--train_file", "t.txt") == (None, "t.txt")

    def test_of_fields_that_are_constants_now(self, capsys):
        assert parse("--preset", "assignment", "--decay_epochs", "200") == parse("--preset", "assignment")
        assert "warning: decay_epochs is gone: it is always 200.0." in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("before", "said"),
        [
            ({"salient_share": 0.5, "average_decay": 0.9, "decay_epochs": None}, None),
            ({"ssm_probability": 0.5, "ema_decay": 0.9, "decay_epochs": 200.0}, None),
            ({"salient_share": 0.25, "average_decay": 0.9}, "ssm_probability 0.25, now 0.5"),
            ({"salient_share": 0.5, "average_decay": 0.9, "decay_epochs": 100.0}, "decay_epochs is 100.0, but"),
        ],
    )
    def test_of_checkpoints(self, tmp_path, before, said):
        recipe = PretrainRecipe(
            train_file="t",
            output_dir=str(tmp_path),
            resume_from_checkpoint="latest",
            ssm_probability=0.5,
            ema_decay=0.9,
        )
        (folder := tmp_path / "checkpoint-1").mkdir()
        present = {
            name: value for name, value in asdict(recipe).items() if name not in ("ssm_probability", "ema_decay")
        }
        state = {"step": 1, "examples_per_step": 4, "recipe": {**present, **before}}
        (folder / "state.json").write_text(json.dumps(state))
        (folder / "SHA256SUMS").write_text(sums_of(folder))
        if said is None:
            assert find_checkpoint(recipe, 4) == folder
        else:
            with pytest.raises(ValueError, match=said):
                find_checkpoint(recipe, 4)

    def test_of_finetuning(self):
        argv = ["--model_name_or_path", "m", "--output_dir", "o", "--train_file", "q.txt"]
        assert parse_recipe(FinetuneRecipe, FINETUNE_PRESETS, argv).questions_file == "q.txt"


def test_help_shows_what_the_run_takes(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, ["--help", "--preset", "closed_book", "--seed", "3"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "Run folder to write. (required)",
        "Passes over the examples. (default: 50.0)",
        "all other draws. (default: 3)",
        f"closed_book: {PRETRAIN_PRESETS['closed_book'].reason}",
    ):
        assert said in shown
    assert "salient_share" not in shown
    topics = [shown.index(f"{topic}:") for topic in TOPICS]
    assert topics == sorted(topics)


def test_config_of_a_recipe():
    config = build_config(parse("--position_embedding_type", "rope", "--dropout", "0.3"), 256)
    assert (config.position_embedding_type, config.hidden_dropout, config.vocab_size) == ("rope", 0.3, 256)
    config = build_config(parse("--model_preset", "gpt-nano", "--max_position_embeddings", "64"), 90)
    assert (config.hidden_size, config.max_position_embeddings, config.vocab_size) == (48, 64, 90)
    assert build_config(parse("--model_preset", "gpt2"), 90).max_position_embeddings == 1024
    assert set(MODEL_PRESETS) >= {"gpt-nano", "gpt-micro", "gpt-mini", "gopher-44m", "gpt2-xl", "openai-gpt"}


def test_a_block_over_the_models_is_an_error():
    with pytest.raises(ValueError, match="block_size 200 is over the model's context length of 128"):
        build_config(parse("--block_size", "200"), 256)


@pytest.mark.parametrize(
    ("script", "given", "flag", "values"),
    [
        ("pretrain", NEEDED, "--learning_rate", ["nan", "inf", "1e999"]),
        ("pretrain", NEEDED, "--muon_learning_rate", ["nan"]),
        ("pretrain", NEEDED, "--adam_beta1", ["1", "-0.1"]),
        ("pretrain", NEEDED, "--adam_beta2", ["1"]),
        (
            "finetune",
            ["--output_dir", "out", "--questions_file", "q", "--model_name_or_path", "run"],
            "--max_grad_norm",
            ["nan", "inf"],
        ),
        ("evaluate_birthplaces", RUN, "--batch_size", ["0", "-1"]),
        ("evaluate_birthplaces", RUN, "--num_invented_names", ["0"]),
        ("calibrate", [*RUN, "--train_questions_file", "t"], "--target_accuracy", ["nan", "1.5"]),
        ("calibrate", [*RUN, "--train_questions_file", "t"], "--num_unknown_names", ["0"]),
        ("ensemble", ["a", "b", "--questions_file", "q", "--output_dir", "o"], "--batch_size", ["0"]),
        ("sample", ["--model_name_or_path", "run"], "--temperature", ["nan", "inf"]),
        ("sample", ["--model_name_or_path", "run"], "--num_samples", ["0"]),
        ("generate_biographies", ["--output_dir", "o"], "--zipf_exponent", ["nan", "inf"]),
        ("generate_biographies", ["--output_dir", "o"], "--distractor_probability", ["nan"]),
        ("show_examples", ["--train_file", "c"], "--block_size", ["0"]),
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
        lines = "preset: closed_book\nquestions_file: q\nlong_context_probability: 0\ncontext_before: null\n"
        assert self.read(tmp_path, lines).context_before is None

    def test_marks_and_line_ends_are_those_of_any_text(self, tmp_path):
        assert self.read(tmp_path, b"\xef\xbb\xbfseed: 3\r\nuse_cpu: true\r\n").seed == 3

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("seed: 1\nseed: 2\n", "line 2: seed is given twice"),
            ("seed: 1\n\tuse_cpu: true", "line 2 is not valid YAML"),
            ("seed: [1]", "line 1: seed has no plain value"),
            ("seed: {a: 1}", "line 1: seed has no plain value"),
            ("seed: !!python/object:os.system 1", "line 1: seed has no plain value"),
            ("seed:\n", "line 1: seed has no value"),
            ("dropout: null", "line 1: dropout has no value"),
            ("? [a]\n: 1", "line 1 does not begin with the name of a flag"),
            ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "line 1: a has no plain value"),
            ("[" * 5_000, "is not valid YAML"),
            ("seed: *a", "is not valid YAML"),
            ("seed: 1\n---\nseed: 2\n", "is not valid YAML"),
            ("a\0: 1", "is not valid YAML"),
            ("- seed\n", "has no `name: value` lines"),
            ("", "has no `name: value` lines"),
            ("seed: 1".encode("utf-16"), "is UTF-16"),
            ("use_cpu: perhaps", "'perhaps' is neither true nor false"),
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


def values_of(recipe, names) -> dict:
    return {name: getattr(recipe, name) for name in names}


def test_what_a_recipe_is_if_nothing_is_told():
    """Without a preset; a change of it changes every run that says nothing else."""
    shared = {
        "overwrite_output_dir": False, "seed": 0, "num_train_epochs": 10.0, "max_steps": None,
        "per_device_train_batch_size": 32, "gradient_accumulation_steps": 4, "shuffle": True, "optim": "adamw",
        "learning_rate": 6e-4, "muon_learning_rate": 0.02, "lr_scheduler_type": "linear", "warmup_steps": 10,
        "decay_ratio": 0.2, "weight_decay": 0.1, "decay_all_weights": False, "adam_beta1": 0.9,
        "adam_beta2": 0.95, "max_grad_norm": 1.0, "ema_decay": None, "dropout": 0.1, "mixed_precision": None,
        "attn_implementation": None, "padding_free": False, "torch_compile": False, "use_cpu": False,
        "dataloader_num_workers": 0, "logging_steps": 10, "save_steps": None, "save_total_limit": 2,
        "resume_from_checkpoint": None, "report_to": None, "push_to_hub": False, "hub_model_id": None,
        "hub_private_repo": False,
    }  # fmt: skip
    pretraining = {
        "dataset_config_name": None, "dataset_split": "train", "text_column": "text", "streaming": False,
        "tokenizer_name": None, "vocabulary_file": None, "objective": "span_corruption", "num_spans": 1,
        "document_windows": False, "ssm_probability": 0.0, "ssm_numbers": True, "context_before": None,
        "context_after": None, "long_context_probability": 0.0, "questions_file": None, "questions_ratio": 0.25,
        "masking_policy_probability": 0.0, "learned_masking_policy": False, "paraphrases_per_answer": 0,
        "model_preset": "assignment",
        "attention_type": None, "position_embedding_type": None, "max_position_embeddings": None, "block_size": None,
    }  # fmt: skip
    finetuning = {"model_name_or_path": "m", "revision": None, "from_scratch": False}
    recipe = PretrainRecipe(train_file="a", output_dir="b")
    assert values_of(recipe, {**shared, **pretraining}) == {**shared, **pretraining}
    recipe = FinetuneRecipe(model_name_or_path="m", questions_file="a", output_dir="b")
    assert values_of(recipe, {**shared, **finetuning}) == {**shared, **finetuning}


READ = {"ssm_probability": 0.5, "questions_file": "q"}
STREAM = {"streaming": True, "max_steps": 1, "tokenizer_name": "t"}


@pytest.mark.parametrize(
    "changes",
    [
        {"decay_ratio": 1.0},
        {"decay_ratio": 0.001},
        {"dropout": 0.0},
        {"dropout": 0.99},
        {"ema_decay": 0.001},
        {"ema_decay": 0.999},
        {"learning_rate": 0.5, "muon_learning_rate": 0.5, "max_grad_norm": 0.5, "num_train_epochs": 0.5},
        {"max_steps": 1, "save_steps": 1, "save_total_limit": 1, "logging_steps": 1},
        {"lr_scheduler_type": "assignment"},
        {"ssm_probability": 1.0, "context_before": 0, "context_after": 0, "long_context_probability": 1.0},
        {"questions_ratio": 0.0},
        {"questions_ratio": 1.0},
        {**READ, "masking_policy_probability": 1.0, "learned_masking_policy": True, "questions_ratio": 0.001},
        {**READ, "masking_policy_probability": 0.001, "questions_ratio": 0.999, "paraphrases_per_answer": 1},
        STREAM,
        {"objective": "causal"},
        {"num_spans": 2, "document_windows": True},
    ],
)
def test_the_least_and_the_most_are_recipes(changes):
    assert values_of(PretrainRecipe(train_file="a", output_dir="b", **changes), changes) == changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decay_ratio": 1.001}, "decay_ratio is 1.001"),
        ({"dropout": -0.001}, r"dropout is -0\.001"),
        ({"ema_decay": 0.0}, r"ema_decay is 0\.0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"ssm_probability": 1.001}, "ssm_probability is 1.001"),
        ({"masking_policy_probability": -0.001}, r"masking_policy_probability is -0\.001"),
        ({"context_before": -1}, "context_before is -1"),
        ({"context_after": -1}, "context_after is -1"),
        (
            {"ssm_probability": 0.5, "long_context_probability": 0.5, "context_before": 3},
            "long_context_probability is 0.5",
        ),
        (
            {"ssm_probability": 0.5, "long_context_probability": 0.5, "context_after": 3},
            "long_context_probability is 0.5",
        ),
        ({"long_context_probability": 0.5, "context_before": 3, "context_after": 3}, "long_context_probability is 0.5"),
        (
            {"ssm_probability": 0.5, "masking_policy_probability": 0.5},
            "questions_file, or --masking_policy_probability 0\\.",
        ),
        ({"questions_file": "q", "masking_policy_probability": 0.5}, "masking_policy_probability is 0.5"),
        ({"objective": "causal", "ssm_probability": 0.5}, "ssm_probability 0.5 needs"),
        ({"objective": "causal", "document_windows": True}, "document_windows True needs"),
        ({**READ, "learned_masking_policy": True}, "learned_masking_policy needs masking_policy_probability"),
        (
            {**READ, **STREAM, "masking_policy_probability": 0.5, "learned_masking_policy": True},
            "learned_masking_policy needs masking_policy_probability",
        ),
        ({"questions_file": "q", "questions_ratio": 0.0}, r"questions_ratio is 0\.0"),
        ({"questions_file": "q", "questions_ratio": 1.0}, r"questions_ratio is 1\.0"),
        ({"paraphrases_per_answer": 1}, "paraphrases_per_answer is 1"),
        ({**STREAM, "questions_file": "q", "paraphrases_per_answer": 1}, "paraphrases_per_answer is 1"),
        ({"streaming": True, "max_steps": 1}, "The length and the vocabulary of a stream are unknown"),
        (
            {"streaming": True, "max_steps": 1, "lr_scheduler_type": "assignment"},
            "lr_scheduler_type 'assignment' decays over epochs",
        ),
        ({"streaming": True, "tokenizer_name": "t"}, "The length and the vocabulary of a stream are unknown"),
    ],
)
def test_what_is_no_recipe_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        PretrainRecipe(train_file="a", output_dir="b", **changes)


def test_recipes_cannot_be_changed():
    recipe = PretrainRecipe(train_file="a", output_dir="b")
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 1
    with pytest.raises(TypeError, match="positional"):  # each value is given by its name
        PretrainRecipe("b", train_file="a")
    with pytest.raises(TypeError, match="positional"):
        FinetuneRecipe("b", questions_file="a", model_name_or_path="m")


@pytest.mark.parametrize(("cut", "meant"), [("--pres", "--preset"), ("--learning_rat", "--learning_rate")])
def test_an_abbreviated_flag_is_refused(cut, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(cut, "1")
    assert stop.value.code == 2
    assert f"{cut} is unknown: did you mean {meant}?" in capsys.readouterr().err


def test_a_block_up_to_the_models_is_none():
    assert build_config(parse("--block_size", "128"), 256).max_position_embeddings == 128
    config = build_config(parse("--attention_type", "synthesizer", "--dropout", "0"), 90)
    assert (config.attention_type, config.pad_token_id) == ("synthesizer", 0)
    assert {config.embedding_dropout, config.attention_dropout, config.hidden_dropout} == {0}
    with pytest.raises(ValueError, match="block_size 129 is over"):
        build_config(parse("--block_size", "129"), 256)


def test_yaml_is_read_under_both_endings_and_must_have_values(tmp_path, capsys):
    for name in ("a.yaml", "a.yml"):
        (tmp_path / name).write_text("output_dir: o\ntrain_file: t\nseed: 3\nmax_steps: null\n")
        recipe = parse_recipe(PretrainRecipe, None, [str(tmp_path / name)])
        assert (recipe.seed, recipe.max_steps, recipe.output_dir) == (3, None, "o")
    (tmp_path / "list.yaml").write_text("- seed\n")
    with pytest.raises(SystemExit) as stop:
        parse_recipe(PretrainRecipe, None, [str(tmp_path / "list.yaml")])
    assert stop.value.code == 2
    assert "has no `name: value` lines" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_the_main_process_alone_says_what_is_wrong(monkeypatch, capsys, rank, lines):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as stop, user_errors():
        raise ValueError("x is 1: take 2.")
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == lines
