"""wandb, offline, and mlflow get the metrics and the flags of a run, without a question on the terminal."""

import os
import sqlite3
import subprocess
import sys

import pytest

from ..conftest import LINES, SCRIPTS, script_environment
from .logits import tools


@tools
def test_wandb_offline_and_mlflow(tmp_path):
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    (tmp_path / "text.txt").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    flags = ["--train_file", "text.txt", "--model_preset", "gpt-nano", "--max_steps", "4", "--logging_steps", "2"]
    flags += ["--use_cpu", "--output_dir", "run", "--report_to", "wandb,mlflow,tensorboard"]
    unset = {"WANDB_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"} & os.environ.keys()
    environment = script_environment(WANDB_MODE="offline")
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "pretrain.py"), *flags],
        cwd=tmp_path,
        env={name: value for name, value in environment.items() if name not in unset},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "gets no" not in done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        steps = store.execute("SELECT step FROM metrics WHERE key = 'loss' ORDER BY step").fetchall()
        flag = store.execute("SELECT value FROM params WHERE key = 'max_steps'").fetchall()
    assert steps == [(2,), (4,)]
    assert flag == [("4",)]
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"tokens_per_second" in content
    assert b"gpt-nano" in content
    assert list(tmp_path.glob("run/hf_mingpt/events.*"))
