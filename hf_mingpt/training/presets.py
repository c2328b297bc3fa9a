"""Presets: named sizes of the model, and named values for the flags of pretraining and finetuning.

After data in the flow. The first preset of a script is the one that it takes if none is named.
"""

from typing import Any

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
    "decay_epochs": 200.0,
    "decay_all_weights": True,
    "shuffle": False,
    "dropout": 0.1,
    "mixed_precision": "no",
}

PRETRAIN_PRESETS: dict[str, dict[str, Any]] = {
    # the assignment's objective and model, in an eighth of its epochs: Muon, no dropout, a linear decay to zero
    "short": {
        "optim": "muon",
        "learning_rate": 3e-3,
        "dropout": 0.0,
        "num_train_epochs": 80.0,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 4,
        "logging_steps": 20,
    },
    # the best answers soonest: clozes of names, mostly of those that stand in their documents as the answers of the
    # training questions do, which are read along, so that nothing is finetuned
    "fast": {
        "optim": "muon",
        "learning_rate": 3e-3,
        "dropout": 0.0,
        "num_train_epochs": 50.0,
        "per_device_train_batch_size": 32,
        "gradient_accumulation_steps": 4,
        "position_embedding_type": "rope",
        "ssm_probability": 1.0,
        "ssm_numbers": False,
        "context_before": 4,
        "context_after": 2,
        "long_context_probability": 0.5,
        "masking_policy_probability": 0.9,
        "learned_masking_policy": True,
        "questions_ratio": 0.1,
        "logging_steps": 20,
    },
    # the generated corpus and a small model, in minutes
    "demo": {
        "optim": "muon",
        "learning_rate": 3e-3,
        "dropout": 0.0,
        "num_train_epochs": 76.0,
        "gradient_accumulation_steps": 2,
        "model_preset": "demo",
    },
    # plain language modelling of any text, as in minGPT's play_char
    "causal": {
        "objective": "causal",
        "optim": "muon",
        "learning_rate": 3e-3,
        "num_train_epochs": 10.0,
        "gradient_accumulation_steps": 2,
        "position_embedding_type": "rope",
    },
    # 650 epochs in float32, days on two cores: for those who want the original
    "assignment": {**_ASSIGNMENT, "learning_rate": 6e-3, "num_train_epochs": 650.0},
}

FINETUNE_PRESETS: dict[str, dict[str, Any]] = {
    # after pretraining: 10 epochs as in the assignment, but gently (docs/LOG.md), so that less is forgotten
    "short": {
        "learning_rate": 2e-4,
        "dropout": 0.0,
        "num_train_epochs": 10.0,
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 1,
    },
    # without pretraining, as many epochs as the assignment's
    "short-from-scratch": {
        "learning_rate": 6e-4,
        "num_train_epochs": 75.0,
        "per_device_train_batch_size": 128,
        "gradient_accumulation_steps": 2,
        "from_scratch": True,
    },
    # the same on the generated corpus
    "demo": {
        "learning_rate": 2e-4,
        "dropout": 0.0,
        "num_train_epochs": 10.0,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
    },
    "demo-from-scratch": {
        "num_train_epochs": 75.0,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "from_scratch": True,
    },
    "assignment": {**_ASSIGNMENT, "num_train_epochs": 10.0, "gradient_accumulation_steps": 8},
    "assignment-from-scratch": {
        **_ASSIGNMENT,
        "num_train_epochs": 75.0,
        "gradient_accumulation_steps": 8,
        "from_scratch": True,
    },
}
