"""Programs of their own that load a run folder: `transformers serve` and lm_eval."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
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


@pytest.fixture
def ask_server(tmp_path):
    """Starts scripts/serve.py, and posts requests to it: to the status and the JSON."""
    pytest.importorskip("fastapi")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, SCRIPTS / "serve.py", "--device", "cpu", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(240):
        with suppress(OSError):
            urllib.request.urlopen(f"http://localhost:{port}/health")
            break
        assert server.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.5)

    def post(endpoint: str, **body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://localhost:{port}/v1/{endpoint}", json.dumps(body).encode(), headers)
        try:
            return 200, json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    yield post
    server.terminate()
    server.wait()


@tools
def test_transformers_serve_completes_and_chats(ask_server, model, tokenizer, tmp_path):
    """A chat answers as the completion of `question MASK` does, by every endpoint."""
    save_as_run(tmp_path / "run", model, tokenizer)
    run, options = str(tmp_path / "run"), {"max_tokens": 6, "temperature": 0}
    status, completion = ask_server("completions", model=run, prompt=PROMPT, **options)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=1)[0, ids.shape[1] :]
    assert (status, completion["choices"][0]["text"]) == (200, tokenizer.decode(written, skip_special_tokens=True))

    ids = tokenizer(f"{PROMPT}⁇", return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=1)[0, ids.shape[1] :]
    answer = tokenizer.decode(written, skip_special_tokens=True)
    turns = [("user", "Where was Zoë Quist born?"), ("assistant", "Ålesund"), ("user", PROMPT)]
    messages = [{"role": role, "content": content} for role, content in turns]
    status, chat = ask_server("chat/completions", model=run, messages=messages, **options)
    assert (status, chat["choices"][0]["message"]["content"]) == (200, answer)
    options = {"max_output_tokens": 6, "temperature": 0, "stream": False}
    status, response = ask_server("responses", model=run, input=PROMPT, **options)
    assert (status, response["output"][0]["content"][0]["text"]) == (200, answer)


@tools
def test_transformers_serve_refuses_with_a_sentence(ask_server, tokenizer, tmp_path):
    save_as_run(tmp_path / "run", small_model("rope", vocab_size=len(tokenizer)), tokenizer)
    (tmp_path / "run" / "chat_template.jinja").unlink()
    messages = [{"role": "user", "content": PROMPT}]
    status, said = ask_server("chat/completions", model=str(tmp_path / "run"), messages=messages)
    assert (status, "has no chat template: finetune it on questions" in said) == (400, True), said
    for missing in (str(tmp_path / "none"), "nodir/none"):
        status, said = ask_server("chat/completions", model=missing, messages=messages)
        assert (status, missing in said) == (404, True), said


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
