"""Pushing runs and datasets to the Hub. What is pushed names no folder, host or user."""

import json
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from ..system.writing import UNFINISHED
from .cards import read_public, write_card
from .run_folders import (
    PUBLIC_FILES,
    check_finished,
)

_HIDDEN = [".*", "*/.*", f"{UNFINISHED}*"]  # in a folder of data


def push_run(
    folder: str | Path, repo_id: str | None = None, *, private: bool = False, revision: str | None = None
) -> str:
    """Pushes the files of a run to the Hub, with its card rendered anew, and returns the address of the commit.

    What else lies in the folder stays there, and what is pushed names no folder, host or user.

    Args:
        repo_id: "name" or "owner/name"; None: the folder's name.
        revision: the branch to push to; it is made if there is none.

    Raises:
        FileNotFoundError: if the folder is no run folder.
        ValueError: if the run is not finished.
        OSError: if the push fails; it can be repeated.
    """
    folder = Path(folder)
    check_finished(folder)
    if missing := [f for f in ("config.json", "model.safetensors", "run.json") if not (folder / f).is_file()]:
        raise FileNotFoundError(f"{folder} is no finished run: it lacks {', '.join(missing)}.")
    return _push(folder, repo_id, kind="run", private=private, revision=revision)


def push_dataset(folder: str | Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a folder of data with its card, as it is but for hidden files, and returns the address of the commit.

    Args:
        folder: of scripts/generate_biographies.py, whose card says how `load_dataset` reads it.
        repo_id: "name" or "owner/name"; None: the folder's name.

    Raises:
        FileNotFoundError: if the folder has no card.
        OSError: if the push fails; it can be repeated.
    """
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(
            f"{folder} has no README.md, the card of the dataset: make one, or name another folder."
        )
    return _push(folder, repo_id, kind="data", private=private)


def _push(folder: Path, repo_id: str | None, *, kind: str, private: bool, revision: str | None = None) -> str:
    api = HfApi(library_name="hf_mingpt", library_version=version("hf_mingpt"))
    repo_type = "model" if kind == "run" else "dataset"
    try:
        name = repo_id or folder.resolve().name
        repo = api.create_repo(name, private=private, repo_type=repo_type, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo, branch=revision, repo_type=repo_type, exist_ok=True)
        what: Any = {"repo_type": repo_type, "revision": revision, "commit_message": f"Push the {kind}"}
        if kind == "run":
            write_card(folder, repo)
            commit = api.create_commit(repo, _public_files(folder), **what)
        else:
            commit = api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=_HIDDEN, **what)
    except Exception as error:  # of a server that dies the client gives errors that have no common kind with the rest
        raise OSError(
            f"The push failed: {error}. What is in {folder} is whole: repeat scripts/push_to_hub.py --{kind} {folder}."
        ) from error
    return str(commit.commit_url)


def _public_files(folder: Path) -> list[CommitOperationAdd]:
    """The files of a run, as they are pushed."""
    files: list[CommitOperationAdd] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in PUBLIC_FILES):
            content: Any = path
            if path.name in ("recipe.json", "run.json", "report.json"):
                content = json.dumps(read_public(path), indent=2, ensure_ascii=False).encode() + b"\n"
            files.append(CommitOperationAdd(path.name, content))
    return files
