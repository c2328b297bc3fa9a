"""Pushing runs and datasets to the Hub, without the names of folders, hosts and users."""

import json
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..system.writing import UNFINISHED
from .cards import read_public, write_card
from .run_folders import EVALUATION_FILES, PUBLIC_FILES, check_finished

_HIDDEN = [".*", "*/.*", f"{UNFINISHED}*"]  # in a folder of data


def push_run(
    folder: str | Path, repo_id: str | None = None, *, private: bool = False, revision: str | None = None
) -> str:
    """Pushes the files of a run to the Hub, with a new model card.

    Other files in the folder are not pushed. The pushed files contain no names of folders, hosts or users. Predictions,
    reports and a calibration of an earlier push that the folder no longer has are deleted. All other files of the
    repository stay.

    Args:
        folder: the run folder.
        repo_id: "name" or "owner/name"; None: the name of the folder.
        private: whether a new repository is private.
        revision: the branch to push to, created if it does not exist.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: if the folder is not a run folder.
        ValueError: if the run is unfinished.
        OSError: if the push fails. It can be repeated.
    """
    folder = Path(folder)
    check_finished(folder)
    if missing := [f for f in ("config.json", "model.safetensors", "run.json") if not (folder / f).is_file()]:
        raise FileNotFoundError(f"{folder} is not a finished run: it lacks {', '.join(missing)}.")
    return _push(folder, repo_id, kind="run", private=private, revision=revision)


def push_dataset(folder: str | Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a folder of data with its dataset card, except for hidden files.

    Args:
        folder: a folder of scripts/generate_biographies.py, or another with a README.md for `load_dataset`.
        repo_id: "name" or "owner/name"; None: the name of the folder.
        private: whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: if the folder has no card.
        OSError: if the push fails. It can be repeated.
    """
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md, the dataset card: write one, or give another folder.")
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
            files = _public_files(folder)
            stale = set(EVALUATION_FILES).intersection(api.list_repo_files(repo, revision=revision))
            stale -= {file.path_in_repo for file in files}
            deletions = [CommitOperationDelete(name) for name in sorted(stale)]
            commit = api.create_commit(repo, [*files, *deletions], **what)
        else:
            commit = api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=_HIDDEN, **what)
    except Exception as error:  # the client's errors have no common class if the server dies
        raise OSError(
            f"The push failed: {error}. {folder} is unchanged: repeat scripts/push_to_hub.py --{kind} {folder}."
        ) from error
    return str(commit.commit_url)


def _public_files(folder: Path) -> list[CommitOperationAdd]:
    """The public files of a run, with their records prepared for publication."""
    files: list[CommitOperationAdd] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in PUBLIC_FILES):
            content: Any = path
            if path.name in ("recipe.json", "run.json", "report.json"):
                content = json.dumps(read_public(path), indent=2, ensure_ascii=False).encode() + b"\n"
            files.append(CommitOperationAdd(path.name, content))
    return files
