"""The characters of texts as numbers, in which titles, names and candidates are found, whatever the tokenizer.

Of a character tokenizer, the number of a character is its token id, so the characters of a document are its tokens. Of
any other tokenizer, it is the Unicode code point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..tokenization_mingpt import PAD_ID, character_table, encode_texts, is_character_tokenizer


class CharacterClasses(NamedTuple):
    """What each character of an alphabet is.

    word: (V,) booleans: letters, digits, hyphens and apostrophes.
    upper, digit: (V,) booleans.
    stop_id, space_id: the ids of "." and " ", which end a title or a sentence together; PAD_ID if there is none.
    open_id, close_id, comma_id, hyphen_id: the ids of "(", ")", "," and "-"; PAD_ID if there is none.
    """

    word: np.ndarray
    upper: np.ndarray
    digit: np.ndarray
    stop_id: int
    space_id: int
    open_id: int
    close_id: int
    comma_id: int
    hyphen_id: int

    @classmethod
    def of(cls, vocabulary: Sequence[str]) -> "CharacterClasses":
        """Args: vocabulary: the character of each id."""
        return cls(
            np.array([character.isalnum() or character in "-'’" for character in vocabulary]),
            np.array([character.isupper() for character in vocabulary]),
            np.array([character.isdigit() for character in vocabulary]),
            *(vocabulary.index(character) if character in vocabulary else PAD_ID for character in ". (),-"),
        )


@dataclass(frozen=True)
class Alphabet:
    """The ids of characters.

    Attributes:
        table: (0x110000,) the id of each code point; -1 for a character without one.
        points: (V,) the code point of each id.
        classes: what each character is.
    """

    table: np.ndarray
    points: np.ndarray
    classes: CharacterClasses

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Alphabet":
        """The alphabet of a tokenizer: the token ids of a character tokenizer, the code points for any other."""
        if not is_character_tokenizer(tokenizer):
            return cls.of_unicode()
        vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        points = np.array([ord(character) for character in vocabulary], dtype=np.uint32)
        return cls(character_table(tokenizer), points, CharacterClasses.of(vocabulary))

    @staticmethod
    @cache
    def of_unicode() -> "Alphabet":
        """All of Unicode, with the code points as ids."""
        everything = np.arange(0x110000, dtype=np.int32)
        return Alphabet(everything, everything, CharacterClasses.of("".join(map(chr, everything))))

    def encode(self, texts: Sequence[str] | pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """The ids of N texts, and offsets (N + 1,): text i is `ids[offsets[i]:offsets[i + 1]]`."""
        return encode_texts(texts, self.table)

    def decode(self, ids: np.ndarray) -> str:
        """The text of ids from `encode`."""
        return self.points[ids].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
