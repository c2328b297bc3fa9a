"""Title prefixes: text that precedes the title in salient span masking.

A masked span, without a prefix, with what precedes the name in a training question, and with a run of the text:

    Ada Byron. in ⁇, ⁇London⁇
    Where was Ada Byron. in ⁇, ⁇London⁇
    of the lawAda Byron. in ⁇, ⁇London⁇

In the text a name is at the beginning of an example, in a question it is not. A model that has read names only at the
beginning knows more about them than its answers to questions show (docs/facts.md).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from .alphabet import Alphabet
from .encoding import encode_texts_aligned
from .questions import Question
from .salient_spans import find_titles, hash_runs, hash_texts, is_among
from .sequences import TokenSequences

MAX_RANDOM_PREFIX = 16
TEXT_LENGTH = 2**16  # tokens at the beginning of the corpus from which random prefixes come


@dataclass(frozen=True)
class TitlePrefixes:
    """Draws prefixes: half from the training questions, half from the text; all from the text without questions.

    Attributes:
        token_ids: flat array of the prefixes of the questions and, behind them, of the beginning of the corpus.
        starts, lengths: (K,) the prefix of each question that has the name of a document; the lengths may be 0.
        text_start: where the text begins in `token_ids`.
    """

    token_ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    text_start: int

    def draw(self, draws: np.ndarray, probability: float) -> tuple[np.ndarray, np.ndarray]:
        """Draws N prefixes.

        Args:
            draws: (N, 3) uniform numbers in [0, 1).
            probability: of a prefix.

        Returns:
            (N,) where each begins in `token_ids`, and (N,) their lengths; 0 for no prefix.
        """
        number = len(self.starts)
        from_question = draws[:, 0] < (probability / 2 if number else 0.0)
        question = (draws[:, 1] * number).astype(np.int64) if number else np.zeros(len(draws), dtype=np.int64)
        most = min(MAX_RANDOM_PREFIX, len(self.token_ids) - self.text_start)
        length = 1 + (draws[:, 2] * most).astype(np.int64)
        start = self.text_start + (draws[:, 1] * (len(self.token_ids) - self.text_start - length + 1)).astype(np.int64)
        length[draws[:, 0] >= probability] = 0
        starts, lengths = np.append(self.starts, 0)[question], np.append(self.lengths, 0)[question]
        return np.where(from_question, starts, start), np.where(from_question, lengths, length)

    @classmethod
    def learn(
        cls, batches: Iterable[TokenSequences], questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase
    ) -> "TitlePrefixes":
        """Finds the names of the documents in the questions, and what precedes them.

        Args:
            batches: all documents.
            questions: may be empty, or without a name of a document.
            tokenizer: of the documents.
        """
        alphabet = Alphabet.of(tokenizer)
        runs = list(dict.fromkeys(run for question, _ in questions for _, run in runs_of_words(question)))
        hashes = hash_texts(runs, alphabet)
        is_name, text = np.zeros(len(runs), dtype=bool), np.zeros(0, dtype=np.uint8)
        for documents in batches:
            characters = documents.characters
            titles = find_titles(characters, alphabet.classes) - 2  # without the stop and the space
            titled = np.flatnonzero(titles > 0)
            is_name |= is_among(hashes, hash_runs(characters.token_ids, characters.offsets[titled], titles[titled]))
            text = np.concatenate((text, documents.token_ids[: TEXT_LENGTH - len(text)]))
        names = {run for run, found in zip(runs, is_name, strict=True) if found}
        found = [(prefix, asked) for asked, _ in questions if (prefix := _prefix_of(asked, names)) is not None]
        example = dict(reversed(found))  # the first question with each prefix
        distinct = {prefix: number for number, prefix in enumerate(dict.fromkeys(prefix for prefix, _ in found))}
        encoded = encode_texts_aligned([example[prefix] for prefix in distinct], tokenizer)
        lengths = encoded.count_covered(np.array(list(map(len, distinct)), dtype=np.int64))
        place = np.arange(len(encoded.token_ids)) - np.repeat(encoded.offsets[:-1], encoded.lengths)
        ids = encoded.token_ids[place < np.repeat(lengths, encoded.lengths)]
        which = np.array([distinct[prefix] for prefix, _ in found], dtype=np.int64)
        token_ids = np.concatenate((ids.astype(text.dtype), text))
        return cls(token_ids, (np.cumsum(lengths) - lengths)[which], lengths[which], len(ids))


def runs_of_words(question: str) -> list[tuple[int, str]]:
    """Every part of a question that begins and ends at the edge of a word, with its start.

    Example: "Ada?" has "Ada" and "Ada?" at 0, and "?" at 3.
    """
    edges = [i for i in range(len(question) + 1) if not (question[i - 1 : i] + question[i : i + 1]).isalnum()]
    edges = sorted({0, *edges, len(question)})
    return [(start, question[start:end]) for start in edges for end in edges if start < end]


def _prefix_of(question: str, names: set[str]) -> str | None:
    """What precedes the longest name in a question, the first one of that length; None if there is no name."""
    found = [(-len(run), start) for start, run in runs_of_words(question) if run in names]
    return question[: min(found)[1]] if found else None
