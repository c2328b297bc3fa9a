"""Runs transformers' common tests on the models, for each variant: `make test-hf`."""

import unittest

import torch
from transformers_tests import test_fsdp_mixin, test_tensor_parallel_mixin
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_modeling_common import ModelTesterMixin, ids_tensor, random_attention_mask
from transformers_tests.test_pipeline_mixin import PipelineTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from hf_mingpt import (
    MinGPTConfig,
    MinGPTForCausalLM,
    MinGPTForSequenceClassification,
    MinGPTForTokenClassification,
    MinGPTModel,
)


class MinGPTModelTester:
    """The tester that the mixins expect: a tiny configuration and inputs for it."""

    causal_lm_class = MinGPTForCausalLM
    base_model_class = MinGPTModel
    sequence_classification_class = MinGPTForSequenceClassification
    batch_size, seq_length, is_training, num_labels = 13, 7, True, 3
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 99, 32, 2, 4

    def __init__(self, parent: unittest.TestCase, **variant):
        self.parent, self.variant = parent, variant

    def get_config(self) -> MinGPTConfig:
        return MinGPTConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_position_embeddings=512,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            num_labels=self.num_labels,
            **self.variant,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MinGPTConfig, dict[str, torch.Tensor]]:
        shape = [self.batch_size, self.seq_length]
        return self.get_config(), {
            "input_ids": ids_tensor(shape, self.vocab_size),
            "attention_mask": random_attention_mask(shape),
        }


class CommonTests(ModelTesterMixin, GenerationTesterMixin, PipelineTesterMixin, TrainingTesterMixin):
    all_model_classes = (
        MinGPTModel,
        MinGPTForCausalLM,
        MinGPTForSequenceClassification,
        MinGPTForTokenClassification,
    )
    pipeline_model_mapping = {  # noqa: RUF012
        "feature-extraction": MinGPTModel,
        "text-generation": MinGPTForCausalLM,
        "text-classification": MinGPTForSequenceClassification,
        "token-classification": MinGPTForTokenClassification,
        "zero-shot": MinGPTForSequenceClassification,
    }
    variant: dict[str, str]
    model_tester = None

    def setUp(self):
        self.model_tester = MinGPTModelTester(self, **self.variant)


class LearnedTest(CommonTests, unittest.TestCase):
    variant = {"attention_type": "dot_product", "position_embedding_type": "learned"}  # noqa: RUF012


class RopeTest(CommonTests, unittest.TestCase):
    variant = {"attention_type": "dot_product", "position_embedding_type": "rope"}  # noqa: RUF012


class SynthesizerTest(CommonTests, unittest.TestCase):
    variant = {"attention_type": "synthesizer", "position_embedding_type": "learned"}  # noqa: RUF012


# By default these tests run only for some of transformers' models.
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_fsdp_mixin._get_available_fsdp_workers = lambda: 4  # processes, even if there are fewer cores
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


class DistributedTests(test_tensor_parallel_mixin.TensorParallelTesterMixin, test_fsdp_mixin.FSDPTesterMixin):
    """Tensor parallelism and FSDP2 on two and four CPU processes. Without dropout, which differs between ranks."""

    all_model_classes = CommonTests.all_model_classes
    model_tester = None
    variant: dict[str, str]

    def setUp(self):
        no_dropout = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
        self.model_tester = MinGPTModelTester(self, **self.variant, **no_dropout)


class LearnedDistributedTest(DistributedTests, unittest.TestCase):
    variant = LearnedTest.variant


class RopeDistributedTest(DistributedTests, unittest.TestCase):
    variant = RopeTest.variant


class SynthesizerDistributedTest(DistributedTests, unittest.TestCase):
    variant = SynthesizerTest.variant
