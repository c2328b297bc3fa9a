"""Packs a release into dist/release-VERSION: wheel, sdist, runs with their model cards, notebooks, checksums.

    make release
    make release RUNS="runs/demo/finetuned runs/closed_book"
    make release URL=https://github.com/owner/hf_mingpt

A person tags the commit and uploads the files. The version is that of hf_mingpt/__init__.py. URL is the address of the
repository: with it, the metadata has the project's urls, and links between its files lead to the tag (hatch_build.py).
The script refuses changes that are not committed, a version without a section in CHANGELOG.md, changes that it still
calls unreleased, a version that has a tag or a folder, and a URL that is not an https address.
"""

import io
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hf_mingpt.hub.pushing import public_files
from hf_mingpt.hub.run_folders import check_finished
from hf_mingpt.system.command_line import accidents, user_errors
from hf_mingpt.system.files import sha256_of

ROOT = Path(__file__).parents[1]
DEFAULT_RUN = "runs/demo/finetuned"
BUILD = runpy.run_path(str(ROOT / "hatch_build.py"))


def main() -> None:
    with user_errors():
        address = BUILD["read_address"]()
        runs = [Path(run) for run in sys.argv[1:]] or [run for run in [ROOT / DEFAULT_RUN] if run.is_dir()]
        version, notes = check_version(ROOT)
        check_runs(runs)
    with accidents():
        folder = pack(ROOT, version, notes, runs, address)
    print(f"Packed {folder}:", *(f"  {path.name}" for path in sorted(folder.iterdir())), sep="\n")
    print(f"Push the tag, to which links lead, and upload the files: git tag v{version} && git push origin v{version}")


def check_version(root: Path) -> tuple[str, str]:
    """The version of a checkout, and its section of CHANGELOG.md.

    Raises:
        ValueError: if the checkout is not ready for a release.
    """
    version = re.findall(r'^__version__ = "(.*)"$', (root / "hf_mingpt/__init__.py").read_text(encoding="utf-8"), re.M)[
        0
    ]
    if changed := git(root, "status", "--porcelain").splitlines():
        raise ValueError(f"{changed[0][3:]} is not committed: commit or remove it, so that the release is a commit.")
    if tag := git(root, "tag", "--list", version, f"v{version}").strip():
        raise ValueError(f"{version} has the tag {tag}: raise __version__ in hf_mingpt/__init__.py and CITATION.cff.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(version)}(?= |$).*?\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if section is None or not section[1].strip():
        raise ValueError(f"CHANGELOG.md says nothing about {version}: write a section `## {version} - DATE`.")
    unreleased = re.search(r"^## Unreleased$(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if unreleased and unreleased[1].strip():
        raise ValueError("CHANGELOG.md has an Unreleased section: give it the version and the date of this release.")
    if (root / "dist" / f"release-{version}").exists():
        raise ValueError(f"dist/release-{version} exists: remove it to pack it again.")
    return version, section[1].strip()


def check_runs(runs: Sequence[Path]) -> None:
    """Raises a ValueError or an OSError if a run cannot be packed."""
    for run in runs:
        if not (run / "run.json").is_file():
            raise FileNotFoundError(f"No run folder at {run}: give folders of finished runs.")
        check_finished(run)
    names = [run.resolve().name for run in runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"Two runs are called {twice}: rename one of their folders.")


def git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise ValueError(f"git {words[0]} fails: {done.stderr.strip()}")
    return done.stdout


def build_distributions(tree: Path, folder: Path) -> None:
    """Builds and checks the wheel and the sdist of a source tree."""
    python = [sys.executable, "-m"]
    subprocess.run([*python, "build", "--no-isolation", "--outdir", folder, tree], check=True)
    subprocess.run([*python, "twine", "check", "--strict", *folder.iterdir()], check=True)


def pack(
    root: Path,
    version: str,
    notes: str,
    runs: Sequence[Path],
    address: str | None = None,
    build: Callable[[Path, Path], None] = build_distributions,
) -> Path:
    """Packs the last commit of a checkout, and runs, into a folder, which is whole or absent."""
    (root / "dist").mkdir(exist_ok=True)
    target = root / "dist" / f"release-{version}"
    with tempfile.TemporaryDirectory(dir=root / "dist") as unfinished:
        tree, folder = Path(unfinished, "tree"), Path(unfinished, "release")
        tree.mkdir()
        folder.mkdir()
        git(root, "archive", "--output", str(tree / "tree.tar"), "HEAD")
        with tarfile.open(tree / "tree.tar") as files:
            files.extractall(tree, filter="data")
        (tree / "tree.tar").unlink()
        if address:
            with open(tree / "CITATION.cff", "a", encoding="utf-8") as citation:
                citation.write(f"url: {address}\nrepository-code: {address}\n")
        build(tree, folder)
        for run in runs:
            pack_run(run, folder)
        (tree / "NOTES.md").write_text(f"{notes}\n", encoding="utf-8")
        for path in [tree / "NOTES.md", *sorted(tree.glob("docs/notebooks/*.ipynb"))]:
            text = path.read_text(encoding="utf-8")
            if address:
                text = BUILD["make_links_absolute"](text, tree, address, version, str(path.parent.relative_to(tree)))
            (folder / path.name).write_text(text, encoding="utf-8")
        sums = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.iterdir())]
        (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
        folder.rename(target)
    return target


def pack_run(run: Path, folder: Path) -> None:
    """Packs what `push_run` would push: no checkpoints, no names of folders, hosts and users."""
    name = run.resolve().name
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
        for file in public_files(run, name):
            with file.as_file() as content:
                data = content.read()
            info = tarfile.TarInfo(f"{name}/{file.path_in_repo}")  # without times and owners
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    shutil.copy(run / "README.md", folder / f"{name}-model-card.md")


if __name__ == "__main__":
    main()
