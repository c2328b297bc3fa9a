"""A run resumes bit-exactly, with the same recipe and data; runs of different lengths branch off one checkpoint."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.steps import StreamedSteps
from hf_mingpt.training import checkpoints
from hf_mingpt.training.recipes import FinetuneRecipe
from hf_mingpt.training.resuming import find_checkpoint

from .small_runs import PowerCut, edit_state, have_same_weights, small_recipe, small_steps, train_small

FLAGS = {"dropout": 0.1, "optim": "muon", "ema_decay": 0.5, "lr_scheduler_type": "cosine"}
FLAGS |= {"max_steps": 10, "save_steps": 3, "logging_steps": 4}


def build_steps(stream: bool = False, shape: BatchShape = BatchShape(2, 2)):  # noqa: B008
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 30, (18,), generator=generator).tolist()
    documents = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in lengths]
    dataset = Dataset.from_dict({"input_ids": documents})
    if stream:
        return StreamedSteps(dataset.to_iterable_dataset(), NextTokenPrediction(), shape)
    return small_steps(shape, dataset)


def run(folder, steps, **changes):
    model, log = train_small(folder, steps, **{**FLAGS, **changes})
    return model, [(record["step"], record["loss"]) for record in log]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut_at", [4, 9, 10])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, stream, workers, cut_at):
    changes = {"dataloader_num_workers": workers}
    whole, expected = run(tmp_path / "whole", build_steps(stream))  # workers change nothing
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", build_steps(stream), cut_at=cut_at, **changes)
    resumed, losses = run(tmp_path / "cut", build_steps(stream), resume_from_checkpoint="latest", **changes)
    assert losses == expected
    assert [step for step, _ in losses] == [4, 8, 10]
    assert have_same_weights(whole, resumed)


def test_a_step_may_be_divided_into_other_micro_batches(tmp_path):
    changes = {"dropout": 0.0, "optim": "adamw"}
    _, expected = run(tmp_path / "whole", build_steps(), **changes)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", build_steps(), cut_at=8, **changes)
    again = {**changes, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    _, losses = run(tmp_path / "cut", build_steps(shape=BatchShape(4)), resume_from_checkpoint="latest", **again)
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in expected], rel=1e-5)
    with pytest.raises(ValueError, match="examples per step 4, now 8"):
        run(tmp_path / "cut", build_steps(shape=BatchShape(4, 2)), resume_from_checkpoint="latest", **changes)


def test_runs_of_other_lengths_branch_off(tmp_path):
    """From before the decay, shorter and longer runs continue as if they had always had that length."""
    changes = {"lr_scheduler_type": "warmup_stable_decay", "save_steps": 4, "warmup_steps": 2}
    _, trunk = run(tmp_path / "trunk", build_steps(), **changes)
    checkpoint = str(tmp_path / "trunk" / "checkpoint-4")
    for max_steps, decay_ratio in ((8, 0.25), (14, 0.5)):
        flags = {**changes, "max_steps": max_steps, "decay_ratio": decay_ratio}
        whole, expected = run(tmp_path / f"whole-{max_steps}", build_steps(), **flags)
        branch = tmp_path / f"branch-{max_steps}"
        branched, losses = run(branch, build_steps(), resume_from_checkpoint=checkpoint, **flags)
        assert losses == expected[1:]
        assert losses != trunk[1:]
        assert have_same_weights(whole, branched)
    flags = {**changes, "max_steps": 6, "decay_ratio": 0.5}
    with pytest.raises(ValueError, match=r"At step 4 the learning rate is .* before the decay of both runs"):
        run(tmp_path / "late", build_steps(), resume_from_checkpoint=checkpoint, **flags)
    with pytest.raises(ValueError, match="past step 3, the last of this run"):
        run(tmp_path / "over", build_steps(), resume_from_checkpoint=checkpoint, **{**changes, "max_steps": 3})


class TestData:
    """A run resumes with the data that it had, even at another path."""

    @pytest.fixture
    def interrupted(self, tmp_path):
        """A run that has ended after the checkpoint of step 3, and its data flags."""
        (tmp_path / "model").mkdir()
        files = {"text.txt": "a\n", "words.txt": "b\n", "model/tokenizer.json": "{}", "model/README.md": "x"}
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        data = {"train_file": "text.txt", "vocabulary_file": "words.txt", "tokenizer_name": "model"}
        data = {name: str(tmp_path / path) for name, path in data.items()}
        with pytest.raises(PowerCut):
            run(tmp_path / "run", build_steps(), cut_at=4, **data)
        return tmp_path, data

    def find(self, folder, data):
        recipe = small_recipe(folder / "run", **{**FLAGS, "resume_from_checkpoint": "latest", **data})
        return find_checkpoint(recipe, 4)

    def test_a_checkpoint_has_the_hashes_of_the_data(self, interrupted):
        folder, data = interrupted
        state = checkpoints.read_state(self.find(folder, data))
        assert state["data"].keys() == data.keys()
        assert state["data"]["train_file"] == hashlib.sha256(b"a\n").hexdigest()

    def test_moved_files_are_the_same_data(self, interrupted):
        folder, data = interrupted
        (folder / "elsewhere").mkdir()
        moved = {name: str(folder / "elsewhere" / Path(path).name) for name, path in data.items()}
        for name, path in data.items():
            Path(path).rename(moved[name])
        assert self.find(folder, moved).name == "checkpoint-3"
        (folder / "elsewhere/model/README.md").write_text("not read")
        assert self.find(folder, moved).name == "checkpoint-3"

    @pytest.mark.parametrize(
        ("name", "file"),
        [("train_file", "text.txt"), ("vocabulary_file", "words.txt"), ("tokenizer_name", "model/tokenizer.json")],
    )
    def test_changed_data_is_refused_by_name(self, interrupted, name, file):
        folder, data = interrupted
        times = (folder / file).stat()
        (folder / file).write_text("c\n")
        os.utime(folder / file, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(ValueError, match=rf"{name} .* has changed since .*checkpoint-3 was made"):
            self.find(folder, data)

    def test_data_that_changes_during_the_run_is_refused(self, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("a\n")
        steps = build_steps()
        steps.objective = lambda *examples: text.write_text("b\n") and NextTokenPrediction()(*examples)
        with pytest.raises(PowerCut):
            run(tmp_path / "run", steps, cut_at=4, train_file=str(text))
        with pytest.raises(ValueError, match=r"train_file .* has changed since"):
            self.find(tmp_path, {"train_file": str(text)})

    def test_only_the_files_of_a_model_that_are_loaded_count(self, tmp_path):
        model = tmp_path / "model"
        for name in ("config.json", "checkpoints/step-1/model.safetensors", "checkpoints/step-1/config.json"):
            (model / name).parent.mkdir(parents=True, exist_ok=True)
            (model / name).write_text("{}")
        recipe = FinetuneRecipe(model_name_or_path=str(model), questions_file="x", output_dir="y")
        before = checkpoints.hash_data(recipe)
        assert before.keys() == {"model_name_or_path"}
        (model / "checkpoints/step-1/model.safetensors").unlink()
        assert checkpoints.hash_data(recipe) == before
        (model / "config.json").write_text("[]")
        assert checkpoints.hash_data(recipe) != before

    def test_another_file_format_is_another_recipe(self, interrupted):
        folder, data = interrupted
        other = (folder / "text.txt").rename(folder / "text.tsv")
        with pytest.raises(ValueError, match=r"another recipe: train_file .*text\.txt', now .*text\.tsv'"):
            self.find(folder, {**data, "train_file": str(other)})

    def test_a_checkpoint_without_hashes_compares_paths(self, interrupted):
        folder, data = interrupted
        checkpoint = self.find(folder, data)
        edit_state(checkpoint, lambda state: state.pop("data"))
        (folder / "text.txt").write_text("c\n")
        assert self.find(folder, data) == checkpoint
        moved = (folder / "text.txt").rename(folder / "moved.txt")
        with pytest.raises(ValueError, match=r"another recipe: train_file .*text\.txt', now .*moved\.txt'"):
            self.find(folder, {**data, "train_file": str(moved)})


def test_a_checkpoint_with_another_learned_masking_policy_is_refused(tmp_path):
    """Earlier versions did not name their policy, and masked other names."""
    policy = {"ssm_probability": 1.0, "questions_file": "q.tsv", "masking_policy_probability": 0.9}
    for learned in (True, False):
        folder, flags = tmp_path / str(learned), {**policy, "learned_masking_policy": learned}
        with pytest.raises(PowerCut):
            run(folder, build_steps(), cut_at=4, **flags)
        recipe = small_recipe(folder, **{**FLAGS, **flags, "resume_from_checkpoint": "latest"})
        checkpoint = find_checkpoint(recipe, 4)
        assert checkpoints.read_state(checkpoint)["learned_masking_policy"] == ("most probable" if learned else None)
        edit_state(checkpoint, lambda state: state.pop("learned_masking_policy"))
        if learned:
            with pytest.raises(ValueError, match="another learned masking policy, 'logistic', now 'most probable'"):
                find_checkpoint(recipe, 4)
        else:
            assert find_checkpoint(recipe, 4) == checkpoint
