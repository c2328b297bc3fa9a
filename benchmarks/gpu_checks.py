"""Compares a GPU with the CPU: the section `correctness` of gpu.py.

Each check is a function that returns what it has measured, and raises an AssertionError if the GPU is wrong.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.multiprocessing
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_mingpt import MinGPTConfig, MinGPTForCausalLM
from hf_mingpt.data.batching import BatchShape, make_micro_batches
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.tokenization_mingpt import PAD_ID
from hf_mingpt.training import stepping
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import PretrainRecipe

SCRIPTS = Path(__file__).parent.parent / "scripts"
VARIANTS = {
    "learned": {},
    "rope": {"position_embedding_type": "rope"},
    "synthesizer": {"attention_type": "synthesizer"},
}
FLOAT32, HALF = 1e-4, 3e-2  # limits of the relative errors of losses and gradients


class Skipped(Exception):
    """A check that this machine cannot run, with the reason."""


@dataclass(frozen=True)
class Place:
    """The device on which the checks run, and a folder for their files."""

    device: torch.device
    small: bool
    folder: Path

    def need_gpu(self) -> None:
        if self.device.type != "cuda":
            raise Skipped("needs a GPU")


def build_model(variant: str = "rope", *, dropout: float = 0.0, small: bool = False, **changes) -> MinGPTForCausalLM:
    """The assignment's model, with initial weights large enough for errors in attention to show."""
    torch.manual_seed(0)
    dropouts = dict.fromkeys(("embedding_dropout", "attention_dropout", "hidden_dropout"), dropout)
    size = {"hidden_size": 64, "num_hidden_layers": 2} if small else {}
    return MinGPTForCausalLM(MinGPTConfig(**dropouts, initializer_range=0.06, **size, **VARIANTS[variant], **changes))


def examples(number: int = 128) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, 64, number)
    return Dataset.from_dict({"input_ids": [rng.integers(2, 256, n).tolist() for n in lengths]})


def micro_batch(*, padding_free: bool = False) -> dict[str, torch.Tensor]:
    dataset = examples(32)
    sequences = TokenSequences.from_table(dataset.with_format("arrow")[:])
    shape = BatchShape(32, pad_to_multiple_of=8, padding_free=padding_free)
    return make_micro_batches(NextTokenPrediction()(sequences, 0, np.arange(len(dataset))), shape)[0]


def gradients(model, batch, device, *, attention: str, autocast: torch.dtype | None = None, scale: float = 1.0):
    """The loss, and all gradients in one vector, on the CPU."""
    model = copy.deepcopy(model).to(device).train()
    model.set_attn_implementation(attention)
    model.config.use_cache = False  # a cache cannot hold packed sequences
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        loss = model(**inputs).loss
    (loss.float() * scale).backward()
    vector = torch.cat([p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None])
    return loss.item(), vector / scale


def difference(a: tuple[float, torch.Tensor], b: tuple[float, torch.Tensor]) -> float:
    """The larger of the relative errors of the loss and the gradient of a, with respect to b."""
    return max(abs(a[0] - b[0]) / abs(b[0]), ((a[1] - b[1]).norm() / b[1].norm()).item())


def require(condition: bool, message: str) -> None:
    """Raises an AssertionError if the condition does not hold, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def at_most(error: float, limit: float) -> str:
    require(error <= limit, f"relative error {error:.1e}, over {limit:.0e}")
    return f"relative error {error:.1e}"


def losses_and_gradients(place: Place, variant: str, attention: str, dtype: torch.dtype | None) -> str:
    """Compares with float32 and eager attention on the CPU."""
    if attention == "flex_attention":
        place.need_gpu()  # on a CPU it has no backward pass
    model, batch = build_model(variant, small=place.small), micro_batch()
    expected = gradients(model, batch, torch.device("cpu"), attention="eager")
    scale = 1024.0 if dtype == torch.float16 else 1.0  # as a gradient scaler does
    ours = gradients(model, batch, place.device, attention=attention, autocast=dtype, scale=scale)
    return at_most(difference(ours, expected), HALF if dtype else FLOAT32)


def flash_kernel(place: Place) -> str:
    place.need_gpu()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return losses_and_gradients(place, "rope", "sdpa", torch.bfloat16)


def flash_package(place: Place) -> str:
    place.need_gpu()
    if find_spec("flash_attn") is None:
        raise Skipped("flash_attn is not installed")
    return losses_and_gradients(place, "rope", "flash_attention_2", torch.bfloat16)


def padding_free(place: Place, variant: str, attention: str) -> str:
    if attention == "flex_attention":
        place.need_gpu()
    model = build_model(variant, small=place.small)
    padded = gradients(model, micro_batch(), place.device, attention=attention)
    flat = gradients(model, micro_batch(padding_free=True), place.device, attention=attention)
    return at_most(difference(flat, padded), FLOAT32)


def compiled(place: Place) -> str:
    model, batch = build_model(small=place.small).to(place.device), micro_batch()
    plain = gradients(model, batch, place.device, attention="sdpa")
    model = copy.deepcopy(model).train()
    model.set_attn_implementation("sdpa")
    inputs = {name: tensor.to(place.device) for name, tensor in batch.items()}
    loss = torch.compile(model)(**inputs).loss
    loss.backward()
    vector = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return at_most(difference((loss.item(), vector), plain), FLOAT32)


def generated(place: Place, **options) -> torch.Tensor:
    model = build_model(small=place.small).to(place.device).eval()
    torch.manual_seed(1)
    prompts = torch.randint(2, 256, (8, 20)).to(place.device)
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=24,
        do_sample=False,
        pad_token_id=PAD_ID,
        eos_token_id=None,
        **options,
    ).cpu()


def generation(place: Place, **options) -> str:
    """Compares with plain generation on the CPU, in float32."""
    if options.get("cache_implementation") == "offloaded":
        place.need_gpu()
    expected = generated(Place(torch.device("cpu"), place.small, place.folder))
    same = (generated(place, **options) == expected).float().mean().item()
    require(same == 1.0, f"{same:.1%} of the tokens are the same")
    return "the same tokens"


def continuous_batching(place: Place) -> str:
    place.need_gpu()
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model = build_model(small=place.small).to(place.device).eval()
    torch.manual_seed(1)
    prompts = torch.randint(2, 256, (8, 20))
    settings = GenerationConfig(max_new_tokens=24, do_sample=False, pad_token_id=PAD_ID, eos_token_id=-1)
    done = model.generate_batch(
        inputs=prompts.tolist(),
        generation_config=settings,
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=256),
        progress_bar=False,
    )
    by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in done.values()}
    ours = torch.tensor([by_prompt[tuple(prompt)] for prompt in prompts.tolist()])
    expected = generated(Place(torch.device("cpu"), place.small, place.folder))[:, 20:]
    same = (ours == expected).float().mean().item()
    require(same == 1.0, f"{same:.1%} of the tokens are the same")
    return "the same tokens"


def int8_weights(place: Place) -> str:
    if find_spec("torchao") is None:
        raise Skipped("torchao is not installed")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = build_model(small=place.small).to(place.device).eval()
    ids = micro_batch()["input_ids"].to(place.device)
    with torch.inference_mode():
        expected = model(ids).logits
        quantize_(model, Int8WeightOnlyConfig())
        error = ((model(ids).logits - expected).norm() / expected.norm()).item()
    return at_most(error, 5e-2)


# ---- training: the package's own loop, on this device


def trained(
    place: Place,
    folder: str,
    *,
    model=None,
    precision: str = "no",
    graphs: bool = True,
    evaluate=None,
    pad_to_multiple_of: int = 8,
    **changes,
):
    """Trains a model for some steps; returns it, and its losses by step."""
    path = place.folder / folder
    path.mkdir(parents=True, exist_ok=True)
    dropout = changes.pop("dropout", 0.0)
    values = {"train_file": "-", "output_dir": str(path), "max_steps": 12, "logging_steps": 1, "learning_rate": 1e-3}
    recipe = PretrainRecipe(
        **{**values, "optim": "muon", "dropout": dropout, "use_cpu": place.device.type == "cpu", **changes}
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=place.device.type == "cpu", mixed_precision=precision)
    model = model or build_model(dropout=dropout, small=place.small)
    steps = TrainingSteps(
        examples(), NextTokenPrediction(), BatchShape(16, 2, pad_to_multiple_of=pad_to_multiple_of), seed=0
    )
    with mock.patch.object(stepping, "can_record", stepping.can_record if graphs else lambda *_: False):
        model = train(model, steps, recipe, accelerator, evaluate)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return model.cpu(), {line["step"]: line["loss"] for line in lines if "loss" in line}


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def training_losses(place: Place, precision: str) -> str:
    """Compares the losses of twelve steps with Muon with those of the CPU in float32."""
    if precision == "fp16":
        place.need_gpu()
    _, expected = trained(Place(torch.device("cpu"), place.small, place.folder), f"cpu-{precision}")
    _, ours = trained(place, f"device-{precision}", precision=precision)
    error = max(abs(ours[step] - expected[step]) / expected[step] for step in expected)
    return at_most(error, 2e-3 if precision == "no" else 3e-2)


def recorded_steps(place: Place, *, compiled: bool) -> str:
    """Compares CUDA graphs with the same steps kernel by kernel, with dropout.

    Compiled, all batches have one shape: torch.compile takes some ten seconds for each.
    """
    place.need_gpu()
    options = {"dropout": 0.1, "precision": "bf16", "max_steps": 30, "torch_compile": compiled}
    options["pad_to_multiple_of"] = 64 if compiled else 8
    plain, losses = trained(place, f"kernels-{compiled}", graphs=False, **options)
    graphed, recorded = trained(place, f"graphs-{compiled}", **options)
    error = max(abs(recorded[step] - losses[step]) / losses[step] for step in losses)
    return f"{'the same bits' if same_weights(plain, graphed) else 'other bits'}, {at_most(error, 1e-3)}"


def resumed(place: Place, *, graphs: bool) -> str:
    """Compares a resumed run with an uninterrupted one, bit for bit."""
    name = f"resume-{graphs}"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        options = {"dropout": 0.1, "precision": "bf16", "graphs": graphs, "save_steps": 6, "save_total_limit": 5}
        whole, _ = trained(place, name, **options)
        checkpoint = next(p for p in sorted((place.folder / name).rglob("state.json")) if "6" in p.parent.name).parent
        cut, _ = trained(place, f"{name}-on", resume_from_checkpoint=str(checkpoint), **options)
    finally:
        torch.use_deterministic_algorithms(False)
    require(same_weights(whole, cut), "the weights differ")
    return "the same bits"


def evaluated(place: Place, *, graphs: bool, precision: str) -> str:
    """Compares a run that is evaluated, by a loss and by generated tokens, with one that is not, bit for bit."""
    place.need_gpu()
    prompt = torch.arange(2, 12, device=place.device)[None]

    def evaluate(model) -> tuple[dict[str, float], list[dict[str, str]]]:
        with torch.inference_mode(), torch.autocast(place.device.type, torch.bfloat16):
            model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=True)
            return {"eval_loss": model(input_ids=prompt, labels=prompt).loss.item()}, []

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        options = {"dropout": 0.1, "precision": precision, "graphs": graphs, "logging_steps": 4}
        name = f"evaluated-{graphs}-{precision}"
        plain, _ = trained(place, name, **options)
        held_out = {"validation_ratio": 0.5, "eval_steps": 3}
        other, _ = trained(place, f"{name}-too", evaluate=evaluate, **held_out, **options)
    finally:
        torch.use_deterministic_algorithms(False)
    require(same_weights(plain, other), "the weights differ")
    return "the same bits"


def no_waiting(place: Place) -> str:
    """Checks that the host does not wait for the GPU between two lines of the log."""
    place.need_gpu()
    for graphs in (True, False):
        step = 0

        def watched(stepper, original=stepping.Stepper.update if not graphs else stepping.GraphedStepper.update):
            nonlocal step
            original(stepper)
            step += 1
            torch.cuda.set_sync_debug_mode("error" if 8 <= step < 39 else "default")

        kind = stepping.GraphedStepper if graphs else stepping.Stepper
        options = {"max_steps": 40, "logging_steps": 40, "dropout": 0.1, "precision": "bf16"}
        try:
            with mock.patch.object(kind, "update", watched):
                trained(place, f"waiting-{graphs}", graphs=graphs, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "31 steps, with and without CUDA graphs"


def launched(place: Place, kind: str, *launch: str) -> str:
    """Compares scripts/pretrain.py in one process over NCCL with a plain start."""
    place.need_gpu()
    text = place.folder / "text.txt"
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefgh "), n)).strip() or "a" for n in rng.integers(8, 60, 64)]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["--train_file", str(text), "--max_steps", "6", "--logging_steps", "1", "--optim", "adamw"]
    flags += ["--mixed_precision", "no", "--overwrite_output_dir", "true"]
    environment = {**os.environ, "PYTHONPATH": f"{SCRIPTS.parent}:{os.environ.get('PYTHONPATH', '')}"}
    losses = {}
    for name, start in (("plain", []), (kind, list(launch))):
        command = [sys.executable, *start]
        folder = place.folder / f"launched-{name}"
        command += [str(SCRIPTS / "pretrain.py"), *flags, "--output_dir", str(folder)]
        if not (name == "plain" and (folder / "metrics.jsonl").exists()):
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", env=environment, check=False, timeout=120
            )
            require(done.returncode == 0, done.stderr[-600:])
        losses[name] = [
            json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    error = max(abs(a - b) / b for a, b in zip(losses[kind], losses["plain"], strict=True))
    return at_most(error, 1e-4)


def _one_of_two(rank: int, folder: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    values = {"train_file": "-", "output_dir": folder, "max_steps": 6, "logging_steps": 1, "dropout": 0.0}
    recipe = PretrainRecipe(**values)
    accelerator = Accelerator(mixed_precision="no")
    shape = BatchShape(16, 1, accelerator.num_processes, accelerator.process_index, pad_to_multiple_of=8)
    train(build_model(), TrainingSteps(examples(), NextTokenPrediction(), shape, seed=0), recipe, accelerator)
    accelerator.end_training()


def two_processes(place: Place) -> str:
    """Compares two processes over gloo that share the GPU with one process and the same examples per step."""
    place.need_gpu()
    _, expected = trained(place, "one-process", optim="adamw", max_steps=6, learning_rate=6e-4)
    folder = place.folder / "two-processes"
    folder.mkdir()
    torch.multiprocessing.spawn(_one_of_two, (str(folder), 29517), nprocs=2)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    error = max(abs(line["loss"] - expected[line["step"]]) / expected[line["step"]] for line in lines)
    return at_most(error, 1e-4)


def all_checks() -> dict[str, Callable[[Place], str]]:
    """Every check by its name."""
    checks: dict[str, Callable[[Place], str]] = {}
    for variant in VARIANTS:
        for attention in ("eager", "sdpa", "flex_attention"):
            for dtype in (None, torch.bfloat16):
                name = f"loss and gradients, {variant}, {attention}, {'bf16' if dtype else 'float32'}"
                checks[name] = lambda p, v=variant, a=attention, d=dtype: losses_and_gradients(p, v, a, d)
    checks["loss and gradients, rope, sdpa, fp16"] = lambda p: losses_and_gradients(p, "rope", "sdpa", torch.float16)
    checks["flash kernel of sdpa, bf16"] = flash_kernel
    checks["flash_attn, bf16"] = flash_package
    for variant, attention in (("learned", "eager"), ("rope", "sdpa"), ("rope", "flex_attention")):
        checks[f"padding-free batches, {variant}, {attention}"] = lambda p, v=variant, a=attention: padding_free(
            p, v, a
        )
    checks["torch.compile"] = compiled
    checks["generation"] = generation
    checks["generation, compiled static cache"] = lambda p: generation(p, cache_implementation="static")
    checks["generation, offloaded cache"] = lambda p: generation(p, cache_implementation="offloaded")
    checks["generate_batch"] = continuous_batching
    checks["torchao int8 weights"] = int8_weights
    for precision in ("no", "bf16", "fp16"):
        checks[f"training losses, {'float32' if precision == 'no' else precision}"] = lambda p, precision=precision: (
            training_losses(p, precision)
        )
    checks["CUDA graphs"] = lambda p: recorded_steps(p, compiled=False)
    checks["CUDA graphs, torch.compile"] = lambda p: recorded_steps(p, compiled=True)
    checks["bit-exact resuming, CUDA graphs"] = lambda p: resumed(p, graphs=True)
    checks["bit-exact resuming, eager"] = lambda p: resumed(p, graphs=False)
    for name, graphs, precision in (("CUDA graphs", True, "bf16"), ("eager", False, "bf16"), ("fp16", False, "fp16")):
        checks[f"evaluation while training, {name}"] = lambda p, g=graphs, d=precision: evaluated(
            p, graphs=g, precision=d
        )
    checks["no synchronization between log lines"] = no_waiting
    checks["DDP over NCCL, one process"] = lambda p: launched(
        p, "ddp", "-m", "torch.distributed.run", "--nproc_per_node", "1", "--master_port", "29518"
    )
    sharding = ("--config_file", str(SCRIPTS / "accelerate" / "fsdp2.yaml"), "--mixed_precision", "no")
    checks["FSDP2 over NCCL, one process"] = lambda p: launched(
        p, "fsdp2", "-m", "accelerate.commands.launch", *sharding, "--num_processes", "1"
    )
    checks["two gloo processes on one GPU"] = two_processes
    return checks
