r"""Trains a byte-level BPE tokenizer on a text, for `pretrain.py --tokenizer_name`.

    python scripts/train_tokenizer.py --train_file wiki.txt --questions_file birth_places_train.tsv \
        --vocab_size 2048 --output_dir runs/tokenizer
    accelerate launch scripts/pretrain.py --train_file wiki.txt --tokenizer_name runs/tokenizer --output_dir runs/words

The vocabulary holds PAD, MASK, an end-of-text token and the 256 bytes, so that no character is unknown. A word at the
beginning of a text has the same tokens as a word after a space: a name in a question is the name in a title.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import read_questions
from hf_mingpt.hub.run_folders import written_whole
from hf_mingpt.system.command_line import accidents, parse_recipe, user_errors
from hf_mingpt.system.fields import flag, required
from hf_mingpt.system.writing import check_output_folder, one_writer
from hf_mingpt.tokenization_mingpt import MASK, PAD

SPECIAL_TOKENS = {"pad_token": PAD, "mask_token": MASK, "eos_token": "<|endoftext|>"}
SMALLEST = len(SPECIAL_TOKENS) + 256  # a token for every byte


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    train_file: str = required("Text: a file with one document per line, or another source that pretrain.py takes.")
    questions_file: str | None = flag(
        None, "TSV or Hub dataset of questions, with or without answers, whose text is added."
    )
    vocab_size: int = flag(2048, "Tokens of the vocabulary, at most.")
    output_dir: str = required("Folder to write.")
    overwrite_output_dir: bool = flag(False, "Replace the tokenizer in output_dir.")

    def __post_init__(self):
        if self.vocab_size < SMALLEST:
            raise ValueError(
                f"vocab_size is {self.vocab_size}: it must be at least {SMALLEST}, the special tokens and all bytes."
            )


def main() -> None:
    recipe = parse_recipe(TokenizerRecipe)
    folder = Path(recipe.output_dir)
    with user_errors():
        check_output_folder(folder, overwrite=recipe.overwrite_output_dir)
        questions = read_questions(recipe.questions_file) if recipe.questions_file else []
        texts = load_texts(recipe.train_file)
    tokenizer = train_tokenizer(texts, [text for pair in questions for text in pair if text], recipe.vocab_size)
    with accidents(), one_writer(folder), written_whole(folder, folder.resolve().name) as aside:
        tokenizer.save_pretrained(aside)
    print(f"Wrote {folder}: {len(tokenizer):,} tokens.")


def train_tokenizer(texts: Dataset | IterableDataset, questions: list[str], vocab_size: int) -> TokenizersBackend:
    """Trains a byte-level BPE."""

    def batches() -> Iterator[list[str]]:
        for batch in texts.iter(1000):
            yield batch["text"]
        yield questions

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(batches(), trainer)
    return TokenizersBackend(
        tokenizer_object=backend,
        padding_side="left",  # for batched generation
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


if __name__ == "__main__":
    main()
