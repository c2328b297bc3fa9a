import pytest

from hf_mingpt.data.birthplaces import BIRTHPLACE, invent_names, paraphrase_answers, question_about
from hf_mingpt.data.questions import Question

NAMES = ["Ada Byron", "Zoë Quist", "Jan van Eyck", "Plato"]


class TestQuestions:
    def test_a_question_contains_the_name(self):
        assert question_about("Ada Byron") == "Where was Ada Byron born?"
        assert BIRTHPLACE.subject_of("Where was Where was born? born?") == "Where was born?"

    def test_a_name_must_not_be_empty(self):
        for empty in ("", " "):
            with pytest.raises(ValueError, match="name is empty"):
                question_about(empty)


class TestInventedNames:
    def test_are_new(self):
        invented = invent_names(NAMES, 4, documents=["Zoë van Eyck. A painter ."])
        assert len(set(invented)) == 4
        assert set(invented) < {f"{a} {b}" for a in ("Ada", "Zoë", "Jan") for b in ("Byron", "Quist", "van Eyck")}
        assert not set(invented) & {*NAMES, "Zoë van Eyck"}

    def test_exact_names_by_seed(self):
        assert invent_names(NAMES, 3) == ["Jan Quist", "Zoë Byron", "Ada van Eyck"]
        assert invent_names(NAMES, 3, seed=0) == invent_names(NAMES, 3) != invent_names(NAMES, 3, seed=1)
        assert invent_names(["A b", "C d"], 2) == ["C b", "A d"]
        assert invent_names(["A b", "C d"], 1, documents=["what C b did"]) == ["A d"]

    def test_names_of_one_word_are_cut(self):
        """Each has the beginning of a name and the end of another, at least two letters of each."""
        names = ["Peru", "Mali", "Angola", "New Zealand", "Chad"]
        invented = invent_names(names, 30)
        assert invented == invent_names(names, 30) != invent_names(names, 30, seed=1)
        assert len(set(invented)) == 30
        for name in invented:
            assert name not in names
            assert any(
                name[:cut] in {one[: len(name[:cut])] for one in names}
                and name[cut:] in {other[-len(name[cut:]) :] for other in names}
                for cut in range(2, len(name) - 1)
            )
        assert invented[0] not in invent_names(names, 29, documents=[f"in {invented[0]}"])

    def test_a_name_is_not_combined_with_itself(self):
        assert set(invent_names(["Peru", "Mali"], 2)) == {"Peli", "Maru"}

    def test_too_few_combinations_are_an_error(self):
        for names, number in ((NAMES, 9), ([], 1), (["Plato"], 1), (["A b"], 1)):
            with pytest.raises(
                ValueError, match=f"Combining {len(names)} names? gives . new ones, not {number}: ask for fewer"
            ):
                invent_names(names, number)


class TestParaphrases:
    def test_are_documents(self):
        pairs = [Question("Where was Ada Byron born?", "London"), Question("Where was Zoë born?", "Bath")]
        once, twice = paraphrase_answers(pairs, 1), paraphrase_answers(pairs, 2)
        assert once == ["Ada Byron. Ada Byron was born in London .", "Zoë. The birthplace of Zoë is Bath ."]
        assert twice[::2] == once
        assert len({*twice, *paraphrase_answers(pairs, 4)}) == 8
        assert paraphrase_answers(pairs, 0) == []

    def test_rotate_through_the_templates(self):
        pairs = [Question(f"Where was {name} born?", "Rome") for name in "ABCDE"]
        assert paraphrase_answers(pairs, 2)[1::2] == [
            "A. The birthplace of A is Rome .",
            "B. Born in Rome, B is a native of it .",
            "C. C comes from Rome .",
            "D. D was born in Rome .",
            "E. The birthplace of E is Rome .",
        ]

    def test_too_many_or_other_questions_are_an_error(self):
        for number in (-1, 5):
            with pytest.raises(ValueError, match=f"paraphrases_per_answer is {number}: use 0 to 4"):
                paraphrase_answers([], number)
        with pytest.raises(ValueError, match="does not ask for a birthplace"):
            paraphrase_answers([Question("Who?", "Ada")], 1)
