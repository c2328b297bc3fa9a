"""Clozes: a name or a number of a document taken out of its text, to be given back from the title.

Pure functions on token ids, after corruption in the flow. A document, and one of its clozes:

    Ada Byron. Ada Byron was born in London in 1815 .

    title context MASK context MASK salient_span MASK

    Ada Byron. born in ⁇ in 18⁇London⁇

It is closed by a MASK, and learnt alone, as an answer is. The less context is kept, the more the title must tell.

References: Guu et al. 2020, REALM, arXiv:2002.08909 (salient spans); Roberts et al. 2020, arXiv:2002.08910 (salient
spans for closed-book answers); Ye et al. 2020, arXiv:2012.15856 (more often those that questions may ask for).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .draws import random_bits
from .sequences import MASK_SEGMENT, Segments


class CharacterClasses(NamedTuple):
    """What each token of a vocabulary is; three boolean arrays of shape (V,)."""

    word: np.ndarray  # letters, digits, hyphens and apostrophes
    upper: np.ndarray
    digit: np.ndarray

    @classmethod
    def of(cls, vocabulary: Sequence[str]) -> "CharacterClasses":
        """Args: vocabulary: the character of each token id."""
        return cls(
            np.array([character.isalnum() or character in "-'’" for character in vocabulary]),
            np.array([character.isupper() for character in vocabulary]),
            np.array([character.isdigit() for character in vocabulary]),
        )


class SalientSpans(NamedTuple):
    """The names and numbers of N documents, in the documents' order.

    starts, lengths: (M,) their places in the flat array of token ids, and tokens.
    offsets: (N + 1,): those of document i are `starts[offsets[i]:offsets[i + 1]]`.
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray


def find_titles(
    token_ids: np.ndarray, offsets: np.ndarray, *, kinds: CharacterClasses, title_end: tuple[int, int]
) -> np.ndarray:
    """Tokens of each document's title with the mark that ends it; 0 if there is none.

    The dot of an initial ends no title: that of "J. R. Tolkien. He wrote." is the whole name.

    Args:
        token_ids: the ids of N documents in one flat array.
        offsets: (N + 1,) where each begins and ends.
        kinds: of the vocabulary.
        title_end: the ids of the two characters that end a title: of "." and " ".

    Returns:
        (N,) tokens.
    """
    starts = offsets[:-1]
    dots = np.flatnonzero((token_ids[:-1] == title_end[0]) & (token_ids[1:] == title_end[1]))
    alone = np.isin(dots - 1, starts) | ~kinds.word[token_ids[dots - 2]]  # one character is all there is before the dot
    initial = alone & kinds.upper[token_ids[dots - 1]] & ~np.isin(dots, starts)
    dots = dots[~initial]
    first = np.append(dots + 2, len(token_ids) + 1)[np.searchsorted(dots, starts)]
    return np.where(first <= offsets[1:], first - starts, 0)


class Words(NamedTuple):
    """The words of N documents, in the documents' order; arrays of shape (M,).

    starts, ends: their places in the flat array of token ids.
    document: which of the N each is in.
    follows: whether it stands one space after the word before it.
    """

    starts: np.ndarray
    ends: np.ndarray
    document: np.ndarray
    follows: np.ndarray


def find_words(token_ids: np.ndarray, offsets: np.ndarray, *, kinds: CharacterClasses, space_id: int) -> Words:
    """Finds the words; arguments as of `find_salient_spans`."""
    is_word = kinds.word[token_ids]
    before, after = np.append(False, is_word[:-1]), np.append(is_word[1:], False)
    before[offsets[:-1]] = after[offsets[1:] - 1] = False  # a document's words end with it
    starts, ends = np.flatnonzero(is_word & ~before), np.flatnonzero(is_word & ~after) + 1
    document = np.searchsorted(offsets, starts, side="right") - 1
    follows = (starts[1:] == ends[:-1] + 1) & (token_ids[ends[:-1]] == space_id) & (document[1:] == document[:-1])
    return Words(starts, ends, document, np.append(np.zeros(min(1, len(starts)), dtype=bool), follows))


def find_repeated(token_ids: np.ndarray, words: Words, in_title: np.ndarray) -> np.ndarray:
    """(M,) whether the same word stands in the title of the same document."""
    hashes = hash_runs(token_ids, words.starts, words.ends - words.starts, words.document)
    return np.isin(hashes, hashes[in_title])


def hash_runs(
    token_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, owners: np.ndarray | None = None
) -> np.ndarray:
    """64 bits that are a hash of each of M runs of tokens, none of them empty, and of its owner: (M,)."""
    firsts = np.cumsum(lengths) - lengths
    place = np.arange(lengths.sum()) - np.repeat(firsts, lengths)
    tokens = token_ids[np.repeat(starts, lengths) + place]
    owner = 0 if owners is None else np.repeat(owners, lengths)
    return np.add.reduceat(random_bits((owner, place, tokens), 1)[:, 0], firsts)


def find_salient_spans(
    token_ids: np.ndarray,
    offsets: np.ndarray,
    titles: np.ndarray,
    *,
    kinds: CharacterClasses,
    title_end: tuple[int, int],
    numbers: bool = True,
) -> SalientSpans:
    """Finds what a document says and its title does not: names and numbers.

    A name is a run of capitalised words with one space between. It does not count if the title says all of it, nor if
    it is the one word that opens a sentence, where any word has a capital.

    Args:
        token_ids: the ids of N documents in one flat array.
        offsets: (N + 1,) where each begins and ends.
        titles: (N,) from `find_titles`.
        kinds: of the vocabulary.
        title_end: as of `find_titles`; it ends sentences too.
        numbers: whether numbers count. If not, a capitalised word beside a number of one or two digits does not
            either: it is a month.

    Example: "Ada Byron. Byron (born 10 May 1815) saw New York. She read." has "10", "May", "1815" and "New York".
    """
    stop_id, space_id = title_end
    words = find_words(token_ids, offsets, kinds=kinds, space_id=space_id)
    starts, ends, document, follows = words
    upper, digit = kinds.upper[token_ids[starts]], kinds.digit[token_ids[starts]]
    in_title = starts < (offsets[:-1] + titles)[document]
    name = upper & ~in_title
    if not numbers:
        day = digit & (ends - starts <= 2)
        name &= ~(follows & np.roll(day, 1)) & ~(np.roll(follows, -1) & np.roll(day, -1))
    salient = name | (digit & numbers & ~in_title)
    joined = follows & name & np.roll(name, 1)  # to the word before
    first, last = np.flatnonzero(salient & ~joined), np.flatnonzero(salient & ~np.roll(joined, -1))

    said = find_repeated(token_ids, words, in_title) | ~salient
    opening = name & (starts - 2 >= offsets[document])  # what is before it is of its own document
    opening &= (token_ids[starts - 1] == space_id) & (token_ids[np.maximum(starts - 2, 0)] == stop_id)
    kept = ~np.logical_and.reduceat(said, first) & ~(opening[first] & (first == last))
    starts, ends, document = starts[first][kept], ends[last][kept], document[first][kept]
    return SalientSpans(starts, ends - starts, np.searchsorted(document, np.arange(len(offsets))))


def choose_spans(
    spans: SalientSpans, sought: np.ndarray, draws: np.ndarray, *, policy_probability: float
) -> np.ndarray:
    """Chooses a span of each document: of those that are sought with that chance, if it has any; else any of them.

    Args:
        spans: M of N documents, from `find_salient_spans`.
        sought: (M,) booleans.
        draws: (N,) uniform numbers in [0, 1).
        policy_probability: the chance, from 0 to 1.

    Returns:
        (N,) places in `spans`; what stands there for a document without any means nothing.

    Example: of the spans "Rome", "May" and "Ohio", where "Ohio" is sought with a chance of 0.7, a draw of 0.1 chooses
    "Ohio", and one of 0.75, the sixth part of what is left, "Rome".
    """
    by_interest = np.lexsort((~sought, np.repeat(np.arange(len(draws)), np.diff(spans.offsets))))  # the sought first
    before = np.append(0, np.cumsum(sought))[spans.offsets]
    number, number_sought = np.diff(spans.offsets), np.diff(before)
    share = np.where(number_sought > 0, policy_probability, 0.0)
    seeks = draws < share
    place = np.where(
        seeks,
        draws / np.where(seeks, share, 1.0) * number_sought,
        (draws - share) / np.where(seeks, 1.0, 1.0 - share) * number,
    ).astype(np.int64)
    places = spans.offsets[:-1] + np.minimum(place, number - 1)
    by_interest = np.append(by_interest, 0)
    return np.where(seeks, by_interest[np.minimum(places, len(by_interest) - 1)], places)


def mask_spans(
    offsets: np.ndarray,
    titles: np.ndarray,
    spans: SalientSpans,
    chosen: np.ndarray,
    draws: np.ndarray,
    *,
    block_size: int,
    max_context: np.ndarray,
) -> tuple[Segments, np.ndarray]:
    """The pieces of `title context MASK context MASK salient_span MASK`, which is learnt from the second MASK on.

    The lengths of what is kept before and after it are uniform, up to `max_context`,
    to what there is, and to what the block has room for. A short context leaves the title as the only thing from which
    the span can be known.

    Args:
        offsets: (N + 1,) where each document begins and ends.
        titles: (N,) from `find_titles`.
        spans: from `find_salient_spans`.
        chosen: (N,) the place of each document's span in `spans`, from `choose_spans`.
        draws: (N, 2) uniform numbers in [0, 1).
        block_size: longest row.
        max_context: (N, 2) most tokens that are kept before and after the span.

    Returns:
        The pieces, and (N,) whether a document has such a row: it has a salient span, and room for it.
    """
    start, end = offsets[:-1], offsets[1:]
    number = np.diff(spans.offsets)
    span_start = np.append(spans.starts, 0)[chosen]
    length = np.append(spans.lengths, 0)[chosen]
    room = block_size - titles - length - 3
    possible = (number > 0) & (room >= 0)
    room = np.maximum(room, 0)
    most_before = np.minimum(np.clip(span_start - start - titles, 0, room), max_context[:, 0])
    before = (draws[:, 0] * (most_before + 1)).astype(np.int64)
    most_after = np.minimum(np.clip(end - span_start - length, 0, room - before), max_context[:, 1])
    after = (draws[:, 1] * (most_after + 1)).astype(np.int64)
    mark, one = np.full_like(start, MASK_SEGMENT), np.ones_like(start)
    pieces = Segments(
        np.stack((start, span_start - before, mark, span_start + length, mark, span_start, mark), axis=1),
        np.stack((titles, before, one, after, one, length, one), axis=1),
        titles + before + 1 + after,
    )
    return pieces, possible
