"""The files of scripts/accelerate are what `accelerate config` writes for the answers in the README beside them."""

import pytest
from accelerate.commands.config.cluster import get_cluster_input
from accelerate.commands.config.config_args import load_config_from_file

from ..conftest import SCRIPTS

FOLDER = SCRIPTS / "accelerate"
TPU = {"downcast_bf16", "tpu_env", "tpu_use_cluster", "tpu_use_sudo"}  # accelerate writes them for all hardware
# Where a file says on purpose what accelerate does not ask, or leaves out what it does ask.
ON_PURPOSE = {
    "cpu": {"mixed_precision": None},  # bf16 if the CPU has it
    "cpu_2_processes": {"mixed_precision": None, "distributed_type": "MULTI_GPU"},  # for MULTI_CPU it starts one
}


def answers_of(name: str) -> dict[str, str]:
    """The answers in the README that lead to a file, by the beginnings of the questions."""
    text = (
        (FOLDER / "README.md")
        .read_text(encoding="utf-8")
        .split("## What `accelerate config` asks\n")[1]
        .split("\n## ")[0]
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    column = next(i for i, cell in enumerate(rows[0]) if f"`{name}`" in cell)
    return {row[0]: row[column] for row in rows[2:] if row[column]}


def ask(monkeypatch, answers: dict[str, str]) -> set[str]:
    """Lets `accelerate config` be answered; returns a set that fills with the answers that it has taken."""
    taken: set[str] = set()

    def answer(question: str) -> str:
        found = [start for start in answers if question.startswith(start)]
        taken.update(found)
        return answers[found[0]] if found else ""

    def choose(menu, default_choice: int = 0) -> int:
        said = answer(menu.prompt)
        return [str(choice) for choice in menu.choices].index(said) if said else default_choice

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("accelerate.commands.menu.selection_menu.BulletMenu.run", choose)
    return taken


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_a_file_is_what_accelerate_config_writes(monkeypatch, name):
    answers = answers_of(name)
    taken = ask(monkeypatch, answers)
    written = get_cluster_input().to_dict()
    assert taken == set(answers)  # every answer of the README has its question
    for key, value in ON_PURPOSE.get(name, {}).items():
        assert written.get(key) != value, "the difference is gone: remove it from ON_PURPOSE"
        written[key] = value
    written = {key: value for key, value in written.items() if key not in TPU and value is not None}
    read = load_config_from_file(str(FOLDER / f"{name}.yaml")).to_dict()  # refuses keys that it does not know
    assert {key: value for key, value in read.items() if key not in TPU} == written
