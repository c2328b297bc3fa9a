"""What is held out by which flags, which metrics there are, and what the best value of each is."""

import pytest

from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe

TEXT = ("eval_loss", "eval_bits_per_character")


def pretrain(**flags) -> PretrainRecipe:
    return PretrainRecipe(train_file="t.txt", output_dir="out", **flags)


def finetune(**flags) -> FinetuneRecipe:
    return FinetuneRecipe(model_name_or_path="m", questions_file="q.tsv", output_dir="out", **flags)


@pytest.mark.parametrize(
    ("recipe", "metrics"),
    [
        (pretrain(), ()),
        (pretrain(questions_file="q.tsv"), ()),
        (pretrain(validation_file="v.txt"), TEXT),
        (pretrain(validation_ratio=0.1), TEXT),
        (pretrain(questions_file="q.tsv", validation_ratio=0.1), (*TEXT, "eval_accuracy")),
        (pretrain(validation_questions_file="q.tsv"), (*TEXT, "eval_accuracy")),
        (
            pretrain(validation_ratio=0.1, validation_questions_file="v.tsv"),
            (*TEXT, "eval_questions_loss", "eval_accuracy"),
        ),
        (
            pretrain(questions_file="q.tsv", validation_ratio=0.1, validation_file="v.txt"),
            (*TEXT, "eval_questions_loss", "eval_accuracy"),
        ),
        (finetune(), ()),
        (finetune(validation_ratio=0.1), (*TEXT, "eval_accuracy")),
    ],
)
def test_metrics(recipe, metrics):
    assert recipe.metrics == metrics


@pytest.mark.parametrize(
    ("flags", "metric", "greater"),
    [
        ({}, "eval_loss", False),
        ({"metric_for_best_model": "loss"}, "eval_loss", False),
        ({"metric_for_best_model": "accuracy"}, "eval_accuracy", True),
        ({"metric_for_best_model": "eval_bits_per_character"}, "eval_bits_per_character", False),
        ({"metric_for_best_model": "eval_accuracy", "greater_is_better": False}, "eval_accuracy", False),
    ],
)
def test_the_best_metric(flags, metric, greater):
    recipe = finetune(validation_ratio=0.1, **flags)
    assert (recipe.best_metric, recipe.greater_is_best) == (metric, greater)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"validation_ratio": 0.0}, "validation_ratio is 0.0: it must be over 0 and under 1"),
        ({"validation_ratio": 0.1, "eval_steps": 0}, "eval_steps is 0: it must be more than 0"),
        ({"early_stopping_patience": 2, "validation_ratio": 0.1}, "early_stopping_patience chooses among evaluations"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model needs held-out data: give a validation file"),
    ],
)
def test_flags_that_contradict_each_other(flags, said):
    with pytest.raises(ValueError, match=said):
        finetune(**flags)


def test_text_is_held_out_once():
    with pytest.raises(ValueError, match="validation_ratio and validation_file both say what is held out"):
        pretrain(validation_ratio=0.1, validation_file="v.txt")
