"""Hooks of the site (mkdocs.yml): links as they lie in the repository, notebooks, flags, a check of the docstrings.

Pages link to each other by relative paths, so that the links work in any checkout. On the site, docs/ is the root.
Every file outside docs/ that a page links to joins the site under its own path; README.md becomes the front page.
"""

import dataclasses
import html
import json
import posixpath
import re
import runpy
import sys
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FIRST_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
FENCE = re.compile(r"^ *(```|~~~)")
log = get_plugin_logger("hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that the pages link to, directly or by way of other pages."""
    seen, waiting = set(), [*FIRST_PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    while waiting:
        if (path := waiting.pop()) in seen:
            continue
        seen.add(path)
        if not (ROOT / path).is_file():
            continue  # mkdocs warns about the link
        if not path.startswith("docs/"):
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            targets = LINK.findall("\n".join(_outside_fences((ROOT / path).read_text(encoding="utf-8"))))
            waiting += [_resolve(path, target) for target in targets]
    files.append(File.generated(config, "api/flags.md", content=_describe_flags()))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=_describe_notebook(path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page from paths in the repository to paths on the site."""
    if page.file.abs_src_path is None:
        return markdown
    return _rewrite_links(markdown, Path(page.file.abs_src_path).relative_to(ROOT).as_posix())


def _rewrite_links(markdown: str, path: str) -> str:
    start = posixpath.dirname(_place_on_site(path)) or "."

    def rewrite(match: re.Match) -> str:
        return posixpath.relpath(_place_on_site(_resolve(path, match[0])), start)

    in_code = iter(_outside_fences(markdown, blank=True))
    lines = markdown.split("\n")
    return "\n".join(LINK.sub(rewrite, line) if prose else line for line, prose in zip(lines, in_code, strict=True))


def on_pre_build(config: MkDocsConfig) -> None:
    """Warns, which `--strict` turns into a failure, about every public name in docs/api without a docstring."""
    package = griffe.load("hf_mingpt", search_paths=[ROOT])
    for page in sorted((ROOT / "docs/api").glob("*.md")):
        for name in re.findall(r"^::: ([\w.]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            subject = package[name.removeprefix("hf_mingpt.")]
            members = subject.members.values() if subject.is_module else []
            for item in [subject, *(m for m in members if not m.is_alias and m.is_public and not m.is_attribute)]:
                if not item.docstring and "auto_docstring" not in str(
                    [d.value for d in getattr(item, "decorators", [])]
                ):
                    log.warning(f"{item.path}, shown on docs/api/{page.name}, has no docstring.")


def _describe_flags() -> str:
    """The page of the flags of every script, from the fields of its recipe."""
    sys.path.insert(0, str(ROOT))
    page = [
        "# Flags",
        "",
        "`--help` of a script shows the values that its preset sets. *Required* flags have no default.",
        "",
    ]
    for script in sorted((ROOT / "scripts").glob("*.py")):
        if not (call := re.search(r"parse_recipe\((\w+)(?:, (\w+))?", script.read_text(encoding="utf-8"))):
            continue
        names = runpy.run_path(str(script), run_name="flags")
        page += [f"## {script.name}", "", str(names["__doc__"]).split("\n", maxsplit=1)[0], ""]
        if presets := names.get(call[2], {}):
            page += ["| preset | |", "|---|---|"]
            page += [f"| `{name}` | {preset.reason} |" for name, preset in presets.items()] + [""]
        page += ["| flag | default | |", "|---|---|---|"]
        for field in dataclasses.fields(names[call[1]]):
            default = "*required*" if field.default is dataclasses.MISSING else f"`{field.default}`"
            text = html.escape(field.metadata["help"], quote=False).replace("|", "&#124;").replace("*", "&#42;")
            page.append(f"| `--{field.name}` | {default} | {text} |")
        page.append("")
    return "\n".join(page)


def _describe_notebook(path: Path) -> str:
    """The page of a notebook: its text, its code, and the outputs that were kept."""
    page = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            page.append(_rewrite_links(source, path.relative_to(ROOT).as_posix()))
            continue
        page.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if picture := output.get("data", {}).get("image/png"):
                page.append(f'<img alt="Output of {cell["id"]}" src="data:image/png;base64,{picture.strip()}">')
            else:
                text = "".join(output.get("text") or output["data"]["text/plain"])
                page.append(f"```text\n{text.rstrip()}\n```")
    title, *rest = page
    download = f'<a href="../{path.name}" download>Download the notebook</a>'
    return "\n\n".join([title, download, *rest]) + "\n"


def _outside_fences(text: str, *, blank: bool = False) -> list[str]:
    """The lines of a page outside code fences; with `blank`, those inside as empty lines."""
    lines, inside = [], False
    for line in text.split("\n"):
        fence = FENCE.match(line)
        inside ^= bool(fence)
        if not inside and not fence:
            lines.append(line)
        elif blank:
            lines.append("")
    return lines


def _resolve(path: str, link: str) -> str:
    """The file in the repository to which a page at `path` links; of a folder its README.md."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return posixpath.join(target, "README.md") if (ROOT / target).is_dir() else target


def _place_on_site(path: str) -> str:
    return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
