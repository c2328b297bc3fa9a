"""What the benchmarks measure in seconds, and what they say of their runs: the runs themselves take an hour."""

import json
import math
import sys
from pathlib import Path

import pytest

from hf_mingpt.data.biographies import BiographyRecipe, generate_corpus
from hf_mingpt.data.questions import Question, write_questions
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.confidence import score_answers
from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary

from ..conftest import small_model
from ..processes import run_python

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_data_of_questions_with_characters_that_the_text_lacks(tmp_path):
    import bench

    corpus = generate_corpus(BiographyRecipe())
    assert not any("?" in document for document in corpus.documents)
    (tmp_path / "text.txt").write_text("\n".join(corpus.documents), encoding="utf-8")
    write_questions(tmp_path / "questions.tsv", corpus.dev)
    rates = bench.measure_data(str(tmp_path / "text.txt"), str(tmp_path / "questions.tsv"))
    assert len(rates) == 9  # four of them of collators
    assert all(rate > 10 for rate in rates.values())


NANOGPT = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.5
    bias: bool = False

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert (config.block_size, config.n_layer, config.n_head, config.n_embd) == (128, 4, 8, 256)
        assert config.bias and not config.dropout
        print("number of parameters: 0.00M")  # as nanoGPT does
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, idx, targets):
        has_next = idx[:, 1:] != 0  # PAD
        assert torch.equal(targets[:, :-1] != -1, has_next)
        assert torch.equal(targets[:, :-1][has_next], idx[:, 1:][has_next])
        assert (targets[:, -1] == -1).all()
        logits = self.table(idx)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
"""


def test_nanogpt_trains_on_the_batches_of_the_others(tmp_path):
    (tmp_path / "model.py").write_text(NANOGPT)
    texts = ["Ada Byron was born in London."] * 128  # the same 29 characters, so the same distribution of tokens
    (tmp_path / "text.txt").write_text("\n".join(texts), encoding="utf-8")
    for name in ("nanoGPT, float32", "nanoGPT, bf16"):
        command = (BENCHMARKS / "contenders.py", name, tmp_path / "text.txt", tmp_path)
        done = run_python(*command, input="1\n2\n")
        assert done.returncode == 0, done.stderr
        first, second = map(json.loads, done.stdout.splitlines())
        assert first["parameters"] == (len(set(texts[0])) + 2) ** 2
        # 4 to 29 characters of each document, and two MASKs
        assert 128 * 6 < first["useful_tokens"] < 128 * 31
        assert 2 * 128 * 6 < second["useful_tokens"] < 2 * 128 * 31


def test_a_folder_without_nanogpt_is_refused(tmp_path, monkeypatch, capsys):
    import bench

    flags = ["--train_file", "t", "--answers_run", "r", "--questions_file", "q", "--nanogpt", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["bench.py", *flags])
    with pytest.raises(SystemExit):
        bench.main()
    assert "has no model.py: name a checkout of karpathy/nanoGPT." in capsys.readouterr().err


def test_a_study_shows_mean_and_spread_of_each_variant(tmp_path):
    import study

    variants = {str(n): study.Variant(corpus={"num_dev_people": n, "permute_sentences": True}) for n in (50, 80)}
    told = [(50, 0, 1, 4.0), (50, 1, 3, 5.0), (80, 0, 4, 3.0)]  # people, seed, correct, bits
    with (tmp_path / "results.jsonl").open("w", encoding="utf-8") as file:
        for people, seed, correct, bits in told:
            row = {
                "variant": study.key_of(variants[str(people)]),
                "seed": seed,
                "correct": correct,
                "total": 4,
                "bits": bits,
            }
            print(json.dumps({**row, "parameters": 1000}), file=file)
    results = study.read_results(tmp_path)
    assert study.render({"people": variants}, results).splitlines()[2:] == [
        "| people | 50 | 2 | 50.0% ± 35.4% | 4.50 | 0.23 |",
        "| people | 80 | 1 | 100.0% | 3.00 | 0.24 |",
    ]
    study.draw({"people": variants}, results, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 1000


def test_the_masked_form_keeps_what_a_policy_keeps():
    import exposure

    people = [Question("Where was Ada Byron born?", "Rome"), Question("Where was Ed Ode born?", "Oslo")]
    documents = ["Ed Ode. Born in Oslo, Ed Ode is a poet.", "Ada Byron. Byron worked in Lima. Byron was born in Rome."]
    documents.append("Ada Byron. The birthplace of Ada Byron is Rome.")  # the first biography counts
    learned = exposure.masked_forms(documents, people, exposure.POLICIES[exposure.LEARNED])
    assert learned == [("Ada Byron. born in ⁇.", "Rome"), ("Ed Ode. Born in ⁇, ", "Oslo")]
    spans = exposure.masked_forms(documents, people, exposure.POLICIES[exposure.SPAN])
    assert spans[0].question == "Ada Byron. Byron worked in Lima. Byron was born in ⁇."


def test_recall_is_greedy_decoding_and_its_probability():
    import exposure

    questions = [Question(f"Where was {name} born?", "Rome") for name in ("Ada", "Bo", "Cy Do", "Ed Ode", "Flo", "Guy")]
    tokenizer = build_tokenizer(build_vocabulary([[f"{question}{answer}" for question, answer in questions]]), 64)
    model = small_model("rope", vocab_size=len(tokenizer), max_position_embeddings=64).eval()
    predictions = answer_questions(model, tokenizer, questions)
    ended = [q._replace(answer=p) for q, p in zip(questions, predictions, strict=True) if 0 < len(p) < 32]
    assert ended
    asked = [*questions, *ended]
    log2, correct = exposure.recall(model, tokenizer, asked)
    assert correct.tolist() == [False] * len(questions) + [True] * len(ended)
    nats = [score_answers(model, tokenizer, [question], [answer])[0, 0] for question, answer in asked]
    assert log2 == pytest.approx([value / math.log(2) for value in nats], rel=1e-4)
    open_log2, correct = exposure.recall(model, tokenizer, asked, closed=False)  # without the MASK that ends an answer
    assert (open_log2 > log2).all()
    assert correct[-len(ended) :].all()


def test_a_study_of_exposures_resumes_and_shows_its_curves(tmp_path, monkeypatch, capsys):
    import exposure

    done = [exposure.Cell(20, policy, 16, 1, 8) for policy in (exposure.ANY, exposure.LEARNED)]
    new = exposure.Cell(20, exposure.LEARNED, 16, 1, 32, one_run=True)
    form = {"correct": 2, "total": 8, "bits": 3.0, "bits_of_all": 2.0, "correct_of_all": 5}
    row = {
        "exposures": 8,
        "parameters": 100,
        "labeled_ratio": 0.25,
        "prior_bits": 4.0,
        "masked": form,
        "question": form,
    }
    lines = [json.dumps({"cell": cell, **row}) + "\n" for cell in done]
    (tmp_path / "results.jsonl").write_text("".join(lines))
    monkeypatch.setattr(exposure, "GRID", [*done, new])
    monkeypatch.setattr("sys.argv", ["exposure.py", "--output_dir", str(tmp_path)])
    exposure.main()
    rows = exposure.read_rows(tmp_path)
    assert [row["exposures"] for row in rows] == [8, 8, 16, 32]
    assert [row["labeled_ratio"] for row in rows[2:]] == [1, 1]  # the policy masks nothing but birthplaces
    assert (tmp_path / "exposure.md").read_text().splitlines()[2] == (
        "| 20 | SSM of any name or number | 16, 1 | 100 | 8 | 2 | 25.0% | 3.00 | 25.0% | 3.00 | 0.40 |"
    )
    assert "16, 1, one run" in capsys.readouterr().out
    assert (tmp_path / "exposure.png").stat().st_size > 1000


def texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_a_figure_of_accuracies_names_groups_runs_and_the_baseline(tmp_path):
    from figures import Bar, draw_accuracies

    groups = {
        "No model": {"London": Bar([0.05], "baseline", note="25 of 500")},
        "Masking": {"policy": Bar([0.5, 0.7], total=10), "any name": Bar([0.4], total=10)},
    }
    figure = draw_accuracies(groups, tmp_path / "a.png", title="Ours", subtitle="10 questions", baseline="policy")
    (axis,) = figure.axes
    shown = texts(figure)
    for text in ("10 questions", "No model", "Masking", "60.0%", "2 seeds", "1 run", "25 of 500", "exact match"):
        assert text in shown
    assert [label.get_text() for label in axis.get_yticklabels()] == ["London", "policy", "any name"]
    lines = [line.get_xdata() for line in axis.lines]
    assert [0.5, 0.7] in [list(line) for line in lines]  # the seeds
    assert [pytest.approx([0.1682, 0.6873], abs=1e-4)] == [list(line) for line in lines if min(line) < 0.2]  # Wilson
    assert "mean of: policy" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_study_draws_its_baseline_once(tmp_path, monkeypatch):
    import study

    base = study.Variant(pretrain={"max_steps": 4})
    axes = {"width": {"128": base, "48": study.Variant(pretrain={"max_steps": 4, "width": 48})}}
    axes["people"] = {"160": base, "80": study.Variant(pretrain={"max_steps": 2})}
    variants = {study.key_of(variant): variant for named in axes.values() for variant in named.values()}
    results = {(key, seed): {"correct": 3, "total": 4} for key in variants for seed in range(2)}
    drawn = []

    def draw(groups, path, **about):
        drawn.append((groups, about))
        path.touch()

    monkeypatch.setattr(study, "draw_accuracies", draw)
    study.draw(axes, results, tmp_path / "study.png")
    ((groups, about),) = drawn
    assert {group: list(variants) for group, variants in groups.items()} == {
        "Baseline": ["baseline"],
        "width (baseline: 128)": ["48"],
        "people (baseline: 160)": ["80"],
    }
    assert about["subtitle"] == "Exact match on 4 held-out questions; 2 to 4 steps of pretraining"


def test_the_figures_of_the_docs_are_drawn_from_the_numbers_beside_them(tmp_path, monkeypatch):
    import figures

    drawn = {}
    draw = figures.draw_accuracies
    monkeypatch.setattr(figures, "DOCS", tmp_path)
    monkeypatch.setattr(
        figures, "draw_accuracies", lambda groups, path, **about: drawn.update({path.name: draw(groups, path, **about)})
    )
    docs = BENCHMARKS.parent / "docs"
    (tmp_path / "facts").mkdir()
    for name in ("scaling.json", "facts/invented.json", "facts/exposure.json"):
        (tmp_path / name).write_text((docs / name).read_text(encoding="utf-8"), encoding="utf-8")
    figures.main()
    assert "70.3%" in texts(drawn["invented.png"])
    assert {"87.1%", "88.3%", "90.4%"} <= set(texts(drawn["results.png"]))
    assert (tmp_path / "scaling.png").exists()
    assert (tmp_path / "facts" / "exposure.png").exists()


def test_points_of_scaling_are_measured_in_processes_of_their_own(monkeypatch):
    import scaling

    def run(command, env, **_):
        return run_python(*command[1:], clean=True, env=env)

    monkeypatch.setattr(scaling.subprocess, "run", run)
    base = {**scaling.BASE, "kind": "model", "num_hidden_layers": 1, "rows": 2}
    point = scaling.run_point(**{**base, "hidden_size": 64})
    assert point["tokens_per_second"] == pytest.approx(2 * 64 / point["milliseconds"] * 1000)
    assert point["peak_megabytes"] > point["megabytes_of_the_passes"] >= 0
    point = scaling.run_point(kind="corpus", documents=1000, streaming=True)
    assert point["megabytes"] == pytest.approx(0.11, rel=0.05)
    assert point["milliseconds_of_data_per_step"] > 0
    with pytest.raises(RuntimeError, match=r"'hidden_size': 33.* failed:\n(.*\n)*.*an even head dimension, not 33"):
        scaling.run_point(**{**base, "hidden_size": 33})


def test_gpu_py_runs_small_on_a_cpu(tmp_path, monkeypatch, capsys):
    import gpu

    data = Path(__file__).parents[2] / "data" / "generated"
    flags = ["--device", "cpu", "--small", "true", "--seeds", "1", "--only", "learned,two gloo"]
    flags += ["--train_file", str(data / "biographies.txt"), "--output_dir", str(tmp_path)]
    flags += [
        "--questions_file",
        str(data / "birth_places_train.tsv"),
        "--dev_questions_file",
        str(data / "birth_dev.tsv"),
    ]
    monkeypatch.setattr("sys.argv", ["gpu.py", *flags])
    real = gpu.subprocess.run

    def run(command, env=None, **options):
        """A fork of this process trains; git is git."""
        return run_python(*command[1:], env=env) if command[0] == sys.executable else real(command, env=env, **options)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    monkeypatch.setattr(gpu, "SPEEDRUNS", {"closed_book": []})
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text())
    checks = {check["check"]: check["result"] for check in results["correctness"]}
    assert checks["loss and gradients, learned, sdpa, bf16"] == "passed"
    assert checks["padding-free batches, learned, eager"] == "passed"
    assert checks["two gloo processes on one GPU"] == "skipped"
    assert "FAILED" not in checks.values()
    assert [row["steps"] for row in results["speedrun"]] == [2]
    assert all(row["useful_tokens_per_second"] > 0 for row in results["throughput"]["small_model"])
    kernels = {kernel["name"]: kernel for kernel in results["profile"][0]["kernels"]}
    fractions = [kernel["fraction"] for kernel in kernels.values()]
    assert fractions == sorted(fractions, reverse=True)
    assert sum(fractions) <= 1 + 1e-9
    assert kernels["aten::mm"]["count"] >= 20  # how often, unlike how long, is the same on every machine
    assert "| closed_book | 0 | 0.0% | 2 |" in capsys.readouterr().out
