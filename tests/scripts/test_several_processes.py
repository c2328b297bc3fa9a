"""Scripts on several processes, by a launcher or as ranks: the results of one process."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .running import TINY, works

LETS_GO = """
import runpy, sys
import torch.distributed as dist
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not dist.is_initialized(), "gloo's threads may abort an interpreter that is being finalized"
"""


@pytest.fixture
def lets_go(tmp_path) -> Path:
    """A script that runs another, and fails if that leaves its process group behind."""
    path = tmp_path / "lets_go.py"
    path.write_text(LETS_GO)
    return path


@pytest.mark.parametrize(("optim", "processes"), [("adamw", 2), ("adamw", 4), ("muon", 2)])
def test_several_processes_learn_what_one_learns(home, lets_go, tmp_path, optim, processes):
    """Losses and weights within 1e-5; with Muon, whose own arithmetic is bf16, within 1e-3 and 5e-3."""
    data = ["--train_file", home / "data/biographies.txt", *TINY, "--max_steps", 6, "--optim", optim]
    data += ["--max_grad_norm", "100"]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", processes, "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", lets_go]
    is_launched = (optim, processes) == ("adamw", 2)  # the others have what it would give them
    several = {"launcher": launcher} if is_launched else {"ranks": [processes, lets_go]}
    works("pretrain.py", *data, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 8)
    arguments = [*data, "--output_dir", tmp_path / "several", "--per_device_train_batch_size", 8 // processes]
    works("pretrain.py", *arguments, **several)
    runs = [json.loads((tmp_path / name / "run.json").read_text())["num_processes"] for name in ("one", "several")]
    assert runs == [1, processes]
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "several")
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5 if optim == "adamw" else 1e-3)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "several"))
    difference = max((one[name] - other[name]).abs().max().item() for name in one)
    assert difference < (1e-5 if optim == "adamw" else 5e-3)
    moved = load_file(home / "pretrained/model.safetensors")
    assert max((one[name] - moved[name]).abs().max().item() for name in one if "layers" in name) > 0.01


@pytest.mark.parametrize(("questions", "processes"), [(7, 2), (2, 3)])
def test_several_processes_answer_what_one_answers(home, calibrated, lets_go, tmp_path, questions, processes):
    lines = (home / "data/birth_places_train.tsv").read_text().splitlines(keepends=True)
    asked = tmp_path / "asked.tsv"
    asked.write_text("".join(lines[:questions]))
    run = ["--model_name_or_path", calibrated, "--questions_file", asked, "--num_invented_names", 2, "--use_cpu"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, lets_go]
    several = {"launcher": launcher} if questions == 7 else {"ranks": [processes, lets_go]}
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "one")
    works("evaluate_birthplaces.py", *run, "--output_dir", tmp_path / "several", **several)
    one, other = ((tmp_path / name / "predictions.txt").read_text() for name in ("one", "several"))
    assert one == other
    assert len(one.splitlines()) == questions
    one, other = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "several"))
    assert one["results"] == other["results"]
    assert one["calibration"]["probabilities"] == other["calibration"]["probabilities"]
