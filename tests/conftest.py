"""What the tests share: a small tokenizer and small models of every variant. Nothing here needs the network.

Functions import torch and what needs it: the process that starts the workers of pytest-xdist reads this file, too.
"""

from __future__ import annotations

import gc
import io
import os
import runpy
import subprocess
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of pytest-xdist

import pytest

import hf_mingpt  # noqa: F401 (registers the model)

if TYPE_CHECKING:
    from hf_mingpt.configuration_mingpt import MinGPTConfig
    from hf_mingpt.modeling_mingpt import MinGPTForCausalLM

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
VARIANTS = {
    "learned": {"attention_type": "dot_product", "position_embedding_type": "learned"},
    "rope": {"attention_type": "dot_product", "position_embedding_type": "rope"},
    "synthesizer": {"attention_type": "synthesizer", "position_embedding_type": "learned"},
}
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
TEXT = "Where was Ada Byron born? Ada Byron (10 December 1815) was born in London, and Zoë Quist in Ålesund.\n"
# The files that take longest, the longest first.
SLOW = (
    "pushing",
    "several_processes",
    "processes",
    "stopping",
    "killed_runs",
    "compilation",
    "notebooks",
    "run_folders",
)
SLOW += ("environment", "import", "spaces", "benchmarks", "saving", "loop", "resuming", "command_line", "answers")
LINES = [TEXT[:n].strip() for n in range(5, 69)]  # 64 documents of 4 to 68 characters


def small_config(variant: str, **changes) -> MinGPTConfig:
    from hf_mingpt.configuration_mingpt import MinGPTConfig

    shape = {"vocab_size": 37, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    values = {**shape, "max_position_embeddings": 48, **NO_DROPOUT, **VARIANTS[variant]}
    return MinGPTConfig(**{**values, **changes})


def small_model(variant: str, **changes) -> MinGPTForCausalLM:
    import torch

    from hf_mingpt.modeling_mingpt import MinGPTForCausalLM

    torch.manual_seed(0)
    # The usual 0.02 would leave attention nearly uniform, and a mistake in it without a trace in the output.
    return MinGPTForCausalLM(small_config(variant, initializer_range=0.3, **changes)).eval()


def run_script(name: str, *arguments) -> subprocess.CompletedProcess:
    """Runs a script in this process, as a user's command line would: a new one takes seconds to import torch."""
    from accelerate.state import AcceleratorState, GradientState

    command = [str(part) for part in (SCRIPTS / name, *arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.argv", command), mock.patch("sys.excepthook"), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def script_environment(**changes) -> dict[str, str]:
    """The environment of a script that is started in a process of its own, without a launcher's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


def rows_of(batches, name="input_ids"):
    from hf_mingpt.tokenization_mingpt import PAD_ID

    return sorted(tuple(i for i in row.tolist() if i not in (PAD_ID, -100)) for b in batches for row in b[name])


def pytest_collection_modifyitems(items):
    """Begins with the slow files, so that the workers of pytest-xdist end at about the same time."""
    place = {f"test_{name}.py": number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


def pytest_collection_finish():
    """Spares garbage collections what is imported: each one of accelerate's `release_memory` takes half a second."""
    gc.freeze()


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def tokenizer():
    from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary

    return build_tokenizer(build_vocabulary([[TEXT]]), 48)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return path


@pytest.fixture
def documents(text_file, tokenizer):
    from hf_mingpt.data.encoding import encode_documents
    from hf_mingpt.data.loading import load_texts

    return encode_documents(load_texts(str(text_file)), tokenizer)


@pytest.fixture(autouse=True)
def fresh_accelerate():
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def private_datasets_cache(tmp_path_factory, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
