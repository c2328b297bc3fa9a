"""`make release` packs a commit that is ready, and refuses any other; hatch_build.py writes the public address."""

import json
import re
import runpy
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from ..conftest import ROOT

ADDRESS = "https://forge.example/owner/hf_mingpt"
BUILD = runpy.run_path(str(ROOT / "hatch_build.py"))
RELEASE = runpy.run_path(str(ROOT / ".ci/release.py"), run_name="release")
COMMIT = ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--allow-empty", "--message", "x"]


@pytest.fixture
def checkout(tmp_path):
    """A repository of version 1.2.0, which is ready for a release."""
    root = tmp_path / "checkout"
    for name, text in {
        "hf_mingpt/__init__.py": '"""x"""\n\n__version__ = "1.2.0"\n',
        "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2030-01-01\n\nNew.\n\n## 1.1.0\n\nOld.\n",
        "CITATION.cff": "title: x\n",
        "docs/notebooks/a.ipynb": json.dumps({"cells": [{"source": ["[other](b.ipynb), [up](../../CHANGELOG.md)"]}]}),
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
    folder = RELEASE["pack"](checkout, version, notes, [home / "finetuned"], build=build)
    assert folder == checkout / "dist/release-1.2.0"
    assert {path.name for path in folder.iterdir()} == {
        *("NOTES.md", "SHA256SUMS", "a.ipynb", "finetuned-model-card.md", "finetuned.tar.gz", "x.whl"),
    }
    built = (folder / "x.whl").read_text().splitlines()
    assert built == [".gitignore", "CHANGELOG.md", "CITATION.cff", "docs/notebooks/a.ipynb", "hf_mingpt/__init__.py"]
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


def test_with_an_address_what_is_packed_links_to_the_tag(checkout):
    citations = []

    def build(tree: Path, folder: Path) -> None:
        citations.append(yaml.safe_load((tree / "CITATION.cff").read_text()))

    folder = RELEASE["pack"](checkout, "1.2.0", "[News](CHANGELOG.md#120).", [], ADDRESS, build)
    assert citations == [{"title": "x", "url": ADDRESS, "repository-code": ADDRESS}]
    assert (folder / "NOTES.md").read_text() == f"[News]({ADDRESS}/blob/v1.2.0/CHANGELOG.md#120).\n"
    (cell,) = json.loads((folder / "a.ipynb").read_text())["cells"]
    assert cell["source"] == [f"[other](b.ipynb), [up]({ADDRESS}/blob/v1.2.0/CHANGELOG.md)"]  # there is no b.ipynb


@pytest.mark.parametrize("ending", ["", "/", ".git"])
def test_with_an_address_the_metadata_has_urls_and_the_readme_no_relative_link(monkeypatch, ending):
    monkeypatch.setenv("HF_MINGPT_URL", ADDRESS + ending)
    metadata = {"version": "1.2.0"}
    BUILD["complete_metadata"](metadata, ROOT)
    assert metadata["urls"] == {
        "Homepage": ADDRESS,
        "Source": ADDRESS,
        "Documentation": f"{ADDRESS}/blob/v1.2.0/README.md#where-to-find-what",
        "Changelog": f"{ADDRESS}/blob/v1.2.0/CHANGELOG.md",
        "Issues": f"{ADDRESS}/issues",
    }
    text = metadata["readme"]["text"]
    assert f"]({ADDRESS}/raw/v1.2.0/docs/results.png)" in text
    assert f"]({ADDRESS}/blob/v1.2.0/docs/your_data.md#without-a-checkout)" in text
    targets = re.findall(r"\]\((.*?)\)", text)
    assert len(targets) > 40
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "\n## Where to find what\n" in text


def test_without_an_address_the_metadata_is_that_of_the_files(monkeypatch):
    for environment in ({}, {"HF_MINGPT_URL": ""}):
        monkeypatch.delenv("HF_MINGPT_URL", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        metadata = {"version": "1.2.0"}
        BUILD["complete_metadata"](metadata, ROOT)
        assert metadata == {"version": "1.2.0", "readme": "README.md", "urls": {}}
    kept = {"version": "1.2.0", "readme": {"text": "x", "content-type": "text/markdown"}, "urls": {"Homepage": ADDRESS}}
    BUILD["complete_metadata"](unpacked := dict(kept), ROOT)  # of a source distribution
    assert unpacked == kept


@pytest.mark.parametrize(
    "given",
    [
        *("git@forge.example:owner/hf_mingpt", "http://forge.example/owner/hf_mingpt", "forge.example/owner/hf_mingpt"),
        *("https://user:secret@forge.example/owner/x", "https://forge.example/", "https:///owner/x", "https://[/x"),
        *("https://forge.example/owner/x?token=secret", "https://forge.example/owner/x#readme", "owner/hf_mingpt", " "),
    ],
)
def test_an_address_that_cannot_be_published_is_refused(monkeypatch, capsys, given):
    monkeypatch.setenv("HF_MINGPT_URL", given)
    with pytest.raises(SystemExit) as exit_status:
        RELEASE["main"]()
    assert exit_status.value.code == 2
    said = capsys.readouterr().err
    assert f"{given!r} is no address of a project: give the https address of its repository, such as https://" in said
    assert said.count("\n") == 1
