"""Run folders: of a few steps, finished or killed, and one to push. A Hub on loopback, and a client of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.training import metrics_log

from ..conftest import small_model
from ..processes import run_python
from .hub_server import TOKEN, Hub, serve
from .runs import PEOPLE, Killed, script

RECORD = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    places = ("London", "Bonn", "Rome")
    rows = [(name, places[i % 3]) for i, name in enumerate(PEOPLE)]
    (folder / "corpus.txt").write_text("".join(f"{name}. {name} was born in {place}.\n" for name, place in rows) * 3)
    questions = [f"Where was {name} born?\t{place}\n" for name, place in rows]
    (folder / "train.tsv").write_text("".join(questions[:12]))
    (folder / "dev.tsv").write_text("".join(questions[12:]))
    return folder


@pytest.fixture(scope="module")
def flags(data):
    flags = ["--train_file", data / "corpus.txt", "--vocabulary_file", data / "dev.tsv", "--model_preset", "gpt-nano"]
    flags += ["--use_cpu", "--mixed_precision", "no", "--per_device_train_batch_size", 4, "--logging_steps", 1]
    return [*flags, "--gradient_accumulation_steps", 1, "--max_steps", 4, "--save_steps", 2]


@pytest.fixture
def pretrain(flags):
    return lambda folder, *more: script("pretrain.py", *flags, "--output_dir", folder, *more)


@pytest.fixture
def refused(capsys):
    """Runs something that must end with one sentence."""

    def run(said: str, function, *arguments, code: int = 2) -> None:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            function(*arguments)
        last = capsys.readouterr().err.splitlines()[-1]
        assert said in last
        assert stop.value.code == code, last

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory, data, flags):
    """A finished run, with an evaluation, a file of the user's, and seed 0."""
    folder = tmp_path_factory.mktemp("made") / "run"
    script("pretrain.py", *flags, "--output_dir", folder)
    questions = ["--questions_file", data / "dev.tsv", "--train_questions_file", data / "train.tsv"]
    script("evaluate_birthplaces.py", "--model_name_or_path", folder, *questions, "--use_cpu")
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def finished(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def pretrain_until(pretrain, monkeypatch):
    """Pretrains until it is killed in a step."""
    real = metrics_log.MetricsLog.end_step

    def run(step: int, folder: Path, *more) -> None:
        def end_step(self, number, learning_rate):
            if number == step:
                raise Killed
            real(self, number, learning_rate)

        with monkeypatch.context() as patch:
            patch.setattr(metrics_log.MetricsLog, "end_step", end_step)
            with pytest.raises(Killed):
                pretrain(folder, *more)

    return run


@pytest.fixture
def hub(tmp_path_factory):
    hub = Hub(tmp_path_factory.mktemp("store"))
    with serve(hub) as hub.address:
        yield hub


@pytest.fixture
def run_folder(tmp_path, tokenizer):
    folder = tmp_path / "ada"
    folder.mkdir()
    write_json(folder / "recipe.json", {"kind": "FinetuneRecipe", "model_name_or_path": "-", "questions_file": "t.tsv"})
    model = small_model("rope", vocab_size=len(tokenizer))
    save_run(folder, model, tokenizer, {**RECORD, "command": "finetune.py"}, stop_at_mask=True)
    for checkpoint in ("checkpoint-1", "checkpoints/step-00000001", "unfinished-checkpoint-2"):
        (folder / checkpoint).mkdir(parents=True)
        (folder / checkpoint / "training.pt").write_bytes(b"large")
    return folder


@pytest.fixture
def storage() -> str:
    return "lfs"


@pytest.fixture
def client(hub, tmp_path, storage):
    """Runs Python as a user of that Hub, with the user's token."""

    def run(*command, token: str | None = TOKEN) -> subprocess.CompletedProcess:
        env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
        env |= {"HF_HUB_DISABLE_XET": "0" if storage == "xet" else "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": token or ""}
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "false"}
        return run_python(*command, clean=True, env=env, cwd=tmp_path)

    return run
