"""From a recipe to the steps of pretraining: text, tokenizer, objective, masking policy, questions.

Scripts, benchmarks and notebooks call the same functions.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from .batching import BatchShape
from .encoding import encode_documents, encode_questions, group_into_blocks
from .loading import load_texts
from .masking_policy import AnswerPolicy, LearnedPolicy
from .objectives import (
    MaskingPolicy,
    NextTokenPrediction,
    Objective,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from .questions import Question, paraphrase_answers
from .recipe import DataRecipe
from .sequences import TokenSequences
from .steps import Mixture, StreamedSteps, TrainingSteps


def load_corpus(recipe: DataRecipe, questions: Sequence[Question]) -> Dataset | IterableDataset:
    """Loads the text of a recipe, in the column "text", and adds the paraphrases of the questions' answers.

    Raises:
        OSError, ValueError: as of `load_texts` and `paraphrase_answers`.
    """
    texts = load_texts(
        recipe.train_file,
        name=recipe.dataset_config_name,
        split=recipe.dataset_split,
        text_column=recipe.text_column,
        streaming=recipe.streaming,
    )
    if recipe.paraphrases_per_answer:
        more = Dataset.from_dict({"text": paraphrase_answers(questions, recipe.paraphrases_per_answer)})
        texts = concatenate_datasets([texts, more])
    return texts


def build_steps(
    recipe: DataRecipe,
    texts: Dataset | IterableDataset,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    shape: BatchShape,
    *,
    block_size: int,
    seed: int,
    shuffle: bool,
) -> TrainingSteps | StreamedSteps:
    """Builds the steps of pretraining.

    Args:
        texts: from `load_corpus`.
        questions: that are mixed into every step; may be empty.
        block_size: longest example, in tokens.
        shuffle: draw a new order of the documents for every epoch; a stream keeps its own.

    Raises:
        ValueError: if a text or a question cannot be encoded, or the masking policy cannot be learned.
    """
    documents = encode_documents(texts, tokenizer)
    if recipe.objective == "causal":
        newline_id: Any = tokenizer.convert_tokens_to_ids("\n")
        documents = group_into_blocks(documents, block_size, newline_id)
    objective = build_objective(recipe, documents, questions, tokenizer, block_size=block_size, seed=seed)
    mixture = None
    if questions:
        examples = encode_questions(questions, tokenizer, block_size)
        mixture = Mixture(examples, QuestionAnswering(), recipe.questions_ratio, seed=seed)
    if isinstance(documents, IterableDataset):
        return StreamedSteps(documents, objective, shape, mixture=mixture)
    return TrainingSteps(documents, objective, shape, seed=seed, shuffle=shuffle, mixture=mixture)


def build_objective(
    recipe: DataRecipe,
    documents: Dataset | IterableDataset,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    *,
    block_size: int,
    seed: int,
) -> Objective:
    """Builds the objective of a recipe; `documents` are the encoded ones, from which a masking policy is learned."""
    if recipe.objective == "causal":
        return NextTokenPrediction()
    corruption = SpanCorruption(block_size, seed, num_spans=recipe.num_spans)
    objective = RandomWindow(corruption, tokenizer) if recipe.document_windows else corruption
    if not recipe.ssm_probability:
        return objective
    before, after = (block_size if n is None else n for n in (recipe.context_before, recipe.context_after))
    return SalientSpanMasking(
        block_size,
        seed,
        tokenizer=tokenizer,
        fallback=objective,
        probability=recipe.ssm_probability,
        numbers=recipe.ssm_numbers,
        max_context=(before, after),
        long_context_probability=recipe.long_context_probability,
        policy=_build_policy(recipe, documents, questions, tokenizer),
        policy_probability=recipe.masking_policy_probability,
    )


def _build_policy(
    recipe: DataRecipe,
    documents: Dataset | IterableDataset,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
) -> MaskingPolicy:
    if not recipe.learned_masking_policy:
        return AnswerPolicy([str(question.answer) for question in questions], tokenizer)
    batches = map(TokenSequences.from_table, documents.with_format("arrow").iter(batch_size=10_000))
    return LearnedPolicy.learn(batches, questions, tokenizer, numbers=recipe.ssm_numbers)
