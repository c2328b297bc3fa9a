"""Importing the package is fast and silent, and registers minGPT with the auto classes in any order of imports."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hf_mingpt
from hf_mingpt import __all__ as public_names

from ..processes import run_python

ROOT = Path(__file__).parents[2]
HEAVY = {"sklearn", "scipy", "evaluate", "matplotlib", "pandas"}

PRINT_NEW_MODULES = """
import sys
import transformers
before = set(sys.modules)
import hf_mingpt
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
assert "torch" not in sys.modules
"""

BUILD = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
config = AutoConfig.for_model("mingpt", n_embd=16, n_head=2, n_layer=1)
print(type(AutoModel.from_config(config)).__name__, type(AutoModelForCausalLM.from_config(config)).__name__)
"""


def test_public_names_complete():
    assert set(dir(hf_mingpt)) >= {*public_names, "__version__"}


def test_import_is_fast_and_silent():
    """Fast, because it imports nothing but wrapt."""
    command = [sys.executable, "-c", PRINT_NEW_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"hf_mingpt", "wrapt"}
    assert done.stderr == ""


@pytest.mark.parametrize(
    "first",
    [
        "import hf_mingpt",
        "from transformers import AutoModel; import hf_mingpt",
        "from transformers import AutoTokenizer; import hf_mingpt",
        "import hf_mingpt; from transformers import GPT2LMHeadModel",
        "import hf_mingpt.configuration_mingpt",
        "import hf_mingpt.modeling_mingpt",
        "from hf_mingpt import load_run",
    ],
)
def test_auto_classes_know_mingpt_in_any_order_of_imports(first):
    done = run_python("-c", f"{first}\n{BUILD}", clean=True)
    assert done.stdout.split() == ["MinGPTModel", "MinGPTForCausalLM"], done.stderr


def test_public_names_exist():
    for name in public_names:
        assert getattr(hf_mingpt, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = hf_mingpt.nothing


def test_type_checkers_see_what_getattr_gives():
    """The names under TYPE_CHECKING, each under its own name, which re-exports it from a typed package."""
    tree = ast.parse((ROOT / "hf_mingpt/__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}
    assert seen == hf_mingpt._MODULE_OF
    assert (ROOT / "hf_mingpt/py.typed").is_file()


def test_the_version_is_that_of_the_citation():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, flags=re.MULTILINE)[1] == hf_mingpt.__version__


def test_what_only_some_need_is_imported_where_they_need_it():
    """Loading a model or training it imports no scikit-learn, scipy, evaluate or matplotlib of our own."""
    for path in (ROOT / "hf_mingpt").rglob("*.py"):
        if "metrics" in path.parts:  # of the `evaluate` library
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {node.module} if isinstance(node, ast.ImportFrom) else {alias.name for alias in node.names}
                assert not {str(name).partition(".")[0] for name in names} & HEAVY, path


def imports(folder: str) -> set[str]:
    """The third-party packages that the files of a folder import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"hf_mingpt"}


def declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[>=\[]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always, extras = declared(project["dependencies"]), project["optional-dependencies"]
    names = {"yaml": "pyyaml", "sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}

    def packages(folder):
        return {names.get(name, name) for name in imports(folder)}

    assert packages("hf_mingpt") > {"torch", "pyarrow", "scikit-learn"}
    assert packages("hf_mingpt") - always <= declared(extras["plot"])
    assert packages("scripts") - always <= declared(extras["demo"] + extras["plot"] + extras["serve"])
    own = {path.stem for path in (ROOT / "benchmarks").rglob("*.py")}
    assert packages("benchmarks") - own - always <= declared(extras["plot"] + extras["tools"])


def test_every_name_that_is_imported_exists():
    """Also in the files that `make test` does not run: benchmarks, fuzzing, the tests of transformers."""
    missing = []
    files = [
        path for folder in ("hf_mingpt", "scripts", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.partition(".")[0] == "hf_mingpt":
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    is_module = hasattr(module, "__path__") and importlib.util.find_spec(f"{node.module}.{name}")
                    if not (hasattr(module, name) or is_module):
                        missing.append(f"{path}: {node.module}.{name}")
    assert not missing


def test_remote_code_imports_only_torch_transformers_and_huggingface_hub(tmp_path):
    for name in ("configuration_mingpt", "modeling_mingpt"):
        (tmp_path / f"{name}.py").write_bytes((ROOT / "hf_mingpt" / f"{name}.py").read_bytes())
    assert imports(str(tmp_path)) == {"torch", "transformers", "huggingface_hub"}
