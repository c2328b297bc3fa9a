"""Starts the processes of transformers' distributed tests: its `tests/distributed_testing_utils.py` is not published.

Processes are spawned, because a fork of a process with threads may hang. Each of them imports conftest.py.
"""

import functools
import importlib
import pickle
from collections.abc import Callable

import torch
import torch.distributed as dist


def _start_rank_processes(function: Callable, args: tuple, nprocs: int) -> None:
    torch.multiprocessing.spawn(_run_pickled, args=(pickle.dumps((function, args)),), nprocs=nprocs)


def _run_pickled(rank: int, pickled: bytes) -> None:
    importlib.import_module("conftest")
    function, args = pickle.loads(pickled)
    function(rank, *args)


def _run_rank(rank: int, function: Callable, args: tuple, kwargs: dict, world_size: int, port: int) -> None:
    store = dist.TCPStore("localhost", port, world_size=None, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        function(rank, *args, **kwargs)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int) -> Callable:
    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs) -> None:
            store = dist.TCPStore("localhost", 0, world_size=None, is_master=True, wait_for_workers=False)
            _start_rank_processes(_run_rank, (function, args, kwargs, world_size, store.port), world_size)

        return run

    return wrap


def _get_distributed_backend() -> str:
    return "gloo"


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None:
    pass
