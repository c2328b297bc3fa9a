"""Executes the notebooks of this folder and keeps their outputs, clean and small: `make notebooks`.

    python docs/notebooks/run.py
    python docs/notebooks/run.py docs/notebooks/where_facts_live.ipynb

A notebook that fails keeps the outputs that it had. Runs go to runs/ in the checkout.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = ("image/png", "text/plain")  # of what a cell displays


def main() -> None:
    """Executes the notebooks that the command line names, or all."""
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(HERE.glob("*.ipynb")):
        print(f"{path} ...", flush=True)
        nbformat.write(execute(path, path.parent), path)


def execute(path: Path, folder: Path) -> NotebookNode:
    """Executes a notebook in a folder and returns it with clean outputs.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=None, coalesce_streams=True, resources=place).execute()
    return clean(notebook)


def clean(notebook: NotebookNode) -> NotebookNode:
    """Removes what a diff should not show: times, machines, progress bars, everything written to stderr."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [_clean_output(output) for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def _clean_output(output: NotebookNode) -> NotebookNode:
    if "data" in output:
        output.data = NotebookNode({kind: output.data[kind] for kind in KEPT if kind in output.data})
        output.metadata = NotebookNode()
    return output


if __name__ == "__main__":
    main()
