"""Programs of their own that load a run folder: `transformers serve` and lm_eval."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
import torch

from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import build_tokenizer

from ..conftest import SCRIPTS, small_model
from .logits import PROMPT, tools


def save_as_run(folder, model, tokenizer):
    """As our scripts leave it, with the files of model code."""
    folder.mkdir()
    write_json(folder / "recipe.json", {"kind": "FinetuneRecipe", "model_name_or_path": "-", "questions_file": "t.tsv"})
    record = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}
    save_run(folder, model, tokenizer, {**record, "command": "-"}, stop_at_mask=True)


@tools
def test_transformers_serve_completes(folder, model, tokenizer):
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, SCRIPTS / "serve.py", folder, "--device", "cpu", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(120):
            with suppress(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/health")
                break
            assert server.poll() is None
            time.sleep(0.5)
        request = {"model": str(folder), "prompt": PROMPT, "max_tokens": 6, "temperature": 0}
        body = urllib.request.Request(
            f"http://localhost:{port}/v1/completions",
            json.dumps(request).encode(),
            {"Content-Type": "application/json"},
        )
        completion = json.load(urllib.request.urlopen(body))
    finally:
        server.terminate()
        server.wait()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
    assert completion["choices"][0]["text"] == tokenizer.decode(written, skip_special_tokens=True)


@tools
def test_lm_eval_finds_our_accuracy(tmp_path, tokenizer):
    """The harness asks the questions of our task file; the model knows three of four places by heart."""
    pytest.importorskip("lm_eval")
    places = {"Ada": "London", "Zoë": "Ålesund", "Byron": "Lund", "Quist": "Oslo"}
    tokenizer = build_tokenizer([*tokenizer.convert_ids_to_tokens(range(len(tokenizer))), "O"], 128)
    model = small_model("rope", vocab_size=len(tokenizer), max_position_embeddings=128).train()
    questions = [Question(f"Where was {name} born?", place) for name, place in places.items()]
    batch = tokenizer([f"{q}⁇{place}⁇" for q, place in questions], return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert answer_questions(model, tokenizer, questions) == list(places.values())

    save_as_run(tmp_path / "run", model, tokenizer)
    asked = [(q, place.replace("Oslo", "Turin")) for q, place in questions]
    (tmp_path / "q.tsv").write_text("".join(f"{q}\t{place}\n" for q, place in asked), encoding="utf-8")
    model_flags = ["--model", "hf", "--model_args", f"pretrained={tmp_path / 'run'},trust_remote_code=True"]
    task_flags = ["--include_path", str(SCRIPTS / "lm_eval"), "--tasks", "birthplaces", "--device", "cpu"]
    metadata = json.dumps({"questions_file": str(tmp_path / "q.tsv")})
    flags = [*model_flags, *task_flags, "--metadata", metadata, "--output_path", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-m", "lm_eval", "run", *flags], check=True, capture_output=True)
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(result.read_text())["results"]["birthplaces"]["exact_match,none"] == 0.75
