"""What each combination of the fields of a recipe builds."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_mingpt.data.assembly import build_objective, build_question_steps, build_steps, encode_corpus, load_corpus
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import build_corpus_tokenizer
from hf_mingpt.data.masking_policy import AnswerPolicy, LearnedPolicy
from hf_mingpt.data.objectives import (
    NextTokenPrediction,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from hf_mingpt.data.questions import Question
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.data.steps import StreamedSteps, TrainingSteps
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID

from ..conftest import rows_of

PLACES = ["Rome", "Oslo", "Bath", "Lima"]
LINES = [f"{name} Ash. {name} Ash was born in {place}, saw Kiel." for name, place in zip("ABCD", PLACES, strict=True)]
QUESTIONS = [Question(f"Where was {name} Ash born?", place) for name, place in zip("ABCD", PLACES, strict=True)]
VOCABULARY = [*LINES, *(question for question, _ in QUESTIONS)]
SHAPE = BatchShape(4)


@pytest.fixture
def train_file(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in LINES))
    return str(tmp_path / "text.txt")


@pytest.fixture
def build(train_file):
    """Builds the steps of a recipe, and returns them with the tokenizer."""

    def build(questions=(), *, shape=SHAPE, shuffle=True, **fields):
        recipe = DataRecipe(train_file=train_file, **({"questions_file": "q.tsv"} if questions else {}), **fields)
        texts = load_corpus(recipe, questions)
        tokenizer = build_corpus_tokenizer(Dataset.from_dict({"text": VOCABULARY}), 64)
        return build_steps(
            recipe, texts, questions, tokenizer, shape, block_size=64, seed=3, shuffle=shuffle
        ), tokenizer

    return build


def test_the_default_is_span_corruption(build):
    steps, _ = build()
    assert isinstance(steps, TrainingSteps)
    assert (steps.seed, steps.shuffle, steps.mixture, steps.shape) == (3, True, None, SHAPE)
    assert type(steps.objective) is SpanCorruption
    assert vars(steps.objective) == {"block_size": 64, "seed": 3, "num_spans": 1}


def test_num_spans_and_document_windows(build):
    objective = build(num_spans=2, document_windows=True)[0].objective
    assert type(objective) is RandomWindow
    assert objective.objective.num_spans == 2


def test_causal_is_next_token_prediction_on_blocks(build):
    steps, tokenizer = build(objective="causal")
    assert type(steps.objective) is NextTokenPrediction
    text = "".join(f"{line}\n" for line in LINES)
    blocks = [tokenizer.decode(ids) for ids in steps.dataset.with_format(None)["input_ids"]]
    assert blocks == [text[i : i + 64] for i in range(0, len(text), 64)]


def test_salient_span_masking_falls_back_on_span_corruption(build):
    objective = build(ssm_probability=0.5, num_spans=2)[0].objective
    assert type(objective) is SalientSpanMasking
    assert (objective.probability, objective.numbers, objective.max_context) == (0.5, True, (64, 64))
    assert (objective.policy, objective.policy_probability, objective.long_context_probability) == (None, 0, 0)
    assert type(objective.fallback) is SpanCorruption
    assert objective.fallback.num_spans == 2


def test_the_other_fields_of_salient_span_masking(build):
    context = {"context_before": 4, "context_after": 0, "long_context_probability": 0.25}
    objective = build(ssm_probability=1.0, ssm_numbers=False, document_windows=True, **context)[0].objective
    assert (objective.numbers, objective.max_context, objective.long_context_probability) == (False, (4, 0), 0.25)
    assert type(objective.fallback) is RandomWindow


@pytest.mark.parametrize(("learned", "policy"), [(False, AnswerPolicy), (True, LearnedPolicy)])
def test_masking_policy(build, learned, policy):
    fields = {"ssm_probability": 1.0, "masking_policy_probability": 1.0, "learned_masking_policy": learned}
    steps, tokenizer = build(QUESTIONS, shape=BatchShape(8), **fields)
    assert type(steps.objective.policy) is policy
    masked = [tokenizer.decode(ids).split(MASK)[2] for ids in rows_of(steps[0]) if ids.count(MASK_ID) == 3]
    assert masked
    assert set(masked) <= set(PLACES)  # never Kiel


def test_a_masking_policy_for_answers_that_no_document_holds(build):
    fields = {"ssm_probability": 1.0, "masking_policy_probability": 1.0}
    questions = [Question(question, answer[::-1]) for question, answer in QUESTIONS]
    with pytest.raises(ValueError, match=r"is an answer of the 4 questions, .* or --masking_policy_probability 0"):
        build(questions, **fields)
    build([*questions[1:], QUESTIONS[0]], **fields)


def test_title_prefixes(build):
    assert build(QUESTIONS, ssm_probability=1.0)[0].objective.prefixes is None
    steps, tokenizer = build(QUESTIONS, ssm_probability=1.0, title_prefix_probability=1.0, questions_ratio=0.01 + 1 / 4)
    objective = steps.objective
    assert (len(objective.prefixes.starts), objective.prefix_probability) == (4, 1.0)
    masked = [tokenizer.decode(ids) for step in range(40) for ids in rows_of(steps[step]) if ids.count(MASK_ID) == 3]
    of_questions = [text for text in masked if text.startswith("Where was ")]
    assert 0.3 < len(of_questions) / len(masked) < 0.7
    assert all(text[10:16] in {line[:6] for line in LINES} for text in of_questions)


def test_title_prefixes_need_no_questions(build):
    prefixes = build(ssm_probability=1.0, title_prefix_probability=0.5)[0].objective.prefixes
    assert (len(prefixes.starts), len(prefixes.token_ids)) == (0, sum(map(len, LINES)))


def test_questions_are_mixed_into_every_step(build):
    steps, tokenizer = build(QUESTIONS, questions_ratio=0.5)
    pairs = {f"{question}{MASK}{answer}{MASK}" for question, answer in QUESTIONS}
    for step in range(4):
        assert sum(tokenizer.decode(ids) in pairs for ids in rows_of(steps[step])) == 2


def test_paraphrases_join_the_text(train_file):
    recipe = DataRecipe(train_file=train_file, questions_file="q.tsv", paraphrases_per_answer=2)
    texts = load_corpus(recipe, QUESTIONS)["text"]
    assert texts[:4] == LINES
    assert texts[4:6] == ["A Ash. A Ash was born in Rome .", "A Ash. The birthplace of A Ash is Rome ."]
    assert len(texts) == 4 + 2 * 4


def test_a_stream_gives_the_steps_of_the_file_in_its_order(build):
    streamed, _ = build(QUESTIONS, streaming=True, ssm_probability=0.5)
    steps, _ = build(QUESTIONS, shuffle=False, ssm_probability=0.5)
    assert isinstance(streamed, StreamedSteps)
    for step, batches in enumerate(itertools.islice(streamed, 6)):
        assert rows_of(batches) == rows_of(steps[step])


def test_shuffle(train_file):
    recipe = DataRecipe(train_file=train_file)
    texts = load_corpus(recipe, [])
    tokenizer = build_corpus_tokenizer(texts, 64)
    options = {"block_size": 64, "seed": 3}
    in_order = build_steps(recipe, texts, [], tokenizer, BatchShape(3), shuffle=False, **options)
    shuffled = build_steps(recipe, texts, [], tokenizer, BatchShape(3), **options)
    assert in_order.index(0).tolist() == [0, 1, 2]
    assert not np.array_equal(np.concatenate([shuffled.index(i) for i in (0, 1)]), np.arange(4))


def test_objective_and_documents_can_be_had_alone(train_file):
    """What show_examples.py needs: the sequences that training sees, without the steps."""
    recipe = DataRecipe(train_file=train_file, ssm_probability=1.0)
    texts = load_corpus(recipe, [])
    tokenizer = build_corpus_tokenizer(texts, 64)
    options = {"block_size": 64, "seed": 3}
    steps = build_steps(recipe, texts, [], tokenizer, SHAPE, shuffle=False, **options)
    documents = encode_corpus(recipe, texts, tokenizer, block_size=64)
    alone = TrainingSteps(
        documents, build_objective(recipe, documents, [], tokenizer, **options), SHAPE, seed=3, shuffle=False
    )
    for ours, expected in zip(alone[0], steps[0], strict=True):
        assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_spans": 2},
        {"document_windows": True},
        {"ssm_probability": 1.0},
        {"ssm_probability": 1.0, "title_prefix_probability": 0.5},
        {"ssm_probability": 1.0, "masking_policy_probability": 1.0},
        {"ssm_probability": 1.0, "masking_policy_probability": 1.0, "learned_masking_policy": True},
    ],
)
def test_every_field_changes_the_examples(changes):
    """Compares with the same recipe without the last field."""
    lines = [f"{name}. {'she wrote, ' * 11}to Deal, {place}, Rome" for name, place in (("Ada", "Kent"), ("Bo", "Lima"))]
    questions = [Question("Where was Ada born?", "Kent")]
    texts = Dataset.from_dict({"text": [*lines * 16, questions[0].question]})
    tokenizer = build_corpus_tokenizer(texts, 128)

    def first_step(**fields):
        recipe = DataRecipe(train_file="x", questions_file="q", **fields)
        return rows_of(build_steps(recipe, texts, questions, tokenizer, BatchShape(32), block_size=128, seed=0)[0])

    plain = dict(list(changes.items())[:-1])
    assert first_step(**changes) == first_step(**changes) != first_step(**plain)


@pytest.mark.parametrize("shuffle", [True, False])
def test_steps_of_finetuning(shuffle):
    tokenizer = build_corpus_tokenizer(Dataset.from_dict({"text": VOCABULARY}), 64)
    steps = build_question_steps(QUESTIONS, tokenizer, BatchShape(2, 2), block_size=64, seed=3, shuffle=shuffle)
    assert type(steps) is TrainingSteps
    assert type(steps.objective) is QuestionAnswering
    assert (steps.seed, steps.shuffle, steps.mixture, steps.shape) == (3, shuffle, None, BatchShape(2, 2))
    read = [tokenizer.decode(row) for row in rows_of(itertools.chain.from_iterable(itertools.islice(iter(steps), 1)))]
    assert sorted(read) == [f"{question}⁇{answer}⁇" for question, answer in QUESTIONS]
    with pytest.raises(ValueError, match="over the context length of 24"):
        build_question_steps(QUESTIONS, tokenizer, SHAPE, block_size=24, seed=3)


def test_a_context_shorter_than_every_title():
    texts = Dataset.from_dict({"text": ["Ada Byron. London.", "Ada Quist. London."]})
    tokenizer = build_corpus_tokenizer(texts, 64)
    recipe = DataRecipe(train_file="", ssm_probability=0.5)
    for source in (texts, texts.to_iterable_dataset()):
        documents = encode_corpus(recipe, source, tokenizer, block_size=14)
        with pytest.raises(ValueError, match=r"first documents has 11 tokens, which leaves no room .* in 14 tokens"):
            build_objective(recipe, documents, [], tokenizer, block_size=14, seed=0)
        assert build_objective(recipe, documents, [], tokenizer, block_size=15, seed=0).block_size == 15
