"""The Hub: a finished run is saved with its card, and pushed.

Last in the flow. What is pushed is a run folder's own files, of each path in them the last part only.
"""

import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.questions import MAX_ANSWER_TOKENS
from ..system.command_line import user_errors
from ..system.writing import one_writer, write_json
from ..tokenization_mingpt import MASK, MASK_ID, PAD_ID
from ..training.folders import last_checkpoint, run_folder
from ..training.recipes import TrainingRecipe
from .cards import try_card
from .pushing import push_run
from .run_folders import replace_run, run_record, written_whole

logger = logging.getLogger(__name__)


def finish_run(
    recipe: TrainingRecipe,
    accelerator: Accelerator,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seconds: float,
    stop_at_mask: bool,
) -> None:
    """Writes a trained run into its folder on the main process, and pushes it if the recipe says so.

    Raises:
        OSError: if it cannot be written; its checkpoints, and a run that it was to replace, are left as they are.
    """
    if accelerator.is_main_process:
        try:
            about = run_record()
        except Exception as error:  # of packages and their records: the weights are to be written all the same
            logger.warning(f"run.json says neither command nor versions: {error}")
            about = {}
        record = about | {
            "device": accelerator.device.type,
            "num_processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
            "parameters": model.num_parameters(),
            "training_seconds": round(seconds, 1),
        }
        folder, written = Path(recipe.output_dir), run_folder(recipe)
        with one_writer(written) if written != folder else nullcontext():
            try:
                with written_whole(written, folder.resolve().name) as aside:
                    shutil.copy(written / "recipe.json", aside)
                    save_run(aside, model, tokenizer, record, stop_at_mask=stop_at_mask)
            except OSError as error:
                raise OSError(
                    f"{error} The last checkpoint is {last_checkpoint(recipe)}: make room, and go on with "
                    "--resume_from_checkpoint latest."
                ) from error
            if written != folder:
                replace_run(folder)
            print(f"Wrote {folder}: {model.num_parameters():,} parameters, {seconds:.0f} s of training.")
            if recipe.push_to_hub:
                with user_errors():
                    print(f"Pushed: {push_run(folder, recipe.hub_model_id, private=recipe.hub_private_repo)}")
    try:
        accelerator.end_training()
    except Exception as error:  # of the tracker, whatever it raises: the run is there
        logger.warning(f"{recipe.report_to} could not be ended: {error}")
        accelerator.trackers.clear()
        accelerator.end_training()


def save_run(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    *,
    stop_at_mask: bool,
) -> None:
    """Writes model, generation config, tokenizer, model code, run.json and the card into a run folder.

    Args:
        record: what run.json says.
        stop_at_mask: whether generation ends with a MASK, as the answer to a question does.
    """
    model.generation_config = GenerationConfig(
        max_new_tokens=MAX_ANSWER_TOKENS, pad_token_id=PAD_ID, eos_token_id=MASK_ID if stop_at_mask else None
    )
    model.save_pretrained(folder)  # with the files of its code
    tokenizer.eos_token = MASK if stop_at_mask else None
    tokenizer.save_pretrained(folder)
    write_json(folder / "run.json", record)
    try_card(folder)
