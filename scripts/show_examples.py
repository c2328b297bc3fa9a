"""Prints training examples of every objective as the model sees them: the input above the labels.

    python scripts/show_examples.py --train_file wiki.txt
    python scripts/show_examples.py --train_file wiki.txt --questions_file birth_places_train.tsv --num_examples 4
    python scripts/show_examples.py --train_file wiki.txt --tokenizer_name runs/words

Under each token of the input `x` is the token `y` to predict from it; □ is a position without loss.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_mingpt.data.assembly import build_objective, encode_corpus, load_corpus
from hf_mingpt.data.encoding import build_corpus_tokenizer, encode_questions, load_tokenizer, take
from hf_mingpt.data.objectives import QuestionAnswering
from hf_mingpt.data.questions import read_questions
from hf_mingpt.data.recipe import DataRecipe
from hf_mingpt.data.sequences import IGNORE_ID
from hf_mingpt.system.command_line import parse_recipe, user_errors
from hf_mingpt.system.fields import check_least, flag, required
from hf_mingpt.tokenization_mingpt import PAD, add_special_tokens, decode_each, is_character_tokenizer


@dataclass(frozen=True, kw_only=True)
class ShowRecipe:
    train_file: str = required(
        "Text: a file with one document per line, or another source that pretrain.py takes.", formerly="corpus_file"
    )
    tokenizer_name: str | None = flag(
        None, "Folder or Hub name of a tokenizer or of a run. None: a character tokenizer, built from the text."
    )
    vocabulary_file: str | None = flag(None, "Text whose characters join the vocabulary.")
    questions_file: str | None = flag(None, "TSV or Hub dataset of questions and answers.")
    num_examples: int = flag(2, "Examples of each objective.")
    seed: int = flag(0, "Seed of the draws.")
    block_size: int = flag(128, "Longest example, in tokens.")
    CONSTANTS: ClassVar = {"epoch": 0}

    def __post_init__(self):
        check_least(self, 0, "seed")
        check_least(self, 1, "num_examples", "block_size")


OBJECTIVES = {
    "span corruption": {},
    "salient span masking": {"ssm_probability": 1.0},
    "next-token prediction": {"objective": "causal"},
}


def main() -> None:
    recipe = parse_recipe(ShowRecipe)
    options = {"block_size": recipe.block_size, "seed": recipe.seed}
    with user_errors():
        texts = load_corpus(DataRecipe(train_file=recipe.train_file), [])
        questions = read_questions(recipe.questions_file, answers=True) if recipe.questions_file else []
        if recipe.tokenizer_name:
            tokenizer = load_tokenizer(recipe.tokenizer_name)
        else:
            more = [f"{question}{answer}" for question, answer in questions]
            tokenizer = build_corpus_tokenizer(texts, recipe.block_size, recipe.vocabulary_file, more=more)
        mask_id = add_special_tokens(tokenizer).mask_id
        shown = {}
        for name, fields in OBJECTIVES.items():
            data_recipe = DataRecipe(train_file=recipe.train_file, **fields)
            documents = encode_corpus(data_recipe, texts, tokenizer, block_size=recipe.block_size)
            shown[name] = documents, build_objective(data_recipe, documents, [], tokenizer, **options)
        if questions:
            examples = encode_questions(questions, tokenizer, recipe.block_size)
            shown["question answering"] = examples, QuestionAnswering(mask_id)
    gap = "" if is_character_tokenizer(tokenizer) else "|"
    for name, (dataset, objective) in shown.items():
        print(f"\n{name}")
        for i in range(min(recipe.num_examples, len(dataset))):
            index = np.array([i])
            batch = objective(take(dataset, index), 0, index).pad(np.array([0]))
            rows = [
                [PAD if i == IGNORE_ID else decode_each([i], tokenizer)[0].replace("\n", "⏎") for i in ids]
                for ids in (batch["input_ids"][0, :-1], batch["labels"][0, 1:])
            ]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for label, row in zip("xy", rows, strict=True):
                print(f"{label}:", gap.join(token.ljust(width) for token, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
