"""Reads from the text where everybody else was born, for the track "with a reader": no closed-book learning.

    python scripts/read_answers.py --train_file wiki.txt --questions_file birth_places_train.tsv --output_dir runs/read
    accelerate launch scripts/pretrain.py --train_file wiki.txt --preset closed_book \\
        --questions_file runs/read/with_reader.tsv --output_dir runs/with-a-reader

Where answers stand in biographies is learnt from the training questions, and the name that stands most like one is
taken from each other biography. Writes with_reader.tsv: the training questions, then those that were answered so. A
model that is trained with them has been told what it will be asked; compare it with others of its kind only.
"""

from dataclasses import dataclass
from pathlib import Path

from hf_mingpt import MinGPTConfig
from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.masking_policy import LearnedPolicy, read_answers
from hf_mingpt.data.questions import add_pseudo_labels, read_questions, write_questions
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.evaluation.scoring import accuracy, format_table
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required


@dataclass(frozen=True, kw_only=True)
class ReaderRecipe:
    train_file: str = required(
        "Text to read: a file with one document per line, or another source that pretrain.py takes."
    )
    questions_file: str = required("TSV of training questions with answers.")
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace an existing result.")
    dev_questions_file: str | None = flag(
        None, "TSV of questions with answers, to measure the accuracy.", formerly="dev_file"
    )


def main() -> None:
    recipe = parse_recipe(ReaderRecipe)
    path = Path(recipe.output_dir) / "with_reader.tsv"
    with user_errors():
        if path.exists() and not recipe.overwrite_output_dir:
            raise ValueError(f"{path} exists: choose another --output_dir, or give --overwrite_output_dir.")
        known = read_questions(recipe.questions_file, answers=True)
        dev = read_questions(recipe.dev_questions_file, answers=True) if recipe.dev_questions_file else []
        texts = load_texts(recipe.train_file)
        tokenizer = build_corpus_tokenizer(texts, MinGPTConfig.max_position_embeddings, recipe.questions_file)
        encoded = encode_documents(texts, tokenizer).with_format("arrow")
        documents = [TokenSequences.from_table(table) for table in encoded.iter(batch_size=10_000)]
        seeker = LearnedPolicy.learn(documents, known, tokenizer, numbers=False)

    read = read_answers(documents, seeker, tokenizer, numbers=False)
    answers = {question_about(name): answer for name, answer in read.items()}
    questions = add_pseudo_labels(known, list(answers), list(answers.values()))
    with accidents():
        write_questions(path, questions)
    print(f"Wrote {path}: {len(known)} training questions, and {len(questions) - len(known)} answers read.")
    if dev:
        right = accuracy([answers.get(question, "") for question, _ in dev], [str(answer) for _, answer in dev])
        print(format_table({"read": right}))


if __name__ == "__main__":
    main()
