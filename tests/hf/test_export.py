"""Tests transformers' exporter on the models, in place of its mixin, which is not published: `make test-hf`."""

import copy

import pytest
import test_common
import torch
from transformers import DynamicCache, set_seed
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

from hf_mingpt import MinGPTForCausalLM
from hf_mingpt.modeling_mingpt import CACHE

CASES = [test_common.LearnedTest, test_common.RopeTest, test_common.SynthesizerTest]


@pytest.fixture(params=CASES)
def tester(request):
    set_seed(0)
    return test_common.MinGPTModelTester(None, **request.param.variant)


@pytest.mark.parametrize("model_class", test_common.CommonTests.all_model_classes)
@pytest.mark.parametrize("dynamic", [False, True])
@torch.no_grad()
def test_exporting_a_forward_pass(tester, model_class, dynamic):
    model = model_class(tester.get_config()).eval()
    inputs = {"input_ids": torch.randint(3, 99, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"][1, :3] = 0
    exported = DynamoExporter().export(model, {**inputs, "use_cache": False}, config=DynamoConfig(dynamic=dynamic))
    wider = torch.cat((inputs["input_ids"],) * 2, dim=1) if dynamic else inputs["input_ids"]
    for ids in (inputs["input_ids"], wider):
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        torch.testing.assert_close(exported(**given)[0], model(**given, use_cache=False)[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_exporting_a_decoding_step(tester):
    model = MinGPTForCausalLM(tester.get_config()).eval()
    ids = torch.randint(3, 99, (2, 9))
    cache = DynamicCache(config=model.config)
    model(ids[:, :-1], cache=cache, use_cache=True)
    inputs = {"input_ids": ids[:, -1:], "attention_mask": torch.ones_like(ids), "use_cache": True}
    exported = DynamoExporter().export(model, {**inputs, CACHE: copy.deepcopy(cache)}, config=DynamoConfig())
    step = exported(**inputs, **{CACHE: cache})
    torch.testing.assert_close(step["logits"][:, -1], model(ids).logits[:, -1], rtol=0, atol=1e-5)
