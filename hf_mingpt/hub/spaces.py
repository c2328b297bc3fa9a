"""Spaces: the metric as a module of `evaluate`, and the page of scripts/demo.py for a run on the Hub.

This package is not on a package index, so the Space of a page contains its sources.

References: https://huggingface.co/docs/hub/spaces-config-reference, evaluate's HubEvaluationModuleFactory.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd

from ..evaluation.scoring import METRIC_FOLDER
from ..system.files import is_path
from .cards import CARD_TEMPLATE
from .loading import load_calibration
from .pushing import hub_api, pushing

_PACKAGE = Path(__file__).parent.parent
_METRIC_APP = '''\
"""Compares pasted predictions with references."""

import evaluate
import gradio

metric = evaluate.load("./{module}.py")


def compare(predictions: str, references: str) -> dict:
    """One answer per line."""
    try:
        return metric.compute(predictions=predictions.splitlines(), references=references.splitlines())
    except ValueError as error:
        raise gradio.Error(str(error)) from error


boxes = [gradio.Textbox(label=label, lines=5) for label in ("Predictions, one per line", "References, one per line")]
gradio.Interface(compare, boxes, gradio.JSON(label="Accuracy"), title="{module}").launch()
'''
_METRIC_README = """\
# {module}

Exact match: the fraction of predicted answers that equal the reference, apart from white space around either.

```python
import evaluate

metric = evaluate.load("{space}")
print(metric.compute(predictions=["London", "Rome"], references=["London", "Paris"]))
# {{'accuracy': 0.5, 'correct': 1, 'total': 2}}
```
"""
_PAGE_APP = '''\
"""Asks {model} in the browser: the page of hf_mingpt's scripts/demo.py."""

import sys

from demo import main

sys.argv[1:] = ["{model}"]
main()
'''
_PAGE_README = """\
# Ask {model}

A small Transformer answers questions from its weights, with a calibrated probability, or abstains. `demo.py` is the
page and `hf_mingpt` the package, as they were when the Space was pushed with `scripts/push_to_hub.py --space`.

To run it on your machine, in a clone of this repository: `pip install -r requirements.txt`, then `python app.py`.
If the model is private, the Space needs a secret `HF_TOKEN` that may read it.
"""


def push_metric(repo_id: str, *, private: bool = False) -> str:
    """Pushes the metric as a Space, where `evaluate.load("owner/name")` finds it.

    The Space needs neither this package nor a model. Its page compares pasted answers.

    Args:
        repo_id: "name" or "owner/name". The name becomes that of the module, so it must be a Python name.
        private: whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        ValueError: if the name is not a Python name, or belongs to a Space of another kind.
        OSError: if the push fails. It can be repeated.
    """
    module = repo_id.rpartition("/")[2]
    if not module.isidentifier():
        raise ValueError(f"hub_space_id {repo_id}: evaluate needs a name of letters, digits and underscores.")
    files = {
        f"{module}.py": next(Path(METRIC_FOLDER).glob("*.py")).read_text(encoding="utf-8"),
        "app.py": _METRIC_APP.format(module=module),
        "requirements.txt": f"evaluate>={_lower_bound('evaluate')}\n",
    }
    about = {"title": module, "tags": ["evaluate", "metric"]}
    return _push_space(repo_id, files, about, _METRIC_README, private=private, module=module, flags="--metric")


def push_page(model: str, page: Path, repo_id: str | None = None, *, private: bool = False) -> str:
    """Pushes a Space with the page of scripts/demo.py for a run on the Hub.

    Args:
        model: a calibrated run on the Hub, "owner/name".
        page: scripts/demo.py.
        repo_id: "name" or "owner/name" of the Space; None: that of the model.
        private: whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: if the run has no calibration.
        ValueError: if `model` is a folder, or the name belongs to a Space of another kind.
        OSError: if the push fails. It can be repeated.
    """
    if "/" not in model or is_path(model):
        raise ValueError(f"--space {model} is not a run on the Hub: push the run first (--run), then give owner/name.")
    load_calibration(model)
    files = {f"hf_mingpt/{p.relative_to(_PACKAGE)}": p.read_text(encoding="utf-8") for p in _PACKAGE.rglob("*.py")}
    files |= {
        "hf_mingpt/model_card.md": CARD_TEMPLATE.read_text(encoding="utf-8"),
        "demo.py": page.read_text(encoding="utf-8"),
        "app.py": _PAGE_APP.format(model=model),
        "requirements.txt": "".join(f"{requirement}\n" for requirement in _requirements("plot")),
    }
    about = {"title": f"Ask {model}", "models": [model], "tags": ["hf_mingpt"]}
    flags = f"--space {model}"
    return _push_space(repo_id or model, files, about, _PAGE_README, private=private, model=model, flags=flags)


def _push_space(
    repo_id: str,
    files: dict[str, str],
    about: dict[str, Any],
    readme: str,
    *,
    private: bool,
    flags: str,
    **names: str,
) -> str:
    """Pushes files and a README.md to a Gradio Space, created if it does not exist."""
    api = hub_api()
    with pushing(flags):
        space = api.create_repo(repo_id, private=private, repo_type="space", space_sdk="gradio", exist_ok=True).repo_id
        present = set(api.list_repo_files(space, repo_type="space")) - {".gitattributes", "README.md"}
    modules = {name for name in files if name.endswith(".py") and name != "app.py"}
    if present and not present & modules:
        raise ValueError(f"{space} is a Space of another kind, with {min(present)}: choose another hub_space_id.")
    metadata = {
        "title": about.pop("title"),
        "sdk": "gradio",
        "sdk_version": version("gradio") if find_spec("gradio") else _lower_bound("gradio"),
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "license": "mit",
        **about,
    }
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    files = {**files, "README.md": f"---\n{front}---\n\n{readme.format(space=space, **names)}"}
    with pushing(flags):
        operations = [CommitOperationAdd(name, content.encode()) for name, content in sorted(files.items())]
        commit = api.create_commit(space, operations, repo_type="space", commit_message="Push the Space")
    return str(commit.commit_url)


def _requirements(extra: str) -> list[str]:
    """What this package requires, with the packages of one extra."""
    try:
        all_of_them = requires("hf_mingpt") or []
    except PackageNotFoundError as error:
        raise ValueError("hf_mingpt is not installed: pip install -e . in the checkout.") from error
    wanted = [r.partition(";") for r in all_of_them if "extra" not in r or re.search(rf"extra == ['\"]{extra}['\"]", r)]
    return [name.strip() for name, *_ in wanted]


def _lower_bound(package: str) -> str:
    found = (re.fullmatch(rf"{package}>=([\d.]+)\s*(;.*)?", requirement) for requirement in requires("hf_mingpt") or [])
    bound = next(match[1] for match in found if match)
    return bound + ".0" * (2 - bound.count("."))
