import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mingpt.data.draws import uniform_draws
from hf_mingpt.data.encoding import encode_texts_aligned
from hf_mingpt.data.questions import Question
from hf_mingpt.data.sequences import TokenSequences
from hf_mingpt.data.subjects import Template
from hf_mingpt.data.title_prefixes import MAX_RANDOM_PREFIX, TEXT_LENGTH, TitlePrefixes

from .biographies import encode, make_tokenizer
from .other_tokenizers import byte_bpe

LINES = ["Ada Byron. She wrote.", "Byron. He wrote.", "no title", "Jo. x"]


def learn(questions, lines=LINES, batch_size=3):
    tokenizer = make_tokenizer(*lines, *questions)
    batches = [encode(lines[i : i + batch_size], tokenizer) for i in range(0, len(lines), batch_size)]
    return TitlePrefixes.learn(batches, [Question(text, None) for text in questions], tokenizer), tokenizer


def known(prefixes, tokenizer):
    ids = prefixes.token_ids
    return [tokenizer.decode(ids[a : a + n]) for a, n in zip(prefixes.starts, prefixes.lengths, strict=True)]


class TestLearn:
    @pytest.mark.parametrize(
        ("question", "prefix"),
        [
            ("Where was Ada Byron born?", "Where was "),
            ("Was Lord Byron a poet?", "Was Lord "),  # the title is "Byron"
            ("Ada Byron: born where?", ""),
            ("Who is Byron", "Who is "),  # at the end
            ("Is (Jo) she?", "Is ("),
            ("Jo or Jo or Byron?", "Jo or Jo or "),  # the longest
            ("Jo or Jo?", ""),  # the first
        ],
    )
    def test_what_precedes_the_name(self, question, prefix):
        assert known(*learn([question])) == [prefix]

    def test_the_kinds_are_those_of_the_masking_policy(self):
        texts = ["Where was Ada Byron born?", "Who is Byron?", "Is Byron here?", "Where was Jo born?"]
        tokenizer = make_tokenizer(*LINES, *texts)
        questions, batches = [Question(text, None) for text in texts], [encode(LINES, tokenizer)]
        for templates, kinds in (
            ([Template("Who is ", "?"), Template("Where was ", " born?")], [1, 0, -1, 1]),
            ([Template("Where was ", " born?"), None], [0, 1, 1, 0]),
        ):
            prefixes = TitlePrefixes.learn(batches, questions, tokenizer, templates=templates)
            assert prefixes.relations.tolist() == kinds
        assert TitlePrefixes.learn(batches, questions, tokenizer).relations is None

    @pytest.mark.parametrize("question", ["Where was Jon born?", "Who is she?", "no title?", "Was it mojo?"])
    def test_a_question_without_the_name_of_a_document_has_no_prefix(self, question):
        assert known(*learn([question])) == []

    def test_each_question_counts(self):
        questions = ["Where was Jo?", "Why?", "When was Byron?", "Where was Ada Byron?"]
        prefixes, tokenizer = learn(questions)
        assert known(prefixes, tokenizer) == ["Where was ", "When was ", "Where was "]
        assert tokenizer.decode(prefixes.token_ids[: prefixes.text_start]) == "Where was When was "

    @pytest.mark.parametrize("batch_size", [1, 3, 9])
    def test_the_text_is_the_beginning_of_the_corpus(self, batch_size):
        prefixes, tokenizer = learn(["Is Jo?"], batch_size=batch_size)
        assert tokenizer.decode(prefixes.token_ids[prefixes.text_start :]) == "".join(LINES)
        assert known(prefixes, tokenizer) == ["Is "]  # of the last document

    def test_the_text_has_a_limit(self):
        lines = [f"Jo{i}. {'x' * 9_990}" for i in range(8)]
        prefixes, tokenizer = learn([], lines)
        assert tokenizer.decode(prefixes.token_ids) == "".join(lines)[:TEXT_LENGTH]
        assert (len(prefixes.starts), prefixes.text_start) == (0, 0)


class TestDraw:
    """Of the prefixes "ab" and "" of questions, and the text "0123456789" behind them."""

    prefixes = TitlePrefixes(np.frombuffer(b"ab0123456789", np.uint8), np.array([0, 2]), np.array([2, 0]), 2)

    def texts(self, draws, probability, prefixes=None):
        prefixes = prefixes or self.prefixes
        text = prefixes.token_ids.tobytes().decode()
        starts, lengths = prefixes.draw(np.array(draws), probability)
        return [text[a : a + n] for a, n in zip(starts, lengths, strict=True)]

    @pytest.mark.parametrize(
        ("draw", "text"),
        [
            ((0.0, 0.0, 0.9), "ab"),
            ((0.29, 0.49, 0.0), "ab"),
            ((0.29, 0.5, 0.9), ""),
            ((0.3, 0.0, 0.0), "0"),
            ((0.59, 0.99, 0.09), "9"),
            ((0.59, 0.99, 0.1), "89"),
            ((0.3, 0.0, 0.99), "0123456789"),
            ((0.3, 0.99, 0.99), "0123456789"),
            ((0.3, 0.5, 0.2), "456"),
            ((0.6, 0.5, 0.2), ""),
            ((0.99, 0.0, 0.0), ""),
        ],
    )
    def test_of_a_probability_of_06(self, draw, text):
        assert self.texts([draw], 0.6) == [text]

    def test_of_the_kind_that_a_span_answers(self):
        """Kind 0 has the prefixes "a" and "c", kind 1 has "b", always; kind 2 has none: a prefix as without a kind."""
        bytes_, places = np.frombuffer(b"abcz", np.uint8), np.arange(3)
        prefixes = TitlePrefixes(bytes_, places, np.ones(3, np.int64), 3, np.array([0, 1, 0]))
        draws = np.array([(0.99, draw, 0.0) for draw in (0.1, 0.9, 0.1, 0.9, 0.4, 0.4)])
        starts, lengths = prefixes.draw(draws, 0.5, np.array([0, 0, 1, 1, 2, -1]))
        assert (starts[:4].tolist(), lengths.tolist()) == ([0, 2, 1, 1], [1, 1, 1, 1, 0, 0])
        draws[:, 0] = 0.1
        starts, lengths = prefixes.draw(draws, 0.5, np.array([0, 0, 1, 1, 2, -1]))
        assert (starts.tolist(), lengths.tolist()) == ([0, 2, 1, 1, 1, 1], [1] * 6)
        one_kind = TitlePrefixes(bytes_, places, np.ones(3, np.int64), 3)
        assert one_kind.draw(draws, 0.5, np.zeros(6))[0].tolist() == [0, 2, 0, 2, 1, 1]

    def test_without_questions_all_come_from_the_text(self):
        none = TitlePrefixes(np.frombuffer(b"0123456789", np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        draws = [(0.0, 0.5, 0.2), (0.59, 0.0, 0.0), (0.6, 0.0, 0.0)]
        assert self.texts(draws, 0.6, none) == ["456", "0", ""]
        assert self.texts(draws, 0.0, none) == self.texts(draws, 0.0) == [""] * 3

    def test_how_often(self):
        text = np.frombuffer(bytes(range(33, 127)), np.uint8)
        prefixes = TitlePrefixes(text, np.array([0]), np.array([20]), 20)
        starts, lengths = prefixes.draw(uniform_draws(0, 0, np.arange(20_000), 3), 0.4)
        assert np.mean(lengths == 0) == pytest.approx(0.6, abs=0.01)
        assert np.mean(lengths == 20) == pytest.approx(0.2, abs=0.01)
        random = (lengths > 0) & (lengths < 20)
        counts = np.bincount(lengths[random], minlength=MAX_RANDOM_PREFIX + 1)[1:]
        assert len(counts) == MAX_RANDOM_PREFIX
        assert counts.min() > 0.8 * counts.mean()
        assert (starts[random].min(), (starts + lengths)[random].max()) == (20, len(text))

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 9), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**20))
    def test_a_prefix_is_one_of_the_questions_or_a_run_of_the_text(self, known, text, probability, seed):
        prefixes = TitlePrefixes(np.zeros(known + text, np.uint8), np.arange(known), np.ones(known, np.int64), known)
        starts, lengths = prefixes.draw(uniform_draws(seed, 0, np.arange(50), 3), probability)
        of_questions = (starts < known) & (lengths == 1)
        of_text = (starts >= known) & (starts + lengths <= known + text) & (lengths <= MAX_RANDOM_PREFIX)
        assert ((lengths == 0) | of_questions | of_text).all()


def test_documents_without_titles_have_no_names(capsys):
    tokenizer = make_tokenizer("x")
    documents = TokenSequences(encode(["no title", "x"], tokenizer).token_ids, np.array([0, 8, 9]))
    prefixes = TitlePrefixes.learn([documents], [Question("no title?", None)], tokenizer)
    assert len(prefixes.starts) == 0
    assert "None of 1 question names the title of a document" in capsys.readouterr().err


def test_prefixes_of_another_tokenizer():
    """What precedes the name is cut from the tokens of the whole question."""
    tokenizer = byte_bpe()
    documents = [encode_texts_aligned(["Ada. in London.", "London. Ada was born."], tokenizer)]
    questions = [Question(text, None) for text in ("born in London?", "Ada?", "in Ada?", "born in Paris?")]
    prefixes = TitlePrefixes.learn(documents, questions, tokenizer)
    tokens = [
        tokenizer.convert_ids_to_tokens(prefixes.token_ids[a : a + n].tolist())
        for a, n in zip(prefixes.starts, prefixes.lengths, strict=True)
    ]
    assert tokens == [["Ġborn", "Ġin"], [], ["Ġin"]]
    assert prefixes.token_ids[prefixes.text_start :].tolist() == documents[0].token_ids.tolist()
