"""Prints some training examples as the model sees them: what goes in above what is to come out.

    python scripts/show_examples.py --train_file wiki.txt
    python scripts/show_examples.py --train_file wiki.txt --questions_file birth_places_train.tsv --num_examples 4

`x` is the input and `y`, under it, the character to predict from it; a position without loss is shown as PAD.
"""

from dataclasses import dataclass

import numpy as np

from hf_mingpt.data.batching import BatchShape, make_micro_batches
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_documents, encode_questions, group_into_blocks, take
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.objectives import NextTokenPrediction, QuestionAnswering, SalientSpanMasking, SpanCorruption
from hf_mingpt.data.questions import read_questions
from hf_mingpt.data.sequences import IGNORE_ID
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.tokenization_mingpt import PAD_ID


@dataclass(frozen=True, kw_only=True)
class ShowRecipe:
    train_file: str = required(
        "Text file, one document per line; the vocabulary comes from it.", formerly="corpus_file"
    )
    vocabulary_file: str | None = flag(None, "Text whose characters join the corpus's.")
    questions_file: str | None = flag(None, "TSV of questions and answers.")
    num_examples: int = flag(2, "Examples of each format.")
    epoch: int = flag(0, "Epoch whose draws are shown.")
    seed: int = flag(0, "Seed of the draws.")
    block_size: int = flag(128, "Longest example, in characters.")

    def __post_init__(self):
        check_least(self, 0, "epoch", "seed")
        check_least(self, 1, "num_examples", "block_size")


def main() -> None:
    recipe = parse_recipe(ShowRecipe)
    with user_errors():
        texts = load_texts(recipe.train_file)
        tokenizer = build_corpus_tokenizer(texts, recipe.block_size, recipe.vocabulary_file)
        documents = encode_documents(texts, tokenizer)
        blocks = group_into_blocks(documents, recipe.block_size, tokenizer.convert_tokens_to_ids("\n"))
        formats = {
            "span corruption": (documents, SpanCorruption(recipe.block_size, recipe.seed)),
            "cloze": (
                documents,
                SalientSpanMasking(recipe.block_size, recipe.seed, tokenizer=tokenizer, probability=1.0),
            ),
            "next character": (blocks, NextTokenPrediction()),
        }
        if recipe.questions_file:
            questions = read_questions(recipe.questions_file, answers=True)
            formats["birthplace answers"] = (
                encode_questions(questions, tokenizer, recipe.block_size),
                QuestionAnswering(),
            )
    for name, (dataset, objective) in formats.items():
        index = np.arange(min(recipe.num_examples, len(dataset)))
        print(f"\n{name}")
        for i in index:
            (batch,) = make_micro_batches(
                objective(take(dataset, index[i : i + 1]), recipe.epoch, index[i : i + 1]), BatchShape(1)
            )
            x, y = batch["input_ids"][0, :-1], batch["labels"][0, 1:]
            print("x:", tokenizer.decode(x).replace("\n", "⏎"))
            print("y:", tokenizer.decode(y.where(y != IGNORE_ID, PAD_ID)).replace("\n", "⏎"))


if __name__ == "__main__":
    main()
