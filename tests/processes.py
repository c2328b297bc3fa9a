"""Python processes of their own for tests, without the seconds that a new interpreter takes to import torch.

A process is a fork: of the test's own process, with all that it has imported; or, if it must be `clean`, of a server
that has imported torch and the like, but nothing that reads the environment at import (transformers, huggingface_hub,
datasets, this package).
"""

import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from unittest import mock

_FORK, _SERVER = multiprocessing.get_context("fork"), multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("numpy", "pandas", "psutil", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model", "torch", "yaml"),
        *("torch._dynamo", "torch.distributed.checkpoint", "torch.distributed.tensor"),  # which transformers imports
    ]
)
_PATH = list(sys.path)  # without what libraries add to it later


class Python:
    """A process that does what `python ARGUMENTS` does. It leads a process group of its own.

    It is a `multiprocessing.Process` with the methods of `subprocess.Popen` that tests call.

    Args:
        arguments: `-c CODE`, `-m MODULE` or a script, and its arguments.
        env: its whole environment; None: this process's.
        cwd: its working directory; None: this process's.
        input: what it reads from its standard input.
    """

    def __init__(self, *arguments: object, env: Mapping[str, str] | None = None, cwd=None, input: str = ""):
        super().__init__()
        self.arguments = [str(argument) for argument in arguments]
        self.environment, self.cwd = dict(os.environ if env is None else env), os.fspath(cwd or Path())
        self.folder, self.path = tempfile.mkdtemp(prefix="python-"), _PATH
        Path(self.folder, "in").write_text(input, encoding="utf-8")

    def run(self) -> None:
        os.setsid()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        sys.path[:] = self.path
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number, name in enumerate(("in", "out", "err")):
            os.dup2(os.open(Path(self.folder, name), os.O_RDWR | os.O_CREAT), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
        code = _run(self.arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Waits for its end, and returns what it has written to its standard output and error."""
        self.join()
        out, err = (Path(self.folder, name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        shutil.rmtree(self.folder)
        return out, err


class _Fork(Python, _FORK.Process):
    pass


class _Clean(Python, _SERVER.Process):
    pass


def _run(arguments: list[str]) -> int:
    kind, *rest = arguments
    try:
        if kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(kind))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start_python(*arguments: object, clean: bool = False, **options) -> Python:
    """Starts a process; arguments and options as of `Python`."""
    process = (_Clean if clean else _Fork)(*arguments, **options)
    process.start()
    return process


def run_python(*arguments: object, clean: bool = False, **options) -> subprocess.CompletedProcess:
    """Runs a process to its end; arguments and options as of `Python`."""
    process = start_python(*arguments, clean=clean, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.arguments, process.exitcode, out, err)


def start_ranks(number: int, *arguments: object, **options) -> list[Python]:
    """Starts the processes of one distributed job, with the environment that torchrun would give each of them.

    A process that waits a minute for another one fails: one of them skips a collective operation.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    job = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = dict(options.pop("env", None) or os.environ) | {name: str(value) for name, value in job.items()}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number))
    with mock.patch("torch.distributed.distributed_c10d.default_pg_timeout", timedelta(minutes=1)):
        return [start_python(*arguments, env=environment | rank, **options) for rank in ranks]


def run_ranks(number: int, *arguments: object, **options) -> subprocess.CompletedProcess:
    """Runs the processes of one distributed job to their ends: what they write, and the first code that is not 0."""
    ranks = start_ranks(number, *arguments, **options)
    outs, errors = zip(*(rank.communicate() for rank in ranks), strict=True)
    code = next((rank.exitcode for rank in ranks if rank.exitcode), 0)
    return subprocess.CompletedProcess(ranks[0].arguments, code, "".join(outs), "".join(errors))
