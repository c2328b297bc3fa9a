"""The character tokenizer: one character, one token, loadable by a plain AutoTokenizer.

Beside modeling_mingpt in the flow; needs `tokenizers` and transformers only. There is no tokenizer class of ours: a
`TokenizersBackend` around a byte-pair encoding without pairs, whose tokens are single characters, does everything.

The vocabulary is the assignment's: PAD is id 0, MASK is id 1, then the sorted characters of the corpus, newline
included. A character that is not in it becomes PAD, whose glyph is the empty box that stands for missing characters;
the model never learns to predict PAD. `find_bad_character` finds such characters before training does.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

PAD = "\u25a1"  # white square
MASK = "\u2047"  # double question mark
PAD_ID, MASK_ID = 0, 1
_CODE_POINTS = 0x110000


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """Lists the tokens by id: PAD, MASK, and the sorted characters of all texts and of the line end.

    Raises:
        ValueError: if a text contains PAD or MASK, which are reserved.
    """
    characters = {"\n"}
    for text in texts:
        characters.update(text)
    for reserved in (PAD, MASK):
        if reserved in characters:
            raise ValueError(
                f"The corpus contains {reserved!r} (U+{ord(reserved):04X}), which is reserved as a mark of the data "
                "format: replace it in the text."
            )
    return [PAD, MASK, *sorted(characters)]


def build_tokenizer(vocabulary: Sequence[str], block_size: int) -> TokenizersBackend:
    """Makes the tokenizer of a vocabulary from `build_vocabulary`; longer texts are truncated to `block_size` tokens
    where a caller asks for truncation."""
    if list(vocabulary[:2]) != [PAD, MASK]:
        raise ValueError(f"A vocabulary starts with {PAD!r} and {MASK!r}, but this one with {list(vocabulary[:2])!r}.")
    ids = {character: i for i, character in enumerate(vocabulary)}
    backend = Tokenizer(models.BPE(ids, merges=[], unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*\S+|\s+"), "isolated")  # words, for word_ids()
    backend.decoder = decoders.Fuse()
    return TokenizersBackend(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=PAD,
        mask_token=MASK,
        padding_side="left",  # what batched generation needs
        model_max_length=block_size,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def character_table(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Maps every Unicode code point to its token id: shape (0x110000,), int32, -1 where there is no token."""
    table = np.full(_CODE_POINTS, -1, dtype=np.int32)
    for token, token_id in tokenizer.get_vocab().items():
        table[ord(token)] = token_id
    return table


def encode_texts(texts: Sequence[str], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encodes many texts at once, to the ids that the tokenizer gives, without a loop over characters.

    Args:
        texts: N strings.
        table: from `character_table`.

    Returns:
        All token ids one after the other (int32), and offsets (N + 1,): text i is `ids[offsets[i]:offsets[i + 1]]`.
        A character without a token has id -1: the caller decides its fate.
    """
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    code_points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return table[code_points], offsets


def find_bad_character(texts: Sequence[str], table: np.ndarray) -> tuple[int, str] | None:
    """The first character that has no token, or is one of the reserved marks: index of its text, and what to say of it.

    None if all texts are good.
    """
    ids, offsets = encode_texts(texts, table)
    bad = np.flatnonzero(ids <= MASK_ID)  # -1 for unknown, PAD_ID, MASK_ID
    if not len(bad):
        return None
    index = int(np.searchsorted(offsets, bad[0], side="right")) - 1
    place = int(bad[0] - offsets[index])
    character = texts[index][place]
    fate = "is a mark of the data format" if character in (PAD, MASK) else "is not in the vocabulary"
    return index, f"character {place + 1}, {character!r} (U+{ord(character):04X}), {fate}"
