"""Writes files atomically and locks folders: a file is complete or absent, and a folder has one writer."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows folders are not locked
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished-"  # prefix of the name of a file or folder while it is written
_locked: set[int] = set()  # descriptors of the folders that this process has locked


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path to write to, which replaces `path` at the end, or is removed after an error.

    A reader finds either the old or the new content, even after a crash, a full disk or a power cut.

    Raises:
        OSError: If the file cannot be written.
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


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to write to, which replaces `folder` at the end, or is removed after an error.

    After a crash or a power cut, a folder of this name is complete or absent.

    Raises:
        OSError: If a file cannot be written.
    """
    aside = folder.with_name(UNFINISHED + folder.name)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for path in (*aside.iterdir(), aside):
            flush(path)
        remove_folder(folder)
        aside.rename(folder)
        flush(folder.parent)
    except Exception as error:  # safetensors, torch and Python each raise another for a full disk
        why = explain(error, folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
        raise OSError(f"{folder} could not be written: {why}.") from error


def remove_folder(folder: Path) -> None:
    """Removes a folder, if there is one, after renaming it, so that no incomplete folder has its name."""
    if folder.exists():
        gone = folder.with_name(f"{UNFINISHED}removal-of-{folder.name}")
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(folder.rename(gone))


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes an indented JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to disk, so that they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain(error: Exception, folder: Path) -> str:
    """The reason why a file could not be written. Libraries report a full disk in different ways, or not at all."""
    full = shutil.disk_usage(folder).free < 2**16
    return "No space left on device" if full else str(error).rstrip(".")


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Creates a folder and locks it against other writers while the block runs.

    The operating system releases the lock when the process ends, however it ends. A file system without locks on
    folders (NFS) does not notice a second writer.

    Raises:
        OSError: If another process has locked it.
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
    """Raises an OSError if another process has locked the folder with `one_writer`."""
    if Path(folder).is_dir():
        os.close(_lock(Path(folder), shared=True))


def check_output_folder(folder: Path, *, overwrite: bool) -> None:
    """Checks, before the work, that files can be written into a folder.

    Raises:
        ValueError: if it is a file, or has files that may not be overwritten.
        OSError: if another process writes into it.
    """
    if folder.is_file():
        raise ValueError(f"output_dir {folder} is a file: choose a folder.")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise ValueError(f"output_dir {folder} is not empty: choose another, or give --overwrite_output_dir.")
    check_no_writer(folder)


def _lock(folder: Path, *, shared: bool) -> int:
    descriptor = os.open(folder if fcntl else os.devnull, os.O_RDONLY)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(f"Another process is writing to {folder}: wait for it, or choose another folder.") from error
    except OSError:
        pass  # no locks on this file system: see one_writer
    return descriptor


def _leave_locks_to_the_parent() -> None:
    """Closes the locks in a child process: a worker that outlives a killed parent must not keep the folder locked."""
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


if fcntl:
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@cache
def writable_cache(folder: Path) -> Path:
    """The folder, if it is writable; otherwise a temporary folder, which is removed when this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning(f"The cache {folder} is not writable ({error.strerror}): data is cached in a temporary folder.")
        return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="hf_mingpt-")
