"""Steps that are prepared ahead: by a thread, or by worker processes, which may be spawned and not forked."""

import pickle
import threading

import pytest
import torch

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.answer_extraction import learn_extractors
from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.encoding import (
    build_corpus_tokenizer,
    encode_documents,
    encode_questions,
    group_into_blocks,
    separator_ids,
)
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.masking_policy import AnswerPolicy, LearnedPolicy
from hf_mingpt.data.objectives import (
    NextTokenPrediction,
    QuestionAnswering,
    RandomWindow,
    SalientSpanMasking,
    SpanCorruption,
)
from hf_mingpt.data.questions import read_questions
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.steps import Mixture, StreamedSteps, TrainingSteps, prepare_ahead

from ..conftest import ROOT


@pytest.mark.parametrize("streaming", [False, True])
def test_steps_of_every_objective_can_be_pickled(streaming):
    corpus, asked = (ROOT / "data/generated" / name for name in ("biographies.txt", "birth_places_train.tsv"))
    texts, questions = load_texts(str(corpus)), read_questions(asked, answers=True)
    tokenizer = build_corpus_tokenizer(texts, 128, str(asked))
    documents = encode_documents(texts, tokenizer)
    span, options = SpanCorruption(128, 0), {"tokenizer": tokenizer, "probability": 0.5, "policy_probability": 0.5}
    batches = [TokenSequences.from_table(table) for table in documents.with_format("arrow").iter(1000)]
    policies = (
        AnswerPolicy([question.answer for question in questions], Alphabet.of(tokenizer)),
        LearnedPolicy(list(learn_extractors(batches, questions, Alphabet.of(tokenizer)).values()), batches),
    )
    salient = [SalientSpanMasking(128, 0, fallback=span, policy=policy, **options) for policy in policies]
    mixture = Mixture(encode_questions(questions, tokenizer, 128), QuestionAnswering(), 0.5, seed=0)
    if streaming:
        documents = encode_documents(load_texts(str(corpus), streaming=True), tokenizer)
    for objective in (span, RandomWindow(span, tokenizer), NextTokenPrediction(), *salient):
        examples = documents
        if isinstance(objective, NextTokenPrediction):
            examples = group_into_blocks(documents, 128, separator_ids(tokenizer))
        if streaming:
            made = StreamedSteps(examples, objective, BatchShape(8), mixture=mixture)
        else:
            made = TrainingSteps(examples, objective, BatchShape(8), seed=0, mixture=mixture)
        sent = pickle.loads(pickle.dumps(made))
        (ours,), (theirs,) = (next(iter(steps)) if streaming else steps[0] for steps in (made, sent))
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class TestPrepareAhead:
    def test_order_and_end(self):
        assert list(prepare_ahead(iter(range(100)), number=3)) == list(range(100))
        assert list(prepare_ahead(iter([]))) == []

    def test_another_thread_prepares_a_limited_number_of_batches(self):
        made, names = [], set()

        def numbers():
            for number in range(100):
                made.append(number)
                names.add(threading.current_thread().name)
                yield number

        ahead = prepare_ahead(numbers(), number=3)
        assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
        ahead.close()  # waits for the thread
        assert len(made) <= 8
        assert threading.current_thread().name not in names

    def test_an_error_is_raised_in_place_of_its_batch(self):
        def fails():
            yield 0
            raise ValueError("document 7")

        ahead = prepare_ahead(fails())
        assert next(ahead) == 0
        with pytest.raises(ValueError, match="document 7"):
            next(ahead)
