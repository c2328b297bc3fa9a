"""Splits questions into folds, to choose a recipe on questions that it was not trained on.

    python scripts/split_questions.py --questions_file birth_places_train.tsv --output_dir runs/folds

Writes `fold-0/train.tsv` and `fold-0/held_out.tsv`, and so on. Train on the former, evaluate on the latter, and use dev
only when the recipe is chosen.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from hf_mingpt.data.questions import read_questions, split_folds, write_questions
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import UNFINISHED, check_output_folder, one_writer


@dataclass(frozen=True, kw_only=True)
class SplitRecipe:
    questions_file: str = required("TSV or Hub dataset of questions with answers.")
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace existing folds.")
    num_folds: int = flag(5, "Number of folds; each question is held out in one.")
    CONSTANTS: ClassVar = {"seed": 0}


def main() -> None:
    recipe = parse_recipe(SplitRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        folds = split_folds(read_questions(recipe.questions_file, answers=True), recipe.num_folds, seed=0)
        check_output_folder(folder, overwrite=recipe.overwrite_output_dir)
    with accidents(), one_writer(folder), TemporaryDirectory(dir=folder, prefix=UNFINISHED) as aside:
        for number, (train, held_out) in enumerate(folds):
            write_questions(Path(aside) / f"fold-{number}" / "train.tsv", train)
            write_questions(Path(aside) / f"fold-{number}" / "held_out.tsv", held_out)
        for old in folder.glob("fold-*"):  # also those of a split with more folds
            if re.fullmatch(r"fold-\d+", old.name):
                shutil.rmtree(old)
        for new in Path(aside).iterdir():
            new.rename(folder / new.name)
    print(f"Wrote {len(folds)} folds to {folder}.")


if __name__ == "__main__":
    main()
