"""A value in a YAML file is what is written."""

import pytest

from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.training.presets import FINETUNE_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe

from ..command_lines import NEEDED, RUN


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
            ("report_to: [tensorboard, wandb]", "tensorboard,wandb"),
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
            ("report_to: [[tensorboard]]", "line 1: report_to has no plain value"),
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


class TestPrintedConfig:
    """What `--print_config` prints, read again, is the same recipe."""

    def print_config(self, recipe_class, presets, argv, path, capsys):
        with pytest.raises(SystemExit, match="0"):
            parse_recipe(recipe_class, presets, [*argv, "--print_config"])
        path.write_text(capsys.readouterr().out, encoding="utf-8")
        return path

    @pytest.mark.parametrize(
        ("recipe_class", "presets", "preset", "needed"),
        [(PretrainRecipe, PRETRAIN_PRESETS, name, [*NEEDED, "--questions_file", "q"]) for name in PRETRAIN_PRESETS]
        + [(FinetuneRecipe, FINETUNE_PRESETS, name, [*RUN, "--output_dir", "out"]) for name in FINETUNE_PRESETS],
    )
    def test_of_every_preset(self, recipe_class, presets, preset, needed, tmp_path, capsys):
        path = self.print_config(recipe_class, presets, ["--preset", preset], tmp_path / "recipe.yaml", capsys)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert {line.partition(":")[0] for line in lines if line[:1].isalpha()} == {"preset", *presets[preset].values}
        assert "# output_dir: (required)" in lines
        assert parse_recipe(recipe_class, presets, [str(path), *needed]) == parse_recipe(
            recipe_class, presets, ["--preset", preset, *needed]
        )

    @pytest.mark.parametrize("text", ["a b", "null", "# x", "x: y", "'", '"', "--seed", "Zoë\t⁇", "1e3", ""])
    def test_of_every_text(self, text, tmp_path, capsys):
        argv = [*NEEDED, f"--text_column={text}", "--max_steps", "3", "--no_shuffle", "--learning_rate", "1e-9"]
        path = self.print_config(PretrainRecipe, PRETRAIN_PRESETS, argv, tmp_path / "recipe.yaml", capsys)
        recipe = parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [str(path)])
        assert recipe == parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, argv)
        assert (recipe.text_column, recipe.max_steps, recipe.shuffle, recipe.learning_rate) == (text, 3, False, 1e-9)

    def test_of_a_file_and_flags(self, tmp_path, capsys):
        (tmp_path / "a.yaml").write_text("preset: causal\nseed: 3\ncontext_before: null\n")
        argv = [str(tmp_path / "a.yaml"), "--seed", "4"]
        path = self.print_config(PretrainRecipe, PRETRAIN_PRESETS, argv, tmp_path / "recipe.yaml", capsys)
        lines = path.read_text(encoding="utf-8").splitlines()
        assert {"preset: causal", "objective: causal", "seed: 4", "context_before: null"} <= set(lines)
