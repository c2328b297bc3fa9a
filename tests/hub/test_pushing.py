"""Pushing and loading by the unmodified client, against a Hub on loopback (hub_server.py)."""

import hashlib
import json
import re
import socket

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries

from hf_mingpt.data.questions import read_questions
from hf_mingpt.hub.metadata import find_task
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.writing import write_json

from ..conftest import ROOT, small_model
from ..data.other_tokenizers import byte_bpe
from ..processes import run_python
from .hub_server import TOKEN, File, Repository, serve
from .runs import calibrate_by_hand, push

CORPUS = ROOT / "data" / "generated" / "biographies.txt"
both_storages = pytest.mark.parametrize("storage", ["lfs", "xet"])


LOAD = """
import sys
sys.modules["hf_mingpt"] = None  # as if it were not installed
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
where = {"revision": sys.argv[2]} if len(sys.argv) > 2 else {}
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False, **where)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True, **where)
write = pipeline("text-generation", model=model, tokenizer=tokenizer)
print(ascii(write("Where was Ada born?", max_new_tokens=8, do_sample=False)[0]["generated_text"]))
"""


def written_by_the_small_model(tokenizer) -> str:
    """What LOAD prints of `run_folder`."""
    ids = tokenizer("Where was Ada born?", return_tensors="pt")
    model = small_model("rope", vocab_size=len(tokenizer))
    written = model.generate(**ids, max_new_tokens=8, do_sample=False, eos_token_id=1)
    return ascii(tokenizer.decode(written[0], skip_special_tokens=True))


@both_storages
def test_a_pushed_run_loads_unchanged(hub, client, run_folder, tokenizer, storage):
    done = client(*push("--run", run_folder, "--hub_model_id", "tester/ada", "--hub_private_repo"))
    assert done.returncode == 0, done.stderr
    assert f"{hub.address}/tester/ada/commit/" in done.stdout
    repository = hub.repositories["model", "tester/ada"]
    assert repository.private
    files = repository.commits[repository.resolve("main")]
    assert (
        files["model.safetensors"].sha256 == hashlib.sha256((run_folder / "model.safetensors").read_bytes()).hexdigest()
    )
    assert {"modeling_mingpt.py", "configuration_mingpt.py", "tokenizer.json", "run.json", "README.md"} <= set(files)
    assert not [path for path in files if "checkpoint" in path]
    assert b"tester/ada" in files["README.md"].content
    assert not [path for path, file in files.items() if TOKEN.encode() in file.content]
    assert TOKEN not in done.stdout + done.stderr

    loaded = client("-c", LOAD, "tester/ada")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == written_by_the_small_model(tokenizer)
    by_lfs = [request for request in hub.requests if "/lfs/" in request and not request.startswith("HEAD")]
    by_xet = [request for request in hub.requests if "/xet-write-token/" in request or "/xet-read-token/" in request]
    assert (bool(by_lfs), len(by_xet)) == ((False, 2) if storage == "xet" else (True, 0))
    assert client("-c", LOAD, "tester/ada", token=None).returncode != 0  # it is private

    downloaded = client("-m", "huggingface_hub.cli.hf", "download", "tester/ada", "--local-dir", "ada-again")
    assert downloaded.returncode == 0, downloaded.stderr
    for path, file in files.items():
        pushed = file.content or (run_folder / path).read_bytes()
        assert (run_folder.parent / "ada-again" / path).read_bytes() == pushed


def test_a_push_to_a_branch_leaves_main_unchanged(hub, client, run_folder):
    done = client(*push("--run", run_folder, "--hub_model_id", "ada", "--revision", "second"))
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", "tester/ada"]
    assert repository.commits[repository.resolve("main")] == {}
    assert client("-c", LOAD, "tester/ada", "second").returncode == 0


def test_reports_of_an_earlier_push_are_deleted(hub, client, run_folder):
    """Those of earlier versions, and those that the folder no longer has; what else is there stays."""
    earlier = {"honesty.md", "honesty.png", "calibration.json", "predictions.txt", "notes.md", "vocab.txt"}
    for name in earlier:
        (run_folder / name).write_text("earlier")
    (run_folder / "predictions.txt").write_text("Rome\n")
    assert client(*push("--run", run_folder, "--hub_model_id", "ada")).returncode == 0
    repository = hub.repositories["model", "tester/ada"]
    files = dict(repository.commits[repository.resolve("main")])
    repository.commit("main", {**files, "notes.md": files["README.md"]})
    for name in earlier - {"predictions.txt"}:
        (run_folder / name).unlink()
    (run_folder / "calibration.md").write_text("now")
    assert client(*push("--run", run_folder, "--hub_model_id", "ada")).returncode == 0
    after = set(repository.commits[repository.resolve("main")])
    assert after == {*files, "notes.md", "calibration.md"} - {"honesty.md", "honesty.png", "calibration.json"}


def test_ask_works_with_a_calibrated_run_on_the_hub(client, run_folder):
    ask = (ROOT / "scripts" / "ask.py", "Ada", "--model_name_or_path", "tester/ada", "--use_cpu")
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    refused = client(*ask)
    assert (refused.returncode, "tester/ada has no calibration.json" in refused.stderr) == (2, True), refused.stderr

    calibrate_by_hand(run_folder)
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    done = client(*ask)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Ada: ")
    assert "alternatives: " in done.stdout


def test_a_run_with_another_tokenizer_is_pushed_and_asked(client, run_folder):
    tokenizer = byte_bpe()
    model = small_model("rope", vocab_size=len(tokenizer))
    save_run(run_folder, model, tokenizer, json.loads((run_folder / "run.json").read_text()), stop_at_mask=True)
    calibrate_by_hand(run_folder)
    assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    done = client(ROOT / "scripts" / "ask.py", "Ada", "--model_name_or_path", "tester/ada", "--use_cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Ada: ")


@both_storages
@pytest.mark.parametrize(("failure", "said"), [("refuse_commits", "out of order"), ("dies_at_commit", "push failed: ")])
def test_a_failed_push_loses_nothing_and_can_be_repeated(hub, client, run_folder, failure, said):
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file() and path.name != "README.md"}
    setattr(hub, failure, True)
    failed = client(*push("--run", run_folder, "--hub_model_id", "tester/ada"))
    assert failed.returncode == 2
    assert said in failed.stderr
    assert f"repeat scripts/push_to_hub.py --run {run_folder}" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
    setattr(hub, failure, False)
    with serve(hub) as hub.address:
        assert client(*push("--run", run_folder, "--hub_model_id", "tester/ada")).returncode == 0
    repository = hub.repositories["model", "tester/ada"]
    pushed = repository.commits[repository.resolve("main")]
    for path, content in before.items():
        name = str(path.relative_to(run_folder))
        if "checkpoint" in name:
            assert name not in pushed
        elif pushed[name].sha256:
            assert pushed[name].sha256 == hashlib.sha256(content).hexdigest()
        else:
            assert pushed[name].content == content


def test_training_checks_the_token_first_and_pushes_at_the_end(hub, client, tmp_path):
    flags = [
        "--preset",
        "demo",
        "--train_file",
        CORPUS,
        "--max_steps",
        2,
        "--per_device_train_batch_size",
        4,
        "--use_cpu",
    ]
    flags += ["--vocabulary_file", CORPUS.parent / "birth_places_train.tsv"]
    flags += ["--push_to_hub", "--hub_model_id", "tester/small", "--hub_private_repo", "true", "--output_dir"]
    refused = client(ROOT / "scripts" / "pretrain.py", *flags, tmp_path / "refused", token="hf_wrong")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "refused").exists()
    done = client(ROOT / "scripts" / "pretrain.py", *flags, tmp_path / "small")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", "tester/small"]
    files = repository.commits[repository.resolve("main")]
    assert json.loads(files["run.json"].content)["versions"]["transformers"]
    assert b"Traceback" not in files["README.md"].content

    finetune = (ROOT / "scripts" / "finetune.py", "--preset", "demo", "--model_name_or_path", "tester/small")
    finetune += ("--questions_file", CORPUS.parent / "birth_places_train.tsv", "--max_steps", 2, "--use_cpu")
    finetune += ("--push_to_hub", "--hub_model_id", "tester/answers", "--output_dir", tmp_path / "answers")
    done = client(*finetune)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", "tester/answers"]
    files = repository.commits[repository.resolve("main")]
    assert json.loads(files["recipe.json"].content)["model_name_or_path"] == "tester/small"
    assert not [path for path, file in files.items() if TOKEN.encode() in file.content]


READ = """
from datasets import Dataset, DatasetDict
from hf_mingpt.data.loading import load_texts
if __name__ == "__main__":
    rows = {"bio": ["Ada was born in London.", "Zoë was born in Ålesund."]}
    DatasetDict(train=Dataset.from_dict(rows), more=Dataset.from_dict(rows)).push_to_hub("tester/lives")
    for streaming in (False, True):
        texts = load_texts("tester/lives", split="more", text_column="bio", streaming=streaming)
        assert [row["text"] for row in texts] == rows["bio"], streaming
"""


def test_a_text_on_the_hub_is_loaded(client, tmp_path):
    (tmp_path / "read.py").write_text(READ, encoding="utf-8")
    done = client(tmp_path / "read.py")
    assert done.returncode == 0, done.stderr


READ_DATA = """
import json
from datasets import Dataset, load_dataset
from hf_mingpt.data.loading import load_texts
from hf_mingpt.data.questions import read_questions
if __name__ == "__main__":
    for source, name in (("tester/lives", "biographies"), ("tester/lives/biographies:train", None)):
        texts = load_texts(source, name=name, streaming=name is None)
        print(sum(1 for _ in texts), next(iter(texts))["text"])
    questions = load_dataset("tester/lives", "questions")
    print({split: len(rows) for split, rows in questions.items()}, questions["dev"][0])

    Dataset.from_dict({"question": ["Who?", "A\\nB?"]}).push_to_hub("tester/asked", split="dev")
    Dataset.from_dict({"question": ["Who?"], "answer": [["Ada", "Bo"]]}).push_to_hub("tester/lists")
    lives = [f"tester/lives{rest}" for rest in ("", ":dev", "/questions:test", "/biographies:train", ":no")]
    asked = ["tester/asked:dev[:1]", "tester/asked", "tester/asked:dev"]
    for source in (*lives[:3], *asked, "tester/lists", *lives[3:], "tester/nobody"):
        try:
            print(json.dumps(read_questions(source)))
        except (OSError, ValueError) as error:
            print(error)
"""


def test_generated_data_is_pushed_and_loaded(hub, client, tmp_path):
    """Also over the TSV files of an earlier version, which the viewer would show beside the Parquet files."""
    folder = CORPUS.parent
    hub.repositories["dataset", "tester/lives"] = repository = Repository("tester/lives", private=False)
    earlier = {path.name: File(path.read_bytes(), path.stat().st_size) for path in folder.iterdir()}
    repository.commit("main", {**earlier, "notes.md": earlier["README.md"]})
    pushed = client(*push("--data", folder, "--hub_dataset_id", "lives"))
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.address}/datasets/tester/lives" in pushed.stdout
    files = repository.commits[repository.resolve("main")]
    parquet = {f"questions/{split}-00000-of-00001.parquet" for split in ("train", "dev", "test")}
    parquet.add("biographies/train-00000-of-00001.parquet")
    assert set(files) - {".gitattributes"} == {*parquet, "README.md", "eval.yaml", "notes.md"}

    card = DatasetCard(files["README.md"].content.decode())
    where = {c["config_name"]: {f["split"]: f["path"] for f in c["data_files"]} for c in card.data.configs}
    assert where["questions"] == {split: f"questions/{split}-*" for split in ("train", "dev", "test")}
    described = {
        info["config_name"]: [column["name"] for column in info["features"]] for info in card.data.dataset_info
    }
    assert described == {"questions": ["question", "answer"], "biographies": ["text"]}
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert "| documents | 660 |" in card.text
    tasks = yaml.safe_load(files["eval.yaml"].content)["tasks"]
    assert {task["id"]: where[task["config"]][task["split"]] for task in tasks} == {
        "birth_dev": "questions/dev-*",
        "birth_test": "questions/test-*",
    }

    (tmp_path / "read.py").write_text(READ_DATA, encoding="utf-8")
    done = client(tmp_path / "read.py")
    assert done.returncode == 0, done.stderr
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    first = (folder / "birth_dev.tsv").read_text(encoding="utf-8").splitlines()[0].split("\t")
    plain, streamed, questions, *asked = done.stdout.splitlines()
    assert plain == streamed == f"{len(lines)} {lines[0]}"
    assert (
        questions == f"{{'train': 100, 'dev': 60, 'test': 40}} {dict(zip(('question', 'answer'), first, strict=True))}"
    )
    for read, file in zip(asked, ("birth_places_train", "birth_dev", "birth_test"), strict=False):
        assert json.loads(read) == [list(question) for question in read_questions(folder / f"{file}.tsv")]
    for read, said in zip(
        asked[3:],
        (
            "tester/asked:dev[:1]: check the path",
            'tester/asked has no readable questions: Unknown split "train"',
            "tester/asked:dev: 'A\\nB?' has a tab or a line end",
            "tester/lists: its column 'answer' is not text",
            "tester/lives/biographies:train has no column 'question', only ['text']",
            'Unknown split "no"',
            "No questions tester/nobody here or on the Hub: Dataset 'tester/nobody' doesn't exist",
        ),
        strict=True,
    ):
        assert said in read


TASKS = {
    "tasks": [
        {"id": "birth_dev", "config": "questions", "split": "dev"},
        {"id": "birth_test", "config": "questions", "split": "test"},
        {"id": "years", "config": "birth_year", "split": "dev"},
        {"id": "plain", "config": "default", "split": "dev"},
    ]
}


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("birth_test.tsv", "birth_test"),
        ("dev.tsv", None),
        ("tester/lives:dev", "birth_dev"),
        ("tester/lives/birth_year:dev", "years"),
        ("tester/lives/birth_year:test", None),
        ("tester/lives", None),  # its split is train
        ("tester/others:dev", None),
    ],
)
def test_the_task_of_the_questions(source, task):
    """Results name a task of the dataset's eval.yaml, or the Hub shows them nowhere."""
    report = {"questions": {"file": source}}
    assert find_task(report, "tester/lives", TASKS["tasks"]) == task
    assert find_task(report, "tester/lives", []) is None


def test_the_card_of_an_evaluated_run_names_its_data(hub, client, run_folder):
    """Metadata, and `.eval_results` as the Hub's client reads it; a run without a report loses its old results."""
    questions = CORPUS.parent / "birth_places_train.tsv"
    recipe = {"kind": "FinetuneRecipe", "model_name_or_path": "tester/base", "questions_file": str(questions)}
    write_json(run_folder / "recipe.json", recipe)
    row = {"accuracy": 0.51234, "correct": 1, "total": 2, "interval_95": [0.1, 0.9]}
    dev = {"file": "birth_dev.tsv", "bytes": 1, "sha256": "0" * 64}
    report = {"results": {"model": row}, "questions": dev, "command": "c", "date": "2026-01-02"}
    write_json(run_folder / "report.json", report)
    flags = push("--run", run_folder, "--hub_model_id", "tester/ada", "--hub_dataset_id", "tester/lives")
    refused = client(*flags)
    assert (refused.returncode, "There is no dataset tester/lives on the Hub" in refused.stderr) == (2, True)
    hub.repositories["dataset", "tester/lives"] = lives = Repository("tester/lives", private=False)
    done = client(*flags)
    assert "tester/lives has no eval.yaml with a task for birth_dev.tsv" in done.stderr
    repository = hub.repositories["model", "tester/ada"]
    assert ".eval_results/hf_mingpt.yaml" not in repository.commits[repository.resolve("main")]
    tasks = yaml.safe_dump(TASKS).encode()
    lives.commit("main", {"eval.yaml": File(tasks, len(tasks))})
    done = client(*flags)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    files = repository.commits[repository.resolve("main")]
    data = ModelCard(files["README.md"].content.decode()).data
    assert (data.base_model, data.datasets, data.language) == ("tester/base", ["tester/lives"], "en")
    asked = [line.split("\t")[0] for line in questions.read_text(encoding="utf-8").splitlines()[:3]]
    assert data.widget == [{"text": f"{question}⁇"} for question in asked]
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_value) == ("tester/lives", 0.5123)
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/hf_mingpt.yaml"].content))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("tester/lives", "birth_dev", 0.5123)
    assert (entry.date, entry.source_url) == ("2026-01-02", f"{hub.address}/tester/ada/blob/main/report.json")

    (run_folder / "report.json").unlink()
    assert client(*flags).returncode == 0
    files = repository.commits[repository.resolve("main")]
    assert not {".eval_results/hf_mingpt.yaml", "report.json"} & set(files)
    assert ModelCard(files["README.md"].content.decode()).data.eval_results is None


def test_pushed_files_name_no_folder_host_or_user(hub, client, tmp_path):
    """Every byte of runs from folders with recognizable names, with a tracker and an evaluation."""
    secret = tmp_path / "home-of-alice"
    data = CORPUS.parent
    train = secret / "data/birth_places_train.tsv"
    (secret / "data").mkdir(parents=True)
    for name in ("biographies.txt", "birth_places_train.tsv", "birth_dev.tsv"):
        (secret / "data" / name).write_bytes((data / name).read_bytes())
    small = ["--model_preset", "gpt-nano", "--max_steps", 2, "--use_cpu", "--report_to", "tensorboard"]
    relative = "home-of-alice/runs-of-alice"
    commands = [
        [ROOT / "scripts/pretrain.py", "--preset", "closed_book", "--train_file", "home-of-alice/data/biographies.txt",
         *small, "--questions_file", train, f"--vocabulary_file={secret}/data/birth_dev.tsv",
         "--output_dir", f"{relative}/first", "--save_steps", 1, "--learning_rate", "1e-9"],
        [ROOT / "scripts/evaluate_birthplaces.py", "--model_name_or_path", f"{relative}/first", "--use_cpu",
         "--questions_file", "home-of-alice/data/birth_dev.tsv", "--train_questions_file", train],
        [ROOT / "scripts/finetune.py", "--model_name_or_path", f"{relative}/first", "--questions_file", train,
         *small[2:], "--output_dir", f"{relative}/second"],
    ]  # fmt: skip
    for command in commands:
        done = run_python(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    logs = [path.name for path in secret.rglob("events.out.tfevents*")]
    assert any(socket.gethostname() in name for name in logs)
    (secret / "runs-of-alice/first/notes.txt").write_text("of alice")
    for name in ("first", "second"):
        done = client(*push("--run", secret / "runs-of-alice" / name, "--hub_model_id", f"tester/{name}"))
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["model", f"tester/{name}"]
        files = repository.commits[repository.resolve("main")]
        assert {"recipe.json", "run.json", "README.md", "metrics.jsonl"} <= set(files)
        for path, file in files.items():
            content = path.encode() + file.content
            for told in ("alice", str(tmp_path), str(ROOT)):
                assert told.encode() not in content, (path, told)
            if not file.sha256:  # a weight may look like a short name
                assert not re.search(rf"(?<!\w){re.escape(socket.gethostname())}(?!\w)", content.decode()), path
        assert not [message for message in hub.messages if "alice" in message or name in message]
    recipe = json.loads((secret / "runs-of-alice/second/recipe.json").read_text())
    assert recipe["model_name_or_path"] == f"{relative}/first"  # what stays at home says all
    assert json.loads(files["recipe.json"].content)["model_name_or_path"] == "first"


PUSH = """
import sys
from hf_mingpt import load_run
model, tokenizer = load_run(sys.argv[1])
model.push_to_hub("tester/direct")
tokenizer.push_to_hub("tester/direct")
"""


def test_push_to_hub_of_transformers_includes_the_code(hub, client, run_folder, tokenizer):
    done = client("-c", PUSH, run_folder)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["model", "tester/direct"]
    files = repository.commits[repository.resolve("main")]
    assert {"modeling_mingpt.py", "configuration_mingpt.py", "model.safetensors"} <= set(files)
    loaded = client("-c", LOAD, "tester/direct")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == written_by_the_small_model(tokenizer)
