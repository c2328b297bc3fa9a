r"""Pretrains a minGPT on text: span corruption, salient span masking, or next-token prediction.

    accelerate launch scripts/pretrain.py --train_file wiki.txt --position_embedding_type rope --output_dir runs/rope
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file birth_places_train.tsv --output_dir runs/fast
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset assignment --output_dir runs/assignment
    accelerate launch scripts/pretrain.py --train_file book.txt --preset causal --output_dir runs/book
    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 scripts/pretrain.py --use_cpu \
        --train_file wiki.txt --output_dir runs/two-processes

Flags can also come from a YAML file: `scripts/pretrain.py recipe.yaml --seed 1`. With `--save_steps 500`, an
interrupted run resumes bit-exactly with the same command and `--resume_from_checkpoint latest`. With
`--overwrite_output_dir`, the new run is written beside the existing one and replaces it when it has finished.
"""

import time

from accelerate.utils import set_seed

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.assembly import build_steps, load_corpus
from hf_mingpt.data.encoding import build_corpus_tokenizer, load_tokenizer
from hf_mingpt.data.questions import read_questions
from hf_mingpt.hub.run_folders import check_destination, sole_writer, start_run
from hf_mingpt.hub.saving import finish_run
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.tokenization_mingpt import SpecialTokens, add_special_tokens, is_character_tokenizer, vocabulary_size
from hf_mingpt.training.batch_size import find_batch_size
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import MODEL_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe, build_config
from hf_mingpt.training.resuming import checkpoint_to_resume
from hf_mingpt.training.setup import batch_shape, build_accelerator, check_training


def main() -> None:
    recipe = parse_recipe(PretrainRecipe, PRETRAIN_PRESETS)
    with user_errors():
        check_destination(recipe)
        questions = read_questions(recipe.questions_file, answers=True) if recipe.questions_file else []
        accelerator = build_accelerator(recipe)
        with accelerator.main_process_first():
            texts = load_corpus(recipe, questions)
            if recipe.tokenizer_name:
                tokenizer = load_tokenizer(recipe.tokenizer_name)
                add_special_tokens(tokenizer)
            else:
                block_size = MinGPTConfig.max_position_embeddings
                tokenizer = build_corpus_tokenizer(texts, block_size, recipe.vocabulary_file)
            vocab_size = vocabulary_size(tokenizer)
            if not is_character_tokenizer(tokenizer):
                vocab_size = max(vocab_size, MODEL_PRESETS[recipe.model_preset].get("vocab_size", 0))
            config = build_config(recipe, vocab_size, SpecialTokens.of(tokenizer).pad_id)
            steps = build_steps(
                recipe,
                texts,
                questions,
                tokenizer,
                batch_shape(recipe, accelerator, config.max_position_embeddings),
                block_size=recipe.block_size or config.max_position_embeddings,
                seed=recipe.seed,
                shuffle=recipe.shuffle,
            )
        if recipe.resume_from_checkpoint:
            checkpoint_to_resume(recipe, steps)
        set_seed(recipe.seed)
        model = MinGPTForCausalLM(config)
        tokenizer.model_max_length = config.max_position_embeddings
        check_training(model, steps, recipe, accelerator)
        block_size = recipe.block_size or config.max_position_embeddings
        recipe = find_batch_size(model, steps, recipe, accelerator, block_size=block_size)

    with accidents(), sole_writer(recipe, accelerator):
        start_run(recipe, accelerator)
        started = time.perf_counter()
        model = train(model, steps, recipe, accelerator)
        seconds = time.perf_counter() - started
        finish_run(recipe, accelerator, model, tokenizer, seconds=seconds, stop_at_mask=bool(questions))


if __name__ == "__main__":
    main()
