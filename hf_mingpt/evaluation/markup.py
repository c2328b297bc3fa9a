"""Escaping: text from a corpus, a file name or an answer is shown as it is in Markdown and HTML, and never as markup.

References: https://spec.commonmark.org; Boucher and Anderson 2021, arXiv:2111.00169 (bidirectional control characters).
"""

import html
import re

_LINE_END = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# control characters, and bidirectional ones, which reorder the text after them
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~#!$]")
_BLOCK_START = re.compile(r"^(\d{0,9})([-+=.)])")  # a list, a rule, a heading
_CODE = re.compile(r"[^`|<>&]+")


def show_invisible(text: str) -> str:
    """Puts text on one line: a line break becomes a space, and an invisible character its code point.

    Example: `"a\\nb \\u202ec"` gives `"a b U+202Ec"`.
    """
    return _INVISIBLE.sub(lambda match: f"U+{ord(match[0]):04X}", _LINE_END.sub(" ", text)).strip()


def escape_html(text: str) -> str:
    """Escapes text for HTML, inside and outside of attributes."""
    return html.escape(show_invisible(text))


def escape_markdown(text: str) -> str:
    """Escapes text for a line or a table cell of Markdown.

    Example: `"[x](y) | <b>"` gives `r"\\[x\\](y) \\| &lt;b&gt;"`.
    """
    text = _MARKDOWN.sub(r"\\\g<0>", html.escape(show_invisible(text), quote=False))
    return _BLOCK_START.sub(r"\1\\\2", text)


def code_span(text: str) -> str:
    """Formats text as code in a line or a table cell of Markdown."""
    text = show_invisible(text)
    if _CODE.fullmatch(text):
        return f"`{text}`"
    return f"<code>{escape_markdown(text)}</code>"
