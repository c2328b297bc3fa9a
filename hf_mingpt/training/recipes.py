"""Recipes: everything a run is told, as frozen dataclasses.

After presets in the flow. A recipe is what a script's flags, a YAML file, the launcher's settings and a preset come
down to: `parse_recipe` reads them, the former winning over the latter. Field names are those of transformers'
TrainingArguments where it has them.
"""

from dataclasses import dataclass

from ..configuration_mingpt import MinGPTConfig
from ..data.recipe import DataRecipe
from ..system.fields import check_choice, check_finite, check_least, check_positive, flag, required
from ..system.launching import PRECISIONS
from ..tokenization_mingpt import PAD_ID
from .presets import MODEL_PRESETS

OPTIMIZERS = ("adamw", "muon")
# transformers' schedules that need no arguments of their own, and the assignment's
SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "warmup_stable_decay", "assignment")
TRACKERS = (None, "tensorboard", "trackio")
MIXED_PRECISIONS = (None, *PRECISIONS)
MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """What pretraining and finetuning share."""

    output_dir: str = required("Run folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace the run that is in the output folder.")
    seed: int = flag(0, "Seed of the weights, the order of the examples and all other draws.")
    num_train_epochs: float = flag(10.0, "Passes over the examples.")
    max_steps: int | None = flag(None, "Optimizer updates; overrides num_train_epochs. Streams need it.")
    per_device_train_batch_size: int = flag(32, "Examples of one micro-batch on one process; on a CPU more, if short.")
    gradient_accumulation_steps: int = flag(4, "Micro-batches of one optimizer update.")
    shuffle: bool = flag(True, "Draw a new order for every epoch.")
    optim: str = flag("adamw", f"One of {OPTIMIZERS}: muon is for the matrices of the blocks, with AdamW for the rest.")
    learning_rate: float = flag(6e-4, "Peak learning rate of AdamW.")
    muon_learning_rate: float = flag(0.02, "Peak learning rate of Muon.")
    lr_scheduler_type: str = flag("linear", f"One of {SCHEDULES}.")
    warmup_steps: int = flag(10, "Steps of linear warm-up.")
    decay_ratio: float = flag(
        0.2, "Of warmup_stable_decay: the last part of the run, in which the rate falls to 0.", formerly="decay_share"
    )
    decay_epochs: float | None = flag(None, "Of assignment: when its cosine is first at its lowest.")
    weight_decay: float = flag(0.1, "For the weights of linear layers.")
    decay_all_weights: bool = flag(False, "Decay also norms and embeddings, as the assignment's code does.")
    adam_beta1: float = flag(0.9, "AdamW's beta1.")
    adam_beta2: float = flag(0.95, "AdamW's beta2.")
    max_grad_norm: float = flag(1.0, "Gradients are clipped to this norm.")
    ema_decay: float | None = flag(
        None,
        "Decay of an exponential moving average of the weights, such as 0.99. None: off.",
        formerly="average_decay",
    )
    dropout: float = flag(0.1, "Dropout on embeddings, attention weights and the residual stream.")
    mixed_precision: str | None = flag(
        None, "'no', 'bf16' or 'fp16'; None: bf16 where the hardware gains from it, fp16 on other GPUs."
    )
    attn_implementation: str | None = flag(None, "'eager', 'sdpa' or another of transformers; None: the fastest here.")
    padding_free: bool = flag(False, "Join the rows of a micro-batch into one, for flash and flex attention.")
    torch_compile: bool = flag(False, "Compile the model; the first steps take minutes.")
    use_cpu: bool = flag(False, "Stay on the CPU, with one process or several.")
    dataloader_num_workers: int = flag(0, "Processes that prepare batches ahead.")
    logging_steps: int = flag(10, "Steps between two lines of metrics.jsonl.")
    save_steps: int | None = flag(None, "Steps between two checkpoints; None: only when the run is told to stop.")
    save_total_limit: int = flag(2, "Checkpoints to keep.")
    resume_from_checkpoint: str | None = flag(None, "'latest', or a folder checkpoint-N: go on from there.")
    report_to: str | None = flag(None, "Tracker beside metrics.jsonl: 'tensorboard' or 'trackio'.")
    push_to_hub: bool = flag(False, "Push the run folder when done.")
    hub_model_id: str | None = flag(None, "Repository to push to; None: the name of the output folder.")
    hub_private_repo: bool = flag(False, "Make the repository private.")

    def __post_init__(self):
        check_finite(self)
        check_choice("optim", self.optim, OPTIMIZERS)
        check_choice("lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
        check_choice("report_to", self.report_to, TRACKERS)
        if (self.decay_epochs is not None) != (self.lr_scheduler_type == "assignment"):
            raise ValueError(
                f"decay_epochs is {self.decay_epochs} and lr_scheduler_type {self.lr_scheduler_type!r}: "
                "'assignment' takes decay_epochs, the others do not."
            )
        if not 0 < self.decay_ratio <= 1:
            raise ValueError(f"decay_ratio is {self.decay_ratio}: it is over 0 and at most 1.")
        check_choice("mixed_precision", self.mixed_precision, MIXED_PRECISIONS)
        check_positive(self, "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate")
        check_positive(self, "gradient_accumulation_steps", "muon_learning_rate", "max_grad_norm", "logging_steps")
        check_positive(self, "save_steps", "save_total_limit", "decay_epochs")
        check_least(self, 0, "seed", "warmup_steps", "weight_decay", "dataloader_num_workers")
        if self.seed > MAX_SEED:
            raise ValueError(f"seed is {self.seed}: it must be at most {MAX_SEED}.")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is from 0 to under 1.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it is over 0 and under 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: it is a share, from 0 to under 1.")
        if self.resume_from_checkpoint in ("true", "True"):  # TrainingArguments' word for it
            object.__setattr__(self, "resume_from_checkpoint", "latest")


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(DataRecipe, TrainingRecipe):
    """Pretraining: text in, a model that has learned it out."""

    model_preset: str = flag("assignment", f"Size of the model: one of {', '.join(MODEL_PRESETS)}.")
    attention_type: str | None = flag(None, "'dot_product' or 'synthesizer'; None: as the model preset has it.")
    position_embedding_type: str | None = flag(None, "'learned' or 'rope'; None: as the model preset has it.")
    max_position_embeddings: int | None = flag(None, "Block of the model; None: as the model preset has it.")

    def __post_init__(self):
        TrainingRecipe.__post_init__(self)
        DataRecipe.__post_init__(self)
        check_choice("model_preset", self.model_preset, MODEL_PRESETS)
        check_least(self, 1, "max_position_embeddings")
        if self.streaming and self.decay_epochs:
            raise ValueError(
                f"decay_epochs is {self.decay_epochs}: how many steps that is of a stream is not known. Give another "
                "lr_scheduler_type."
            )
        if self.streaming and (self.max_steps is None or self.tokenizer_name is None):
            raise ValueError("A stream has no known length or vocabulary: give max_steps and tokenizer_name with it.")


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(TrainingRecipe):
    """Finetuning: a pretrained run and questions with answers in, a model that answers out."""

    model_name_or_path: str = required("Pretrained run folder or Hub name.")
    revision: str | None = flag(None, "Branch, tag or commit of a Hub model.")
    from_scratch: bool = flag(False, "Take the shape and the vocabulary of that model, but new weights.")
    questions_file: str = required("TSV of questions with answers.", formerly="train_file")


def build_config(recipe: PretrainRecipe, vocab_size: int) -> MinGPTConfig:
    """The configuration of a new model.

    Raises:
        ValueError: if `block_size` is over the model's, or the fields do not fit each other.
    """
    values = MODEL_PRESETS[recipe.model_preset] | {"vocab_size": vocab_size, "pad_token_id": PAD_ID}
    for name in ("attention_type", "position_embedding_type", "max_position_embeddings"):
        if (value := getattr(recipe, name)) is not None:
            values |= {name: value}
    for name in ("embedding_dropout", "attention_dropout", "hidden_dropout"):
        values |= {name: recipe.dropout}
    config = MinGPTConfig(**values)
    if (recipe.block_size or 0) > config.max_position_embeddings:
        raise ValueError(
            f"block_size {recipe.block_size} is over the model's {config.max_position_embeddings}: "
            "lower it, or raise max_position_embeddings."
        )
    return config
