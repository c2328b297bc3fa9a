"""The rows of a study: results.jsonl, and tables in Markdown."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Reads results.jsonl of a study; no rows if there is none yet."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def add_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to results.jsonl of a study."""
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def with_spread(accuracies: Sequence[float]) -> str:
    """The mean of accuracies in percent and, if there are several, their standard deviation."""
    spread = f" ± {stdev(accuracies):.1%}" if len(accuracies) > 1 else ""
    return f"{mean(accuracies):.1%}{spread}"
