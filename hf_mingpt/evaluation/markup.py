"""Text of other people, such as a name in a corpus, in Markdown and in HTML: it is shown, and marks nothing up.

Pure functions beside birthplaces in the flow.

Reference: https://spec.commonmark.org, Boucher and Anderson 2021, arXiv:2111.00169 (marks of direction).
"""

import html
import re

_LINE_END = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# control characters, and marks of direction, which would turn around what stands after them
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_STARTS_A_BLOCK = re.compile(r"^(\d{0,9})([-+=.)])")  # a list, a rule, a heading
_CODE = re.compile(r"[^`|<>&]+")


def show_unseen(text: str) -> str:
    """The text on one line: a line end is a space, and a character that would not be seen is its number.

    Example: `"a\\nb \\u202ec"` gives `"a b U+202Ec"`.
    """
    return _UNSEEN.sub(lambda match: f"U+{ord(match[0]):04X}", _LINE_END.sub(" ", text)).strip()


def escape_html(text: str) -> str:
    """The text as it is put into HTML, inside and outside of attributes."""
    return html.escape(show_unseen(text))


def escape_markdown(text: str) -> str:
    """The text as it is put into a line or a table cell of Markdown.

    Example: `"[x](y) | <b>"` gives `r"\\[x\\](y) \\| &lt;b&gt;"`.
    """
    text = _MARKDOWN.sub(r"\\\g<0>", html.escape(show_unseen(text), quote=False))
    return _STARTS_A_BLOCK.sub(r"\1\\\2", text)


def code_span(text: str) -> str:
    """The text as code in a line or a table cell of Markdown."""
    text = show_unseen(text)
    if _CODE.fullmatch(text):
        return f"`{text}`"
    return f"<code>{escape_markdown(text)}</code>"
