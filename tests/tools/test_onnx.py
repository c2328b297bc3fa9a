"""A run as ONNX, in onnxruntime and in transformers.js: the tokens of `generate`, with the character tokenizer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ..conftest import ROOT, VARIANTS, run_script, small_model
from .logits import PROMPT, tools
from .test_serving import save_as_run

pytestmark = [tools, pytest.mark.filterwarnings("ignore")]
QUESTIONS = [f"{PROMPT}⁇", "Zoë x Å⁇"]  # x is not in the vocabulary
TRANSFORMERS_JS = "js/node_modules/@huggingface/transformers/dist/transformers.node.mjs"  # make test-tools installs it


@pytest.fixture(scope="module", params=VARIANTS)
def exported(request, tokenizer, tmp_path_factory):
    """The folder that convert_checkpoint.py writes, and the model."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("exported")
    model = small_model(request.param, vocab_size=len(tokenizer))
    save_as_run(folder / "run", model, tokenizer)
    flags = ("--checkpoint", folder / "run", "--to", "onnx", "--output_dir", folder / "onnx")
    done = run_script("convert_checkpoint.py", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "onnx", model


def expected_ids(model, tokenizer, questions: list[str]) -> list[list[int]]:
    batch = tokenizer(questions, return_tensors="pt", padding=True)
    return model.generate(**batch, max_new_tokens=12, do_sample=False, eos_token_id=1).tolist()


def until_mask(rows: list[list[int]], length: int) -> list[list[int]]:
    """Rows of a batch to the MASK that ends each answer: what follows it differs, padding or more tokens."""
    return [row[: row.index(1, length) + 1] if 1 in row[length:] else row for row in rows]


def test_onnxruntime_gives_the_answers_of_generate(exported, tokenizer):
    """Greedy decoding of a left-padded batch with the cache, and the logits of each step."""
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, model = exported
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    names = [item.name for item in session.get_inputs()]
    batch = tokenizer(QUESTIONS, return_tensors="np", padding=True)
    ids, mask = batch.input_ids, batch.attention_mask
    cache = [np.zeros((len(ids), 4, 0, 8), np.float32)] * (2 * model.config.num_hidden_layers)
    new, length = ids, ids.shape[1]
    for _ in range(12):
        positions = (mask.cumsum(1) - 1).clip(0)
        feed = (new, mask, positions[:, -new.shape[1] :], *cache)
        logits, *cache = session.run(None, dict(zip(names, feed, strict=True)))
        whole = (torch.from_numpy(array) for array in (ids, mask, positions))
        with torch.no_grad():
            alone = model(**dict(zip(("input_ids", "attention_mask", "position_ids"), whole, strict=True))).logits
        np.testing.assert_allclose(logits[:, -1], alone[:, -1], rtol=0, atol=1e-4)
        new = logits[:, -1:].argmax(-1)
        ids, mask = (np.concatenate(pair, axis=1) for pair in ((ids, new), (mask, np.ones_like(new))))
    expected = expected_ids(model, tokenizer, QUESTIONS)
    assert until_mask(ids.tolist(), length) == until_mask(expected, length)


def test_transformers_js_gives_the_answers_of_generate(exported, tokenizer):
    """Under Node, each question alone and both together."""
    folder, model = exported
    package = Path(sys.prefix) / TRANSFORMERS_JS
    if shutil.which("node") is None or not package.is_file():
        pytest.skip("needs node, and the npm package that `make test-tools` installs")
    command = ["node", ROOT / "tests" / "tools" / "transformers_js.mjs", package, folder, *QUESTIONS]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    for line, questions in zip(done.stdout.splitlines(), [QUESTIONS[:1], QUESTIONS[1:], QUESTIONS], strict=True):
        length = max(map(len, questions))
        assert until_mask(json.loads(line), length) == until_mask(expected_ids(model, tokenizer, questions), length)
