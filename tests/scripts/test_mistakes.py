"""What a user names or types is read literally, and refused before training."""

import json
import shutil

import pytest

from .running import refused, script, works


class TestMistakes:
    def test_of_texts(self, home, tmp_path):
        corpus, out = home / "data/biographies.txt", tmp_path / "out"
        for name, content in {
            "blank.txt": "\n\r\n",
            "marked.txt": "a\nb□\n",
            "q.tsv": "a\tb⁇\n",
            "x.txt": "X\n",
        }.items():
            (tmp_path / name).write_text(content)
        marked, pretrained = tmp_path / "marked.txt", home / "pretrained"
        stream = ["--streaming", "--tokenizer_name", pretrained, "--max_steps", 1]
        for said, text, *flags in (
            ("No file at nothing.txt", "nothing.txt"),
            ("blank.txt has no documents", tmp_path / "blank.txt"),
            ("has no documents", tmp_path / "blank.txt", *stream),
            ("Document 2: character 2, '□'", marked),
            ("Document 2: character 2, '□'", marked, *stream),
            ("marked.txt, line 2: '□'", corpus, "--vocabulary_file", marked),
            ("q.tsv, line 1: '⁇'", corpus, "--questions_file", tmp_path / "q.tsv"),
            ("'X' (U+0058)", tmp_path / "x.txt", "--tokenizer_name", pretrained),
            ("No tokenizer at gpt2: check the path", corpus, "--tokenizer_name", "gpt2"),
            ("got dense", corpus, "--attention_type", "dense"),
        ):
            run = ["--train_file", text, "--output_dir", out, "--use_cpu", *flags]
            refused(said, "pretrain.py", *run, untouched=out)

    def test_of_questions(self, home, tmp_path):
        out, questions = tmp_path / "out", tmp_path / "q.tsv"
        run = ["--questions_file", questions, "--output_dir", out, "--model_name_or_path"]
        for content, said in (
            ("Where?\tThere\nWhere\n", "line 2: 0 tabs"),
            (f"{'a' * 130}\tB\n", "needs 133 tokens"),
            ("Where was Ωmega born?\tB\n", "'Ω' (U+03A9)"),
        ):
            questions.write_text(content)
            refused(said, "finetune.py", *run, home / "pretrained", untouched=out)
        questions.write_text("Where was A born?\tB\n")
        refused("No run folder at", "finetune.py", *run, tmp_path / "none", untouched=out)
        broken = tmp_path / "broken"
        shutil.copytree(home / "pretrained", broken)
        content = json.loads((broken / "tokenizer.json").read_text())
        content["model"]["vocab"]["Ω"] = len(content["model"]["vocab"])
        (broken / "tokenizer.json").write_text(json.dumps(content))
        refused("use the tokenizer that was saved with the model", "finetune.py", *run, broken, untouched=out)

    def test_a_run_that_has_read_text_alone_is_no_run_that_answers(self, home, tmp_path):
        (tmp_path / "q.tsv").write_text((home / "data/birth_dev.tsv").read_text().splitlines()[0])
        for run, warned in (("pretrained", True), ("finetuned", False)):
            out = ["--questions_file", tmp_path / "q.tsv", "--output_dir", tmp_path / run]
            done = script("evaluate_birthplaces.py", "--model_name_or_path", home / run, *out)
            assert ("was trained on text alone and answers no questions" in done.stderr) == warned

    def test_of_prompts_and_names(self, home, tmp_path):
        run = ["--model_name_or_path", home / "pretrained", "--prompt"]
        refused("The prompt's character 3, '□'", "sample.py", *run, "⁇B□")
        refused("The prompt's character 2, 'Ω'", "sample.py", *run, "⁇Ω")
        works("sample.py", *run, "B⁇", "--max_new_tokens", 1)
        asked = ["--model_name_or_path", home / "pretrained", "--question"]
        refused("Give a prompt or a question, not both", "sample.py", *asked, "B?", "--prompt", "B")
        refused("no empty question", "sample.py", *asked, " ")
        refused("it must be more than 0; for no draw, give --greedy", "sample.py", *run, "B", "--temperature", 0)
        refused("top_k is -1: it must be at least 0.", "sample.py", *asked, "B?", "--top_k", -1)
        for question in ("B?", "B?[MASK]"):
            greedy = ["--max_new_tokens", 2, "--greedy"]
            assert works("sample.py", *asked, question, *greedy) == works("sample.py", *run, "B?[MASK]", *greedy)
        assert works("sample.py", *run, "B?[MASK]", *greedy) == works("sample.py", *run, "B?⁇", *greedy)
        page = ["--output_file", tmp_path / "page.html"]
        refused("'AΩ': character 12, 'Ω'", "explain_answer.py", home / "finetuned", "AΩ", *page)

    def test_of_pictures(self, home, tmp_path):
        (tmp_path / "file").write_text("")
        refused("runs ' , ' names no folder", "plot_run.py", "--runs", " , ", "--output_file", tmp_path / "a.png")
        refused("file is a file", "explore_attention.py", "--output_dir", tmp_path / "file")

    @pytest.mark.parametrize(
        "content", [b"", b"x", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x04]\x94.", b"\x80\x05K\x01."]
    )
    def test_of_files_of_weights(self, home, tmp_path, content):
        (tmp_path / "weights.pt").write_bytes(content)
        run = ["--checkpoint", tmp_path / "weights.pt", "--output_dir", tmp_path / "out"]
        refused("weights.pt", "convert_checkpoint.py", *run, "--vocabulary_file", home / "data/biographies.txt")

    def test_of_checkpoints(self, tmp_path):
        for missing in (tmp_path / "none", "./none", "none.pt"):
            refused(
                "check the path", "convert_checkpoint.py", "--output_dir", tmp_path / "out", "--checkpoint", missing
            )
