"""The tools of the ecosystem, each tried for real. Those marked `tools` need packages of the extra `tools`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    GenerationConfig,
    StaticCache,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.integrations.executorch import convert_and_export_with_cache

from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json
from hf_mingpt.tokenization_mingpt import build_tokenizer

from ..conftest import ROOT, TEXT, VARIANTS, small_model
from ..processes import run_ranks

SCRIPTS = Path(__file__).parents[2] / "scripts"
tools = pytest.mark.tools
PROMPT = "Where was Ada Byron born?"


@pytest.fixture
def model(variant, tokenizer):
    return small_model(variant, vocab_size=len(tokenizer))


@pytest.fixture
def ids(tokenizer):
    return tokenizer([PROMPT, "Ada Byron was born in Lon"], return_tensors="pt").input_ids


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def assert_same(logits: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5):
    torch.testing.assert_close(logits, expected, rtol=0, atol=atol)


def test_pipelines(folder):
    write = pipeline("text-generation", model=str(folder))
    (written,) = write(PROMPT, max_new_tokens=5, do_sample=False)
    assert written["generated_text"].startswith(PROMPT)
    assert len(write([PROMPT, "Zoë"], max_new_tokens=5, batch_size=2)) == 2
    (features,) = pipeline("feature-extraction", model=str(folder))(PROMPT)
    assert torch.tensor(features).shape == (len(PROMPT), 32)


def test_trainer_learns_what_our_loop_learns(variant, tokenizer, tmp_path):
    """One epoch of Trainer and of our loop: the same losses and the same weights."""
    from datasets import Dataset

    from hf_mingpt.data.batching import BatchShape
    from hf_mingpt.data.objectives import NextTokenPrediction
    from hf_mingpt.data.steps import TrainingSteps
    from hf_mingpt.training.loop import train
    from hf_mingpt.training.recipes import PretrainRecipe
    from hf_mingpt.training.setup import build_accelerator

    texts = [TEXT[start : start + 8 + start % 30] for start in range(16)]
    dataset = Dataset.from_dict({"input_ids": tokenizer(texts).input_ids})
    recipe = PretrainRecipe(
        train_file="-",
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        shuffle=False,
        logging_steps=1,
        weight_decay=0.0,
        mixed_precision="no",
        attn_implementation="sdpa",
        use_cpu=True,
        dropout=0.0,
    )
    ours = small_model(variant, vocab_size=len(tokenizer)).train()
    ours = train(ours, TrainingSteps(dataset, NextTokenPrediction(), BatchShape(2, 2), seed=0, shuffle=False), recipe,
                 build_accelerator(recipe))  # fmt: skip
    our_losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]

    theirs = small_model(variant, vocab_size=len(tokenizer)).train()
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        warmup_steps=recipe.warmup_steps,
        adam_beta2=recipe.adam_beta2,
        logging_steps=1,
        train_sampling_strategy="sequential",
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = dataset.map(lambda row: {"labels": row["input_ids"]})
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    tokenizer.padding_side = "right"
    trainer = Trainer(model=theirs, args=arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    tokenizer.padding_side = "left"
    their_losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(our_losses) == 4
    assert their_losses == pytest.approx(our_losses, rel=1e-4)
    for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("k_proj.bias"):
            continue  # shifts all scores of a query alike: its gradient is rounding noise, which Adam blows up
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-4, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_compiles_without_a_graph_break(model, ids):
    expected = model(ids).logits
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_same(compiled(ids).logits, expected)
    model.train()
    loss = compiled(ids, labels=ids).loss
    loss.backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_exports(model, ids):
    length = torch.export.Dim("length", min=2, max=48)
    program = torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False}, dynamic_shapes={"input_ids": {1: length}, "use_cache": None}
    )
    for shorter in (ids, ids[:, :9]):
        assert_same(program.module()(input_ids=shorter, use_cache=False).logits, model(shorter).logits)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_exports_decoding_with_a_static_cache(model, ids):
    model.generation_config = GenerationConfig(
        use_cache=True, cache_implementation="static", cache_config={"batch_size": 1, "max_cache_len": 40}
    )
    step = convert_and_export_with_cache(model).module()
    for position in range(ids.shape[1]):
        logits = step(input_ids=ids[:1, position : position + 1], cache_position=torch.tensor([position]))
    assert_same(logits[:, -1], model(ids[:1]).logits[:, -1])


def test_loads_on_every_road(model, ids, tmp_path):
    """Sharded, by device_map, in another dtype, and through the meta device, where buffers must be made anew."""
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    expected = model(ids).logits
    for options in ({}, {"device_map": "auto"}, {"dtype": "auto"}, {"low_cpu_mem_usage": True}):
        assert_same(AutoModelForCausalLM.from_pretrained(tmp_path, **options)(ids).logits, expected)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(ids).logits.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.to_empty(device="cpu")
    empty.init_weights()
    assert torch.isfinite(empty(ids).logits).all()


def test_new_characters_resize_the_embeddings(model, tokenizer, ids, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    larger = AutoTokenizer.from_pretrained(tmp_path)
    assert larger.add_tokens(["Ж", "ß"]) == 2
    expected = model(ids).logits.detach()
    model.resize_token_embeddings(len(larger))
    logits = model(ids).logits
    assert logits.shape[-1] == len(larger) == model.config.vocab_size
    assert_same(logits[..., :-2], expected)
    new = larger("Жaß", return_tensors="pt").input_ids
    assert new.shape == (1, 3)
    assert larger.decode(new[0]) == "Жaß"
    model(new, labels=new).loss.backward()


def test_other_ways_to_generate(model, ids):
    greedy = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assistant = small_model("learned", vocab_size=model.config.vocab_size, num_hidden_layers=1)
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assisted = model.generate(ids[:1], assistant_model=assistant, **options)
    assert assisted.tolist() == greedy[:1].tolist()
    looked_up = model.generate(ids[:1], prompt_lookup_num_tokens=2, **options)
    assert looked_up.tolist() == greedy[:1].tolist()
    for cache in ("dynamic", "static"):
        assert model.generate(ids, cache_implementation=cache, **options).tolist() == greedy.tolist(), cache
    chunked = model.generate(ids, prefill_chunk_size=4, **options)
    assert chunked.tolist() == greedy.tolist()
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, **options)
    assert beams.shape == (4, ids.shape[1] + 8)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_compiled_decoding_with_a_static_cache(model, ids):
    torch._dynamo.reset()
    step = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    cache = StaticCache(config=model.config, max_cache_len=40)
    prompt, length = ids[:, :-4], ids.shape[1] - 4
    model(prompt, cache=cache, use_cache=True)
    for position in range(length, ids.shape[1]):
        token, position_ids = ids[:, position : position + 1], torch.full((1, 1), position)
        logits = step(token, position_ids=position_ids, cache=cache, use_cache=True).logits
        assert_same(logits[:, -1], model(ids[:, : position + 1]).logits[:, -1])


@tools
@torch.no_grad()
def test_flex_attention(model, ids):
    if shutil.which("g++") is None:
        pytest.skip("flex attention on a CPU needs a C++ compiler")
    expected = model(ids).logits
    model.set_attn_implementation("flex_attention")
    assert_same(model(ids).logits, expected)


def test_generate_batch(variant, model, ids):
    """Continuous batching with a paged cache."""
    if variant == "synthesizer":
        pytest.skip("refused: test_modeling.py")
    options = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [ids[0].tolist(), ids[1, :7].tolist()]
    done = model.generate_batch(
        prompts, generation_config=options, continuous_batching_config=ContinuousBatchingConfig(num_blocks=16)
    )
    for prompt, output in zip(prompts, done.values(), strict=True):
        alone = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None)
        assert output.generated_tokens == alone[0, len(prompt) :].tolist()


@tools
def test_quantized_cache(model, ids):
    pytest.importorskip("hqq")
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    int8 = {"backend": "hqq", "nbits": 8, "axis_key": 1, "axis_value": 1, "q_group_size": 8, "residual_length": 4}
    written = model.generate(ids, cache_implementation="quantized", cache_config=int8, **options)
    assert (written == model.generate(ids, **options)).float().mean() > 0.9


@tools
def test_peft_lora(model, ids, tmp_path):
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=2e-2)
    losses = []
    for _ in range(20):
        loss = wrapped(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    wrapped.save_pretrained(tmp_path)
    expected = wrapped.eval()(input_ids=ids).logits
    assert_same(wrapped.merge_and_unload()(ids).logits, expected, atol=1e-4)


ZERO = """
import os, sys
import deepspeed
import torch
import torch.distributed as dist
from tests.conftest import VARIANTS, small_model

deepspeed.init_distributed(dist_backend="gloo")
config = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2, "gradient_clipping": 1.0}
config |= {"zero_optimization": {"stage": int(sys.argv[1])}, "zero_allow_untested_optimizer": True}
ids = torch.randint(2, 37, (4, 2, 8, 24), generator=torch.Generator().manual_seed(0))  # steps and micro-batches
for variant in VARIANTS:
    whole, sharded = small_model(variant).train(), small_model(variant).train()
    optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(
        model=sharded, optimizer=torch.optim.AdamW(sharded.parameters(), lr=1e-3), config=config
    )
    for step in ids:
        for micro_batch in step:
            expected = whole(input_ids=micro_batch, labels=micro_batch).loss
            (expected / 2).backward()
            mine = micro_batch[4 * dist.get_rank() :][:4]
            loss = engine(input_ids=mine, labels=mine).loss
            engine.backward(loss)
            engine.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            torch.testing.assert_close(mean / 2, expected.detach(), rtol=1e-4, atol=0)
        norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(float(engine.get_global_grad_norm()) / norm - 1) < 1e-4
if not dist.get_rank():
    print("sharded", *VARIANTS, flush=True)
dist.barrier()
os._exit(0)  # gloo's threads still release tensors, which would abort an interpreter that is being finalized
"""


@tools
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_shards_the_model(tmp_path, stage):
    """ZeRO on two processes has the losses and gradient norms of one process."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    (tmp_path / "code.py").write_text(ZERO)
    done = run_ranks(2, tmp_path / "code.py", stage, env={**os.environ, "DS_ACCELERATOR": "cpu"}, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"sharded {' '.join(VARIANTS)}" in done.stdout


@tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_inductor(model, ids):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    torch._dynamo.reset()
    assert_same(torch.compile(model, fullgraph=True)(ids).logits, model(ids).logits)


@tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_onnx(model, ids, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    length = torch.export.Dim("length", min=2, max=48)
    model.config.use_cache = False
    torch.onnx.export(
        model, (), tmp_path / "model.onnx", kwargs={"input_ids": ids}, dynamic_shapes={"input_ids": {1: length}},
        input_names=["input_ids"], output_names=["logits"], dynamo=True, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shorter in (ids, ids[:, :9]):
        (logits,) = session.run(["logits"], {"input_ids": shorter.numpy()})
        assert_same(torch.from_numpy(logits), model(shorter).logits)


@tools
@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_int8(model, ids):
    quantization = pytest.importorskip("torchao.quantization")
    expected = model(ids).logits
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())
    logits = model(ids).logits
    assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()


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
