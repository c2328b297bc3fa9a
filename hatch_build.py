"""The project's public address in the metadata of wheel and sdist, for which hatchling calls `get_metadata_hook`.

The environment variable HF_MINGPT_URL has the address. With it, the metadata has the project's urls, and the links and
pictures of README.md lead to the tag of the version: a registry shows the README where no other file of the project is.
Without it, the metadata has no urls, and README.md is taken as it is.

    HF_MINGPT_URL=https://github.com/owner/hf_mingpt python -m build

The forms of the addresses (blob, raw, issues) are those of GitHub; GitLab redirects them to its own. Labels of urls:
https://packaging.python.org/en/latest/specifications/well-known-project-urls
"""

import mimetypes
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

VARIABLE = "HF_MINGPT_URL"
ADDRESS = re.compile(r"https://[\w.-]+(:\d+)?(/[\w.~-]+)+/?", re.ASCII)  # without user, token, query and anchor
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")


def read_address() -> str | None:
    """The project's address, or None if the environment has none.

    Raises:
        ValueError: if it is not an address that can be published.
    """
    given = os.environ.get(VARIABLE, "")
    if given and not ADDRESS.fullmatch(given):
        remedy = "give the https address of its repository, such as https://github.com/owner/hf_mingpt."
        raise ValueError(f"{given!r} is no address of a project: {remedy}")
    return given.rstrip("/").removesuffix(".git") or None


def make_links_absolute(text: str, root: Path, address: str, version: str, folder: str = "") -> str:
    """Replaces links to files of the project by their addresses at the tag of a version.

    Args:
        text: Markdown of a file in `folder`, or a notebook. What leads to no file of the project stays.
        root: the checkout, or the source distribution.
    """

    def replace(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[0]))
        is_picture = (mimetypes.guess_type(target)[0] or "").startswith("image/")
        form = "raw" if is_picture else "blob"
        return f"{address}/{form}/v{version}/{target}" if (root / target).exists() else link[0]

    return LINK.sub(replace, text)


def complete_metadata(metadata: dict[str, Any], root: Path) -> None:
    """Adds the README and, with an address, the urls to metadata that has the version.

    Raises:
        ValueError: if the address is none that can be published.
    """
    address, version = read_address(), metadata["version"]
    if address is None:
        for name, value in {"readme": "README.md", "urls": {}}.items():
            metadata.setdefault(name, value)  # a source distribution has its own already
        return
    readme = make_links_absolute((root / "README.md").read_text(encoding="utf-8"), root, address, version)
    metadata["readme"] = {"content-type": "text/markdown", "text": readme}
    metadata["urls"] = {
        "Homepage": address,
        "Source": address,
        "Documentation": f"{address}/blob/v{version}/README.md#where-to-find-what",
        "Changelog": f"{address}/blob/v{version}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def get_metadata_hook() -> type:
    """The class that hatchling calls. Only here is hatchling needed, which an installed project does not have."""
    from hatchling.metadata.plugin.interface import MetadataHookInterface

    class AddressHook(MetadataHookInterface):
        def update(self, metadata: dict[str, Any]) -> None:
            try:
                complete_metadata(metadata, Path(self.root))
            except ValueError as error:
                sys.exit(f"{VARIABLE}: {error}")

    return AddressHook
