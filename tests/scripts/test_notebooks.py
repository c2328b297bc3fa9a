"""The notebooks of docs/notebooks: every cell runs, at a tiny size; what is kept of them is clean, small and true."""

import ast
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient.exceptions import CellExecutionError

from ..conftest import ROOT

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUN = runpy.run_path(str(FOLDER / "run.py"))
MAX_BYTES = 400_000


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like a checkout: what the notebooks write stays in it."""
    for name in ("scripts", "hf_mingpt", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("NOTEBOOK_SIZE", "tiny")
    return tmp_path


def write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def demo(home, calibrated, checkout):
    """Small runs where `make demo` leaves its own."""
    folder = checkout / "runs/demo"
    folder.mkdir(parents=True)
    shutil.move(calibrated, folder / "finetuned")
    (folder / "data").symlink_to(home / "data")


class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        """What `%matplotlib inline` asks for."""


@pytest.fixture(scope="module")
def kernel():
    """A kernel without a process of its own, which would take seconds to import torch."""
    main = sys.modules["__main__"]
    with matplotlib.rc_context():
        yield Shell.instance(user_module=ModuleType("notebook"))
    Shell.clear_instance()
    sys.modules["__main__"] = main
    sys.modules.pop("notebook", None)


@pytest.fixture
def shell(kernel, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    for name in ("argv", "path", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    kernel.reset()
    return kernel


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, shell, demo):
    pictures = 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                done = shell.run_cell(cell.source, store_history=True)
            done.raise_error()
            pictures += sum("image/png" in output.data for output in captured.outputs)
    assert pictures >= 2


def test_outputs_are_kept_without_progress_bars_and_machines(checkout):
    path = write(
        checkout / "small.ipynb",
        "import sys\nfor i in range(3):\n    print(i, flush=True)\n    print('bar', file=sys.stderr, flush=True)",
        "from IPython.display import HTML\nHTML('<b>bold</b>')",
    )
    first, second = RUN["execute"](path, checkout).cells
    assert [(output.name, output.text) for output in first.outputs] == [("stdout", "0\n1\n2\n")]
    assert [list(output.data) for output in second.outputs] == [["text/plain"]]


def test_a_notebook_that_fails_keeps_its_outputs(checkout, monkeypatch):
    path = write(checkout / "broken.ipynb", "print(1)", "1 / 0")
    before = path.read_bytes()
    monkeypatch.setattr("sys.argv", ["run.py", str(path)])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        RUN["main"]()
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    text = path.read_text(encoding="utf-8")
    assert nbformat.writes(RUN["clean"](notebook)) == text.rstrip("\n")
    assert len(text) < MAX_BYTES
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#\s]+)", cell.source):
                assert (FOLDER / target).exists(), target


def test_they_set_up_in_the_same_way():
    shared = [{cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells} for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 4
    for name in ("repository", "setup", "device"):
        assert len({cells[name] for cells in shared}) == 1, name
    ast.parse(shared[0]["setup"])
