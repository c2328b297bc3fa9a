"""Flags, words, presets and old names become a recipe, or one sentence."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import asdict, dataclass

import pytest

from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import TOPICS, flag, required
from hf_mingpt.training.checkpoints import sums_of
from hf_mingpt.training.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe
from hf_mingpt.training.resuming import find_checkpoint

from ..command_lines import NEEDED, RUN, parse
from ..conftest import ROOT, script_environment


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
        (["--batch-size", "8"], "--batch-size is unknown: did you mean --per_device_train_batch_size?"),
        (["--bf16"], "--bf16 is unknown: did you mean --mixed_precision bf16?"),
        (["--writing_params_path=x"], "--writing_params_path is unknown: did you mean --output_dir?"),
        (["--eval_corpus_path", "x"], "--eval_corpus_path is unknown: did you mean --questions_file?"),
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
        "Values to start from. (default: 'closed_book')",
        "Run folder to write. (required)",
        "Passes over the examples. (default: 18.0)",
        "all other draws. (default: 3)",
        f"closed_book: {PRETRAIN_PRESETS['closed_book'].reason}",
    ):
        assert said in shown
    assert "salient_share" not in shown
    topics = [shown.index(f"{topic}:") for topic in TOPICS]
    assert topics == sorted(topics)


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


@pytest.mark.parametrize(("cut", "meant"), [("--pres", "--preset"), ("--learning_rat", "--learning_rate")])
def test_an_abbreviated_flag_is_refused(cut, meant, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(cut, "1")
    assert stop.value.code == 2
    assert f"{cut} is unknown: did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "lines"), [("0", 1), ("1", 0)])
def test_the_main_process_alone_says_what_is_wrong(monkeypatch, capsys, rank, lines):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as stop, user_errors():
        raise ValueError("x is 1: take 2.")
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == lines


UNREAD = """
import sys
sys.path.insert(0, {system!r})  # the wing alone: the package would import torch
from contextlib import nullcontext
from dataclasses import dataclass
from system.command_line import accidents, parse_recipe, user_errors

@dataclass(frozen=True, kw_only=True)
class Recipe:
    pass

parse_recipe(Recipe)
with {block}():
    for _ in range({lines}):
        print("x" * 100)
"""


@pytest.mark.parametrize(
    ("block", "lines", "unbuffered"),
    [("nullcontext", 1, ""), ("nullcontext", 200, "1"), ("user_errors", 200, ""), ("accidents", 200, "1")],
)
def test_output_that_nobody_reads_ends_a_script_without_a_word(block, lines, unbuffered):
    code = UNREAD.format(system=str(ROOT / "hf_mingpt"), block=block, lines=lines)
    reader, writer = os.pipe()
    os.close(reader)
    environment = script_environment(PYTHONUNBUFFERED=unbuffered)
    pipes = {"stdout": writer, "stderr": subprocess.PIPE, "text": True, "env": environment}
    done = subprocess.run([sys.executable, "-c", code], check=False, **pipes)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == (0 if lines == 1 else 1)


@pytest.mark.parametrize("block", [user_errors, accidents])
def test_another_broken_pipe_is_reported(block, capsys):
    with pytest.raises(SystemExit), block():
        raise BrokenPipeError("Broken pipe: the server is gone")
    assert "the server is gone" in capsys.readouterr().err
