"""Several processes beyond DDP, which test_scripts and test_checkpoints run: a rank that fails, and sharded weights."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def launch(tmp_path, code: str, *arguments, processes: int = 2) -> subprocess.CompletedProcess:
    """Runs some code in several processes over gloo."""
    (tmp_path / "code.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(part) for part in (*command, tmp_path / "code.py", *arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )


FAILS = """
import os, runpy, sys
from hf_mingpt import training
real, calls = training.count_tokens, []
def count_tokens(batch):
    calls.append(batch)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        raise RuntimeError("the second process has had enough")
    return real(batch)
training.count_tokens = count_tokens
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_rank_that_fails_ends_the_job_with_its_error(tmp_path):
    corpus = ROOT / "data/generated/biographies.txt"
    flags = ["--preset", "demo", "--train_file", corpus, "--output_dir", tmp_path / "run", "--use_cpu"]
    started = time.perf_counter()
    done = launch(tmp_path, FAILS, ROOT / "scripts/pretrain.py", *flags, "--max_steps", 1000)
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr
    assert time.perf_counter() - started < 100
    assert not (tmp_path / "run/model.safetensors").exists()


SHARDED = """
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
    print("sharded", dist.get_world_size())
dist.destroy_process_group()
"""


def test_sharded_weights_learn_what_whole_ones_learn(tmp_path):
    """By torch's own fully_shard: accelerate's FSDP2 falls back to DDP on a CPU."""
    done = launch(tmp_path, SHARDED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sharded 2"
