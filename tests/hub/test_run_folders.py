"""A run folder holds one whole run or a marked unfinished one, and has one writer; a file is whole or absent."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

from hf_mingpt.hub import cards, saving
from hf_mingpt.hub.loading import load_run
from hf_mingpt.hub.pushing import push_run
from hf_mingpt.hub.records import strip_folders
from hf_mingpt.hub.run_folders import is_finished
from hf_mingpt.training.folders import list_checkpoints

from .runs import Killed, losses, script, snapshot


def test_a_new_run_is_written_in_place_with_checkpoints_where_transformers_finds_them(tmp_path, pretrain_until):
    pretrain_until(4, tmp_path / "run")
    assert get_last_checkpoint(str(tmp_path / "run")) == str(tmp_path / "run" / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_unfinished_run_is_refused_everywhere(tmp_path, data, pretrain_until, refused, finished):
    folder = tmp_path / "unfinished"
    pretrain_until(4, folder)
    before = snapshot(folder)
    said = f"{folder} is an unfinished run: finish it first"
    for work in (load_run, push_run):
        with pytest.raises(ValueError, match="is an unfinished run: finish it first"):
            work(str(folder))
    with pytest.raises(ValueError, match=r"in its config\.json"):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="is a checkpoint, for --resume_from_checkpoint"):
        load_run(str(folder / "checkpoint-2"))
    questions = ["--questions_file", data / "dev.tsv", "--use_cpu"]
    refused(said, script, "evaluate_birthplaces.py", "--model_name_or_path", folder, *questions)
    train = ["--train_questions_file", data / "train.tsv"]
    refused(said, script, "calibrate.py", "--model_name_or_path", folder, *questions, *train)
    run = ["--model_name_or_path", finished, "--output_dir", folder]
    refused(said, script, "calibrate.py", *run, *questions, *train)
    more = ["--questions_file", data / "train.tsv", "--output_dir", tmp_path / "more"]
    refused(said, script, "finetune.py", "--model_name_or_path", folder, *more)
    refused(said, script, "push_to_hub.py", "--run", folder)
    assert snapshot(folder) == before
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_replaced_run_stays_until_the_new_one_is_finished(finished, pretrain, pretrain_until, resumed):
    (finished / "honesty.md").touch()  # of an earlier version
    before, beside = snapshot(finished), finished.with_name("run.unfinished")
    if resumed:
        pretrain_until(3, finished, "--seed", 1, "--overwrite_output_dir")
        assert snapshot(finished) == before
        assert [path.name for path in list_checkpoints(beside)] == ["checkpoint-2"]
        load_run(str(finished))
        pretrain(finished, "--seed", 1, "--resume_from_checkpoint", "latest")
    else:
        pretrain(finished, "--seed", 1, "--overwrite_output_dir")
    after = snapshot(finished)
    assert not beside.exists()
    assert after["notes.txt"] == b"mine"
    assert after.keys() - {"notes.txt"} == before.keys() - {"notes.txt", "report.json", "predictions.txt", "honesty.md"}
    assert after["model.safetensors"] != before["model.safetensors"]
    assert json.loads(after["recipe.json"])["seed"] == 1
    assert "accuracy" not in after["README.md"].decode().split("---")[1]
    assert after["README.md"].decode().count("# run\n") == before["README.md"].decode().count("# run\n") > 0


BAD = {
    "--learning_rate": ("nan", "inf", "-1"),
    "--adam_beta1": ("1", "-0.1", "nan"),
    "--adam_beta2": ("1.5", "inf"),
    "--weight_decay": ("-1", "nan"),
    "--max_grad_norm": ("nan", "0"),
    "--dropout": ("nan", "1"),
    "--num_train_epochs": ("inf", "nan"),
    "--ema_decay": ("nan", "1"),
    "--decay_ratio": ("nan",),
    "--ssm_probability": ("nan",),
    "--questions_ratio": ("nan",),
    "--warmup_steps": ("-1",),
    "--seed": ("-1", str(2**32)),
    "--dataloader_num_workers": ("-1",),
    "--save_steps": ("0",),
    "--logging_steps": ("-5",),
    "--num_spans": ("0",),
    "--block_size": ("0", "-4"),
    "--max_position_embeddings": ("0",),
    "--attn_implementation": ("flash_attention_2", "nonsense", "kernels-community/flash-attn", "flex_attention"),
    "--report_to": ("paper",),
    "--hub_model_id": ("a//b --push_to_hub",),
    "--resume_from_checkpoint": ("nowhere/checkpoint-2",),
}


# What is said where it is not the name of the flag.
SAID = {
    "flex_attention": "FlexAttention",
    "a//b --push_to_hub": "'a//b'",
    "nowhere/checkpoint-2": "No checkpoint at nowhere/checkpoint-2",
}


@pytest.mark.parametrize(("flag", "value"), [(flag, value) for flag, values in BAD.items() for value in values])
def test_impossible_settings_are_refused_before_the_old_run_is_touched(finished, pretrain, refused, flag, value):
    """Including settings that only torch, accelerate or transformers refuse."""
    before = snapshot(finished)
    said = SAID.get(value, flag.removeprefix("--"))
    refused(said, pretrain, finished, "--overwrite_output_dir", flag, *value.split())
    assert snapshot(finished) == before
    assert [path.name for path in finished.parent.iterdir()] == ["run"]


def test_a_tracker_that_cannot_be_imported_is_refused(finished, pretrain, refused, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "trackio.py").write_text("raise RuntimeError('built for another Python')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    before = snapshot(finished)
    flags = ["--overwrite_output_dir", "--report_to", "trackio"]
    refused("report_to 'trackio' cannot be imported: built for another Python", pretrain, finished, *flags)
    assert snapshot(finished) == before


def test_a_failing_tracker_costs_nothing(finished, pretrain, monkeypatch, caplog):
    """Neither when it logs nor at its end; its files move with the run."""
    from accelerate.tracking import TensorBoardTracker

    def fail(self, *_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    pretrain(finished, "--overwrite_output_dir", "--report_to", "tensorboard")
    assert caplog.text.count("tensorboard failed and gets no more metrics (the server is gone)") == 1
    assert [step for step, _ in losses(finished)] == [1, 2, 3, 4]
    assert list(finished.glob("hf_mingpt/**/events.*"))
    monkeypatch.undo()
    monkeypatch.setattr(TensorBoardTracker, "finish", fail)
    pretrain(finished, "--overwrite_output_dir", "--report_to", "tensorboard")
    assert "tensorboard could not be closed (the server is gone)" in caplog.text
    load_run(str(finished))


def test_a_failing_card_costs_nothing(finished, data, pretrain, monkeypatch, caplog):
    def fail(*_, **__):
        raise TypeError("no card today")

    monkeypatch.setattr(cards.ModelCard, "from_template", fail)
    pretrain(finished, "--overwrite_output_dir", "--seed", 2)
    assert caplog.text.count("has no new card: no card today") == 1
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 2
    load_run(str(finished))
    questions = ["--questions_file", data / "dev.tsv", "--use_cpu"]
    script("evaluate_birthplaces.py", "--model_name_or_path", finished, *questions)
    assert json.loads((finished / "report.json").read_text())["results"]["model"]["total"] == 8


def test_a_failing_record_costs_nothing(tmp_path, pretrain, monkeypatch, caplog):
    """As with a package that has no metadata."""

    def fail(*_):
        raise ModuleNotFoundError("No package metadata was found for evaluate")

    monkeypatch.setattr(saving, "run_record", fail)
    pretrain(tmp_path / "run")
    assert "run.json has no command and no versions: No package metadata" in caplog.text
    load_run(str(tmp_path / "run"))


def test_the_name_of_an_unfinished_run_is_refused(tmp_path, pretrain, refused):
    refused("ends in .unfinished", pretrain, tmp_path / "run.unfinished")
    assert not list(tmp_path.iterdir())


def test_the_working_directory_is_not_replaced(finished, pretrain, refused, monkeypatch):
    monkeypatch.chdir(finished)
    before = snapshot(finished)
    refused("contains the working directory", pretrain, ".", "--overwrite_output_dir")
    assert snapshot(finished) == before


def test_a_run_behind_a_link_is_replaced_at_its_target(finished, tmp_path, pretrain):
    link = tmp_path / "link"
    link.symlink_to(finished)
    pretrain(link, "--overwrite_output_dir", "--seed", 1)
    assert link.is_symlink()
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "run"]


def test_a_run_finishes_without_git(tmp_path, pretrain, monkeypatch):
    monkeypatch.setenv("PATH", "")
    pretrain(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["commit"] is None


RENAMES = ("rename", "replace", "unlink", "rmdir")


@pytest.mark.parametrize("told", [["--overwrite_output_dir"], ["--resume_from_checkpoint", "latest"]])
def test_a_run_that_dies_while_it_replaces_another_leaves_one_of_them(finished, made, pretrain, monkeypatch, told):
    """Killed before every rename after training, then resumed."""
    old = (made / "model.safetensors").read_bytes()
    changes = ["--seed", 1] if "--overwrite_output_dir" in told else ["--save_total_limit", 5]
    ended, calls, beside = [], [], finished.with_name("run.unfinished")
    real_end = saving.finish_run

    def count(name):
        real = getattr(Path, name)

        def change(self, *arguments, **options):
            if ended:
                calls.append((name, self.name))
                if len(calls) == die_at:
                    raise Killed
            return real(self, *arguments, **options)

        return change

    def finish(*arguments, **options):
        ended.append(True)
        real_end(*arguments, **options)

    with monkeypatch.context() as patch:
        for name in RENAMES:
            patch.setattr(Path, name, count(name))
        patch.setattr(saving, "finish_run", finish)
        for die_at in range(1, 100):  # noqa: B007 (count looks at it)
            ended.clear()
            calls.clear()
            try:
                pretrain(finished, *told, *changes)
                break
            except Killed:
                ended.clear()
            if finished.exists():
                try:
                    load_run(str(finished))
                except ValueError as error:
                    pytest.fail(f"died at {calls[-1]}: {error}")
            else:
                assert calls[-1][0] == "rename"
            if beside.exists() and is_finished(beside):
                load_run(str(beside))  # the next command lets it take the place
            assert (finished.parent / "run" / "notes.txt").exists() or list(finished.parent.rglob("notes.txt"))
            pretrain(finished, "--resume_from_checkpoint", "latest", *changes)
            assert [path.name for path in finished.parent.iterdir()] == ["run"]
            assert (finished / "notes.txt").read_text() == "mine"
            assert ((finished / "model.safetensors").read_bytes() == old) == ("--seed" not in changes)
            shutil.rmtree(finished)
            shutil.copytree(made, finished)
    assert die_at > 10


@pytest.mark.parametrize("in_the_way", [False, True])
def test_an_interrupted_replacement_is_completed_before_the_next_one(finished, pretrain, monkeypatch, in_the_way):
    """Otherwise the user's files, which are then in neither place, would be lost. An empty folder may exist by then."""
    real = Path.rename

    def rename(self, target):
        if self.name == "run.unfinished":
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            pretrain(finished, "--overwrite_output_dir", "--seed", 1)
    assert not finished.exists()
    if in_the_way:
        finished.mkdir()
    pretrain(finished, "--overwrite_output_dir", "--seed", 2)
    assert (finished / "notes.txt").read_text() == "mine"
    assert json.loads((finished / "recipe.json").read_text())["seed"] == 2
    assert [path.name for path in finished.parent.iterdir()] == ["run"]


def test_a_new_run_that_dies_at_its_end_is_unfinished_or_whole(tmp_path, pretrain, pretrain_until, monkeypatch):
    """Killed before each of its files is moved."""
    folder, real, calls = tmp_path / "run", Path.replace, []
    pretrain_until(4, folder)

    def replace(self, target):
        if self.parent.parent.name == "unfinished-files":
            calls.append(self.name)
            if len(calls) == die_at:
                raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    for die_at in range(1, 100):  # noqa: B007 (replace looks at it)
        calls.clear()
        try:
            pretrain(folder, "--resume_from_checkpoint", "latest")
            break
        except Killed:
            with pytest.raises(ValueError, match="is an unfinished run"):
                load_run(str(folder))
    load_run(str(folder))
    assert die_at == len(calls) + 1 > 5


def test_folds_of_an_earlier_split_are_removed(tmp_path, data):
    run = ["--questions_file", data / "train.tsv", "--output_dir", tmp_path / "folds"]
    script("split_questions.py", *run, "--num_folds", 4)
    (tmp_path / "folds" / "fold-notes").mkdir()
    script("split_questions.py", *run, "--num_folds", 3, "--overwrite_output_dir")
    names = sorted(path.name for path in (tmp_path / "folds").iterdir())
    assert names == ["fold-0", "fold-1", "fold-2", "fold-notes"]


def test_an_evaluation_without_answers_removes_the_report_of_other_predictions(finished, tmp_path):
    asked = tmp_path / "asked.txt"
    asked.write_text("Where was Ada Byron born?\n")
    run = ["--model_name_or_path", finished, "--questions_file", asked, "--use_cpu", "--overwrite_output_dir"]
    assert (finished / "report.json").exists()
    for name in ("honesty.md", "honesty.png"):  # of an earlier version
        (finished / name).touch()
    script("evaluate_birthplaces.py", *run)
    assert len((finished / "predictions.txt").read_text().splitlines()) == 1
    assert not [name for name in ("report.json", "honesty.md", "honesty.png") if (finished / name).exists()]


def test_a_published_command_keeps_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("you/people", "you/people:dev", "you/people/questions:dev"):
        assert strip_folders(f"--questions_file={name}") == f"--questions_file={name}"
    assert strip_folders("of-you/people/dev.tsv") == "dev.tsv"
