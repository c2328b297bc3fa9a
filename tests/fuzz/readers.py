"""Fuzzes the readers of texts, tables, recipes, calibrations, logs and checkpoints: `make fuzz`.

Given any bytes, a reader succeeds or raises a ValueError or an OSError. Questions that are read can be written and read
again.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hf_mingpt"]):
    from hf_mingpt.data.documents import read_documents
    from hf_mingpt.data.questions import read_questions, write_questions
    from hf_mingpt.hub.loading import load_calibration, read_metrics
    from hf_mingpt.system.files import TEXT_FORMATS, check_utf8
    from hf_mingpt.system.yaml_flags import read_yaml
    from hf_mingpt.training.checkpoints import SUMS, sums_of
    from hf_mingpt.training.recipes import PretrainRecipe
    from hf_mingpt.training.resuming import find_checkpoint

FOLDER = Path(tempfile.mkdtemp())
CHECKPOINT = FOLDER / "checkpoint-1"
CHECKPOINT.mkdir(parents=True)
for name in ("model.safetensors", "training.pt"):
    (CHECKPOINT / name).touch()
RECIPE = PretrainRecipe(train_file="-", output_dir=str(FOLDER), resume_from_checkpoint="latest")


def read_anything(content: bytes) -> None:
    """Gives the same bytes to every reader."""
    table, again = FOLDER / "questions.tsv", FOLDER / "again.tsv"
    table.write_bytes(content)
    with suppress(ValueError):
        questions = read_questions(table, answers=True)
        write_questions(again, questions)
        assert read_questions(again) == questions
    for ending in TEXT_FORMATS:
        text = FOLDER / f"text{ending}"
        text.write_bytes(content)
        with suppress(ValueError):
            if ending != ".parquet":
                check_utf8(text)
            for documents in read_documents(text):
                assert all(isinstance(document, str) for document in documents)
    for name, read in (
        ("recipe.yaml", lambda: read_yaml(FOLDER / "recipe.yaml", ["max_steps"])),
        ("calibration.json", lambda: load_calibration(str(FOLDER))),
        ("metrics.jsonl", lambda: read_metrics([FOLDER])),
    ):
        (FOLDER / name).write_bytes(content)
        with suppress(ValueError, OSError):
            read()
    (CHECKPOINT / "state.json").write_bytes(content)
    (CHECKPOINT / SUMS).write_text(sums_of(CHECKPOINT))
    with suppress(ValueError, OSError):
        find_checkpoint(RECIPE, 1)


if __name__ == "__main__":
    atheris.Setup(sys.argv, read_anything)
    atheris.Fuzz()
