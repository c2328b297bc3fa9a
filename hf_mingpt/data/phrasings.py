"""Masked forms: further phrasings of a question, written as salient span masking writes a fact.

    Where was Ada Byron born?⁇        the question
    Ada Byron. in ⁇, ⁇                a masked form: the title, what precedes the answer, MASK, what follows it

A model that was pretrained with salient span masking answers both. What precedes and follows the answers is counted in
the documents of the training questions.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from .questions import Question
from .subjects import Template, find_documents, find_templates, match

_BEFORE, _AFTER = 3, 2  # characters; the preset closed_book keeps up to 4 and 2 tokens


def find_masked_forms(
    questions: Sequence[Question], documents: Sequence[str], number: int
) -> dict[Template, list[Template]]:
    """Finds the most frequent masked forms of each template of the training questions.

    Args:
        questions: N training questions with answers.
        documents: of the text that the model was pretrained on, `title. text`.
        number: the most forms of a template.

    Returns:
        For each template of the questions, its masked forms, the most frequent one first. They have "[MASK]" where the
        tokenizer's mask token belongs, and not the one that ends them, as questions have not.
    """
    asked = [question for question, _ in questions]
    contexts: dict[Template, Counter[Template]] = {template: Counter() for template in find_templates(asked)}
    about = find_documents(asked, documents, [answer for _, answer in questions])
    for (question, answer), document in zip(questions, about, strict=True):
        template = match(question, tuple(contexts))
        title = f"{template.subject_of(question)}. " if template else None
        if not (template and title and answer and document and document.startswith(title)):
            continue
        if (start := document.find(answer, len(title))) > 0:
            before = document[max(len(title), start - _BEFORE) : start]
            after = document[start + len(answer) :][:_AFTER]
            contexts[template][Template("", f". {before}[MASK]{after}")] += 1
    return {template: [form for form, _ in found.most_common(number)] for template, found in contexts.items()}


def rephrase(questions: Sequence[str], forms: Mapping[Template, Sequence[Template]]) -> list[list[str]]:
    """Rewrites questions in each of their masked forms.

    Args:
        questions: N questions.
        forms: of each template, from `find_masked_forms`.

    Returns:
        P lists of N texts, where P is the greatest number of forms of a template. A question that has fewer forms, or
        none of the templates, stands in the other lists as it is.
    """
    phrasings = [list(questions) for _ in range(max(map(len, forms.values()), default=0))]
    for i, question in enumerate(questions):
        if template := match(question, tuple(forms)):
            for phrasing, form in zip(phrasings, forms[template], strict=False):
                phrasing[i] = form.fill(str(template.subject_of(question)))
    return phrasings
