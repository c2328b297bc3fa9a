"""Characters that a character tokenizer lacks, and a tokenizer that has them. Other tokenizers lack none."""

from collections import Counter
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from ..system.wording import count
from ..tokenization_mingpt import build_tokenizer, is_character_tokenizer

MAX_LISTED = 10  # characters in a message


def complete_vocabulary(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, extend: bool, noun: str = "question"
) -> PreTrainedTokenizerBase:
    """Checks that a vocabulary has the characters of some texts, or adds them.

    Args:
        tokenizer: of the model.
        texts: such as questions with their answers.
        extend: add the characters, after those that are there, which keep their ids.
        noun: what one of the texts is called in a message; "text": they are one corpus.

    Returns:
        The tokenizer itself, or one with more characters. The embeddings of the model must be resized to its length.

    Raises:
        ValueError: if characters are missing, and `extend` is not set.
    """
    if not is_character_tokenizer(tokenizer):
        return tokenizer
    ids = tokenizer.get_vocab()
    texts = list(texts)
    missing = [sorted(set(text) - ids.keys()) for text in texts]
    number = Counter(character for characters in missing for character in characters)
    if not number:
        return tokenizer
    if extend:
        return build_tokenizer([*sorted(ids, key=ids.__getitem__), *sorted(number)], tokenizer.model_max_length)
    subject = "The text has" if noun == "text" else f"{sum(map(bool, missing))} of {count(len(texts), noun)} have"
    raise ValueError(
        f"{subject} characters that the vocabulary of the model lacks: {list_characters(number)}. Give "
        "--extend_vocabulary to add them, or replace them."
    )


def list_characters(number: Counter[str]) -> str:
    """Lists the most frequent characters, by how often each occurs, and says how many more there are."""
    listed = [f"{character!r} (U+{ord(character):04X})" for character, _ in number.most_common(MAX_LISTED)]
    if len(number) > MAX_LISTED:
        listed.append(f"and {len(number) - MAX_LISTED} more")
    return ", ".join(listed)
