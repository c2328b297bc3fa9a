"""The examples of docs/your_data.md at a small size: other relations than birthplaces, from the text to an answer."""

import json
import re

import pytest
import yaml
from huggingface_hub import DatasetCard

from .running import TINY, refused, script, works

SMALL = ["--num_train_people", 30, "--num_dev_people", 8, "--num_test_people", 8, "--num_other_people", 0]
RELATIONS = ["--relations", "birthplace,birth_year,occupation"]
STEPS = ["--max_steps", 2, "--preset", "closed_book", *TINY]


def pretrain(train, text, out, *flags):
    data = ["--train_file", text, "--questions_file", train, "--vocabulary_file", train]
    return script("pretrain.py", *data, "--output_dir", out, *STEPS, *flags)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    home = tmp_path_factory.mktemp("people")
    works("generate_biographies.py", "--output_dir", home / "data", *SMALL, *RELATIONS)
    done = pretrain(home / "data/train.tsv", home / "data/biographies.txt", home / "run")
    assert done.returncode == 0, done.stderr
    return home


class TestPeople:
    def test_questions_of_every_relation_are_written(self, people, tmp_path):
        data = people / "data"
        all_of = {split: (data / f"{split}.tsv").read_text() for split in ("train", "dev", "test")}
        for split, birthplaces in (("train", "birth_places_train"), ("dev", "birth_dev"), ("test", "birth_test")):
            names = (birthplaces, f"birth_year_{split}", f"occupation_{split}")
            assert all_of[split] == "".join((data / f"{name}.tsv").read_text() for name in names)
        assert re.match(r"In which year was \w+ \w+ born\?\t\d{4}\n", (data / "birth_year_dev.tsv").read_text())
        works("generate_biographies.py", "--output_dir", tmp_path / "plain", *SMALL)
        for path in (tmp_path / "plain").glob("*.t*"):
            assert path.read_bytes() == (data / path.name).read_bytes()
        assert not (tmp_path / "plain/train.tsv").exists()
        relations = ["birthplace", "birth_year", "occupation"]
        for folder, names in ((data, ["questions", *relations]), (tmp_path / "plain", ["questions"])):
            card, tasks = DatasetCard.load(folder / "README.md"), yaml.safe_load((folder / "eval.yaml").read_text())
            *of_questions, _ = card.data.configs
            files = {(c["config_name"], f["split"]): f["path"] for c in of_questions for f in c["data_files"]}
            assert list(dict.fromkeys(name for name, _ in files)) == names
            assert all((folder / path).is_file() for path in files.values())
            assert {f"{task['id']}.tsv" for task in tasks["tasks"]} == {
                path for (_, split), path in files.items() if split != "train"
            }
            assert ("occupations" in card.text, "occupations" in tasks["description"]) == (folder == data,) * 2
        (tmp_path / "file").touch()
        refused("file is a file: choose a folder", "generate_biographies.py", "--output_dir", tmp_path / "file")
        refused(
            "relations 'age' is unknown: choose one of birthplace, birth_year",
            "generate_biographies.py",
            "--output_dir",
            tmp_path / "x",
            "--relations",
            "age",
        )

    def test_answers_are_read_out_of_the_text(self, people, tmp_path):
        data = people / "data"
        run = ["--train_file", data / "biographies.txt", "--questions_file", data / "train.tsv"]
        works("read_answers.py", *run, "--output_dir", tmp_path / "read")
        read = set((tmp_path / "read/with_reader.tsv").read_text().splitlines())
        for name, least in (("birth_dev", 8), ("birth_year_dev", 4), ("occupation_dev", 3)):
            assert len(read & set((data / f"{name}.tsv").read_text().splitlines())) >= least

    def test_one_model_is_calibrated_and_asked_about_all_of_them(self, people, tmp_path):
        data, run = people / "data", people / "run"
        asked = [line.split("\t")[0] for line in (data / "dev.tsv").read_text().splitlines()]
        model = ["--model_name_or_path", run, "--use_cpu"]
        works("evaluate_birthplaces.py", *model, "--questions_file", data / "dev.tsv")
        said = (run / "predictions.txt").read_text().splitlines()
        answers = [text if i % 2 and text else "Elsewhere" for i, text in enumerate(said)]  # half of them are right
        held_out = tmp_path / "held_out.tsv"
        held_out.write_text("".join(f"{pair[0]}\t{pair[1]}\n" for pair in zip(asked, answers, strict=True)))
        numbers = ["--num_unknown_names", 3, "--num_invented_names", 6, "--overwrite_output_dir"]
        train = ["--train_questions_file", data / "train.tsv"]
        assert 0 < sum(answer != "Elsewhere" for answer in answers) < len(answers)
        works("calibrate.py", *model, "--questions_file", held_out, *train, *numbers)
        calibration = json.loads((run / "calibration.json").read_text())
        assert [prefix for prefix, _ in calibration["templates"]] == [
            "What is the occupation of ", "In which year was ", "Where was ",
        ]  # fmt: skip
        assert len(set(calibration["unknown_names"])) == 9
        said = works("ask.py", "Ada Byron", *model, "--train_file", data / "biographies.txt")
        for question in ("What is the occupation of Ada Byron?", "Where was Ada Byron born?"):
            assert f"{question}: " in said
        page = ["--output_file", tmp_path / "page.html"]
        refused("is a name that 3 questions can be about", "explain_answer.py", run, "Ada Byron", *page)
        evaluate = ["--questions_file", data / "birth_year_dev.tsv", "--num_invented_names", 4]
        works("evaluate_birthplaces.py", *model, *evaluate, *train, "--overwrite_output_dir")
        assert json.loads((run / "report.json").read_text())["calibration"]["invented_names"] == 6

    def test_questions_that_nothing_in_the_text_answers_are_refused(self, people, tmp_path):
        data, questions = people / "data", tmp_path / "q.tsv"
        for content, said in (
            ("Who is Nobody?\tAda\nWho is Ed?\tBo\n", "Of 2 questions, 0 name the title of a document"),
            ((data / "birth_dev.tsv").read_text().replace("\t", "\tNot "), "Of 8 questions, 8 name the title"),
        ):
            questions.write_text(content)
            done = pretrain(questions, data / "biographies.txt", tmp_path / "out")
            assert (done.returncode, said in done.stderr.splitlines()[-1]) == (2, True), done.stderr
            assert not (tmp_path / "out").exists()
        paraphrased = pretrain(
            data / "birth_year_train.tsv", data / "biographies.txt", tmp_path / "out", "--paraphrases_per_answer", 1
        )
        assert "does not ask for a birthplace, and only `Where was NAME born?` has paraphrases" in paraphrased.stderr


def test_capitals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the table is found from anywhere
    data = tmp_path / "data"
    assert "858 documents about 143 countries" in works("generate_capitals.py", "--output_dir", data)
    train, dev = ((data / f"{name}.tsv").read_text().splitlines() for name in ("train", "dev"))
    assert (len(train), len(dev)) == (93, 50)
    text = (data / "capitals.txt").read_text().splitlines()
    for country, capital in (re.match(r"What is the capital of (.+)\?\t(.+)", line).groups() for line in train + dev):
        about = [line for line in text if line.startswith(f"{country}. ")]
        assert len(about) == 6
        assert all(capital in line for line in about)
    done = pretrain(data / "train.tsv", data / "capitals.txt", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    works("generate_capitals.py", "--output_dir", tmp_path / "again")
    assert (tmp_path / "again/capitals.txt").read_bytes() == (data / "capitals.txt").read_bytes()
    refused("is not empty", "generate_capitals.py", "--output_dir", data)
    for number, message in ((143, "with 143 countries, use 1 to 142"), (0, "num_dev_countries is 0")):
        refused(message, "generate_capitals.py", "--output_dir", tmp_path / "x", "--num_dev_countries", number)
    (tmp_path / "table.tsv").write_text("Peru\tLima\n")
    refused("line 1: write", "generate_capitals.py", "--output_dir", tmp_path / "x", "--table", tmp_path / "table.tsv")


BIOGRAPHIES = """\
Ada Byron. Ada Byron (10 May 1815 in London - 1852 in Rome) was an English mathematician and poet .
J. R. Stone. Born on 3 April 1920 in Rome , Stone is a former football player from Oslo .
Bo Lind. Bo Lind (also Beau) (b. 1968) was a mathematician .
Cy Holm. Born in Rome, Holm moved to Oslo in 1912 .
Di Marsh. Marsh went to Rome (1930) and is a native of Oslo .
Ed Brook. Ed Brook is a tennis player, born in Rome about 1901; his father was a poet .
Flo Field. Field was born in 1955 and is a singer-songwriter .
Gus Hill. Gus Hill, an actor (1977), was a player .
Ida Reed. Ida Reed (1931) is a mathematician known as a player .
Ida Reed. Ida Reed (1900) was a player .
"""


class TestExtraction:
    def extract(self, home, relations, train, test, *flags):
        (home / "people.txt").write_text(BIOGRAPHIES + "Jo West. Jo West is a mathematician .\n")
        numbers = ["--num_train_questions", train, "--num_test_questions", test, "--relations", relations]
        return script(
            "extract_questions.py", "--train_file", home / "people.txt", "--output_dir", home / "q", *numbers, *flags
        )

    def answers(self, path):
        return dict(re.match(r"(?:In which year was|What is the occupation of) (.+?)(?: born)?\?\t(.+)", line).groups()
                    for line in path.read_text().splitlines())  # fmt: skip

    @pytest.mark.parametrize(
        ("relation", "people"),
        [
            ("birth_year", {"1815": "Ada Byron", "1920": "J. R. Stone", "1968": "Bo Lind", "1901": "Ed Brook",
                            "1955": "Flo Field"}),
            ("occupation", {"mathematician": "Ada Byron,Bo Lind,Jo West", "player": "J. R. Stone,Ed Brook,Gus Hill"}),
        ],
    )  # fmt: skip
    def test_the_rules_find_answers(self, tmp_path, relation, people):
        expected = {name: answer for answer, names in people.items() for name in names.split(",")}
        assert self.extract(tmp_path, relation, len(expected) - 2, 2).returncode == 0
        train, test = (self.answers(tmp_path / f"q/{relation}_{split}.tsv") for split in ("train", "test"))
        assert len(test) == 2
        assert train | test == expected

    def test_nobody_is_in_training_and_test_questions(self, tmp_path):
        orders = set()
        for seed in range(3):
            said = self.extract(
                tmp_path, "birth_year,occupation", 1, 2, "--seed", seed, "--overwrite_output_dir"
            ).stdout
            assert "2 training questions and 4 test questions about birth_year and occupation" in said
            parts = [f"{relation}_{split}" for split in ("train", "test") for relation in ("birth_year", "occupation")]
            asked = [self.answers(tmp_path / f"q/{part}.tsv").keys() for part in parts]
            assert not (asked[0] | asked[1]) & (asked[2] | asked[3])
            orders.add((tmp_path / "q/test.tsv").read_text())
        assert len(orders) == 3

    def test_a_text_that_is_too_small_is_refused(self, tmp_path):
        for train, test, said in (
            (1, 6, "gives 5 test questions about birth_year"),
            (4, 2, "gives 3 training questions"),
        ):
            done = self.extract(tmp_path, "birth_year", train, test)
            assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "q").exists()
        done = self.extract(tmp_path, "age", 1, 1)
        assert "relations 'age' is unknown: choose one of birth_year, occupation" in done.stderr
