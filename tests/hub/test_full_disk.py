"""A disk that is really full costs nothing that is there."""

import json
import shutil
import subprocess

import pytest

from hf_mingpt.hub import saving
from hf_mingpt.hub.loading import load_run
from hf_mingpt.training import metrics_log

from .runs import losses, script, snapshot


@pytest.fixture
def disk(tmp_path):
    """A disk of four megabytes, and a function that fills it up to some bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode()}")

    def fill(*, free: int) -> None:
        (folder / "filler").unlink(missing_ok=True)
        with (folder / "filler").open("wb") as file:
            file.write(bytes(shutil.disk_usage(folder).free - free))

    yield folder, fill
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("what", ["checkpoint", "log", "final", "start"])
def test_a_full_disk_destroys_nothing(disk, tmp_path, pretrain, refused, monkeypatch, what):
    """A real one. The run ends with one sentence, nothing half-written and a whole checkpoint, and then resumes."""
    folder, fill = disk[0] / "run", disk[1]
    pretrain(tmp_path / "whole")
    if what == "start":
        fill(free=0)
        refused("No space left on device", pretrain, folder, code=1)
        fill(free=3_500_000)
        pretrain(folder)
    else:
        where = {"checkpoint": (4, 500_000), "log": (3, 0), "final": (None, 100_000)}
        step, free = where[what]
        real_step, real_finish = metrics_log.MetricsLog.end_step, saving.finish_run

        def end_step(self, number, learning_rate):
            if number == step:
                if what == "log":  # up to a few bytes under the end of a block, which the next line crosses
                    size = self.path.stat().st_size
                    with self.path.open("a") as file:
                        file.write(json.dumps({"step": 0, "loss": "x" * (4070 - size - 24)}) + "\n")
                fill(free=free)
            real_step(self, number, learning_rate)

        def finish(*arguments, **options):
            if what == "final":
                fill(free=free)
            real_finish(*arguments, **options)

        monkeypatch.setattr(metrics_log.MetricsLog, "end_step", end_step)
        monkeypatch.setattr(saving, "finish_run", finish)
        refused("No space left on device", pretrain, folder, code=1)
        last = 4 if what == "final" else 2
        names = {path.name for path in folder.iterdir()}
        assert names == {"recipe.json", "metrics.jsonl", "checkpoint-2"} | {f"checkpoint-{last}"}
        assert [step for step, _ in losses(folder)] == ([1, 2, 0] if what == "log" else [1, 2, 3, 4])
        with pytest.raises(ValueError, match="is an unfinished run"):
            load_run(str(folder))
        monkeypatch.undo()
        (disk[0] / "filler").unlink()
        pretrain(folder, "--resume_from_checkpoint", "latest")
    assert [loss for loss in losses(folder) if loss[0]] == losses(tmp_path / "whole")
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_the_run_to_be_replaced(made, disk, pretrain, refused, monkeypatch):
    folder, fill = disk[0] / "run", disk[1]
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = snapshot(folder)
    fill(free=300_000)
    refused("No space left on device", pretrain, folder, "--overwrite_output_dir", "--seed", 1, code=1)
    assert snapshot(folder) == before
    assert not list(disk[0].rglob("unfinished-*"))
    (disk[0] / "filler").unlink()
    pretrain(folder, "--overwrite_output_dir", "--seed", 1)
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 1


def test_a_full_disk_leaves_the_earlier_evaluation(made, disk, data, refused):
    folder, fill = disk[0] / "run", disk[1]
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = snapshot(folder)
    fill(free=0)
    run = ["--model_name_or_path", folder, "--use_cpu", "--overwrite_output_dir", "--questions_file", data / "dev.tsv"]
    refused(
        "predictions.txt could not be written: No space left on device", script, "evaluate_birthplaces.py", *run, code=1
    )
    assert snapshot(folder) == before
    (folder / "predictions.txt").unlink()
    (folder / "report.json").unlink()
    fill(free=4096)  # enough for the predictions
    refused("report.json could not be written: No space", script, "evaluate_birthplaces.py", *run, code=1)
    assert snapshot(folder).keys() == before.keys() - {"report.json"}
    for name, flags in (
        ("explain_answer.py", [folder, "Ada Byron", "--output_file", folder / "a.html"]),
        ("plot_run.py", ["--runs", folder, "--output_file", folder / "a.png"]),
        ("split_questions.py", ["--questions_file", data / "train.tsv", "--output_dir", folder / "folds"]),
        ("generate_biographies.py", ["--output_dir", folder / "people"]),
        ("convert_checkpoint.py", ["--checkpoint", folder, "--to", "gpt2", "--output_dir", folder / "gpt2"]),
        ("ensemble.py", [folder, made, *run[2:], "--output_dir", folder / "all"]),
    ):
        fill(free=0)
        refused("No space left on device", script, name, *flags, code=1)
    assert set(snapshot(folder)) == before.keys() - {"report.json"}
    assert not list((folder / "folds").iterdir())
