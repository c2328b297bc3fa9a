"""A gigabyte of text in flat memory: `make test-large`."""

import os
from pathlib import Path

import pytest

from hf_mingpt.batching import BatchShape
from hf_mingpt.data import StreamedSteps, TrainingSteps, encode_documents, load_texts, step_loader
from hf_mingpt.objectives import SpanCorruption

from .conftest import TEXT

pytestmark = pytest.mark.large
SIZES = (10_000_000, 1_000_000_000)  # bytes


def anonymous_memory() -> int:
    """Bytes of this process that are not pages of a file, which the system drops as it likes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    lines = TEXT.encode() * 10_000
    for size in SIZES:
        with (folder / f"{size}.txt").open("wb") as file:
            for _ in range(size // len(lines)):
                file.write(lines)
    return folder


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's account of memory")
@pytest.mark.parametrize("streaming", [False, True])
def test_memory_does_not_grow_with_the_corpus(texts, tokenizer, streaming):
    grown = []
    for size in SIZES:
        before = anonymous_memory()
        dataset = encode_documents(load_texts(str(texts / f"{size}.txt"), streaming=streaming), tokenizer)
        shape = BatchShape(32, 4)
        objective = SpanCorruption(48, 0)
        steps = (
            StreamedSteps(dataset, objective, shape) if streaming else TrainingSteps(dataset, objective, shape, seed=0)
        )
        for _ in step_loader(steps, 2_000):
            pass
        grown.append(anonymous_memory() - before)
    small, large = grown
    assert large < small + 100_000_000
