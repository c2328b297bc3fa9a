r"""Reads answers out of the text with an open-book extractive baseline, for models that are not closed-book.

    python scripts/read_answers.py --train_file wiki.txt --questions_file birth_places_train.tsv --output_dir runs/read
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \
        --questions_file runs/read/with_reader.tsv --output_dir runs/with-a-reader

The training questions teach which contexts surround an answer; from each other document, the script extracts the most
probable answer to each kind of question. It writes with_reader.tsv: the training questions, then the extracted answers
as pseudo-labels. A model that trains on this file has seen answers to the questions it will be asked: compare it with
models of the same kind only.
"""

from dataclasses import dataclass
from pathlib import Path

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.answer_extraction import learn_extractors, read_answers
from hf_mingpt.data.encoding import read_characters
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import add_pseudo_labels, read_questions, write_questions
from hf_mingpt.data.validation import warn_of_training_questions
from hf_mingpt.evaluation.report import format_table
from hf_mingpt.evaluation.scoring import accuracy
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.wording import count


@dataclass(frozen=True, kw_only=True)
class ReaderRecipe:
    train_file: str = required(
        "Text to read: a file with one document per line, or another source that pretrain.py takes."
    )
    questions_file: str = required("TSV or Hub dataset of training questions with answers.")
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace an existing result.")
    dev_questions_file: str | None = flag(
        None, "TSV or Hub dataset of questions with answers, to measure the accuracy.", formerly="dev_file"
    )


def main() -> None:
    recipe = parse_recipe(ReaderRecipe)
    path = Path(recipe.output_dir) / "with_reader.tsv"
    with user_errors():
        if path.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{path} exists: choose another --output_dir, or give --overwrite_output_dir.")
        labeled = read_questions(recipe.questions_file, answers=True)
        dev = read_questions(recipe.dev_questions_file, answers=True) if recipe.dev_questions_file else []
        warn_of_training_questions(dev, labeled)
        texts = load_texts(recipe.train_file)
        alphabet = Alphabet.of_unicode()
        documents = list(read_characters(texts, alphabet))
        extractors = learn_extractors(documents, labeled, alphabet, numbers=False)

    answers = {
        template.fill(title): answer
        for template, extractor in extractors.items()
        if template  # other questions cannot be asked about other titles
        for title, answer in read_answers(documents, extractor, alphabet).items()
    }
    questions = add_pseudo_labels(labeled, list(answers), list(answers.values()))
    with accidents():
        write_questions(path, questions)
    number = count(len(questions) - len(labeled), "extracted answer")
    print(f"Wrote {path}: {count(len(labeled), 'training question')} and {number}.")
    if dev:
        scores = accuracy([answers.get(question, "") for question, _ in dev], [str(answer) for _, answer in dev])
        print(format_table({"open-book extractive baseline": scores}))


if __name__ == "__main__":
    main()
