"""Command lines that are complete but for what a test adds."""

from hf_mingpt.system.command_line import parse_recipe
from hf_mingpt.training.presets import PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe

RUN = ["--model_name_or_path", "run", "--questions_file", "q"]


NEEDED = ["--output_dir", "out", "--train_file", "text.txt"]


def parse(*argv):
    return parse_recipe(PretrainRecipe, PRETRAIN_PRESETS, [*NEEDED, *argv])
