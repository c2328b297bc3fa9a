"""Pretrains a minGPT on text: span corruption, clozes of names, or plain next-character prediction.

    accelerate launch scripts/pretrain.py --train_file wiki.txt --position_embedding_type rope --output_dir runs/rope
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset fast --questions_file birth_places_train.tsv \
        --output_dir runs/fast
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset assignment --output_dir runs/assignment
    accelerate launch scripts/pretrain.py --train_file book.txt --preset causal --output_dir runs/book
    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 scripts/pretrain.py --use_cpu \
        --train_file wiki.txt --output_dir runs/two-processes

Flags can also stand in a YAML file, named first: `scripts/pretrain.py recipe.yaml --seed 1`. With `--save_steps 500` a
run that dies is continued by the same command with `--resume_from_checkpoint latest`, as if it had not died. Over a run
that is there (`--overwrite_output_dir`) it is written beside it, and takes its place when it is finished.
"""

import time

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.birthplaces import read_questions, write_documents
from hf_mingpt.data import (
    Mixture,
    StreamedSteps,
    TrainingSteps,
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    group_into_blocks,
    load_texts,
    load_tokenizer,
)
from hf_mingpt.hub import finish_run
from hf_mingpt.objectives import Answers, NextToken, Ragged, SalientCorruption, Seeker, SpanCorruption, Windows
from hf_mingpt.presets import PRETRAIN_PRESETS
from hf_mingpt.recipes import PretrainRecipe, accidents, build_config, parse_recipe, user_errors
from hf_mingpt.run_folders import check_destination, sole_writer, start_run
from hf_mingpt.seeking import AnswerSeeker, ContextSeeker
from hf_mingpt.training import batch_shape, build_accelerator, check_training, checkpoint_to_resume, train


def main() -> None:
    recipe = parse_recipe(PretrainRecipe, PRETRAIN_PRESETS)
    with user_errors():
        check_destination(recipe)
        questions = read_questions(recipe.questions_file, answers=True) if recipe.questions_file else []
        accelerator = build_accelerator(recipe)
        with accelerator.main_process_first():
            texts = load_texts(
                recipe.train_file,
                name=recipe.dataset_config_name,
                split=recipe.dataset_split,
                text_column=recipe.text_column,
                streaming=recipe.streaming,
            )
            if recipe.phrasings_per_answer:
                more = Dataset.from_dict({"text": write_documents(questions, recipe.phrasings_per_answer)})
                texts = concatenate_datasets([texts, more])
            if recipe.tokenizer_name:
                tokenizer = load_tokenizer(recipe.tokenizer_name)
            else:
                block_size = MinGPTConfig.max_position_embeddings
                tokenizer = build_corpus_tokenizer(texts, block_size, recipe.vocabulary_file)
            config = build_config(recipe, len(tokenizer))
            steps = build_steps(recipe, encode_documents(texts, tokenizer), questions, tokenizer, config, accelerator)
        if recipe.resume_from_checkpoint:
            checkpoint_to_resume(recipe, steps)
        set_seed(recipe.seed)
        model = MinGPTForCausalLM(config)
        tokenizer.model_max_length = config.max_position_embeddings
        check_training(model, steps, recipe, accelerator)

    with accidents(), sole_writer(recipe, accelerator):
        start_run(recipe, accelerator)
        started = time.perf_counter()
        model = train(model, steps, recipe, accelerator)
        seconds = time.perf_counter() - started
        finish_run(recipe, accelerator, model, tokenizer, seconds=seconds, stop_at_mask=bool(questions))


def build_steps(recipe: PretrainRecipe, documents, questions, tokenizer, config, accelerator: Accelerator):
    block_size = recipe.block_size or config.max_position_embeddings
    if recipe.objective == "causal":
        documents = group_into_blocks(documents, block_size, tokenizer.convert_tokens_to_ids("\n"))
        objective = NextToken()
    else:
        objective = SpanCorruption(block_size, recipe.seed, num_spans=recipe.num_spans)
        if recipe.document_windows:
            objective = Windows(objective, tokenizer)
    if recipe.salient_share:
        contexts = (recipe.context_before, recipe.context_after)
        objective = SalientCorruption(
            block_size,
            recipe.seed,
            tokenizer=tokenizer,
            otherwise=objective,
            share=recipe.salient_share,
            numbers=recipe.salient_numbers,
            max_context=tuple(block_size if most is None else most for most in contexts),
            long_share=recipe.long_context_share,
            seeker=build_seeker(recipe, documents, questions, tokenizer),
            sought_share=recipe.answers_share,
        )
    shape = batch_shape(recipe, accelerator, config.max_position_embeddings)
    mixture = None
    if questions:
        examples = encode_questions(questions, tokenizer, block_size)
        mixture = Mixture(examples, Answers(), recipe.questions_share, seed=recipe.seed)
    if recipe.streaming:
        return StreamedSteps(documents, objective, shape, mixture=mixture)
    return TrainingSteps(documents, objective, shape, seed=recipe.seed, shuffle=recipe.shuffle, mixture=mixture)


def build_seeker(recipe: PretrainRecipe, documents, questions, tokenizer) -> Seeker:
    if not recipe.seek_contexts:
        return AnswerSeeker([question.answer for question in questions], tokenizer)
    batches = map(Ragged.from_table, documents.with_format("arrow").iter(batch_size=10_000))
    return ContextSeeker.learn(batches, questions, tokenizer, numbers=recipe.salient_numbers)


if __name__ == "__main__":
    main()
