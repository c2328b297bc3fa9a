"""Presets: named model sizes, and named values for the flags of pretraining and finetuning.

The first preset of a script is its default.
"""

from typing import Any

from ..system.fields import Preset

_GELU = {"hidden_act": "gelu_pytorch_tanh"}  # minGPT's formula in one kernel
_GPT2 = {**_GELU, "vocab_size": 50257, "block_size": 1024}

MODEL_PRESETS: dict[str, dict[str, Any]] = {
    # the model of CS224n, assignment 5
    "assignment": {},
    # small enough for the demo: a few minutes on two cores
    "demo": {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 128, "position_embedding_type": "rope"},
    # the named sizes of karpathy/minGPT, whose gelu is the approximate one; the vocabulary is set from the corpus
    "gpt-nano": {"n_layer": 3, "n_head": 3, "n_embd": 48, **_GELU},
    "gpt-micro": {"n_layer": 4, "n_head": 4, "n_embd": 128, **_GELU},
    "gpt-mini": {"n_layer": 6, "n_head": 6, "n_embd": 192, **_GELU},
    "gopher-44m": {"n_layer": 8, "n_head": 16, "n_embd": 512, **_GELU},
    "openai-gpt": {"n_layer": 12, "n_head": 12, "n_embd": 768, **_GELU, "vocab_size": 40478, "block_size": 512},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, **_GPT2},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024, **_GPT2},
    "gpt2-large": {"n_layer": 36, "n_head": 20, "n_embd": 1280, **_GPT2},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600, **_GPT2},
}

# What the assignment's code does, number by number; docs/fidelity.md lists where it differs from what it says.
_ASSIGNMENT = {
    "learning_rate": 6e-4,
    "lr_scheduler_type": "assignment",
    "warmup_steps": 1,  # it warms up over 10,240 positions, which are less than one batch
    "decay_all_weights": True,
    "shuffle": False,
    "dropout": 0.1,
    "mixed_precision": "no",
}

PRETRAIN_PRESETS: dict[str, Preset] = {
    "assignment_short": Preset(
        "the assignment's objective and model in an eighth of its epochs: Muon, no dropout, linear decay to 0",
        {
            "optim": "muon",
            "learning_rate": 3e-3,
            "dropout": 0.0,
            "num_train_epochs": 80.0,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 4,
            "logging_steps": 20,
        },
        formerly="short",
    ),
    "closed_book": Preset(
        "best accuracy soonest: salient span masking of answer-like names, questions mixed in, no finetuning",
        {
            "optim": "muon",
            "learning_rate": 3e-3,
            "dropout": 0.0,
            "num_train_epochs": 18.0,
            "per_device_train_batch_size": 32,
            "gradient_accumulation_steps": 4,
            "position_embedding_type": "rope",
            "ssm_probability": 1.0,
            "ssm_numbers": False,
            "context_before": 4,
            "context_after": 2,
            "title_prefix_probability": 0.6,
            "masking_policy_probability": 1.0,
            "learned_masking_policy": True,
            "questions_ratio": 0.2,
            "logging_steps": 20,
        },
        formerly="fast",
    ),
    "demo": Preset(
        "the generated corpus and a small model, in minutes",
        {
            "optim": "muon",
            "learning_rate": 3e-3,
            "dropout": 0.0,
            "num_train_epochs": 76.0,
            "gradient_accumulation_steps": 2,
            "model_preset": "demo",
        },
    ),
    "causal": Preset(
        "plain language modeling of any text, as minGPT's play_char does",
        {
            "objective": "causal",
            "optim": "muon",
            "learning_rate": 3e-3,
            "num_train_epochs": 10.0,
            "gradient_accumulation_steps": 2,
            "position_embedding_type": "rope",
        },
    ),
    "assignment": Preset(
        "the assignment's own values: 650 epochs in float32, days on two cores",
        {**_ASSIGNMENT, "learning_rate": 6e-3, "num_train_epochs": 650.0},
    ),
}

FINETUNE_PRESETS: dict[str, Preset] = {
    "assignment_short": Preset(
        "after pretraining: the assignment's 10 epochs at a lower learning rate, which forgets less (docs/LOG.md)",
        {
            "learning_rate": 2e-4,
            "dropout": 0.0,
            "num_train_epochs": 10.0,
            "per_device_train_batch_size": 128,
            "gradient_accumulation_steps": 1,
        },
        formerly="short",
    ),
    "assignment_short_from_scratch": Preset(
        "without pretraining: as many epochs as the assignment",
        {
            "learning_rate": 6e-4,
            "num_train_epochs": 75.0,
            "per_device_train_batch_size": 128,
            "gradient_accumulation_steps": 2,
            "from_scratch": True,
        },
        formerly="short-from-scratch",
    ),
    "demo": Preset(
        "assignment_short for the generated corpus",
        {
            "learning_rate": 2e-4,
            "dropout": 0.0,
            "num_train_epochs": 10.0,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
        },
    ),
    "demo_from_scratch": Preset(
        "assignment_short_from_scratch for the generated corpus",
        {
            "num_train_epochs": 75.0,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "from_scratch": True,
        },
        formerly="demo-from-scratch",
    ),
    "assignment": Preset(
        "the assignment's own values",
        {**_ASSIGNMENT, "num_train_epochs": 10.0, "gradient_accumulation_steps": 8},
    ),
    "assignment_from_scratch": Preset(
        "the assignment's own values without pretraining",
        {
            **_ASSIGNMENT,
            "num_train_epochs": 75.0,
            "gradient_accumulation_steps": 8,
            "from_scratch": True,
        },
        formerly="assignment-from-scratch",
    ),
}
