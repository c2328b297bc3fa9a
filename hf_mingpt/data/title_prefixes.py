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

from ..system.command_line import warn
from ..system.wording import count
from .alphabet import Alphabet
from .encoding import encode_texts_aligned
from .questions import Question
from .sequences import TokenSequences
from .subjects import Template, TitleSearch, longest_title, match

MAX_RANDOM_PREFIX = 16
TEXT_LENGTH = 2**16  # tokens at the beginning of the corpus from which random prefixes come


@dataclass(frozen=True)
class TitlePrefixes:
    """Draws prefixes: half from the training questions, half from the text; all from the text without questions.

    With several kinds of questions, a span that answers one kind always has a prefix, from a question of that kind:
    without it, nothing would tell which of the answers is asked for.

    Attributes:
        token_ids: flat array of the prefixes of the questions and, behind them, of the beginning of the corpus.
        starts, lengths: (K,) the prefix of each question that has the name of a document; the lengths may be 0.
        text_start: where the text begins in `token_ids`.
        relations: (K,) the kind of each question, as the masking policy numbers them. None: one kind.
    """

    token_ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    text_start: int
    relations: np.ndarray | None = None

    def draw(
        self, draws: np.ndarray, probability: float, relations: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws N prefixes.

        Args:
            draws: (N, 3) uniform numbers in [0, 1).
            probability: of a prefix, for a span without a kind.
            relations: (N,) the kind of question that each span answers, which always gives it a prefix; -1 for a span
                without a kind. None: all are without.

        Returns:
            (N,) where each begins in `token_ids`, and (N,) their lengths; 0 for no prefix.
        """
        number = len(self.starts)
        from_question = draws[:, 0] < (probability / 2 if number else 0.0)
        question = (draws[:, 1] * number).astype(np.int64) if number else np.zeros(len(draws), dtype=np.int64)
        if relations is not None and self.relations is not None:
            for relation in np.unique(relations[relations >= 0]):
                same, own = relations == relation, np.flatnonzero(self.relations == relation)
                if len(own):
                    from_question |= same
                    question[same] = own[(draws[same, 1] * len(own)).astype(np.int64)]
        most = min(MAX_RANDOM_PREFIX, len(self.token_ids) - self.text_start)
        length = 1 + (draws[:, 2] * most).astype(np.int64)
        start = self.text_start + (draws[:, 1] * (len(self.token_ids) - self.text_start - length + 1)).astype(np.int64)
        length[draws[:, 0] >= probability] = 0
        starts, lengths = np.append(self.starts, 0)[question], np.append(self.lengths, 0)[question]
        return np.where(from_question, starts, start), np.where(from_question, lengths, length)

    @classmethod
    def learn(
        cls,
        batches: Iterable[TokenSequences],
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        *,
        templates: Sequence[Template | None] = (),
    ) -> "TitlePrefixes":
        """Finds the names of the documents in the questions, and what precedes them.

        Args:
            batches: all documents.
            questions: may be empty, or without a name of a document.
            tokenizer: of the documents.
            templates: of the relations of a masking policy, in their order. None is that of questions without one.
        """
        alphabet = Alphabet.of(tokenizer)
        search, text = TitleSearch([question for question, _ in questions], alphabet), np.zeros(0, dtype=np.uint8)
        for documents in batches:
            search.read(documents.characters)
            text = np.concatenate((text, documents.token_ids[: TEXT_LENGTH - len(text)]))
        titles = search.titles
        titled = [(asked, title) for asked, _ in questions if (title := longest_title(asked, titles))]
        found = [(asked[:start], asked) for asked, (start, _) in titled]
        if questions and not found:
            warn(
                f"None of {count(len(questions), 'question')} names the title of a document: what precedes a title in "
                "salient span masking comes from the text only."
            )
        relations = None
        if templates:
            known = [template for template in templates if template]
            number = {template: place for place, template in enumerate(templates)}
            relations = np.array([number.get(match(asked, known), -1) for _, asked in found], dtype=np.int64)
        example = dict(reversed(found))  # the first question with each prefix
        distinct = {prefix: number for number, prefix in enumerate(dict.fromkeys(prefix for prefix, _ in found))}
        encoded = encode_texts_aligned([example[prefix] for prefix in distinct], tokenizer)
        lengths = encoded.count_covered(np.array(list(map(len, distinct)), dtype=np.int64))
        place = np.arange(len(encoded.token_ids)) - np.repeat(encoded.offsets[:-1], encoded.lengths)
        ids = encoded.token_ids[place < np.repeat(lengths, encoded.lengths)]
        which = np.array([distinct[prefix] for prefix, _ in found], dtype=np.int64)
        token_ids = np.concatenate((ids.astype(text.dtype), text))
        return cls(token_ids, (np.cumsum(lengths) - lengths)[which], lengths[which], len(ids), relations)
