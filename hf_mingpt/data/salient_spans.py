"""Salient spans: the names and numbers of a document, and salient span masking (SSM) of one of them.

A document, and one of its masked spans:

    Ada Byron. Ada Byron was born in London in 1815 .

    title context MASK context MASK salient_span MASK

    Ada Byron. born in ⁇ in 18⁇London⁇

The span and the MASK that closes it carry loss, as an answer does. The less context is kept, the more the model must
know from the title.

References: Guu et al. 2020, REALM, arXiv:2002.08909 (salient spans); Roberts et al. 2020, arXiv:2002.08910 (SSM for
closed-book question answering); Ye et al. 2020, arXiv:2012.15856 (masking policies).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .alphabet import Alphabet, CharacterClasses
from .draws import random_bits
from .sequences import MASK_SEGMENT, SegmentedSequences, TokenSequences

MIN_MASKED_LENGTH = 4  # one token and three MASKs, besides the title


class SalientSpans(NamedTuple):
    """The M salient spans of N documents, in the order of the documents.

    documents: the N documents.
    titles: (N,) from `find_titles`.
    starts, lengths: (M,) where each span begins in the flat array of token ids, and its tokens.
    offsets: (N + 1,): the spans of document i are `starts[offsets[i]:offsets[i + 1]]`.
    relations: (M,) which of several kinds of questions each span answers. None: there is one kind, or it is unknown.
    """

    documents: TokenSequences
    titles: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray
    relations: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """Spans of each document, (N,)."""
        return np.diff(self.offsets)

    @property
    def document(self) -> np.ndarray:
        """Which document each span is in, (M,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)

    def hashes(self) -> np.ndarray:
        """`hash_runs` of the spans, (M,)."""
        return hash_runs(self.documents.token_ids, self.starts, self.lengths)

    def hash_titles(self) -> np.ndarray:
        """`hash_runs` of the titles, (N,); 0 for a document without a title."""
        titled = np.flatnonzero(self.titles)
        hashes = np.zeros(len(self.titles), dtype=np.uint64)
        hashes[titled] = hash_runs(self.documents.token_ids, self.documents.offsets[titled], self.titles[titled])
        return hashes

    def select(self, kept: np.ndarray) -> "SalientSpans":
        """The spans for which `kept` (M,) is true, of the same documents."""
        offsets = np.append(0, np.cumsum(kept))[self.offsets]
        relations = None if self.relations is None else self.relations[kept]
        return self._replace(starts=self.starts[kept], lengths=self.lengths[kept], offsets=offsets, relations=relations)

    def find_relations(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """(K,) the relations of K runs of tokens, -1 for one that is none of these (sorted) spans; None without any."""
        if self.relations is None:
            return None
        width = 1 + max(self.lengths.max(initial=0), lengths.max(initial=0))
        known, keys = self.starts * width + self.lengths, starts * width + lengths
        place = np.searchsorted(known, keys)
        return np.where(np.append(known, -1)[place] == keys, np.append(self.relations, -1)[place], -1)


def hash_texts(texts: Sequence[str], alphabet: Alphabet) -> np.ndarray:
    """`hash_runs` of texts, none of them empty: (len(texts),)."""
    ids, offsets = alphabet.encode(list(texts))
    return hash_runs(ids, offsets[:-1], np.diff(offsets))


def is_among(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of M hashes is one of the others: booleans, (M,). By sorting: numpy 2.0's table overflows."""
    return np.isin(hashes, others, kind="sort")


def hash_runs(
    token_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, owners: np.ndarray | None = None
) -> np.ndarray:
    """64-bit hashes of M runs of tokens, none of them empty, each together with its owner if there is one: (M,)."""
    firsts = np.cumsum(lengths) - lengths
    position = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
    tokens = token_ids[np.repeat(starts, lengths) + position]
    owner = 0 if owners is None else np.repeat(owners, lengths)
    return np.add.reduceat(random_bits((owner, position, tokens), 1)[:, 0], firsts)


def find_titles(documents: TokenSequences, classes: CharacterClasses) -> np.ndarray:
    """Tokens of each document's title, with the stop and the space that end it; 0 if there is none: (N,).

    The stop of an initial ends no title: in "J. R. Tolkien. He wrote." the title is the whole name.
    """
    token_ids, offsets = documents.token_ids, documents.offsets
    starts = offsets[:-1]
    stops = np.flatnonzero((token_ids[:-1] == classes.stop_id) & (token_ids[1:] == classes.space_id))
    one_character = np.isin(stops - 1, starts) | ~classes.word[token_ids[stops - 2]]
    initial = one_character & classes.upper[token_ids[stops - 1]] & ~np.isin(stops, starts)
    stops = stops[~initial]
    first = np.append(stops + 2, len(token_ids) + 1)[np.searchsorted(stops, starts)]
    return np.where(first <= offsets[1:], first - starts, 0)


class Words(NamedTuple):
    """The M words of N documents, in the order of the documents; arrays of shape (M,).

    starts, ends: where they are in the flat array of token ids.
    document: which document each is in.
    follows: whether only one space separates a word from the word before it.
    """

    starts: np.ndarray
    ends: np.ndarray
    document: np.ndarray
    follows: np.ndarray


def find_words(documents: TokenSequences, classes: CharacterClasses) -> Words:
    """Finds the words of the documents."""
    token_ids, offsets = documents.token_ids, documents.offsets
    is_word = classes.word[token_ids]
    before, after = np.append(False, is_word[:-1]), np.append(is_word[1:], False)
    before[offsets[:-1]] = after[offsets[1:] - 1] = False  # a word ends with its document
    starts, ends = np.flatnonzero(is_word & ~before), np.flatnonzero(is_word & ~after) + 1
    document = np.searchsorted(offsets, starts, side="right") - 1
    one_space = (starts[1:] == ends[:-1] + 1) & (token_ids[ends[:-1]] == classes.space_id)
    follows = one_space & (document[1:] == document[:-1])
    return Words(starts, ends, document, np.append(np.zeros(min(1, len(starts)), dtype=bool), follows))


def find_repeated(token_ids: np.ndarray, words: Words, in_title: np.ndarray) -> np.ndarray:
    """(M,) whether the title of the same document has the same word."""
    hashes = hash_runs(token_ids, words.starts, words.ends - words.starts, words.document)
    return is_among(hashes, hashes[in_title])


class Names(NamedTuple):
    """The K names (and numbers) of N documents, in the order of the documents, as runs of words.

    first, last: (K,) positions in `words` of the first and the last word of each.
    words: the W words of the documents.
    in_title: (W,) whether a word is in a title.
    known: (W,) whether a word is no name, or in the title of its document too.
    titles: (N,) from `find_titles`.
    """

    first: np.ndarray
    last: np.ndarray
    words: Words
    in_title: np.ndarray
    known: np.ndarray
    titles: np.ndarray


def find_names(
    documents: TokenSequences, classes: CharacterClasses, *, numbers: bool = True, lower: bool = False
) -> Names:
    """Finds the names of `find_salient_spans`; with `lower`, the runs of lower-case words between them too."""
    token_ids, offsets = documents.token_ids, documents.offsets
    titles, words = find_titles(documents, classes), find_words(documents, classes)
    starts, ends, document, follows = words
    upper, digit = classes.upper[token_ids[starts]], classes.digit[token_ids[starts]]
    in_title = starts < (offsets[:-1] + titles)[document]
    name = upper & ~in_title
    if not numbers:
        day = digit & (ends - starts <= 2)
        name &= ~(follows & np.roll(day, 1)) & ~(np.roll(follows, -1) & np.roll(day, -1))
    others = ~upper & ~digit & ~in_title & lower
    salient = name | (digit & numbers & ~in_title) | others
    joined = follows & (name & np.roll(name, 1) | others & np.roll(others, 1))  # to the word before
    first, last = np.flatnonzero(salient & ~joined), np.flatnonzero(salient & ~np.roll(joined, -1))

    known = find_repeated(token_ids, words, in_title) | ~salient
    opening = name & (starts - 2 >= offsets[document])  # the two tokens before it are of the same document
    opening &= token_ids[starts - 1] == classes.space_id
    opening &= token_ids[np.maximum(starts - 2, 0)] == classes.stop_id
    kept = ~np.logical_and.reduceat(known, first) & ~(opening[first] & (first == last))
    return Names(first[kept], last[kept], words, in_title, known, titles)


def find_salient_spans(documents: TokenSequences, classes: CharacterClasses, *, numbers: bool = True) -> SalientSpans:
    """Finds the names and numbers that a document has and its title lacks.

    A name is a run of capitalized words with one space between them. A name whose words are all in the title does not
    count, nor does a single word at the start of a sentence, where every word is capitalized.

    Args:
        documents: N documents.
        classes: of their vocabulary.
        numbers: whether numbers count. Without them, a capitalized word beside a number of one or two digits does not
            count either, because it is a month.

    Example: "Ada Byron. Byron (born 10 May 1815) saw New York. She read." has "10", "May", "1815" and "New York".
    """
    names = find_names(documents, classes, numbers=numbers)
    return join_words(documents, names, names.first, names.last)


def join_words(documents: TokenSequences, names: Names, first: np.ndarray, last: np.ndarray) -> SalientSpans:
    """The spans from word `first` (M,) to word `last` (M,), in the order of the documents."""
    starts, ends, document, _ = names.words
    offsets = np.searchsorted(document[first], np.arange(len(documents.offsets)))
    return SalientSpans(documents, names.titles, starts[first], ends[last] - starts[first], offsets)


def choose_spans(
    spans: SalientSpans, answer_like: SalientSpans, draws: np.ndarray, *, policy_probability: float
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses one span of each document.

    With probability `policy_probability` it is one of the answer-like spans, if the document has any. Else it is any of
    its salient spans. Both choices are uniform.

    Args:
        spans: the salient spans of N documents.
        answer_like: spans of the same documents from a masking policy, which may be parts of the salient spans.
        draws: (N,) uniform numbers in [0, 1).
        policy_probability: from 0 to 1.

    Returns:
        (N,) where the spans start in the flat array of token ids, and (N,) their lengths; 0 for a document without a
        span.

    Example: of the spans "Rome", "May" and "Ohio", only "Ohio" is answer-like. With a probability of 0.7 a draw of 0.1
    chooses "Ohio", and a draw of 0.75, which is a sixth of the way from 0.7 to 1, chooses "Rome".
    """
    probability = np.where(answer_like.counts > 0, policy_probability, 0.0)
    from_policy = draws < probability
    picked = (draws / np.where(from_policy, probability, 1.0) * answer_like.counts).astype(np.int64)
    other = ((draws - probability) / np.where(from_policy, 1.0, 1.0 - probability) * spans.counts).astype(np.int64)
    chosen = np.where(
        from_policy,
        len(spans.starts) + answer_like.offsets[:-1] + picked,
        spans.offsets[:-1] + np.minimum(other, spans.counts - 1),
    )
    chosen = np.where(from_policy | (spans.counts > 0), chosen, -1)
    return (
        np.concatenate((spans.starts, answer_like.starts, [0]))[chosen],
        np.concatenate((spans.lengths, answer_like.lengths, [0]))[chosen],
    )


def mask_spans(
    spans: SalientSpans,
    chosen: tuple[np.ndarray, np.ndarray],
    draws: np.ndarray,
    *,
    block_size: int,
    max_context: np.ndarray,
) -> tuple[SegmentedSequences, np.ndarray]:
    """Builds `title context MASK context MASK salient_span MASK` of each document, with labels from the second MASK on.

    The lengths of the context before and after the span are uniform, up to `max_context`, to what the document has, and
    to what fits the context length of the model.

    Args:
        spans: the salient spans of N documents.
        chosen: (N,) starts and (N,) lengths of the spans to mask, from `choose_spans`.
        draws: (N, 2) uniform numbers in [0, 1).
        block_size: context length of the model.
        max_context: (N, 2) most tokens to keep before and after the span.

    Returns:
        The sequences, and (N,) booleans: whether a document has a chosen span, and room for its sequence. The other
        sequences are meaningless.
    """
    documents, titles = spans.documents, spans.titles
    start, end = documents.offsets[:-1], documents.offsets[1:]
    span_start, length = chosen
    room = block_size - titles - length - 3  # MASKs
    possible = (length > 0) & (room >= 0)
    room = np.maximum(room, 0)
    most_before = np.minimum(np.clip(span_start - start - titles, 0, room), max_context[:, 0])
    before = (draws[:, 0] * (most_before + 1)).astype(np.int64)
    most_after = np.minimum(np.clip(end - span_start - length, 0, room - before), max_context[:, 1])
    after = (draws[:, 1] * (most_after + 1)).astype(np.int64)
    mask, one = np.full_like(start, MASK_SEGMENT), np.ones_like(start)
    sequences = SegmentedSequences(
        documents.token_ids,
        np.stack((start, span_start - before, mask, span_start + length, mask, span_start, mask), axis=1),
        np.stack((titles, before, one, after, one, length, one), axis=1),
        titles + before + 1 + after,
    )
    return sequences, possible
