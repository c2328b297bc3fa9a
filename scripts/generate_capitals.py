"""Writes sentences about the capitals of a table, and questions about them: an example of data of your own.

python scripts/generate_capitals.py --output_dir runs/capitals/data
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.system.files import read_text
from hf_mingpt.system.wording import count
from hf_mingpt.system.writing import check_output_folder, one_writer, write_text

SENTENCES = [
    "{capital} is the capital of {country}.",
    "The capital of {country} is {capital}.",
    "{country} has {capital} as its capital.",
    "{capital}, in {region}, is the capital city of {country}.",
    "On a map of {region}, look for {capital} to find the capital of {country}.",
    "Ask for the capital of {country}, and the answer is {capital}.",
]
TABLE = Path(__file__).parent / "capitals.tsv"  # 143 countries; in a wheel, too
PLACES = ["{country} lies in {region}.", "{country} is a country in {region}.", "You find {country} in {region}."]


@dataclass(frozen=True, kw_only=True)
class CapitalsRecipe:
    output_dir: str = required("Folder to write.")
    table: str | None = flag(
        None, "TSV of `country TAB capital TAB region` lines. None: capitals.tsv, beside the script."
    )
    num_dev_countries: int = flag(50, "Countries in the dev questions; the others are in the training questions.")
    overwrite_output_dir: bool = flag(False, "Replace the files in that folder.")
    CONSTANTS: ClassVar = {"seed": 0}

    def __post_init__(self):
        check_least(self, 1, "num_dev_countries")


def main() -> None:
    recipe = parse_recipe(CapitalsRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        check_output_folder(folder, overwrite=recipe.overwrite_output_dir)
        table = recipe.table or TABLE
        rows = [line.split("\t") for line in read_text(table).splitlines()]
        for number, row in enumerate(rows, start=1):
            if len(row) != 3 or not all(row):
                raise ValueError(f"{table}, line {number}: write `country TAB capital TAB region`.")
        if recipe.num_dev_countries >= len(rows):
            raise ValueError(
                f"num_dev_countries is {recipe.num_dev_countries}: with {count(len(rows), 'country', 'countries')}, "
                f"use 1 to {len(rows) - 1}."
            )
    rng = Random(0)
    rng.shuffle(rows)
    documents = [line for row in rows for line in write_documents(*row, rng)]
    rng.shuffle(documents)
    questions = [f"What is the capital of {country}?\t{capital}" for country, capital, _ in rows]
    files = {
        "capitals.txt": documents,
        "train.tsv": questions[recipe.num_dev_countries :],
        "dev.tsv": questions[: recipe.num_dev_countries],
    }
    with accidents(), one_writer(folder):
        for name, lines in files.items():
            write_text(folder / name, "".join(f"{line}\n" for line in lines))
    print(f"Wrote {count(len(documents), 'document')} about {count(len(rows), 'country', 'countries')} to {folder}.")


def write_documents(country: str, capital: str, region: str, rng: Random) -> list[str]:
    """One document for each sentence about the capital, with one about the place before or after it."""
    documents = []
    for sentence in SENTENCES:
        both = [sentence, rng.choice(PLACES)]
        rng.shuffle(both)
        documents.append(f"{country}. {' '.join(both)}".format(country=country, capital=capital, region=region))
    return documents


if __name__ == "__main__":
    main()
