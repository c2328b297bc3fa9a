"""Python processes of their own for tests, without the seconds that each would take to import torch.

They are forked from a server that has imported torch and the like, but nothing that reads the environment when it is
imported (transformers, huggingface_hub, datasets, and this package).
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["numpy", "pandas", "psutil", "pyarrow.parquet", "scipy.stats", "sklearn.linear_model", "torch", "yaml"]
)


class Python(_CONTEXT.Process):
    """A process that does what `python ARGUMENTS` would do; `pid`, `exitcode` and `kill` are multiprocessing's.

    It leads a process group of its own.

    Args:
        arguments: `-c CODE`, `-m MODULE` or a script, and its arguments.
        env: its whole environment; None: this process's.
        cwd: its working directory; None: this process's.
        input: what it reads from its standard input.
    """

    def __init__(self, *arguments: object, env: Mapping[str, str] | None = None, cwd=None, input: str = ""):
        super().__init__()
        self.arguments, self.cwd, self.input = [str(argument) for argument in arguments], os.fspath(cwd or Path()), input
        self.environment = dict(os.environ if env is None else env)
        self.folder = tempfile.mkdtemp(prefix="python-")

    def run(self) -> None:
        os.setsid()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.cwd)
        Path(self.folder, "in").write_text(self.input, encoding="utf-8")
        for number, (name, mode) in enumerate((("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))):
            os.dup2(os.open(Path(self.folder, name), mode | os.O_CREAT), number)
        sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), *(open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        os._exit(_run(self.arguments))

    def communicate(self) -> tuple[str, str]:
        """Waits for its end, and returns what it has written."""
        self.join()
        out, err = (Path(self.folder, name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        return out, err


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
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def start_python(*arguments: object, **options) -> Python:
    """Starts a process; arguments as of `Python`."""
    process = Python(*arguments, **options)
    process.start()
    return process


def run_python(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Runs a process to its end; arguments as of `Python`."""
    process = start_python(*arguments, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.arguments, process.exitcode, out, err)
