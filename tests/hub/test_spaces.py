"""Spaces, pushed to a Hub on loopback and used by the unmodified clients: evaluate, huggingface_hub and gradio."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
from huggingface_hub import RepoCard

from ..conftest import ROOT, SCRIPTS, run_script
from .runs import calibrate_by_hand, push

SPACE = "tester/birthplace_accuracy"


def files_of(hub, space: str) -> dict[str, str]:
    repository = hub.repositories["space", space]
    return {path: file.content.decode() for path, file in repository.commits[repository.resolve("main")].items()}


EVALUATE = """
import sys
sys.modules["hf_mingpt"] = None  # as if it were not installed
import evaluate
metric = evaluate.load("tester/birthplace_accuracy")
print(metric.compute(predictions=["London ", "Rome"], references=["London", "Paris"]))
"""


def test_evaluate_loads_the_pushed_metric(hub, client):
    done = client(*push("--metric", "--hub_space_id", SPACE, "--hub_private_repo"))
    assert done.returncode == 0, done.stderr
    assert f"{hub.address}/{SPACE}/commit/" in done.stdout
    files = files_of(hub, SPACE)
    assert set(files) == {"README.md", "app.py", "birthplace_accuracy.py", "requirements.txt"}
    card = RepoCard(files["README.md"])
    assert (card.data.sdk, card.data.app_file) == ("gradio", "app.py")
    assert card.data.tags == ["evaluate", "metric"]
    assert f'evaluate.load("{SPACE}")' in card.text
    loaded = client("-c", EVALUATE)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines() == ["{'accuracy': 0.5, 'correct': 1, 'total': 2}"]
    assert f"GET /spaces/{SPACE}/resolve/main/birthplace_accuracy.py" in hub.requests


def test_the_page_of_a_calibrated_run_is_pushed(hub, client, run_folder):
    """Not of a run without calibration, and not over a Space of another kind."""
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    refused = client(*push("--space", "tester/ada"))
    assert (refused.returncode, "tester/ada has no calibration.json" in refused.stderr) == (2, True), refused.stderr
    assert not [name for kind, name in hub.repositories if kind == "space"]

    calibrate_by_hand(run_folder)
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    done = client(*push("--space", "tester/ada", "--hub_space_id", SPACE))
    assert done.returncode == 0, done.stderr
    files = files_of(hub, SPACE)
    data = RepoCard(files["README.md"]).data
    assert (data.sdk, data.app_file, data.models) == ("gradio", "app.py", ["tester/ada"])
    assert data.sdk_version.count(".") == 2
    requirements = {line.split(">")[0] for line in files["requirements.txt"].splitlines()}
    assert requirements >= {"torch", "transformers", "matplotlib", "wrapt"}
    assert not requirements & {"gradio", "pytest", "peft"}
    sources = {f"hf_mingpt/{path.relative_to(ROOT / 'hf_mingpt')}" for path in (ROOT / "hf_mingpt").rglob("*.py")}
    assert set(files) == {*sources, "hf_mingpt/model_card.md", "demo.py", "app.py", "requirements.txt", "README.md"}
    assert not [path for path, text in files.items() if str(ROOT) in text]

    refused = client(*push("--metric", "--hub_space_id", SPACE))
    assert (refused.returncode, "is a Space of another kind, with app.py" in refused.stderr) == (2, True)
    assert files_of(hub, SPACE) == files


def test_a_push_without_a_token_says_how_to_log_in(hub, client, run_folder):
    for token, flags in {"": ["--run", run_folder], "hf_wrong": ["--metric", "--hub_space_id", SPACE]}.items():
        refused = client(*push(*flags), token=token)
        assert (refused.returncode, "hf auth login" in refused.stderr) == (2, True), refused.stderr
        assert "Traceback" not in refused.stderr
    assert not hub.repositories


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--space", "."], "is not a run on the Hub: push the run first (--run)"),
        (["--data", SCRIPTS], "scripts has no README.md, the dataset card"),
        (["--space", "tester/a", "--metric"], "Give one of --run, --data, --space and --metric."),
        (["--metric"], "--metric needs hub_space_id"),
        (["--metric", "--hub_space_id", "tester/birthplace-accuracy"], "letters, digits and underscores"),
    ],
)
def test_bad_flags_are_refused_before_the_hub_is_asked(flags, said):
    refused = run_script("push_to_hub.py", *flags)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


@pytest.mark.tools
def test_the_pushed_page_answers(hub, client, run_folder, tmp_path):
    """What was pushed, downloaded by the client and started as a Space starts it, with no other copy of the package."""
    gradio_client = pytest.importorskip("gradio_client")
    calibrate_by_hand(run_folder)
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    assert client(*push("--space", "tester/ada")).returncode == 0
    download = ("download", "tester/ada", "--repo-type", "space", "--local-dir", "space")
    assert client("-m", "huggingface_hub.cli.hf", *download).returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = tmp_path / "space" / "app.py"
    app.write_text(app.read_text().replace('["tester/ada"]', f'["tester/ada", "--port", "{port}"]'))
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    options = {"cwd": app.parent, "env": environment}
    found = [sys.executable, "-c", "import hf_mingpt; print(hf_mingpt.__file__)"]
    assert subprocess.check_output(found, text=True, **options).startswith(str(app.parent))
    page = subprocess.Popen([sys.executable, "app.py"], stdout=subprocess.DEVNULL, **options)
    try:
        for _ in range(240):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/")
                break
            assert page.poll() is None
            time.sleep(0.5)
        answer, *_ = gradio_client.Client(f"http://127.0.0.1:{port}/", verbose=False).predict(
            "Ada", api_name="/respond"
        )
    finally:
        page.terminate()
        page.wait()
    assert "likely to be correct" in answer
    assert "<td>London</td>" in answer or "<td>Bonn</td>" in answer
