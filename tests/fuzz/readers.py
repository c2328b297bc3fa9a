"""Throws bytes at the readers of other people's files: `make fuzz`.

Whatever they are given, the TSV reader and the checkpoint reader either understand it or say so with a ValueError or an
OSError; what the TSV reader understands, it also writes.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hf_mingpt"]):
    from hf_mingpt.birthplaces import read_questions, write_questions
    from hf_mingpt.checkpoints import SUMS, find_checkpoint, sums_of
    from hf_mingpt.recipes import PretrainRecipe

FOLDER = Path(tempfile.mkdtemp())
CHECKPOINT = FOLDER / "checkpoint-1"
CHECKPOINT.mkdir(parents=True)
for name in ("model.safetensors", "training.pt"):
    (CHECKPOINT / name).touch()
RECIPE = PretrainRecipe(train_file="-", output_dir=str(FOLDER), resume_from_checkpoint="latest")


def read_anything(content: bytes) -> None:
    """One try."""
    table, again = FOLDER / "questions.tsv", FOLDER / "again.tsv"
    table.write_bytes(content)
    with suppress(ValueError):
        questions = read_questions(table, answers=True)
        write_questions(again, questions)
        assert read_questions(again) == questions
    (CHECKPOINT / "state.json").write_bytes(content)
    (CHECKPOINT / SUMS).write_text(sums_of(CHECKPOINT))
    with suppress(ValueError, OSError):
        find_checkpoint(RECIPE, 1)


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_anything)
    atheris.Fuzz()
