"""The commands of docs/tutorial.md, extracted and run one after the other as they stand: `make test-tutorial`."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tutorial

ROOT = Path(__file__).parents[2]
# what sets up has been done by whoever runs the tests, and the page is served in test_browser.py
ELSEWHERE = ("-m venv", "-m pip", "scripts/demo.py")


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if not any(part in line for part in ELSEWHERE)]


def test_every_command_works(tmp_path):
    for name in ("scripts", "hf_mingpt", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    binaries = Path(sys.executable).parent
    printed = {}
    for line in commands():
        program, *arguments = shlex.split(line)
        assert Path(program).parent == Path(".venv/bin"), line
        done = subprocess.run(
            [binaries / Path(program).name, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        printed[Path(next(part for part in arguments if part.endswith(".py"))).name] = done.stdout
        print(f"$ {line}\n{done.stdout}")

    assert set(printed) == {
        *("generate_biographies.py", "show_examples.py", "pretrain.py", "finetune.py", "evaluate_birthplaces.py"),
        *("plot_run.py", "calibrate.py", "ask.py", "explain_answer.py"),
    }
    results = json.loads((tmp_path / "runs/tutorial/finetuned/report.json").read_text())["results"]
    assert results["model"]["accuracy"] > 0.7
    known, unknown = (line for line in printed["ask.py"].splitlines() if not line.startswith(" "))
    assert "I don't know" not in known
    assert "I don't know" in unknown
    assert (tmp_path / "runs/tutorial/runs.png").exists()
    assert "<svg" in (tmp_path / "runs/tutorial/explanation.html").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "runs")
