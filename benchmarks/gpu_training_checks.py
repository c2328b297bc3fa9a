"""Compares training on a GPU with the CPU: the loop, CUDA graphs, resuming, launchers (part of `correctness`).

A check is what it is in gpu_model_checks.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.multiprocessing
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from gpu_model_checks import Place, at_most, build_model, examples, require

from hf_mingpt.data.batching import BatchShape
from hf_mingpt.data.objectives import NextTokenPrediction
from hf_mingpt.data.steps import TrainingSteps
from hf_mingpt.training import stepping
from hf_mingpt.training.loop import train
from hf_mingpt.training.recipes import PretrainRecipe

SCRIPTS = Path(__file__).parent.parent / "scripts"


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


def training_checks() -> dict[str, Callable[[Place], str]]:
    """The checks by their names."""
    checks: dict[str, Callable[[Place], str]] = {}
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
