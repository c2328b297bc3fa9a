"""Masked forms of questions."""

from hf_mingpt.data.phrasings import find_masked_forms, rephrase
from hf_mingpt.data.questions import Question
from hf_mingpt.data.subjects import Template

PEOPLE = {"Ada Byron": "London", "J. R. Quist": "Rome", "Bra Mir": "Oslo", "Cleo Ott": "Bonn"}
WHERE, WHEN = Template("Where was ", " born?"), Template("In which year was ", " born?")
DOCUMENTS = [
    f"{name}. {name} ( born 18{i}4 in {place}, Utopia ) sang" for i, (name, place) in enumerate(PEOPLE.items())
]
QUESTIONS = [Question(WHERE.fill(name), place) for name, place in PEOPLE.items()]


def test_the_most_frequent_context_of_the_answers_comes_first():
    documents = [*DOCUMENTS[:3], "Cleo Ott. Bonn was dear to her"]
    assert find_masked_forms(QUESTIONS, documents, 2) == {
        WHERE: [Template("", ". in [MASK], "), Template("", ". [MASK] w")]
    }
    assert find_masked_forms(QUESTIONS, documents, 1) == {WHERE: [Template("", ". in [MASK], ")]}


def test_each_template_has_its_own_forms():
    years = [Question(WHEN.fill(name), f"18{i}4") for i, name in enumerate(PEOPLE)]
    assert find_masked_forms([*QUESTIONS, *years], DOCUMENTS, 1) == {
        WHERE: [Template("", ". in [MASK], ")],
        WHEN: [Template("", ". rn [MASK] i")],
    }


def test_each_document_of_a_title_counts():
    documents = [*(f"{name}. {name} sang" for name in PEOPLE), *DOCUMENTS]
    assert find_masked_forms(QUESTIONS, documents, 1) == {WHERE: [Template("", ". in [MASK], ")]}


def test_a_text_without_the_answers_has_no_form():
    elsewhere = [document.translate(str.maketrans("oO", "aA")) for document in DOCUMENTS]
    unnamed = [document.partition(". ")[2] for document in DOCUMENTS]
    for documents in (elsewhere[1:3], unnamed, []):
        assert find_masked_forms(QUESTIONS, documents, 3) == {WHERE: []}


def test_a_question_is_rephrased_in_each_form():
    first, second = Template("", ". in [MASK], "), Template("", ". at [MASK] .")
    asked = ["Where was Ada Byron born?", "In which year was Ada Byron born?", "Who sang?"]
    assert rephrase(asked, {WHERE: [first, second], WHEN: [first]}) == [
        ["Ada Byron. in [MASK], ", "Ada Byron. in [MASK], ", "Who sang?"],
        ["Ada Byron. at [MASK] .", "In which year was Ada Byron born?", "Who sang?"],
    ]
    assert rephrase(asked, {WHERE: []}) == []
    assert rephrase(asked, {}) == []


def test_an_answer_is_looked_for_behind_the_title():
    names = {f"{place} {name.split()[-1]}": place for name, place in PEOPLE.items()}
    documents = [f"{name}. {name.split()[-1]} ( born in {place}, Utopia ) sang" for name, place in names.items()]
    questions = [Question(WHERE.fill(name), place) for name, place in names.items()]
    assert find_masked_forms(questions, documents, 1) == {WHERE: [Template("", ". in [MASK], ")]}
