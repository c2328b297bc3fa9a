"""Recipes: the run configuration of pretraining and of finetuning, as frozen dataclasses.

Field names are those of transformers' TrainingArguments where it has them. `parse_recipe` of system/command_line.py
builds a recipe from flags, a YAML file, the launcher's settings and a preset.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..configuration_mingpt import MinGPTConfig
from ..data.recipe import DataRecipe
from ..system.fields import check_choice, check_finite, check_least, check_positive, flag, required
from ..system.launching import PRECISIONS
from ..tokenization_mingpt import PAD_ID
from .evaluation_recipe import EvaluationRecipe
from .presets import MODEL_PRESETS
from .trackers import tracker_names

OPTIMIZERS = ("adamw", "muon")
# transformers' schedules without arguments of their own, and the assignment's
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "warmup_stable_decay", "assignment")
ROPE_TYPES = ("linear", "dynamic", "yarn")  # transformers' scalings that need no more than a factor
# fields of a new model's configuration that are flags
ARCHITECTURE = (
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_size",
    "attention_type",
    "position_embedding_type",
)
MIXED_PRECISIONS = (None, *PRECISIONS)
MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(EvaluationRecipe):
    """The run configuration that pretraining and finetuning share."""

    CONSTANTS: ClassVar[dict[str, Any]] = {"decay_epochs": 200.0}  # of "assignment": where its cosine is lowest

    optim: str = flag(
        "adamw",
        "'adamw' or 'muon': Muon for the matrices of the layers, AdamW for the rest.",
        topic="Optimization",
    )
    learning_rate: float = flag(6e-4, "Peak learning rate of AdamW.")
    muon_learning_rate: float = flag(0.02, "Peak learning rate of Muon.")
    lr_scheduler_type: str = flag("linear", f"Learning rate schedule: {', '.join(SCHEDULES)}.")
    warmup_steps: int = flag(10, "Steps of linear warm-up.")
    decay_ratio: float = flag(
        0.2, "Ratio of the steps in which warmup_stable_decay decays to 0, at the end.", formerly="decay_share"
    )
    num_train_epochs: float = flag(10.0, "Passes over the examples.")
    max_steps: int | None = flag(None, "Optimizer updates. Overrides num_train_epochs; a stream needs it.")
    per_device_train_batch_size: int = flag(
        32, "Examples per micro-batch on each process. On a CPU, short examples are grouped into larger micro-batches."
    )
    gradient_accumulation_steps: int = flag(4, "Micro-batches per optimizer update.")
    auto_find_batch_size: bool = flag(
        False, "Halve the micro-batch, and double gradient_accumulation_steps, until a step fits the memory."
    )
    shuffle: bool = flag(True, "Draw a new order of the examples in every epoch.")
    weight_decay: float = flag(0.1, "Weight decay of the weights of linear layers.")
    decay_all_weights: bool = flag(False, "Decay norms and embeddings too, as the assignment's code does.")
    adam_beta1: float = flag(0.9, "AdamW's beta1.")
    adam_beta2: float = flag(0.95, "AdamW's beta2.")
    max_grad_norm: float = flag(1.0, "Gradients are clipped to this norm.")
    ema_decay: float | None = flag(
        None,
        "Decay of an exponential moving average of the weights, such as 0.99. None: off.",
        formerly="average_decay",
    )
    dropout: float = flag(0.1, "Dropout on embeddings, attention weights and the residual stream.")
    seed: int = flag(0, "Seed of the weights, of the order of the examples and of all other draws.")

    mixed_precision: str | None = flag(
        None,
        "'no', 'bf16' or 'fp16'. None: bf16 where the hardware gains from it, fp16 on other GPUs.",
        topic="Hardware",
    )
    attn_implementation: str | None = flag(
        None, "'eager', 'sdpa' or another of transformers. None: the fastest on this hardware."
    )
    padding_free: bool = flag(False, "Concatenate the sequences of a micro-batch, for flash and flex attention.")
    torch_compile: bool = flag(False, "Compile the model. The first steps take minutes.")
    use_cpu: bool = flag(False, "Train on the CPU, with one process or several.")
    dataloader_num_workers: int = flag(0, "Processes that prepare batches in advance.")

    output_dir: str = required("Run folder to write.", topic="Checkpoints and logging")
    overwrite_output_dir: bool = flag(False, "Replace the run in output_dir.")
    logging_steps: int = flag(10, "Steps between two lines of metrics.jsonl.")
    save_steps: int | None = flag(None, "Steps between two checkpoints. None: only when the run is told to stop.")
    save_total_limit: int = flag(2, "Number of checkpoints to keep.")
    resume_from_checkpoint: str | None = flag(None, "'latest' or a folder checkpoint-N, to resume from.")
    report_to: str | None = flag(
        None, "Trackers beside metrics.jsonl, separated by commas: those of accelerate, 'all' or 'none'."
    )

    push_to_hub: bool = flag(False, "Push the run folder when training is done.", topic="Hub")
    hub_model_id: str | None = flag(None, "Repository to push to. None: the name of the output folder.")
    hub_private_repo: bool = flag(False, "Make the repository private.")

    def __post_init__(self):
        check_finite(self)
        check_choice("optim", self.optim, OPTIMIZERS)
        check_choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        tracker_names(self.report_to)
        if not 0 < self.decay_ratio <= 1:
            raise ValueError(f"decay_ratio is {self.decay_ratio}: it must be over 0 and at most 1.")
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        check_positive(self, "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate")
        check_positive(self, "gradient_accumulation_steps", "muon_learning_rate", "max_grad_norm", "logging_steps")
        check_positive(self, "save_steps", "save_total_limit")
        check_least(self, 0, "seed", "warmup_steps", "weight_decay", "dataloader_num_workers")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}: it must be at most {MAX_SEED}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and under 1.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must be over 0 and under 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it must be at least 0 and under 1.")
        self.check_evaluation()
        if self.resume_from_checkpoint in ("true", "True"):  # TrainingArguments' spelling
            object.__setattr__(self, "resume_from_checkpoint", "latest")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(DataRecipe, TrainingRecipe):
    """The run configuration of pretraining: text, objective, model and optimization."""

    # architecture flags that a preset sets do not concern a model that exists
    REPLACED_BY: ClassVar[dict[str, tuple[str, ...]]] = {
        "model_name_or_path": ("model_preset", *ARCHITECTURE, "max_position_embeddings")
    }

    validation_file: str | None = flag(
        None,
        "Text of held-out documents, in the format of train_file: measures the loss while training.",
        topic="Evaluation",
    )
    validation_split: str = flag("validation", "Split of a Hub dataset or a folder that validation_file names.")
    model_name_or_path: str | None = flag(
        None,
        "Run folder or Hub name of a model to continue from, with its tokenizer. None: a new model.",
        topic="Model",
    )
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    extend_vocabulary: bool = flag(False, "Add the characters that the vocabulary of that model lacks.")
    model_preset: str | None = flag(
        None, f"Size of a new model: {', '.join(MODEL_PRESETS)}. None: {next(iter(MODEL_PRESETS))}."
    )
    num_hidden_layers: int | None = flag(None, "Number of Transformer blocks. None: that of the model preset.")
    num_attention_heads: int | None = flag(None, "Number of attention heads. None: that of the model preset.")
    hidden_size: int | None = flag(None, "Dimension of the hidden states. None: that of the model preset.")
    attention_type: str | None = flag(None, "'dot_product' or 'synthesizer'. None: that of the model preset.")
    position_embedding_type: str | None = flag(None, "'learned' or 'rope'. None: that of the model preset.")
    max_position_embeddings: int | None = flag(
        None, "Context length of the model, also to lengthen that of model_name_or_path. None: as it is."
    )
    rope_type: str | None = flag(None, f"How RoPE reaches a longer context: {', '.join(ROPE_TYPES)}. None: linear.")

    def __post_init__(self):
        TrainingRecipe.__post_init__(self)
        DataRecipe.__post_init__(self)
        check_positive(self, "max_position_embeddings", "num_hidden_layers", "num_attention_heads", "hidden_size")
        check_choice("rope_type", self.rope_type, (None, *ROPE_TYPES))
        if self.model_name_or_path is None:
            if self.model_preset is None:
                object.__setattr__(self, "model_preset", next(iter(MODEL_PRESETS)))
            check_choice("model_preset", self.model_preset, MODEL_PRESETS)
        replaced = ("tokenizer_name", "vocabulary_file", "model_preset", *ARCHITECTURE)
        for name in replaced if self.model_name_or_path else ("revision", "extend_vocabulary", "rope_type"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is for a new model, but model_name_or_path "
                    f"{self.model_name_or_path!r} names one to continue from: give one of them."
                    if self.model_name_or_path
                    else f"{name} {getattr(self, name)!r} needs model_name_or_path, a model to continue from."
                )
        if self.rope_type and self.max_position_embeddings is None:
            raise ValueError(f"rope_type {self.rope_type!r} needs max_position_embeddings, the longer context.")
        if self.streaming and self.has_validation_text and self.validation_file is None:
            raise ValueError("validation_ratio cannot hold out a part of a stream: give a validation_file.")
        if self.streaming and self.lr_scheduler_type == "assignment":
            raise ValueError(
                "lr_scheduler_type 'assignment' decays over epochs, and a stream has no known length: choose another."
            )
        has_vocabulary = self.tokenizer_name or self.model_name_or_path
        if self.streaming and (self.max_steps is None or not has_vocabulary):
            raise ValueError(
                "The length and the vocabulary of a stream are unknown: give max_steps and tokenizer_name."
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(TrainingRecipe):
    """The run configuration of finetuning: a pretrained run, and questions with answers."""

    questions_file: str = required("TSV or Hub dataset of questions with answers.", topic="Data", formerly="train_file")
    model_name_or_path: str = required("Pretrained run folder or Hub name.", topic="Model")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    from_scratch: bool = flag(False, "Take the architecture and the vocabulary of that model, but new weights.")
    extend_vocabulary: bool = flag(
        False, "Add the characters of the questions that the vocabulary of that model lacks."
    )


def build_config(recipe: PretrainRecipe, vocab_size: int, pad_token_id: int = PAD_ID) -> MinGPTConfig:
    """The configuration of a new model.

    Raises:
        ValueError: if `block_size` is longer than the context of the model, or fields contradict each other.
    """
    names = MinGPTConfig.attribute_map  # the presets have minGPT's names
    values = {names.get(name, name): value for name, value in MODEL_PRESETS[str(recipe.model_preset)].items()}
    values |= {"vocab_size": vocab_size, "pad_token_id": pad_token_id}
    for name in (*ARCHITECTURE, "max_position_embeddings"):
        if (value := getattr(recipe, name)) is not None:
            values |= {name: value}
    for name in ("embedding_dropout", "attention_dropout", "hidden_dropout"):
        values |= {name: recipe.dropout}
    config = MinGPTConfig(**values)
    check_block_size(recipe, config.max_position_embeddings)
    return config


def check_block_size(recipe: PretrainRecipe, context_length: int) -> int:
    """The longest example, in tokens: `block_size`, or the context length of the model.

    Raises:
        ValueError: if `block_size` is longer than the context of the model.
    """
    if (recipe.block_size or 0) > context_length:
        raise ValueError(
            f"block_size {recipe.block_size} is over the model's context length of {context_length}: "
            "lower it, or raise max_position_embeddings."
        )
    return recipe.block_size or context_length
