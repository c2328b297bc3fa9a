"""Writing: a file is whole or absent, and a folder has one writer.

Before everything in the flow.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: there, a second writer goes unnoticed
    fcntl = None  # type: ignore[assignment]

import logging
import tempfile
from functools import cache

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished-"  # how the name of a file or folder begins while it is written
_locked: set[int] = set()  # descriptors of the folders that this process writes into


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to. What is there takes the place of `path` at the end, or goes on an error.

    So a reader finds the old content or the new, after a crash, a full disk or a power cut too.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(UNFINISHED + path.name)
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    except OSError as error:
        why = explain(error, path.parent)
        aside.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {why}.") from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file aside, in UTF-8."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file for people to read."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def flush(path: Path) -> None:
    """Makes sure that a file, or the names in a folder, are on the disk: the machine may lose its power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: Exception, folder: Path) -> str:
    """Why a file could not be written. Of a full disk the libraries speak in words of their own, or not at all."""
    full = shutil.disk_usage(folder).free < 2**16
    return "No space left on device" if full else str(error).rstrip(".")


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Makes a folder, and keeps other processes from writing into it while the block runs.

    The folder itself is locked, so the lock goes with the process, however that ends. A file system that locks no
    folders (NFS) leaves a second writer unnoticed.

    Raises:
        OSError: if another process has it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(folder, shared=False)
    _locked.add(descriptor)
    try:
        yield
    finally:
        _locked.discard(descriptor)
        os.close(descriptor)


def check_no_writer(folder: str | Path) -> None:
    """Raises an OSError if another process writes into the folder by `one_writer`."""
    if Path(folder).is_dir():
        os.close(_lock(Path(folder), shared=True))


def _lock(folder: Path, *, shared: bool) -> int:
    descriptor = os.open(folder if fcntl else os.devnull, os.O_RDONLY)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"Another process is writing to {folder}: wait for it, or choose another folder.") from error
    except OSError:
        pass  # not there, see one_writer
    return descriptor


def _leave_locks_to_the_parent() -> None:
    """In a child process: a worker that outlives a killed parent for a moment must not keep the folder locked."""
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


if fcntl:
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@cache
def writable_cache(folder: Path) -> Path:
    """The folder, if files can be made in it; else a temporary one, which lasts as long as this process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning(f"The cache {folder} cannot be written ({error.strerror}): what is read is not kept.")
        return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hf_mingpt-")
