"""Small tokenizers of other kinds than the character tokenizer."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_mingpt.tokenization_mingpt import MASK, PAD, build_tokenizer, build_vocabulary

MERGES = [
    "Ġ L",
    "o n",
    "ĠL on",
    "d on",
    "ĠLon don",
    "Ġ A",
    "d a",
    "ĠA da",
    "Ġ b",
    "o r",
    "Ġb or",
    "Ġbor n",
    "Ġ i",
    "Ġi n",
]


def byte_bpe(*, trims: bool = True, marks: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the words "London", "Ada", "born" and "in"; other words are spelled in bytes.

    Args:
        trims: whether offsets leave out the space that a token brings.
        marks: whether it has PAD and MASK, as ids 0 and 1.
    """
    tokens = [PAD, MASK] * marks + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [merge.replace(" ", "") for merge in MERGES]
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=trims)
    backend.post_processor = processors.ByteLevel(trim_offsets=trims)
    backend.decoder = decoders.ByteLevel()
    special = {"pad_token": PAD, "mask_token": MASK} if marks else {}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def word_piece(text: str) -> PreTrainedTokenizerFast:
    """As BERT's: lower case, its own marks, [CLS] and [SEP] around a text; all characters of `text` and "##on"."""
    characters = sorted(set(text.lower()) - {" "})
    tokens = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", *characters, *(f"##{one}" for one in characters), "##on"]
    backend = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {name: f"[{name[:3].upper()}]" for name in ("unk_token", "cls_token", "sep_token", "pad_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **names)


def with_an_added_token(text: str) -> PreTrainedTokenizerFast:
    """The character tokenizer of a text, with one more token."""
    tokenizer = build_tokenizer(build_vocabulary([[text]]), 128)
    tokenizer.add_tokens(["born in"])
    return tokenizer


KINDS = {
    "byte-level BPE": lambda text: byte_bpe(),
    "byte-level BPE with spaces": lambda text: byte_bpe(trims=False),
    "WordPiece": word_piece,
    "characters and a token": with_an_added_token,
}
