r"""Pretrains a minGPT on text: span corruption, salient span masking, or next-token prediction.

    accelerate launch scripts/pretrain.py --train_file wiki.txt --position_embedding_type rope --output_dir runs/rope
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file birth_places_train.tsv --output_dir runs/closed_book
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset assignment --output_dir runs/assignment
    accelerate launch scripts/pretrain.py --train_file book.txt --preset causal --output_dir runs/book
    accelerate launch --multi_gpu --num_processes 2 --num_machines 1 scripts/pretrain.py --use_cpu \
        --train_file wiki.txt --output_dir runs/two-processes
    accelerate launch scripts/pretrain.py --train_file wiki.txt --validation_ratio 0.05 --eval_steps 500 \
        --load_best_model_at_end --early_stopping_patience 3 --output_dir runs/best
    accelerate launch scripts/pretrain.py --model_name_or_path runs/rope --train_file letters.txt \
        --max_position_embeddings 256 --output_dir runs/letters

Flags can also come from a YAML file: `scripts/pretrain.py recipe.yaml --seed 1`. With `--save_steps 500`, an
interrupted run resumes bit-exactly with the same command and `--resume_from_checkpoint latest`. With
`--overwrite_output_dir`, the new run is written beside the existing one and replaces it when it has finished.
"""

import hf_mingpt.system.threads  # noqa: F401, I001 (before torch)
from collections.abc import Sequence

from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.assembly import (
    build_steps,
    build_validation_question_steps,
    build_validation_steps,
    load_corpus,
)
from hf_mingpt.data.encoding import build_corpus_tokenizer, corpus_characters, load_tokenizer
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import Question, read_questions
from hf_mingpt.data.validation import split_documents, split_questions
from hf_mingpt.data.vocabulary import complete_vocabulary
from hf_mingpt.evaluation.held_out import build_evaluation
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.run_folders import check_destination, sole_writer, start_run
from hf_mingpt.hub.saving import finish_run
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.tokenization_mingpt import SpecialTokens, add_special_tokens, is_character_tokenizer, vocabulary_size
from hf_mingpt.training.batch_size import find_batch_size
from hf_mingpt.training.continuing import lengthen_context, resize_embeddings
from hf_mingpt.training.loop import train
from hf_mingpt.training.presets import MODEL_PRESETS, PRETRAIN_PRESETS
from hf_mingpt.training.recipes import PretrainRecipe, build_config, check_block_size
from hf_mingpt.training.resuming import checkpoint_to_resume
from hf_mingpt.training.setup import batch_shape, build_accelerator, check_training


def main() -> None:
    recipe = parse_recipe(PretrainRecipe, PRETRAIN_PRESETS)
    with user_errors():
        check_destination(recipe)
        questions = read_questions(recipe.questions_file, answers=True) if recipe.questions_file else []
        questions, asked = split_questions(
            questions,
            file=recipe.validation_questions_file,
            ratio=recipe.validation_ratio if questions else None,
            seed=recipe.seed,
        )
        accelerator = build_accelerator(recipe)
        with accelerator.main_process_first():
            texts, held_out = load_documents(recipe, questions)
            model, tokenizer = load_or_build(recipe, texts, held_out, [f"{q}{a}" for q, a in (*questions, *asked)])
            config = model.config if model else new_config(recipe, tokenizer)
            block_size = check_block_size(recipe, config.max_position_embeddings)
            texts, held_out = split_documents(
                texts, held_out=held_out, ratio=None if questions else recipe.validation_ratio, seed=recipe.seed
            )
            shape = batch_shape(recipe, accelerator, config.max_position_embeddings)
            options = {"block_size": block_size, "seed": recipe.seed, "shuffle": recipe.shuffle}
            steps = build_steps(recipe, texts, questions, tokenizer, shape, **options)
        if recipe.resume_from_checkpoint:
            checkpoint_to_resume(recipe, steps)
        set_seed(recipe.seed)
        if model:
            resize_embeddings(model, tokenizer)
        else:
            model = MinGPTForCausalLM(config)
        tokenizer.model_max_length = config.max_position_embeddings
        check_training(model, steps, recipe, accelerator)
        recipe = find_batch_size(model, steps, recipe, accelerator, block_size=block_size)
        evaluate = None
        if recipe.metrics:
            of_text = of_questions = None
            if held_out:
                with accelerator.main_process_first():
                    of_text = build_validation_steps(
                        recipe, texts, held_out, questions, tokenizer, steps.shape, block_size=block_size
                    )
            if asked:
                of_questions = build_validation_question_steps(asked, tokenizer, steps.shape, block_size=block_size)
            evaluate = build_evaluation(
                tokenizer, accelerator, text=of_text, questions=asked, question_steps=of_questions
            )

    with accidents(), sole_writer(recipe, accelerator):
        start_run(recipe, accelerator)
        model = train(model, steps, recipe, accelerator, evaluate)
        finish_run(recipe, accelerator, model, tokenizer, questions=questions)


def load_documents(
    recipe: PretrainRecipe, questions: Sequence[Question]
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    """The text, and that of `validation_file`."""
    texts = load_corpus(recipe, questions)
    if not recipe.validation_file:
        return texts, None
    name, split, column = recipe.dataset_config_name, recipe.validation_split, recipe.text_column
    return texts, load_texts(recipe.validation_file, name=name, split=split, text_column=column)


def load_or_build(
    recipe: PretrainRecipe, texts: Dataset | IterableDataset, held_out: Dataset | None, asked: Sequence[str]
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]:
    """The model to continue from, if there is one, and a tokenizer for the documents and the questions."""
    if recipe.model_name_or_path:
        dropout = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), recipe.dropout)
        model, tokenizer = load_run(recipe.model_name_or_path, recipe.revision, **dropout)
        model = lengthen_context(model, recipe.max_position_embeddings, recipe.rope_type)
        tokenizer = complete_vocabulary(tokenizer, asked, extend=recipe.extend_vocabulary)
        corpora = [dataset for dataset in (texts, held_out) if isinstance(dataset, Dataset)]
        characters = ("".join(corpus_characters(dataset)) for dataset in corpora)
        tokenizer = complete_vocabulary(tokenizer, characters, extend=recipe.extend_vocabulary, noun="text")
        add_special_tokens(tokenizer)
        return model, tokenizer
    if recipe.tokenizer_name:
        tokenizer = load_tokenizer(recipe.tokenizer_name)
        add_special_tokens(tokenizer)
        return None, tokenizer
    more = [*asked, "".join(corpus_characters(held_out) if held_out else ())]
    return None, build_corpus_tokenizer(texts, MinGPTConfig.max_position_embeddings, recipe.vocabulary_file, more=more)


def new_config(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> MinGPTConfig:
    """The configuration of a new model."""
    vocab_size = vocabulary_size(tokenizer)
    if not is_character_tokenizer(tokenizer):
        vocab_size = max(vocab_size, MODEL_PRESETS[str(recipe.model_preset)].get("vocab_size", 0))
    return build_config(recipe, vocab_size, SpecialTokens.of(tokenizer).pad_id)


if __name__ == "__main__":
    main()
