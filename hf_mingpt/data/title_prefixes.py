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

from .alphabet import Alphabet
from .questions import Question
from .sequences import TokenSequences
from .subjects import TitleSearch, longest_title

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
        cls, batches: Iterable[TokenSequences], questions: Sequence[Question], alphabet: Alphabet
    ) -> "TitlePrefixes":
        """Finds the names of the documents in the questions, and what precedes them.

        Args:
            batches: all documents.
            questions: may be empty, or without a name of a document.
            alphabet: of the documents.
        """
        search, text = TitleSearch([question for question, _ in questions], alphabet), np.zeros(0, dtype=np.uint8)
        for documents in batches:
            search.read(documents)
            text = np.concatenate((text, documents.token_ids[: TEXT_LENGTH - len(text)]))
        found = [(question, longest_title(question, search.titles)) for question, _ in questions]
        prefixes = [question[: title[0]] for question, title in found if title]
        distinct = {prefix: number for number, prefix in enumerate(dict.fromkeys(prefixes))}
        ids, offsets = alphabet.encode(list(distinct))
        which = np.array([distinct[prefix] for prefix in prefixes], dtype=np.int64)
        token_ids = np.concatenate((ids.astype(text.dtype), text))
        return cls(token_ids, offsets[:-1][which], np.diff(offsets)[which], len(ids))
