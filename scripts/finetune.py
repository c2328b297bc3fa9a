r"""Finetunes a pretrained minGPT on questions with answers, or trains its architecture on them from scratch.

    accelerate launch scripts/finetune.py --model_name_or_path runs/rope --questions_file birth_places_train.tsv \
        --output_dir runs/rope-answers
    accelerate launch scripts/finetune.py --model_name_or_path runs/rope --questions_file birth_places_train.tsv \
        --preset assignment_short_from_scratch --output_dir runs/no-pretraining
    accelerate launch scripts/finetune.py --model_name_or_path runs/rope --questions_file birth_places_train.tsv \
        --validation_questions_file birth_dev.tsv --eval_steps 20 --load_best_model_at_end --output_dir runs/best

Flags can also come from a YAML file: `scripts/finetune.py recipe.yaml --seed 1`.
"""

import hf_mingpt.system.threads  # noqa: F401, I001 (before torch)

from accelerate.utils import set_seed

from hf_mingpt import MinGPTForCausalLM
from hf_mingpt.data.assembly import build_question_steps, build_validation_question_steps
from hf_mingpt.data.questions import read_questions
from hf_mingpt.data.validation import split_questions
from hf_mingpt.data.vocabulary import complete_vocabulary
from hf_mingpt.evaluation.held_out import build_evaluation
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.run_folders import check_destination, sole_writer, start_run
from hf_mingpt.hub.saving import finish_run
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.tokenization_mingpt import add_special_tokens
from hf_mingpt.training.batch_size import find_batch_size
from hf_mingpt.training.continuing import resize_embeddings
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import FINETUNE_PRESETS
from hf_mingpt.training.recipes import FinetuneRecipe
from hf_mingpt.training.resuming import checkpoint_to_resume
from hf_mingpt.training.setup import batch_shape, build_accelerator, check_training


def main() -> None:
    recipe = parse_recipe(FinetuneRecipe, FINETUNE_PRESETS)
    with user_errors():
        check_destination(recipe)
        questions = read_questions(recipe.questions_file, answers=True)
        questions, held_out = split_questions(
            questions, file=recipe.validation_questions_file, ratio=recipe.validation_ratio, seed=recipe.seed
        )
        dropout = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), recipe.dropout)
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision, **dropout)
        texts = [f"{question}{answer}" for question, answer in (*questions, *held_out)]
        tokenizer = complete_vocabulary(tokenizer, texts, extend=recipe.extend_vocabulary)
        add_special_tokens(tokenizer)
        accelerator = build_accelerator(recipe)
        block_size = model.config.max_position_embeddings
        shape = batch_shape(recipe, accelerator, block_size)
        steps = build_question_steps(
            questions, tokenizer, shape, block_size=block_size, seed=recipe.seed, shuffle=recipe.shuffle
        )
        if recipe.resume_from_checkpoint:
            checkpoint_to_resume(recipe, steps)
        set_seed(recipe.seed)
        resize_embeddings(model, tokenizer)
        if recipe.from_scratch:
            model = MinGPTForCausalLM(model.config)
        check_training(model, steps, recipe, accelerator)
        recipe = find_batch_size(model, steps, recipe, accelerator, block_size=block_size)
        evaluate = None
        if held_out:
            held_out_steps = build_validation_question_steps(held_out, tokenizer, steps.shape, block_size=block_size)
            evaluate = build_evaluation(tokenizer, accelerator, questions=held_out, question_steps=held_out_steps)

    with accidents(), sole_writer(recipe, accelerator):
        start_run(recipe, accelerator)
        model = train(model, steps, recipe, accelerator, evaluate)
        finish_run(recipe, accelerator, model, tokenizer, questions=questions)


if __name__ == "__main__":
    main()
