"""Assembly: the steps of pretraining (text, objective, masking policy, questions) and those of finetuning.

Scripts, benchmarks and notebooks call these functions, so that the same recipe means the same training everywhere.
"""

from collections.abc import Sequence

from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..system.wording import count
from ..tokenization_mingpt import SpecialTokens
from .alphabet import Alphabet
from .answer_extraction import learn_extractors
from .batching import BatchShape
from .birthplaces import paraphrase_answers
from .encoding import encode_documents, encode_questions, group_into_blocks, iterate, separator_ids
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
from .questions import Question
from .recipe import DataRecipe
from .salient_spans import MIN_MASKED_LENGTH, find_salient_spans, find_titles
from .steps import Mixture, StreamedSteps, TrainingSteps
from .subjects import Template
from .title_prefixes import TitlePrefixes
from .validation import VALIDATION_SEED


def load_corpus(recipe: DataRecipe, questions: Sequence[Question]) -> Dataset | IterableDataset:
    """Loads the text of a recipe, in the column "text", and adds the paraphrases of the questions' answers.

    Raises:
        OSError, ValueError: those of `load_texts` and `paraphrase_answers`.
    """
    texts = load_texts(
        recipe.train_file,
        name=recipe.dataset_config_name,
        split=recipe.dataset_split,
        text_column=recipe.text_column,
        streaming=recipe.streaming,
    )
    if recipe.paraphrases_per_answer:
        paraphrases = Dataset.from_dict({"text": paraphrase_answers(questions, recipe.paraphrases_per_answer)})
        texts = concatenate_datasets([texts, paraphrases])
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
    shuffle: bool = True,
) -> TrainingSteps | StreamedSteps:
    """Builds the steps of pretraining.

    Args:
        recipe: what to learn from the text.
        texts: from `load_corpus`.
        questions: mixed into every step; may be empty.
        tokenizer: of the text and the questions.
        shape: of a step.
        block_size: context length: the longest example, in tokens.
        seed: of all draws.
        shuffle: draw a new order of the documents for every epoch; a stream keeps its own.

    Raises:
        ValueError: if a text or a question cannot be encoded, or a masking policy cannot be learned.
    """
    shape = shape._replace(special_tokens=SpecialTokens.of(tokenizer))
    documents = encode_corpus(recipe, texts, tokenizer, block_size=block_size)
    objective = build_objective(recipe, documents, questions, tokenizer, block_size=block_size, seed=seed)
    mixture = None
    if questions:
        examples = encode_questions(questions, tokenizer, block_size)
        mixture = Mixture(examples, QuestionAnswering(shape.special_tokens.mask_id), recipe.questions_ratio, seed=seed)
    if isinstance(documents, IterableDataset):
        return StreamedSteps(documents, objective, shape, mixture=mixture)
    return TrainingSteps(documents, objective, shape, seed=seed, shuffle=shuffle, mixture=mixture)


def build_question_steps(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    shape: BatchShape,
    *,
    block_size: int,
    seed: int,
    shuffle: bool = True,
) -> TrainingSteps:
    """Builds the steps of finetuning.

    Args:
        questions: with answers.
        tokenizer: of the model.
        shape: of a step.
        block_size: context length: the longest example, in tokens.
        seed: of the order.
        shuffle: draw a new order of the questions for every epoch.

    Raises:
        ValueError: if a question cannot be encoded.
    """
    shape = shape._replace(special_tokens=SpecialTokens.of(tokenizer))
    examples = encode_questions(questions, tokenizer, block_size)
    return TrainingSteps(examples, QuestionAnswering(shape.special_tokens.mask_id), shape, seed=seed, shuffle=shuffle)


def build_validation_question_steps(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, shape: BatchShape, *, block_size: int
) -> TrainingSteps:
    """Builds an epoch over held-out questions, in their order. For the arguments see `build_question_steps`."""
    shape = shape._replace(padding_free=False)
    return build_question_steps(questions, tokenizer, shape, block_size=block_size, seed=VALIDATION_SEED, shuffle=False)


def build_validation_steps(
    recipe: DataRecipe,
    texts: Dataset,
    held_out: Dataset,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    shape: BatchShape,
    *,
    block_size: int,
) -> TrainingSteps:
    """Builds an epoch over held-out documents, with the objective of the recipe and the same draws in every run.

    Args:
        recipe: what is learned from the text.
        texts: the training documents, which a masking policy is learned from.
        held_out: the documents to evaluate on.
        questions: the training questions; may be empty.
        tokenizer: of the model.
        shape: of a training step.
        block_size: context length: the longest example, in tokens.

    Raises:
        ValueError: if a document cannot be encoded.
    """
    shape = shape._replace(special_tokens=SpecialTokens.of(tokenizer), padding_free=False)
    documents, learn_from = (
        encode_corpus(recipe, dataset, tokenizer, block_size=block_size) for dataset in (held_out, texts)
    )
    objective = build_objective(
        recipe,
        documents,
        questions,
        tokenizer,
        block_size=block_size,
        seed=VALIDATION_SEED,
        learn_from=learn_from,
    )
    return TrainingSteps(documents, objective, shape, seed=VALIDATION_SEED, shuffle=False)


def encode_corpus(
    recipe: DataRecipe, texts: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, *, block_size: int
) -> Dataset | IterableDataset:
    """Encodes the text as the objective of the recipe needs it: as documents, or as blocks of `block_size` tokens."""
    documents = encode_documents(texts, tokenizer, aligned=bool(recipe.ssm_probability) or recipe.document_windows)
    if recipe.objective == "causal":
        return group_into_blocks(documents, block_size, separator_ids(tokenizer))
    return documents


def build_objective(
    recipe: DataRecipe,
    documents: Dataset | IterableDataset,
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    *,
    block_size: int,
    seed: int,
    learn_from: Dataset | IterableDataset | None = None,
) -> Objective:
    """Builds the objective of a recipe for encoded `documents`.

    A masking policy and title prefixes are learned from `learn_from`, which are the documents themselves if None.
    """
    learn_from = documents if learn_from is None else learn_from
    if recipe.objective == "causal":
        return NextTokenPrediction()
    corruption = SpanCorruption(block_size, seed, num_spans=recipe.num_spans)
    objective = RandomWindow(corruption, tokenizer) if recipe.document_windows else corruption
    if not recipe.ssm_probability:
        return objective
    check_titles(documents, Alphabet.of(tokenizer), block_size)
    before, after = (block_size if n is None else n for n in (recipe.context_before, recipe.context_after))
    policy, templates = _build_policy(recipe, documents, questions, Alphabet.of(tokenizer), learn_from)
    prefixes = None
    if recipe.title_prefix_probability:
        prefixes = TitlePrefixes.learn(iterate(learn_from), questions, tokenizer, templates=templates)
    return SalientSpanMasking(
        block_size,
        seed,
        tokenizer=tokenizer,
        fallback=objective,
        probability=recipe.ssm_probability,
        numbers=recipe.ssm_numbers,
        max_context=(before, after),
        long_context_probability=recipe.long_context_probability,
        policy=policy,
        policy_probability=recipe.masking_policy_probability,
        prefixes=prefixes,
        prefix_probability=recipe.title_prefix_probability,
        title_loss_probability=recipe.title_loss_probability,
    )


def check_titles(documents: Dataset | IterableDataset, alphabet: Alphabet, block_size: int) -> None:
    """Raises a ValueError if no title at the beginning of the corpus leaves room for a masked span in the context."""
    for batch in iterate(documents.take(_NUM_CHECKED)):
        titles = batch.count_covered(find_titles(batch.characters, alphabet.classes))
        if (shortest := titles.min()) > block_size - MIN_MASKED_LENGTH:
            raise ValueError(
                f"The shortest title of the first documents has {shortest} tokens, which leaves no room for a masked "
                f"name in {block_size} tokens: raise block_size, or give --ssm_probability 0."
            )


_NUM_CHECKED = 1000  # documents


def _build_policy(
    recipe: DataRecipe,
    documents: Dataset | IterableDataset,
    questions: Sequence[Question],
    alphabet: Alphabet,
    learn_from: Dataset | IterableDataset,
) -> tuple[MaskingPolicy | None, list[Template | None]]:
    """The masking policy, and the templates of the relations that it learns, in its order."""
    if not recipe.masking_policy_probability:
        return None, []
    if recipe.learned_masking_policy:
        extractors = learn_extractors(
            (batch.characters for batch in iterate(learn_from)), questions, alphabet, numbers=recipe.ssm_numbers
        )
        learned = LearnedPolicy(list(extractors.values()), (batch.characters for batch in iterate(documents)))
        return learned, list(extractors)
    policy = AnswerPolicy([str(question.answer) for question in questions], alphabet)
    if isinstance(learn_from, Dataset) and len(learn_from):  # a collator may have no text
        all_spans = (
            find_salient_spans(batch.characters, alphabet.classes, numbers=recipe.ssm_numbers)
            for batch in iterate(learn_from)
        )
        if not any(policy.is_answer(spans).any() for spans in all_spans):
            raise ValueError(
                f"No name or number of the text is an answer of the {count(len(questions), 'question')}, and the "
                "masking policy masks these: give questions about the text, or --masking_policy_probability 0."
            )
    return policy, []
