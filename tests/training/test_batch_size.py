"""--auto_find_batch_size: the micro-batch shrinks until a step fits, and nothing else changes."""

import json
from unittest import mock

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors.torch import load_file

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction, SalientSpanMasking, SpanCorruption
from hf_mingpt.data.steps import Mixture, TrainingSteps, max_sequence_length
from hf_mingpt.modeling_mingpt import MinGPTForCausalLM
from hf_mingpt.training.batch_size import find_batch_size, fits_everywhere, longest_batch
from hf_mingpt.training.loop import train
from hf_mingpt.training.setup import check_training

from ..conftest import ROOT, small_model
from ..processes import run_ranks
from .small_runs import have_same_weights, read_metrics, small_recipe, small_steps, train_small

REAL_FORWARD = MinGPTForCausalLM.forward


class Memory:
    """Forward passes of more than `limit` sequences run out of memory; `sizes` has the shapes of all passes."""

    def __init__(self, limit: int, error: Exception | None = None):
        self.limit, self.sizes = limit, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def __enter__(self):
        def forward(model, input_ids, **inputs):
            self.sizes.append(tuple(input_ids.shape))
            if len(input_ids) > self.limit:
                raise self.error
            return REAL_FORWARD(model, input_ids, **inputs)

        self.patch = mock.patch.object(MinGPTForCausalLM, "forward", forward)
        self.patch.start()
        return self

    def __exit__(self, *_):
        self.patch.stop()


def find(tmp_path, size: int, accumulation: int, *, limit: int, model=None, error=None, **changes):
    """The recipe and the steps of a run whose memory holds `limit` sequences."""
    recipe = small_recipe(
        tmp_path,
        auto_find_batch_size=True,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        max_steps=4,
        **changes,
    )
    steps = small_steps(BatchShape(size, accumulation))
    with Memory(limit, error) as memory:
        accelerator = Accelerator(cpu=True, mixed_precision=recipe.mixed_precision)
        found = find_batch_size(model or small_model("rope"), steps, recipe, accelerator, block_size=48)
    return found, steps, memory


@pytest.mark.parametrize(
    ("size", "accumulation", "limit", "found"),
    [
        (8, 2, 8, (8, 2)),
        (8, 2, 7, (4, 4)),
        (8, 1, 3, (2, 4)),
        (8, 2, 1, (1, 16)),
        (6, 2, 5, (3, 4)),
        (3, 4, 2, (1, 12)),  # a half of 3 that divides the 12 examples
    ],
)
def test_the_micro_batch_halves_until_it_fits(tmp_path, caplog, size, accumulation, limit, found):
    recipe, steps, memory = find(tmp_path, size, accumulation, limit=limit)
    assert (recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps) == found
    assert steps.shape == BatchShape(*found)
    assert steps.shape.total == size * accumulation
    assert [rows for rows, _ in memory.sizes][-3:] == [found[0]] * 3
    assert ("do not fit the memory" in caplog.text) == (found[0] != size)


AFTER_ANOTHER = RuntimeError("CUDA error: operation failed due to a previous error during capture")
AFTER_ANOTHER.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    "error",
    [
        AFTER_ANOTHER,
        torch.OutOfMemoryError("any text"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_errors_of_memory_are_recognized(tmp_path, error):
    recipe, _, _ = find(tmp_path, 4, 1, limit=2, error=error)
    assert recipe.per_device_train_batch_size == 2


def test_other_errors_are_not_taken_for_missing_memory(tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        find(tmp_path, 4, 1, limit=2, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_sequence_that_does_not_fit_is_an_error_of_one_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r"^A micro-batch of one sequence of 24 tokens does not fit the memory of cpu: "
    ):
        find(tmp_path, 4, 1, limit=0)


def test_without_the_flag_nothing_is_tried(tmp_path):
    recipe = small_recipe(tmp_path)
    with Memory(0) as memory:
        found = find_batch_size(small_model("rope"), small_steps(), recipe, Accelerator(cpu=True), block_size=48)
    assert found is recipe
    assert not memory.sizes


@pytest.mark.parametrize("changes", [{}, {"optim": "muon"}, {"ema_decay": 0.9}, {"mixed_precision": "bf16"}])
def test_trying_leaves_no_trace(tmp_path, changes):
    """The run has the bits of one that is given the micro-batch, and the losses of the one that does not fit."""
    model = small_model("rope")
    recipe, steps, _ = find(tmp_path, 8, 2, limit=3, model=model, dropout=0.1, **changes)
    precision = changes.get("mixed_precision", "no")
    found = train(model, steps, recipe, Accelerator(cpu=True, mixed_precision=precision))
    given, log = train_small(
        tmp_path / "given",
        small_steps(BatchShape(2, 8)),
        dropout=0.1,
        max_steps=4,
        accelerator=Accelerator(cpu=True, mixed_precision=precision),
        **changes,
    )
    assert [record["loss"] for record in read_metrics(tmp_path)] == [record["loss"] for record in log]
    assert have_same_weights(found, given)
    _, log_of_whole = train_small(
        tmp_path / "whole",
        small_steps(BatchShape(8, 2)),
        max_steps=4,
        accelerator=Accelerator(cpu=True, mixed_precision=precision),
        **changes,
    )
    tolerance = 1e-4 if precision == "no" and "optim" not in changes else 1e-2
    losses = [record["loss"] for record in log_of_whole]
    assert [record["loss"] for record in log] == pytest.approx(losses, rel=tolerance)


def test_a_run_resumes_with_the_micro_batch_of_its_checkpoint(tmp_path):
    """Although more fits when it resumes."""
    whole = tmp_path / "whole"
    whole.mkdir()
    recipe, steps, _ = find(whole, 8, 2, limit=3, dropout=0.1, save_steps=2)
    uninterrupted = train(small_model("rope"), steps, recipe, Accelerator(cpu=True))
    saved = json.loads((whole / "checkpoint-2/state.json").read_text())["recipe"]
    assert (saved["per_device_train_batch_size"], saved["gradient_accumulation_steps"]) == (2, 8)
    again = tmp_path / "again"
    again.mkdir()
    checkpoint = str(whole / "checkpoint-2")
    recipe, steps, _ = find(again, 8, 2, limit=8, dropout=0.1, save_steps=2, resume_from_checkpoint=checkpoint)
    assert (recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps) == (2, 8)
    assert have_same_weights(train(small_model("rope"), steps, recipe, Accelerator(cpu=True)), uninterrupted)


def test_the_longest_micro_batch_covers_every_other_one(tokenizer, documents):
    questions = Dataset.from_dict({"input_ids": [[5, 6, 7]] * 9})
    for objective in (
        NextTokenPrediction(),
        SpanCorruption(48, 0),
        SpanCorruption(48, 0, num_spans=2),
        SalientSpanMasking(48, 0, tokenizer=tokenizer, probability=0.5),
    ):
        short = documents.select(range(20)) if isinstance(objective, NextTokenPrediction) else documents
        shape = BatchShape(4, 2, pad_to_multiple_of=8, overhead=10)
        mixture = Mixture(questions, NextTokenPrediction(), 0.25, seed=0)
        steps = TrainingSteps(short, objective, shape, seed=0, mixture=mixture)
        length = max_sequence_length(steps, 48)
        most = longest_batch(shape, length)["input_ids"]
        seen = [batch["input_ids"] for number in range(60) for batch in steps[number]]
        assert max(ids.numel() for ids in seen) <= most.numel()
        assert max(ids.shape[1] for ids in seen) <= most.shape[1]
        assert length <= 48
    short = TrainingSteps(questions, SpanCorruption(48, 0), BatchShape(4), seed=0)
    assert max_sequence_length(short, 48) == 8  # 3 tokens, and a MASK for each of 5 segments


def test_padding_free_micro_batches_are_tried_as_such():
    batch = longest_batch(BatchShape(4, padding_free=True), 10)
    assert batch["input_ids"].shape == (1, 40)
    assert "position_ids" in batch


def test_without_the_flag_a_micro_batch_that_does_not_fit_is_an_error_of_one_sentence(tmp_path):
    for flag in (False, True):
        recipe = small_recipe(tmp_path, per_device_train_batch_size=4, auto_find_batch_size=flag)
        with Memory(3):
            if flag:  # find_batch_size comes next
                check_training(small_model("rope"), small_steps(), recipe, Accelerator(cpu=True))
            else:
                with pytest.raises(ValueError, match=r"_size 4 does not fit the memory of cpu: give --auto_find_batch"):
                    check_training(small_model("rope"), small_steps(), recipe, Accelerator(cpu=True))


def test_memory_that_runs_out_in_the_midst_of_a_run_is_an_error_with_the_remedy(tmp_path):
    with Memory(3), pytest.raises(OSError, match=r"^Memory ran out with per_device_train_batch_size 4; the last ") as e:
        train_small(tmp_path, small_steps(BatchShape(4)), per_device_train_batch_size=4, max_steps=1)
    assert "is None. Start or resume with --auto_find_batch_size." in str(e.value)
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with Memory(3, other), pytest.raises(RuntimeError, match="cannot be multiplied"):
        train_small(tmp_path, small_steps(BatchShape(4)), max_steps=1)


@pytest.mark.parametrize(("limit", "others_that_fit", "fits"), [(2, 1, True), (2, 0, False), (1, 1, False)])
def test_a_micro_batch_fits_only_if_it_fits_every_process(tmp_path, limit, others_that_fit, fits):
    batch, recipe, accelerator = longest_batch(BatchShape(2), 24), small_recipe(tmp_path), Accelerator(cpu=True)
    vote = mock.patch.multiple(Accelerator, num_processes=2, reduce=lambda _, number: number + others_that_fit)
    with vote, Memory(limit):
        assert fits_everywhere(small_model("rope"), batch, recipe, accelerator) is fits


LIMITED = """
import os, runpy, sys
import torch
from hf_mingpt.modeling_mingpt import MinGPTForCausalLM
real = MinGPTForCausalLM.forward
limit = int(os.environ["LIMITS"].split(",")[int(os.environ["RANK"])])
def forward(model, input_ids, **inputs):
    if input_ids.numel() > limit:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return real(model, input_ids, **inputs)
MinGPTForCausalLM.forward = forward
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_processes_halve_together(tmp_path, monkeypatch):
    """One of them runs out of memory, and the run is that of processes whose memory suffices."""
    (tmp_path / "code.py").write_text(LIMITED)
    corpus = ROOT / "data/generated/biographies.txt"
    script = [ROOT / "scripts/pretrain.py", "--preset", "demo", "--train_file", corpus, "--use_cpu"]
    script += ["--mixed_precision", "no", "--model_preset", "gpt-nano", "--max_steps", 3, "--logging_steps", 1]
    script += ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1, "--output_dir"]

    def run(name: str, limits: str, *flags):
        monkeypatch.setenv("LIMITS", limits)
        done = run_ranks(2, tmp_path / "code.py", *script, tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
        losses = [record["loss"] for record in read_metrics(tmp_path / name)]
        return json.loads((tmp_path / name / "recipe.json").read_text()), losses

    monkeypatch.setenv("LIMITS", "9999,0")
    refused = run_ranks(2, tmp_path / "code.py", *script, tmp_path / "none")
    assert refused.returncode == 2
    assert "_size 8 does not fit the memory of cpu:0: give --auto" in refused.stderr
    _, losses = run("enough", "9999,9999")
    recipe, losses_of_found = run("little", "9999,360", "--auto_find_batch_size")
    assert (recipe["per_device_train_batch_size"], recipe["gradient_accumulation_steps"]) == (2, 4)
    assert losses_of_found == pytest.approx(losses, rel=1e-4)
    assert all(torch.isfinite(weight).all() for weight in load_file(tmp_path / "little/model.safetensors").values())
