"""The arithmetic of a step. CUDA graphs need a GPU: benchmarks/gpu.py compares them there with plain kernels."""

import threading
from unittest import mock

import pytest
import torch
from accelerate import Accelerator

from hf_mingpt.data.steps import prepare_ahead
from hf_mingpt.training.optimization import StackedMuon, orthogonalize
from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.stepping import can_record

from ..conftest import VARIANTS, small_model


class TestPreparingAhead:
    def test_order_and_end(self):
        assert list(prepare_ahead(iter(range(100)), number=3)) == list(range(100))
        assert list(prepare_ahead(iter([]))) == []

    def test_it_is_another_thread_that_makes_no_more_than_it_is_asked_for(self):
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

    def test_an_error_arrives_where_the_batch_would_have(self):
        def fails():
            yield 0
            raise ValueError("document 7")

        ahead = prepare_ahead(fails())
        assert next(ahead) == 0
        with pytest.raises(ValueError, match="document 7"):
            next(ahead)


class TestStackedMuon:
    def matrices(self):
        torch.manual_seed(0)
        shapes = [(8, 8)] * 3 + [(32, 8)] * 2 + [(8, 32)]
        return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]

    def steps(self, *optimizers, number=3):
        """Steps with the same gradients."""
        parameters = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]
        torch.manual_seed(1)
        for _ in range(number):
            for same in zip(*parameters, strict=True):
                gradient = torch.randn_like(same[0])
                for parameter in same:
                    parameter.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
        return parameters

    def test_it_is_torchs_muon(self):
        theirs = torch.optim.Muon(self.matrices(), lr=0.02, weight_decay=0.1)
        ours = StackedMuon(self.matrices(), lr=0.02, weight_decay=0.1)
        for a, b in zip(*self.steps(theirs, ours), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-4)  # bf16 products, of an update of 0.02

    def test_each_goes_on_from_the_others_state(self):
        theirs, ours = torch.optim.Muon(self.matrices()), StackedMuon(self.matrices())
        self.steps(theirs, ours)
        ours_on, theirs_on = StackedMuon(self.matrices()), torch.optim.Muon(self.matrices())
        ours_on.load_state_dict(theirs.state_dict())
        theirs_on.load_state_dict(ours.state_dict())
        for a, b in zip(*self.steps(ours_on, theirs_on), strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=2e-4)

    def test_a_rate_that_is_a_tensor_is_a_number(self):
        plain, tensor = StackedMuon(self.matrices(), lr=0.5), StackedMuon(self.matrices(), lr=0.5)
        tensor.param_groups[0]["lr"] = torch.tensor(0.5)
        for a, b in zip(*self.steps(plain, tensor), strict=True):
            torch.testing.assert_close(b, a)

    def test_without_a_gradient_nothing_moves(self):
        parameters = self.matrices()
        before = [parameter.clone() for parameter in parameters]
        parameters[0].grad = torch.ones_like(parameters[0])
        StackedMuon(parameters, lr=0.5).step()
        moved = [not torch.equal(a, b) for a, b in zip(parameters, before, strict=True)]
        assert moved == [True] + [False] * 5

    @pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
    def test_singular_values_come_near_to_one(self, shape):
        """Those of each matrix on its own: one is a thousand times the other."""
        torch.manual_seed(0)
        left, _, right = torch.linalg.svd(torch.randn(2, *shape), full_matrices=False)
        matrices = left * torch.linspace(0.2, 1.0, 8) @ right * torch.tensor([1.0, 1000.0])[:, None, None]
        values = torch.linalg.svdvals(orthogonalize(matrices, (3.4445, -4.775, 2.0315), 5, 1e-7).float())
        assert values.shape == (2, 8)
        assert 0.6 < values.min() < values.max() < 1.25


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_forward_pass_asks_the_device_nothing(variant):
    """To look for several rows in one, values are read, which makes a GPU wait: only if positions are given."""
    ids = torch.randint(2, 30, (2, 9))
    model = small_model(variant).train()
    model.config.use_cache = False
    with mock.patch("transformers.masking_utils.find_packed_sequence_indices", side_effect=AssertionError):
        model(ids, labels=ids).loss.backward()
        with pytest.raises(AssertionError):
            model(ids, position_ids=torch.arange(9)[None])


def test_nothing_is_recorded_on_a_cpu():
    recipe = PretrainRecipe(train_file="-", output_dir="-")
    assert not can_record(recipe, Accelerator(cpu=True))
