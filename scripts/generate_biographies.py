"""Writes a corpus of invented people: biographies, and questions about their birthplaces.

python scripts/generate_biographies.py --output_dir data/generated
python scripts/generate_biographies.py --output_dir data/one-phrasing --phrasings_per_person 1 --seed 3
"""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_mingpt.data.biographies import BiographyRecipe, generate_corpus
from hf_mingpt.data.questions import write_questions
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import check_no_writer, one_writer, write_text, written_aside

# `datasets` reads all of a repository by the builder of its first configuration: a biography is a table row, too
CARD = """\
---
license: mit
language: en
pretty_name: Generated biographies
task_categories: [question-answering, text-generation]
configs:
- config_name: questions
  sep: "\\t"
  header: null
  names: [question, answer]
  quoting: 3
  keep_default_na: false
  data_files:
  - split: train
    path: birth_places_train.tsv
  - split: dev
    path: birth_dev.tsv
  - split: test
    path: birth_test.tsv
- config_name: biographies
  sep: "\\x01"
  header: null
  names: [text]
  quoting: 3
  keep_default_na: false
  data_files: biographies.txt
---
# Generated biographies

Invented people, made by `scripts/generate_biographies.py` of hf_mingpt; any likeness to a person or place is chance.
`biographies.txt` has a biography a line; the three tables have `question TAB birthplace`, about disjoint groups of
people.

| what | value |
|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class GenerateRecipe(BiographyRecipe):
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace the files in that folder.")


def main() -> None:
    recipe = parse_recipe(GenerateRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        if folder.exists() and any(folder.iterdir()) and not recipe.overwrite_output_dir:
            raise ValueError(f"output_dir {folder} is not empty: choose another, or give --overwrite_output_dir.")
        check_no_writer(folder)
        corpus = generate_corpus(recipe)
    knobs = {name: value for name, value in asdict(recipe).items() if "output_dir" not in name}
    rows = [f"| {name} | {value} |" for name, value in {"documents": len(corpus.documents), **knobs}.items()]
    with accidents(), one_writer(folder), ExitStack() as together:

        def aside(name: str) -> Path:
            return together.enter_context(written_aside(folder / name))

        write_text(aside("biographies.txt"), "".join(f"{line}\n" for line in corpus.documents))
        write_questions(aside("birth_places_train.tsv"), corpus.train)
        write_questions(aside("birth_dev.tsv"), corpus.dev)
        write_questions(aside("birth_test.tsv"), corpus.test)
        write_text(aside("README.md"), CARD + "\n".join(rows) + "\n")
    print(f"Wrote {len(corpus.documents)} biographies of {recipe.num_people} people to {folder}.")


if __name__ == "__main__":
    main()
