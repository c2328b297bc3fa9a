"""Several processes: a rank that fails, and sharded weights.

For DDP see test_killed_runs.py and scripts/test_several_processes.py.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from hf_mingpt.training.recipes import PretrainRecipe
from hf_mingpt.training.sharding import check_sharding

from ..conftest import ROOT
from ..processes import run_python, run_ranks


def launch(tmp_path, code: str, *arguments, processes: int = 2) -> subprocess.CompletedProcess:
    """Runs code in one process or in several over gloo."""
    (tmp_path / "code.py").write_text(code)
    command = (tmp_path / "code.py", *arguments)
    return run_ranks(processes, *command) if processes > 1 else run_python(*command)


FAILS = """
import os, runpy, sys
from hf_mingpt.training import loop
real, calls = loop.count_tokens, []
def count_tokens(*batch):
    calls.append(batch)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        raise RuntimeError("the second process has failed")
    return real(*batch)
loop.count_tokens = count_tokens
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_failing_rank_ends_all_ranks_with_its_error(tmp_path):
    corpus = ROOT / "data/generated/biographies.txt"
    flags = ["--preset", "demo", "--train_file", corpus, "--output_dir", tmp_path / "run", "--use_cpu"]
    (tmp_path / "code.py").write_text(FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2]
    command += [tmp_path / "code.py", ROOT / "scripts/pretrain.py", *flags, "--max_steps", 1000]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert "the second process has failed" in done.stderr
    lines = (
        (tmp_path / "run/metrics.jsonl").read_text().splitlines() if (tmp_path / "run/metrics.jsonl").exists() else []
    )
    assert len(lines) < 100  # one line per 10 of 1000 steps: the other process has not continued alone
    assert not (tmp_path / "run/model.safetensors").exists()


SHARDED = """
import os

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from tests.conftest import VARIANTS, small_model

dist.init_process_group("gloo")
ids = torch.randint(2, 37, (4, 24), generator=torch.Generator().manual_seed(0))
mine = ids[2 * dist.get_rank() :][:2]
for variant in VARIANTS:
    whole, sharded = small_model(variant), small_model(variant)
    expected = whole(input_ids=ids, labels=ids).loss
    expected.backward()
    for block in sharded.model.layers:
        fully_shard(block)
    fully_shard(sharded)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    loss = sharded(input_ids=mine, labels=mine).loss
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / dist.get_world_size(), expected.detach(), rtol=1e-5, atol=0)
    for (name, ours), theirs in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.full_tensor(), theirs.grad, rtol=1e-3, atol=1e-5, msg=name)
if not dist.get_rank():
    print("sharded", dist.get_world_size(), flush=True)
dist.barrier()
os._exit(0)  # gloo's threads still release tensors, which would abort an interpreter that is being finalized
"""


def test_sharded_weights_have_the_loss_and_gradients_of_whole_ones(tmp_path):
    """With torch's fully_shard, without accelerate."""
    done = launch(tmp_path, SHARDED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sharded 2"


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "NO"])
def test_unsupported_ways_of_sharding_are_refused(kind):
    accelerator = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=False)
    recipe = PretrainRecipe(train_file="t.txt", output_dir="out", optim="muon")
    if kind in ("DEEPSPEED", "FSDP"):
        with pytest.raises(ValueError, match=f"{kind} is not supported"):
            check_sharding(recipe, accelerator)
    else:
        check_sharding(recipe, accelerator)


@pytest.mark.parametrize(
    ("changes", "said"), [({"optim": "muon"}, "whole matrices"), ({"ema_decay": 0.9}, "ema_decay")]
)
def test_recipes_that_need_whole_weights_are_refused_with_fsdp(changes, said):
    accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP, is_fsdp2=True)
    check_sharding(PretrainRecipe(train_file="t.txt", output_dir="out"), accelerator)
    with pytest.raises(ValueError, match=said):
        check_sharding(PretrainRecipe(train_file="t.txt", output_dir="out", **changes), accelerator)


# accelerate shards on accelerators only: this makes it shard on CPUs, with the settings of the shipped YAML file
SHARDS = """
import os, runpy, sys, yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from hf_mingpt.training import checkpoints, loop, setup
real_accelerator, real_gather = setup.Accelerator, loop.gather_weights
def accelerator(**options):
    made = real_accelerator(**options)
    config = yaml.safe_load(open(os.environ["SHARDING"]))["fsdp_config"]
    config = {name.removeprefix("fsdp_"): value for name, value in config.items()}
    config["auto_wrap_policy"] = config["auto_wrap_policy"].lower()
    config["cpu_offload"] = config.pop("offload_params")
    plugin = FullyShardedDataParallelPlugin(**{"fsdp_version": config.pop("version"), **config})
    AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    assert made.is_fsdp2 and made.num_processes == 2
    return made
def gather_weights(model, whole):
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    assert {type(block).__name__ for block in model.base_model.layers} == {"FSDPMinGPTBlock"}
    groups = {block._get_fsdp_state()._fsdp_param_group for block in model.base_model.layers}
    keeps_whole = {group.post_forward_mesh_info is None for group in groups}
    assert keeps_whole == {"zero2" in os.environ["SHARDING"]}
    real_gather(model, whole)
setup.Accelerator, checkpoints.gather_weights, loop.gather_weights = accelerator, gather_weights, gather_weights
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
os._exit(0)  # as above
"""

WHOLE = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("file", ["fsdp2", "zero2"])
def test_a_sharded_run_equals_an_unsharded_one_and_its_checkpoints_resume_either_way(tmp_path, monkeypatch, file):
    monkeypatch.setenv("SHARDING", str(ROOT / f"scripts/accelerate/{file}.yaml"))
    corpus = ROOT / "data/generated/biographies.txt"
    script = [ROOT / "scripts/pretrain.py", "--preset", "demo", "--train_file", corpus, "--use_cpu"]
    script += ["--mixed_precision", "no", "--model_preset", "gpt-nano", "--optim", "adamw", "--logging_steps", 1]
    script += ["--gradient_accumulation_steps", 2, "--max_steps", 4, "--save_steps", 2]
    script += ["--validation_ratio", 0.1, "--eval_steps", 3, "--output_dir"]

    def run(name: str, *flags, sharded: bool) -> tuple[list[float], dict]:
        batch = ["--per_device_train_batch_size", 4 if sharded else 8]
        command = (*script, tmp_path / name, *batch, *flags)
        done = launch(tmp_path, SHARDS if sharded else WHOLE, *command, processes=2 if sharded else 1)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert done.stdout.count("Step 3: eval_loss") == 1  # the main process alone prints
        records = map(json.loads, lines)
        return [r.get("loss", r.get("eval_loss")) for r in records], load_file(tmp_path / name / "model.safetensors")

    losses, weights = run("whole", sharded=False)
    others, other_weights = run("sharded", sharded=True)
    assert others == pytest.approx(losses, rel=1e-5)
    assert len(losses) == 4 + 2  # with two evaluations
    for name, weight in weights.items():
        assert (weight - other_weights[name]).abs().max() < 1e-4, name
    first = tmp_path / "sharded/checkpoint-2"
    for name, sharded in (("sharded-again", True), ("whole-again", False)):
        flags = ("--resume_from_checkpoint", first, "--auto_find_batch_size")
        again, again_weights = run(name, *flags, sharded=sharded)
        assert again == pytest.approx(others[2:], rel=1e-5)
        assert all((again_weights[n] - w).abs().max() < 1e-4 for n, w in other_weights.items())

    refused = launch(tmp_path, SHARDS, *script, tmp_path / "muon", "--optim", "muon")
    assert refused.returncode != 0
    assert "give --optim adamw" in refused.stderr
