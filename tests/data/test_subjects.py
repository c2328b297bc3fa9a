"""What questions are about, and what they have in common."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mingpt.data.alphabet import Alphabet
from hf_mingpt.data.subjects import (
    FEWEST,
    Template,
    TitleSearch,
    find_documents,
    find_templates,
    longest_title,
    match,
    runs_of_words,
)

from .biographies import NAMES, encode, make_tokenizer

BORN = Template("Where was ", " born?")


class TestTemplate:
    def test_takes_the_subject_out_and_puts_it_in(self):
        assert BORN.subject_of("Where was Ada Byron born?") == "Ada Byron"
        assert BORN.fill("Ada Byron") == "Where was Ada Byron born?"
        assert str(BORN) == "Where was ... born?"

    @pytest.mark.parametrize("question", ["Where was  born?", "Where was born?", "Where is Ada born?", "Where was Ada"])
    def test_other_questions_have_no_subject(self, question):
        assert BORN.subject_of(question) is None

    def test_an_empty_name_is_an_error(self):
        with pytest.raises(ValueError, match="The name is empty"):
            BORN.fill(" ")

    @given(st.text(), st.text(), st.text(min_size=1))
    def test_is_undone_by_filling_it(self, prefix, suffix, subject):
        template = Template(prefix, suffix)
        if subject.strip():
            assert template.subject_of(template.fill(subject)) is not None
            assert template.fill(template.subject_of(template.fill(subject))) == template.fill(subject)


class TestFindTemplates:
    @pytest.mark.parametrize(
        ("templates", "subjects"),
        [
            ([BORN], NAMES),
            ([Template("What is the capital of ", "?")], ["Peru", "New Zealand", "the Gambia", "the Bahamas", "Mali"]),
            ([Template("", " was born where?")], NAMES),
            ([Template("Birthplace of ", "")], NAMES),
            ([BORN, Template("In which year was ", " born?"), Template("What did ", " do?")], NAMES),
            ([Template(f"What is the {what} of ", "?") for what in ("capital", "currency", "area", "flag")], NAMES),
            ([Template(f"Who {what} ", "?") for what in ("wrote", "painted", "directed")], NAMES),
        ],
    )
    def test_are_what_questions_share(self, templates, subjects):
        questions = [template.fill(subject) for template in templates for subject in subjects]
        assert set(find_templates(questions)) == set(templates)
        assert find_templates(questions[::-1] * 2) == find_templates(questions[::-1])
        for template in templates:
            for subject in subjects:
                assert match(template.fill(subject), find_templates(questions)) == template

    @pytest.mark.parametrize("questions", [[], [BORN.fill("Ada Byron")], [BORN.fill("Ada")] * 3])
    def test_one_question_has_none(self, questions):
        assert find_templates(questions) == []

    def test_free_questions_have_none(self):
        assert find_templates(["Who wrote Hamlet?", "When did the war end?", "Which river is in Rome?"]) == []
        asked = [*map(BORN.fill, NAMES), "Who wrote Hamlet?", "Where did the war end?"]
        assert find_templates(asked) == [BORN]
        assert [match(question, [BORN]) for question in asked[-3:]] == [BORN, None, None]

    def test_a_rare_template_is_none(self):
        asked = [BORN.fill(f"{a} {b}") for a in "ABCDEFGHIJKLMNO" for b in "ABCDEFGHIJKLMNO"]
        few = [f"Who wrote book {letter}?" for letter in "ABCDEFGHIJ"]
        assert find_templates([*asked, *few[: FEWEST - 1]]) == [BORN]
        assert find_templates([*asked, *few]) == [BORN, Template("Who wrote book ", "?")]

    def test_names_that_many_share_stay_in_the_subject(self):
        asked = [BORN.fill(f"John {name}") for name in NAMES]
        assert find_templates([*asked, BORN.fill("Mary Ash")]) == [BORN]

    def test_many_questions_are_sampled(self):
        asked = [BORN.fill(f"Ada{i} Byron{i}") for i in range(12_000)]
        assert find_templates(asked) == [BORN]

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text("ab A.?", max_size=12), max_size=8))
    def test_every_template_is_shared(self, questions):
        for template in find_templates(questions):
            assert sum(template.subject_of(question) is not None for question in set(questions)) >= 2
            assert (template.prefix + template.suffix).strip(" .?")


class TestTitles:
    def test_runs_of_words(self):
        assert runs_of_words("Ada?") == [(0, "Ada"), (0, "Ada?"), (3, "?")]
        assert {text for _, text in runs_of_words("J. B")} >= {"J", "J.", "J. B", "B"}

    @pytest.mark.parametrize(
        ("question", "title"),
        [
            ("Where was Ada Byron born?", (10, "Ada Byron")),
            ("Is Byron Ada?", (3, "Byron")),
            ("Ada or Ada?", (0, "Ada")),
            ("Who is Adam?", None),
        ],
    )
    def test_the_longest_counts(self, question, title):
        assert longest_title(question, {"Ada", "Byron", "Ada Byron"}) == title

    @pytest.mark.parametrize("batch_size", [1, 2, 9])
    def test_are_searched_in_one_pass(self, batch_size):
        lines = ["Ada Byron. x", "no title", "Byron. x", "Jo. x", "Jon. x"]
        questions = ["Where was Ada Byron born?", "Was it Jo?"]
        tokenizer = make_tokenizer(*lines, *questions)
        search = TitleSearch(questions, Alphabet.of(tokenizer))
        parts = [search.read(encode(lines[i : i + batch_size], tokenizer)) for i in range(0, 5, batch_size)]
        assert [asked for part in parts for asked in part.tolist()] == [True, False, True, True, False]
        assert search.titles == {"Ada Byron", "Byron", "Jo"}

    def test_documents_are_found_by_their_title(self):
        asked = [BORN.fill(name) for name in ("Ada", "Ada B. Ek", "Bo", "St. Ives")]
        documents = ["Ada B. Ek. first", "Ada. x", "Ada. y", "Bo", "Cy. Bo. x", "St. Ives. z", "Ada B. Ek. second"]
        assert find_documents(asked, documents) == ["Ada. x", "Ada B. Ek. first", None, "St. Ives. z"]
        assert find_documents(["What is the capital of Peru?"], ["Capital. x", "Peru. y"]) == ["Peru. y"]
        assert find_documents([], documents) == []
        assert find_documents(asked, []) == [None] * 4
        answers = ["y", None, "x", "second"]  # "Ada. y" says the first
        assert find_documents(asked, documents, answers) == ["Ada. y", "Ada B. Ek. first", None, "St. Ives. z"]
        assert find_documents(asked[:2], documents, ["z", " second "]) == ["Ada. x", "Ada B. Ek. second"]
