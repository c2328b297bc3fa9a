"""Pushing runs and datasets to the Hub, without the names of folders, hosts and users."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from datasets import get_dataset_config_names, load_dataset
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from ..system.command_line import warn
from ..system.files import describe_failure, read_text
from .cards import write_card
from .metadata import RESULTS_FILE, find_task, format_results
from .records import read_public
from .run_folders import EVALUATION_FILES, PUBLIC_FILES, check_finished

TASKS_FILE = "eval.yaml"  # of a dataset: which of its splits are benchmarks


def push_run(
    folder: str | Path,
    repo_id: str | None = None,
    *,
    private: bool = False,
    revision: str | None = None,
    dataset: str | None = None,
    language: str | None = None,
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
        dataset: the run's data on the Hub, for the card. If the run has a report, and the eval.yaml of the dataset a
            task for its questions, `.eval_results` names them, too.
        language: codes of ISO 639 for the card, separated by commas. None: English if the training questions are.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: if the folder is not a run folder.
        ValueError: if the run is unfinished, or there is no such dataset.
        OSError: if the push fails. It can be repeated.
    """
    folder = Path(folder)
    check_finished(folder)
    if missing := [f for f in ("config.json", "model.safetensors", "run.json") if not (folder / f).is_file()]:
        raise FileNotFoundError(f"{folder} is not a finished run: it lacks {', '.join(missing)}.")
    api = hub_api()
    with pushing(f"--run {folder}", folder):
        known = dataset is None or api.repo_exists(dataset, repo_type="dataset")
    if not known:
        raise ValueError(f"There is no dataset {dataset} on the Hub: push it first, with --data.")
    with pushing(f"--run {folder}", folder):
        name = repo_id or folder.resolve().name
        repo = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        write_card(folder, repo, dataset=dataset, language=language)
        files = public_files(folder, repo)
        if dataset and (folder / "report.json").is_file():
            files += result_files(read_public(folder / "report.json"), dataset, repo, api)
        stale = {*EVALUATION_FILES, RESULTS_FILE}.intersection(api.list_repo_files(repo, revision=revision))
        stale -= {file.path_in_repo for file in files}
        deletions = [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(repo, [*files, *deletions], revision=revision, commit_message="Push the run")
    return str(commit.commit_url)


def push_dataset(folder: str | Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a folder of data as Parquet files, with its dataset card.

    The card gets the columns and files of each configuration, which `load_dataset` and the dataset viewer read. Files
    of an earlier push in other formats are deleted.

    Args:
        folder: a folder of scripts/generate_biographies.py, or another with a README.md for `load_dataset`.
        repo_id: "name" or "owner/name"; None: the name of the folder.
        private: whether a new repository is private.

    Returns:
        The URL of the dataset.

    Raises:
        FileNotFoundError: if the folder has no card.
        ValueError: if `datasets` cannot load the folder.
        OSError: if the push fails. It can be repeated.
    """
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} has no README.md, the dataset card: write one, or give another folder.")
    try:
        names = get_dataset_config_names(str(folder))
        configurations: dict[str, Any] = {name: load_dataset(str(folder), name) for name in names}
    except Exception as error:
        raise describe_failure(str(folder), "dataset", error) from error
    card = DatasetCard.load(folder / "README.md")
    card.data.configs = None  # of the files in the folder; push_to_hub writes those of the Parquet files
    api = hub_api()
    with pushing(f"--data {folder}", folder):
        name = repo_id or folder.resolve().name
        address = api.create_repo(name, private=private, repo_type="dataset", exist_ok=True)
        plain = [CommitOperationAdd("README.md", str(card).encode())]
        if (folder / TASKS_FILE).is_file():
            plain.append(CommitOperationAdd(TASKS_FILE, folder / TASKS_FILE))
        added = {operation.path_in_repo for operation in plain}
        stale = {path.name for path in folder.iterdir()}.intersection(
            api.list_repo_files(address.repo_id, repo_type="dataset")
        )
        deletions = [CommitOperationDelete(name) for name in sorted(stale - added)]
        what: dict[str, Any] = {"repo_type": "dataset", "commit_message": "Push the card"}
        api.create_commit(address.repo_id, [*plain, *deletions], **what)
        for name, splits in configurations.items():
            splits.push_to_hub(address.repo_id, config_name=name, commit_message=f"Push {name}")
    return str(address)


def hub_api() -> HfApi:
    """The client, for `pushing`."""
    return HfApi(library_name="hf_mingpt", library_version=version("hf_mingpt"))


@contextmanager
def pushing(flags: str, folder: Path | None = None) -> Iterator[None]:
    """Checks the token, and turns the client's errors into an OSError of one sentence.

    The errors have no common class if the server dies.
    """
    try:
        hub_api().whoami()
        yield
    except Exception as error:
        code = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, LocalTokenNotFoundError) or code == HTTPStatus.UNAUTHORIZED:
            raise OSError("The Hub does not know you: log in with `hf auth login`, or set HF_TOKEN.") from error
        unchanged = f"{folder} is unchanged: repeat" if folder else "Repeat"
        raise OSError(f"The push failed: {error}. {unchanged} scripts/push_to_hub.py {flags}.") from error


def public_files(folder: Path, repo: str) -> list[CommitOperationAdd]:
    """The public files of a run, with their records prepared for publication."""
    files: list[CommitOperationAdd] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in PUBLIC_FILES):
            content: Any = path
            if path.name in ("recipe.json", "run.json", "report.json"):
                content = json.dumps(read_public(path), indent=2, ensure_ascii=False).encode() + b"\n"
            files.append(CommitOperationAdd(path.name, content))
    return files


def result_files(report: dict[str, Any], dataset: str, repo: str, api: HfApi) -> list[CommitOperationAdd]:
    """The file in `.eval_results`; none, with a warning, if the dataset has no task for the questions of the report."""
    tasks: list[dict[str, Any]] = []
    if api.file_exists(dataset, TASKS_FILE, repo_type="dataset"):
        tasks = yaml.safe_load(read_text(api.hf_hub_download(dataset, TASKS_FILE, repo_type="dataset")))["tasks"]
    if (task := find_task(report, dataset, tasks)) is None:
        source = report["questions"]["file"]
        warn(f"{dataset} has no {TASKS_FILE} with a task for {source}: {RESULTS_FILE} is not written.")
        return []
    return [CommitOperationAdd(RESULTS_FILE, format_results(report, dataset, task, repo).encode())]
