"""Untrusted input: text that looks like markup, and prompts that do not fit."""

import asyncio
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.markup import code_span, escape_html, escape_markdown
from hf_mingpt.evaluation.report import build_report, format_page, format_table
from hf_mingpt.evaluation.scoring import accuracy
from hf_mingpt.hub.cards import write_card
from hf_mingpt.interpretability.logit_lens import Explanation
from hf_mingpt.system.writing import write_json

from ..conftest import small_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
EVIL = "<script>alert(1)</script> [x](y) ![z](w) a|b `c` *d* _e_ & \u202ef\u2066 g\nh\rj\u2028k"
IN_MARKDOWN = (
    r"&lt;script&gt;alert(1)&lt;/script&gt; \[x\](y) \!\[z\](w) a\|b \`c\` \*d\* \_e\_ &amp; U+202EfU+2066 g h j k"
)


class TestMarkup:
    def test_markdown_is_escaped(self):
        assert escape_markdown(EVIL) == IN_MARKDOWN
        for text in ("Ada Byron. Ada (born 1815) was born in London .", "Zoë O'Brien", "Where was 李 born?"):
            assert escape_markdown(text) == text

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("- a", r"\- a"),
            ("1. a", r"1\. a"),
            ("# a", r"\# a"),
            ("    a", "a"),
            ("=====", r"\====="),
            ("12) a", r"12\) a"),
        ],
    )
    def test_the_start_of_a_line_makes_no_block(self, text, shown):
        assert escape_markdown(text) == shown

    def test_html_is_escaped(self):
        assert escape_html('<b title="x">&\'\u202e\n\x1b') == "&lt;b title=&quot;x&quot;&gt;&amp;&#x27;U+202E U+001B"

    def test_code_spans(self):
        assert code_span("dev.tsv") == "`dev.tsv`"
        assert code_span("a\u202e\nb") == "`aU+202E b`"
        marks = {"`": r"\`", "|": r"\|", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
        assert [code_span(f"a{mark}b") for mark in marks] == [f"<code>a{shown}b</code>" for shown in marks.values()]


def assert_harmless(page: str):
    assert "<script" not in page
    assert "[x](y)" not in page
    assert "](w)" not in page.replace(r"\](w)", "")
    assert not set(page) & set("\u202e\u2066\u2028\r")
    assert "a|b" not in page
    assert r"a\|b" in page


def test_texts_inject_no_markup_into_the_report():
    questions = [Question(f"Where was {EVIL} born?", EVIL), Question(f"Where was A{EVIL} born?", f"B{EVIL}")]
    documents = [f"{EVIL}. {EVIL} was born.", f"A{EVIL}. {EVIL}"]
    report = build_report(
        questions, [EVIL, EVIL], np.array([0.9, 0.8]), threshold=0.5, invented_probability=np.array([0.1]),
        train=questions, documents=documents, context_length=64,
    )  # fmt: skip
    page = format_page(report, title=f"The run {EVIL}")
    assert_harmless(page)
    assert len(page.splitlines()) == len(format_page(report, title="t").splitlines())
    assert f"- Where was {IN_MARKDOWN} born? **{IN_MARKDOWN}** (90%)" in page
    assert (
        f"- Where was A{IN_MARKDOWN} born? **{IN_MARKDOWN}** (80%), correct: B{IN_MARKDOWN}, which the document does not say\n"
        in page
    )
    assert f"  > {IN_MARKDOWN}. {IN_MARKDOWN} was born." in page


def test_a_name_stays_in_its_table_cell():
    lines = format_table({f"most frequent ({EVIL})": accuracy(["a"], ["a"])}).splitlines()
    assert lines[2].startswith(f"| most frequent ({IN_MARKDOWN}) | 100.0% |")
    assert_harmless(lines[2])


def test_names_inject_no_markup_into_the_card(tmp_path, tokenizer):
    evil = EVIL.replace("/", "").replace("\n", " ")
    row = {"accuracy": 1.0, "correct": 1, "total": 1, "interval_95": [0.2, 1.0]}
    recipe = {"kind": "FinetuneRecipe", "train_file": f"x/{evil}", "model_name_or_path": f"y/{evil}"}
    tokenizer.save_pretrained(tmp_path)
    write_json(tmp_path / "recipe.json", recipe)
    write_json(tmp_path / "run.json", {"parameters": 1, "command": f"'{evil}'", "training_seconds": 1.0})
    write_json(tmp_path / "config.json", {"max_position_embeddings": 48})
    questions = {"file": evil, "bytes": 1, "sha256": "0" * 64}
    report = {"results": {"model": row, evil: row}, "questions": questions, "command": evil, "date": "2026-01-01"}
    write_json(tmp_path / "report.json", report)
    card = write_card(tmp_path, 'a"b<script>').text
    assert "<script" not in card
    assert "[x](y)" not in card
    assert not set(card) & set("\u202e\u2066\u2028")
    assert card.count(IN_MARKDOWN.split("script")[1][4:12]) >= 5
    assert 'from_pretrained("a\\"b\\u003cscript\\u003e", trust_remote_code=True)' in card


def test_a_name_injects_no_markup_into_an_explanation():
    render = runpy.run_path(str(SCRIPTS / "explain_answer.py"))["render"]
    question, answer = "Where was <b>&\u202e born?", "<i>"
    text = f"{question}\u2047{answer}\u2047"
    attentions = torch.ones(1, 1, len(text), len(text))
    page = render(
        Explanation(text, len(question) + 1, attentions, torch.ones(2, 4), ["abcd"] * 2), "runs/<u>", None, None
    )
    assert "<h1>Where was &lt;b&gt;&amp;U+202E born? &lt;i&gt;</h1>" in page
    assert "<code>&lt;u&gt;</code>" in page
    assert not [tag for tag in ("<b>", "<i>", "<u>", "\u202e") if tag in page]


class Refused(Exception):
    def __init__(self, status_code: int, detail: str):
        super().__init__(status_code, detail)


class TestServer:
    """scripts/serve.py; tests/tools/test_serving.py runs the server itself."""

    @pytest.fixture
    def generate(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(HTTPException=Refused))
        keep_to_context = runpy.run_path(str(SCRIPTS / "serve.py"))["keep_to_context"]

        @keep_to_context
        async def generate(manager, model, processor, inputs, gen_config, request_id):
            return gen_config.max_new_tokens, request_id

        def call(ids, most):
            model, settings = small_model("rope"), SimpleNamespace(max_new_tokens=most)
            return asyncio.run(generate(None, model, None, {"input_ids": ids}, settings, request_id="me"))

        return call

    @pytest.mark.parametrize("length", [0, 48, 5000])
    def test_a_prompt_that_does_not_fit_gets_status_400(self, generate, length):
        for ids in ([2] * length, torch.ones(1, length)):
            with pytest.raises(Refused, match=rf"400, .*has {length} tokens: give 1 to 47"):
                generate(ids, 5)

    @pytest.mark.parametrize(("length", "most", "written"), [(1, 1024, 47), (47, 5, 1), (20, 5, 5), (20, None, 28)])
    def test_generation_ends_with_the_context(self, generate, length, most, written):
        assert generate(torch.ones(1, length), most) == generate([2] * length, most) == (written, "me")

    @pytest.mark.parametrize("most", [0, -3])
    def test_max_tokens_must_be_positive(self, generate, most):
        with pytest.raises(Refused, match=f"400, 'max_tokens is {most}"):
            generate([2], most)

    def test_a_tokenizer_passed_to_generate_changes_nothing(self, tokenizer):
        """The server passes it for stop strings, and generate passes it on to the model."""
        model = small_model("learned", vocab_size=len(tokenizer))
        ids = tokenizer("Ada", return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=4, do_sample=False)
        assert torch.equal(model.generate(**ids, max_new_tokens=4, do_sample=False, tokenizer=tokenizer), written)
