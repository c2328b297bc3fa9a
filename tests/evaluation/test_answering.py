import pytest
import torch

from hf_mingpt.data.questions import Question, extract_prediction
from hf_mingpt.data.subjects import Template
from hf_mingpt.evaluation.answering import (
    _batches,
    answer_questions,
    check_questions,
    continue_prompt,
    cut_answer,
    describe_unknown_characters,
    questions_about,
    with_mark,
    write_predictions,
)
from hf_mingpt.evaluation.confidence import score_answers, score_names
from hf_mingpt.tokenization_mingpt import MASK, MASK_ID, SpecialTokens

from ..conftest import TEXT, small_config, small_model
from ..data.other_tokenizers import byte_bpe, word_piece


def answer_as_the_assignment(model, tokenizer, question: str) -> str:
    """One question, no cache, always 32 characters, as the assignment's code does."""
    ids = tokenizer(question + MASK, return_tensors="pt")["input_ids"]
    for _ in range(min(32, 48 - ids.shape[1])):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return extract_prediction(tokenizer.decode(ids[0]), MASK)


def test_batched_cached_answers_equal_the_assignments(variant, tokenizer):
    model = small_model(variant, vocab_size=len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight[0] = 0  # never PAD, as in a trained model
        model.lm_head.weight[MASK_ID] *= 1.5  # some answers end early, some never do
    questions = [Question(f"Where was {name} born?", None) for name in ("Ada", "Zoë Quist", "Byron", "A", "Ada Byron")]
    answers = answer_questions(model, tokenizer, questions, batch_size=2)
    assert answers == [answer_as_the_assignment(model, tokenizer, question) for question, _ in questions]
    assert len(set(map(len, answers))) > 1
    assert answer_questions(model, tokenizer, [question for question, _ in questions], batch_size=2) == answers
    assert answer_questions(model, tokenizer, questions[0].question) == answers[:1]


def test_no_gradients_are_kept(tokenizer):
    model, inference = small_model("rope", vocab_size=len(tokenizer)), []
    model.register_forward_hook(lambda *_: inference.append(torch.is_inference_mode_enabled()))
    answer_questions(model, tokenizer, ["Where was Ada born?"])
    score_answers(model, tokenizer, ["Where was Ada born?"], ["Bonn"])
    score_names(model, tokenizer, ["Ada"])
    assert set(inference) == {True}


def test_a_question_longer_than_the_context_is_an_error(tokenizer):
    with pytest.raises(ValueError, match=r"Question 1, .* has 50 tokens"):
        answer_questions(small_model("rope", vocab_size=len(tokenizer)), tokenizer, [Question("a" * 50, None)])


def test_characters_outside_the_vocabulary_are_counted(tokenizer):
    known = Question("Where was Zoë born?", "Ψ")  # the answer is not read
    assert describe_unknown_characters([known], tokenizer) is None
    some = [known, Question("Ω, ΩЖ?", None), Question("Жan", None)]
    assert describe_unknown_characters(some, tokenizer) == (
        "Of 3 questions, 2 with characters that are not in the vocabulary: 'Ж' (U+0416), 'Ω' (U+03A9). The model reads "
        "PAD in their place."
    )
    many = describe_unknown_characters([Question("αβγδεζηθικλμ", None)], tokenizer)
    assert many.startswith("Of 1 question, 1 with characters")
    assert many.count("U+") == 10
    assert "'κ' (U+03BA), and 2 more. The model" in many


def test_predictions_are_one_per_line(tmp_path):
    write_predictions(tmp_path / "p.txt", ["Rome", "", "a\nb"])
    assert (tmp_path / "p.txt").read_text() == "Rome\n\na b\n"


def test_a_prompt_is_continued_beyond_the_context(tokenizer):
    model = small_model("learned", vocab_size=len(tokenizer))
    text = continue_prompt(model, tokenizer, "Ada", 100, do_sample=False)
    assert text.startswith("Ada")
    assert len(text) == 103
    torch.manual_seed(0)
    assert len(continue_prompt(model, tokenizer, "Ada" * 30, 20, do_sample=True)) == 110
    for prompt, said in (("", "is empty"), ("AX", "character 2, 'X'")):
        with pytest.raises(ValueError, match=said):
            continue_prompt(model, tokenizer, prompt, 5)


class FakeModel:
    """A stand-in for a model: it generates the given ids in order, and records its calls."""

    def __init__(self, letters: list[int], max_tokens: int = 1000):
        self.config, self.device = small_config("learned"), torch.device("cpu")
        self.letters, self.max_tokens, self.calls = letters, max_tokens, []

    def generate(self, ids, *, attention_mask, max_new_tokens, **options):
        assert torch.equal(attention_mask, torch.ones_like(ids))
        self.calls.append((ids[0].tolist(), max_new_tokens, options))
        written = self.letters[: min(max_new_tokens, self.max_tokens)]
        self.letters = self.letters[len(written) :]
        return torch.cat((ids, torch.tensor([written], dtype=torch.long)), dim=1)


class TestWindow:
    """Half of a context of 48 characters is read, and half is generated."""

    def continued(self, tokenizer, length, number, **options):
        letters = tokenizer(TEXT + TEXT)["input_ids"]
        model = FakeModel(letters[length:], **options)
        text = continue_prompt(model, tokenizer, (TEXT + TEXT)[:length], number, do_sample=False)
        assert all(options == {"do_sample": False} for *_, options in model.calls)
        windows = [(tokenizer.decode(ids), room) for ids, room, _ in model.calls]
        return text, windows

    @pytest.mark.parametrize(
        ("length", "number", "windows"),  # where each window begins and ends, and how many characters follow
        [
            (3, 10, [(0, 3, 10)]),
            (3, 45, [(0, 3, 45)]),
            (3, 46, [(0, 3, 45), (24, 48, 1)]),
            (24, 24, [(0, 24, 24)]),
            (25, 24, [(1, 25, 24)]),
            (60, 50, [(36, 60, 24), (60, 84, 24), (84, 108, 2)]),
            (60, 0, []),
        ],
    )
    def test_literal(self, tokenizer, length, number, windows):
        text, seen = self.continued(tokenizer, length, number)
        assert text == (TEXT + TEXT)[: length + number]
        assert seen == [((TEXT + TEXT)[start:end], room) for start, end, room in windows]

    def test_ends_when_the_model_does(self, tokenizer):
        text, seen = self.continued(tokenizer, 60, 50, max_tokens=7)
        assert text == (TEXT + TEXT)[:67]
        assert len(seen) == 1
        text, seen = self.continued(tokenizer, 60, 50, max_tokens=0)
        assert text == (TEXT + TEXT)[:60]
        assert len(seen) == 1

    def test_a_prompt_may_contain_masks(self, tokenizer):
        model = FakeModel(tokenizer("Ada")["input_ids"])
        assert continue_prompt(model, tokenizer, f"in{MASK}", 3) == f"in{MASK}Ada"


def test_prompts_share_a_batch_if_they_leave_the_same_room():
    """In a context of 48, prompts of up to 16 leave 32; longer ones are batched with their own length only."""
    lengths = [20, 3, 17, 16, 20, 1, 15, 20]
    assert [[lengths[i] for i in batch] for batch in _batches(lengths, 48, 3)] == [[1, 3, 15], [16], [17], [20, 20, 20]]
    assert [batch for batch in _batches(lengths, 48, 2) if 0 in batch or 7 in batch] == [[0, 4], [7]]


def test_room_for_a_question(tokenizer):
    assert check_questions([Question("a" * 46, None)], tokenizer, 48) == [tokenizer("a" * 46)["input_ids"]]
    with pytest.raises(ValueError, match=r"Question 2, .* has 47 tokens"):
        check_questions([Question("a", None), Question("a" * 47, None)], tokenizer, 48)


def test_a_name_with_unknown_characters_is_an_error(tokenizer):
    assert questions_about(["Ada", "Zoë"], tokenizer) == ["Where was Ada born?", "Where was Zoë born?"]
    with pytest.raises(ValueError, match="'Xu': character 11, 'X'"):
        questions_about(["Ada", "Xu"], tokenizer)
    both = [Template("Where was ", " born?"), Template("Was ", " in London?")]
    with pytest.raises(ValueError, match="'Xu': character 11, 'X'"):
        questions_about(["Ada", "Xu"], tokenizer, both)


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("Ada", ["Where was Ada born?", "Who is Ada"]),
        ("Where was Ada born?", ["Where was Ada born?"]),
        ("Where was Ada born?[MASK]", ["Where was Ada born?"]),
        ("Where was Ada born?⁇", ["Where was Ada born?"]),
        ("Who is Ada", ["Who is Ada"]),  # it has a template
        ("Was Ada here?", ["Was Ada here?"]),
    ],
)
def test_what_is_typed_is_a_question_or_a_name(tokenizer, text, questions):
    templates = [Template("Where was ", " born?"), Template("Who is ", "")]
    assert questions_about([text], tokenizer, templates) == questions
    assert questions_about([text], tokenizer, []) == [text.split("[MASK]")[0].removesuffix(MASK)]


def test_a_masked_form_is_asked_as_it_is(tokenizer):
    for typed in ("Ada was born in [MASK]", "Ada was born in [MASK]."):
        assert questions_about([typed], tokenizer) == [typed.replace("[MASK]", MASK)]
    with pytest.raises(ValueError, match="'X'"):
        questions_about(["Xu was born in [MASK]"], tokenizer)


def test_an_empty_name_is_an_error(tokenizer):
    for templates in ([Template("Where was ", " born?")], []):
        for text in (" ", "[MASK]"):
            with pytest.raises(ValueError, match="is empty"):
                questions_about([text], tokenizer, templates)


def test_the_mark_may_be_typed(tokenizer):
    assert with_mark("Where was Ada born?[MASK]", tokenizer) == f"Where was Ada born?{MASK}"
    assert with_mark("Ada⁇", tokenizer) == "Ada⁇"


class TestOtherTokenizers:
    def test_predictions_are_stripped_and_end_at_the_mask(self):
        tokenizer = byte_bpe()
        marks = SpecialTokens.of(tokenizer)

        class Says(FakeModel):
            def generate(self, *, input_ids, attention_mask, max_new_tokens, eos_token_id, pad_token_id, **options):
                assert (pad_token_id, eos_token_id) == marks
                self.calls.append((input_ids.tolist(), attention_mask.tolist()))
                said = torch.tensor([self.letters] * len(input_ids))
                return torch.cat((input_ids, said), dim=1)

        london, born = (tokenizer.convert_tokens_to_ids(token) for token in ("ĠLondon", "Ġborn"))
        model = Says([london, london, marks.mask_id, marks.pad_id])
        questions = [Question("born", None), Question("in London", None)]
        assert answer_questions(model, tokenizer, questions) == ["London London"] * 2
        ((ids, inside),) = model.calls
        assert ids[0] == [marks.pad_id, born, marks.mask_id]
        assert inside == [[0, 1, 1], [1, 1, 1]]

    def test_the_generated_tokens_before_the_mask(self):
        assert cut_answer([5, 6, 1, 0, 0], 0, 1) == [5, 6]
        assert cut_answer([5, 0, 6, 0, 0], 0, 1) == [5, 0, 6]
        assert cut_answer([1, 0], 0, 1) == cut_answer([0, 0], 0, 1) == []

    def test_questions_are_counted_in_tokens(self):
        tokenizer = byte_bpe()
        assert len(check_questions([Question("born in London", None)], tokenizer, 5)[0]) == 3
        with pytest.raises(ValueError, match="has 3 tokens, which leaves no room"):
            check_questions([Question("born in London", None)], tokenizer, 4)
        with pytest.raises(ValueError, match=r"Question 1, .* has no tokens with this tokenizer"):
            check_questions([Question("\x07", None)], word_piece("a"), 48)

    def test_unknown_text(self):
        pieces = word_piece("where?")
        assert describe_unknown_characters([Question("Where?", None)], pieces) is None
        said = describe_unknown_characters([Question("Where? Ω", None)], pieces)
        assert said.startswith("Of 1 question, 1 with characters that are not in the vocabulary: 'Ω' (U+03A9).")
        assert said.endswith("The model reads [UNK] in their place.")
        assert describe_unknown_characters([Question("Ω", None)], byte_bpe()) is None

    def test_a_prompt_is_continued_as_it_was_typed(self):
        tokenizer = byte_bpe()
        for prompt in ("Ada in", " Ada in"):
            model = FakeModel(tokenizer("London")["input_ids"])
            assert continue_prompt(model, tokenizer, prompt, 1) == f"{prompt} London"
        with pytest.raises(ValueError, match=r"The prompt '\\x07' has no tokens"):
            continue_prompt(FakeModel([]), word_piece("a"), "\x07", 1)
