"""Saving: a trained model is written into its run folder with its tokenizer, records and card, and pushed."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.questions import CHAT_TEMPLATE, MAX_ANSWER_TOKENS, Question
from ..system.command_line import user_errors
from ..system.writing import one_writer, write_json
from ..tokenization_mingpt import SpecialTokens
from ..training.folders import resumable, run_folder
from ..training.metrics_log import summarize_log
from ..training.recipes import TrainingRecipe
from ..training.trackers import close_trackers
from .cards import try_card
from .metadata import describe_questions
from .pushing import push_run
from .records import run_record
from .run_folders import replace_run, written_whole

logger = logging.getLogger(__name__)


def finish_run(
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    questions: Sequence[Question],
) -> None:
    """Writes a trained run into its folder (on the main process), and pushes it if the recipe says so.

    Args:
        recipe: the run configuration.
        accelerator: the accelerator of the training.
        model: the trained model.
        tokenizer: its tokenizer.
        questions: the training questions; may be empty.

    Raises:
        OSError: if it cannot be written. The checkpoints and the run to be replaced stay as they are.
    """
    if accelerator.is_main_process:
        try:
            about = run_record()
        except Exception as error:  # of the metadata of packages: it must not cost the weights
            logger.warning(f"run.json has no command and no versions: {error}")
            about = {}
        record = about | {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
            "parameters": model.num_parameters(),
            "questions": describe_questions(questions) if questions else {},
            **summarize_log(recipe),
        }
        folder, written = Path(recipe.output_dir), run_folder(recipe)
        with one_writer(written) if written != folder else nullcontext():
            with resumable(recipe), written_whole(written, folder.resolve().name) as aside:
                shutil.copy(written / "recipe.json", aside)
                save_run(aside, model, tokenizer, record, stop_at_mask=bool(questions))
            if written != folder:
                replace_run(folder)
            seconds = record["training_seconds"]
            print(f"Wrote {folder}: {model.num_parameters():,} parameters, {seconds:.0f} s of training.")
            if recipe.push_to_hub:
                with user_errors():
                    print(f"Pushed: {push_run(folder, recipe.hub_model_id, private=recipe.hub_private_repo)}")
    close_trackers(accelerator)


def save_run(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    *,
    stop_at_mask: bool,
) -> None:
    """Writes model, model code, generation config, tokenizer, run.json and the card into a run folder.

    Args:
        folder: an existing folder with a recipe.json.
        model: the model.
        tokenizer: its tokenizer.
        record: the content of run.json.
        stop_at_mask: whether generation stops at MASK, as after the answer to a question.
    """
    special_tokens = SpecialTokens.of(tokenizer)
    if tokenizer.eos_token in (None, tokenizer.mask_token):  # it has no end-of-text token of its own
        tokenizer.eos_token = tokenizer.mask_token if stop_at_mask else None
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_ANSWER_TOKENS,
        pad_token_id=special_tokens.pad_id,
        eos_token_id=special_tokens.mask_id if stop_at_mask else tokenizer.eos_token_id,
        do_sample=False if stop_at_mask else None,  # pipelines sample unless a run says no
    )
    model.save_pretrained(folder)  # and its code
    if stop_at_mask:
        tokenizer.chat_template = CHAT_TEMPLATE
    elif "mask_token" in str(tokenizer.chat_template):  # of a run that answers, which this one started from
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    write_json(folder / "run.json", record)
    try_card(folder)
