"""Held-out evaluation: its loss, bits per character, accuracy and samples, compared with formulas of their own."""

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from hf_mingpt.data.assembly import build_question_steps
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction, SpanCorruption
from hf_mingpt.data.questions import Question
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.held_out import build_evaluation, choose_samples, continue_sample, count_characters
from hf_mingpt.tokenization_mingpt import MASK_ID, vocabulary_size

from ..conftest import small_model
from ..processes import run_ranks

QUESTIONS = [Question(f"Where was {name} born?", place) for name, place in (("Ada", "London"), ("Zoë", "Ålesund"))]


@pytest.fixture
def model(tokenizer):
    return small_model("rope", vocab_size=vocabulary_size(tokenizer))


def text_steps(documents, shape=BatchShape(4, 3), objective=None) -> TrainingSteps:  # noqa: B008
    return TrainingSteps(documents, objective or SpanCorruption(48, 7), shape, seed=1, shuffle=False)


def expected_loss(model, sequences: list[list[int]], first_labels: list[int]) -> tuple[float, int]:
    """Total cross entropy in float64, sequence by sequence, and the number of labels."""
    total, number = 0.0, 0
    for ids, first in zip(sequences, first_labels, strict=True):
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        for place in range(max(first, 1), len(ids)):
            total -= logits[place - 1, ids[place]].item()
            number += 1
    return total, number


@torch.no_grad()
@pytest.mark.parametrize("shape", [BatchShape(4, 3), BatchShape(64), BatchShape(3, pad_to_multiple_of=8, overhead=20)])
def test_the_loss_of_a_text(model, tokenizer, documents, shape):
    metrics, _ = build_evaluation(tokenizer, Accelerator(cpu=True), text=text_steps(documents, shape))(model)
    every = text_steps(documents, BatchShape(64))[0]
    sequences = [row[row != 0].tolist() for batch in every for row in batch["input_ids"]]
    assert len(sequences) == 64
    total, number = expected_loss(model, sequences, [1] * 64)
    assert metrics["eval_loss"] == pytest.approx(total / number, rel=1e-5)
    assert metrics["eval_bits_per_character"] == pytest.approx(total / number / math.log(2), rel=1e-5)
    assert metrics.keys() == {"eval_loss", "eval_bits_per_character", "eval_runtime"}


@torch.no_grad()
def test_the_loss_and_the_accuracy_of_questions(model, tokenizer, documents):
    steps = build_question_steps(QUESTIONS, tokenizer, BatchShape(1), block_size=48, seed=0, shuffle=False)
    sequences = [tokenizer(f"{question}⁇{answer}⁇")["input_ids"] for question, answer in QUESTIONS]
    total, number = expected_loss(model, sequences, [ids.index(MASK_ID) for ids in sequences])
    predictions = answer_questions(model, tokenizer, QUESTIONS)
    right = [QUESTIONS[0], Question(QUESTIONS[1].question, predictions[1] + " ")]
    for questions, accuracy in ((QUESTIONS, 0.0), (right, 0.5)):
        accelerator = Accelerator(cpu=True)
        evaluate = build_evaluation(tokenizer, accelerator, questions=questions, question_steps=steps)
        metrics, samples = evaluate(model)
        assert metrics["eval_loss"] == pytest.approx(total / number, rel=1e-5)
        assert metrics["eval_accuracy"] == accuracy
        assert samples[1] == {
            "prompt": questions[1].question, "prediction": predictions[1], "reference": questions[1].answer,
        }  # fmt: skip
    both = build_evaluation(
        tokenizer, accelerator, text=text_steps(documents), questions=QUESTIONS, question_steps=steps
    )
    again, samples = both(model)
    assert again["eval_questions_loss"] == metrics["eval_loss"]
    assert again["eval_loss"] != metrics["eval_loss"]
    assert len(samples) == 2 + 3


def test_an_evaluation_is_the_same_every_time(model, tokenizer, documents):
    evaluate = build_evaluation(tokenizer, Accelerator(cpu=True), text=text_steps(documents))
    (first, samples), (second, same) = evaluate(model), evaluate(model)
    assert first["eval_loss"] == second["eval_loss"]
    assert samples == same
    assert len({sample["prompt"] for sample in samples}) == 3


RANKS = """
import json
from accelerate import Accelerator
from tests.conftest import TEXT, LINES, small_model
from tests.evaluation.test_held_out import QUESTIONS, text_steps
from datasets import Dataset
from hf_mingpt.data.assembly import build_question_steps
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import encode_documents
from hf_mingpt.evaluation.held_out import build_evaluation
from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary, vocabulary_size
accelerator = Accelerator(cpu=True)
number, rank = accelerator.num_processes, accelerator.process_index
tokenizer = build_tokenizer(build_vocabulary([[TEXT]]), 48)
documents = encode_documents(Dataset.from_dict({"text": LINES}), tokenizer)
questions = [*QUESTIONS, QUESTIONS[0]]  # 3: one process has more than the other
shape = BatchShape(4, 1, number, rank)
steps = build_question_steps(questions, tokenizer, shape, block_size=48, seed=0, shuffle=False)
evaluate = build_evaluation(
    tokenizer, accelerator, text=text_steps(documents, shape), questions=questions, question_steps=steps
)
metrics, samples = evaluate(small_model("rope", vocab_size=vocabulary_size(tokenizer)))
metrics.pop("eval_runtime")
print(json.dumps([metrics, samples]), flush=True)
"""


def test_two_processes_measure_what_one_does(tmp_path):

    (tmp_path / "code.py").write_text(RANKS)
    results = []
    for processes in (1, 2):
        done = run_ranks(processes, tmp_path / "code.py")
        assert done.returncode == 0, done.stderr
        results += map(json.loads, done.stdout.splitlines())
    (metrics, samples), *others = results
    assert len(others) == 2
    assert others[0] == others[1]
    for other, same in others:
        assert other == pytest.approx(metrics, rel=1e-6)
        assert same == samples


class Parrot:
    """Generates the token 9 again and again."""

    device = torch.device("cpu")

    def generate(self, prompt, max_new_tokens, **options):
        self.prompt = prompt[0].tolist()
        return torch.cat((prompt, torch.full((1, max_new_tokens), 9)), dim=1)


@pytest.mark.parametrize(
    ("ids", "prompt"),
    [
        ([2, 1, 3, 1, 4, 5], [2, 1, 3, 1]),  # prefix MASK suffix MASK content
        ([2, 1, 3, 1, 4, 5, 1], [2, 1, 3, 1]),  # salient span masking ends with a MASK
        ([2, 1, 3, 1, 4, 1, 5, 1, 6], [2, 1, 3, 1, 4, 1]),  # two spans
        ([2, 3, 4, 5, 6], [2, 3, 4]),  # language modeling
    ],
)
def test_a_sample_is_what_its_prompt_hides(tokenizer, ids, prompt):
    parrot = Parrot()
    sample = continue_sample(parrot, np.array(ids), tokenizer)
    assert parrot.prompt == prompt
    rest = ids[len(prompt) :]
    assert sample["reference"] == tokenizer.decode(rest)
    assert sample["prediction"] == tokenizer.decode([9] * len(rest))


def test_samples_of_language_modeling(model, tokenizer, documents):
    evaluate = build_evaluation(
        tokenizer, Accelerator(cpu=True), text=text_steps(documents, objective=NextTokenPrediction())
    )
    _, samples = evaluate(model)
    assert all("⁇" not in sample["prompt"] for sample in samples)
    assert [len(sample["prediction"]) for sample in samples] == [len(sample["reference"]) for sample in samples]


def test_samples_are_spread():
    assert choose_samples(100) == [0, 33, 66]
    assert choose_samples(2) == [0, 1]
    assert choose_samples(1) == [0]


def test_characters_of_any_tokenizer():
    """Bits per character compare between tokenizers: a token counts its characters, a mark one."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["Ada was born in London. " * 20], vocab_size=300, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, mask_token="[MASK]", pad_token="[PAD]")
    ids = tokenizer("Ada was born in [MASK]London")["input_ids"]
    assert len(ids) < 24
    labels = torch.tensor([[7, *ids, -100], [-100, -100, *ids]])  # the first one is predicted by no token
    assert count_characters({"labels": labels}, tokenizer) == 2 * len("Ada was born in ⁇London")
