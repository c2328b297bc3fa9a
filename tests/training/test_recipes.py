from dataclasses import FrozenInstanceError

import pytest

from hf_mingpt.training.presets import FINETUNE_PRESETS, MODEL_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import FinetuneRecipe, PretrainRecipe, build_config

from ..command_lines import parse


@pytest.mark.parametrize("name", PRETRAIN_PRESETS)
def test_pretraining_presets_are_recipes(name):
    questions = {"questions_file": "q"} if "questions_ratio" in PRETRAIN_PRESETS[name].values else {}
    PretrainRecipe(train_file="a", output_dir="b", **questions, **PRETRAIN_PRESETS[name].values)


@pytest.mark.parametrize("name", FINETUNE_PRESETS)
def test_finetuning_presets_are_recipes(name):
    FinetuneRecipe(model_name_or_path="m", questions_file="a", output_dir="b", **FINETUNE_PRESETS[name].values)


def test_config_of_a_recipe():
    config = build_config(parse("--position_embedding_type", "rope", "--dropout", "0.3"), 256)
    assert (config.position_embedding_type, config.hidden_dropout, config.vocab_size) == ("rope", 0.3, 256)
    config = build_config(parse("--model_preset", "gpt-nano", "--max_position_embeddings", "64"), 90)
    assert (config.hidden_size, config.max_position_embeddings, config.vocab_size) == (48, 64, 90)
    assert build_config(parse("--model_preset", "gpt2"), 90).max_position_embeddings == 1024
    flags = ("--max_position_embeddings", "64", "--num_hidden_layers", "1", "--num_attention_heads", "2")
    config = build_config(parse("--model_preset", "gpt2", *flags, "--hidden_size", "32"), 90)
    assert (config.max_position_embeddings, config.num_hidden_layers, config.num_attention_heads) == (64, 1, 2)
    assert (config.hidden_size, config.intermediate_size) == (32, 128)
    assert set(MODEL_PRESETS) >= {"gpt-nano", "gpt-micro", "gpt-mini", "gopher-44m", "gpt2-xl", "openai-gpt"}


def test_a_block_over_the_models_is_an_error():
    with pytest.raises(ValueError, match="block_size 200 is over the model's context length of 128"):
        build_config(parse("--block_size", "200"), 256)


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
        "context_after": None, "long_context_probability": 0.0, "title_prefix_probability": 0.0,
        "title_loss_probability": 0.0,
        "questions_file": None, "questions_ratio": 0.25,
        "masking_policy_probability": 0.0, "learned_masking_policy": False,
        "paraphrases_per_answer": 0, "model_preset": "assignment",
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
        {"ssm_probability": 0.001, "title_prefix_probability": 1.0, "title_loss_probability": 1.0},
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
        ({"title_loss_probability": 0.5}, "title_loss_probability is 0.5: it needs salient span masking"),
        ({"ssm_probability": 1.0, "title_loss_probability": -0.5}, "title_loss_probability is -0.5"),
        ({"title_prefix_probability": 0.5}, "title_prefix_probability is 0.5: it needs salient span masking"),
        ({"ssm_probability": 1.0, "title_prefix_probability": 1.001}, "title_prefix_probability is 1.001"),
        (
            {**STREAM, "ssm_probability": 1.0, "title_prefix_probability": 0.5},
            "cannot be combined with streaming: give ssm_probability, or --title_prefix_probability 0",
        ),
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


def test_a_block_up_to_the_models_is_none():
    assert build_config(parse("--block_size", "128"), 256).max_position_embeddings == 128
    config = build_config(parse("--attention_type", "synthesizer", "--dropout", "0"), 90)
    assert (config.attention_type, config.pad_token_id) == ("synthesizer", 0)
    assert {config.embedding_dropout, config.attention_dropout, config.hidden_dropout} == {0}
    with pytest.raises(ValueError, match="block_size 129 is over"):
        build_config(parse("--block_size", "129"), 256)
