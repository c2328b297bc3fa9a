"""`make release` packs a commit that is ready, and refuses any other."""

import re
import runpy
import subprocess
import tarfile
from pathlib import Path

import pytest

from ..conftest import ROOT

RELEASE = runpy.run_path(str(ROOT / ".ci/release.py"), run_name="release")
COMMIT = ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--allow-empty", "--message", "x"]


@pytest.fixture
def checkout(tmp_path):
    """A repository of version 1.2.0, which is ready for a release."""
    root = tmp_path / "checkout"
    for name, text in {
        "hf_mingpt/__init__.py": '"""x"""\n\n__version__ = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2030-01-01\n\nNew.\n\n## 1.1.0\n\nOld.\n",
        "docs/notebooks/a.ipynb": "{}",
        ".gitignore": "dist/\nruns/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, *COMMIT)
    return root


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", root, *words], check=True)


def test_a_release_has_the_commit_the_runs_and_their_checksums(checkout, home):
    (checkout / "dist").mkdir()
    (checkout / "dist/stray.txt").write_text("x")

    def build(tree: Path, folder: Path) -> None:
        names = sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
        (folder / "x.whl").write_text("\n".join(names))

    version, notes = RELEASE["check_version"](checkout)
    assert (version, notes) == ("1.2.0", "New.")
    folder = RELEASE["pack"](checkout, version, notes, [home / "finetuned"], build)
    assert folder == checkout / "dist/release-1.2.0"
    assert {path.name for path in folder.iterdir()} == {
        *("NOTES.md", "SHA256SUMS", "a.ipynb", "finetuned-model-card.md", "finetuned.tar.gz", "x.whl"),
    }
    built = (folder / "x.whl").read_text().splitlines()
    assert built == [".gitignore", "CHANGELOG.md", "docs/notebooks/a.ipynb", "hf_mingpt/__init__.py"]
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 5
    with tarfile.open(folder / "finetuned.tar.gz") as archive:
        assert {"finetuned/config.json", "finetuned/model.safetensors", "finetuned/README.md"} <= set(
            archive.getnames()
        )
        assert str(home).encode() not in archive.extractfile("finetuned/recipe.json").read()
    assert sorted(path.name for path in (checkout / "dist").iterdir()) == ["release-1.2.0", "stray.txt"]
    with pytest.raises(ValueError, match=r"release-1\.2\.0 exists"):
        RELEASE["check_version"](checkout)


def test_what_is_not_ready_is_refused(checkout):
    def refused(said: str) -> None:
        with pytest.raises(ValueError, match=re.escape(said)):
            RELEASE["check_version"](checkout)

    (checkout / "docs/new.md").write_text("x")
    refused("docs/new.md is not committed")
    (checkout / "docs/new.md").unlink()
    git(checkout, "tag", "v1.2.0")
    refused("1.2.0 has the tag v1.2.0: raise __version__")
    git(checkout, "tag", "--delete", "v1.2.0")
    changelog = (checkout / "CHANGELOG.md").read_text()
    (checkout / "CHANGELOG.md").write_text(changelog.replace("## Unreleased\n", "## Unreleased\n\n- Newer.\n"))
    git(checkout, *COMMIT, "--all")
    refused("CHANGELOG.md has an Unreleased section: give it the version")
    for version in ("1.2", "1.2.1", "1x2.0"):
        (checkout / "hf_mingpt/__init__.py").write_text(f'__version__ = "{version}"\n')
        git(checkout, *COMMIT, "--all")
        refused(f"CHANGELOG.md says nothing about {version}: write a section")


def test_only_finished_runs_of_different_names_are_packed(home, tmp_path):
    check = RELEASE["check_runs"]
    check([home / "finetuned", home / "scratch"])
    with pytest.raises(FileNotFoundError, match="No run folder at"):
        check([tmp_path])
    (tmp_path / "finetuned").symlink_to(home / "finetuned")
    with pytest.raises(ValueError, match="Two runs are called finetuned"):
        check([home / "finetuned", tmp_path / "finetuned"])
