"""Records: how something was made, and what of that may be published."""

import json
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..system.commands import program_words

PACKAGES = ("torch", "transformers", "datasets", "accelerate", "evaluate", "tokenizers", "huggingface_hub")
_PACKAGE = Path(__file__).parent.parent
_ON_HUB = re.compile(r"\w[\w.-]*/[\w.-]+(?:(?:/[\w.-]+)?:[\w.-]+)?")  # a model, or a dataset as `hub_dataset` reads it


def run_record() -> dict[str, Any]:
    """Records how something was made: command (without folders), date, versions of packages, and commit of the code."""
    return {
        "command": shlex.join([*program_words(), *map(strip_folders, sys.argv[1:])]),
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of this code; None without git, or if the package is installed rather than a checkout."""
    git = ["git", "-C", str(_PACKAGE), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        said = subprocess.run(git, capture_output=True, encoding="utf-8", errors="replace", check=False).stdout
    except OSError:
        return None
    folder, _, commit = said.strip().partition("\n")
    return commit[:7] if commit and Path(folder) == _PACKAGE.parent.resolve() else None


def strip_folders(argument: str, near: Path | None = None) -> str:
    """Strips folders from an argument of a command: of each path, separated by commas, the last part remains.

    `owner/name`, with or without `:split`, stays as a name on the Hub, unless `owner` exists here or in a folder above
    `near`.
    """
    flag, equals, value = argument.rpartition("=")
    here = (near or Path.cwd() / "x").resolve()

    def shorten(path: str) -> str:
        owner, *_ = path.split("/")
        if _ON_HUB.fullmatch(path) and not any((f / owner).exists() for f in (Path(), *here.parents)):
            return path
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]

    return f"{flag}{equals}{','.join(map(shorten, value.split(',')))}"


def read_public(path: Path) -> dict[str, Any]:
    """Reads recipe.json, run.json or report.json for publication, without folders, hosts and users."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in content.items():
        if isinstance(value, str):
            words = [strip_folders(word, path) for word in (shlex.split(value) if name == "command" else [value])]
            content[name] = shlex.join(words) if name == "command" else words[0]
    return content
