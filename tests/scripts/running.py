"""Scripts as a user calls them."""

import subprocess
import sys
from pathlib import Path

from ..conftest import SCRIPTS, run_script
from ..processes import run_ranks

TINY = ["--use_cpu", "--mixed_precision", "no", "--model_preset", "gpt-nano", "--position_embedding_type", "rope"]
TINY += ["--learning_rate", "0.003", "--optim", "adamw", "--dropout", "0", "--logging_steps", "1"]


def script(name: str, *arguments, launcher=(), ranks: list | None = None) -> subprocess.CompletedProcess:
    """Runs a script in this process, by a launcher, or as ranks: how many, and a script that runs it."""
    if ranks:
        return run_ranks(*ranks, SCRIPTS / name, *arguments)
    if launcher:
        command = list(map(str, [sys.executable, *launcher, SCRIPTS / name, *arguments]))
        return subprocess.run(command, capture_output=True, text=True, check=False)
    return run_script(name, *arguments)


def works(name: str, *arguments, **options) -> str:
    done = script(name, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(said: str, name: str, *arguments, untouched: Path | None = None) -> None:
    """One sentence, code 2, and nothing written."""
    done = script(name, *arguments)
    assert (done.returncode, said in done.stderr.splitlines()[-1]) == (2, True), done.stderr
    assert untouched is None or not untouched.exists()
