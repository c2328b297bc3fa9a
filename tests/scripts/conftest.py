"""Small runs on a generated corpus, which no test changes: one that has to copies them."""

import shutil
from dataclasses import asdict

import numpy as np
import pytest

from hf_mingpt.evaluation.calibration import fit_calibration
from hf_mingpt.evaluation.confidence import Comparison, ConfidenceFeatures
from hf_mingpt.system.writing import write_json

from .running import TINY, works


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a generated corpus, a pretrained, a finetuned and a from-scratch run."""
    home = tmp_path_factory.mktemp("home")
    people = ["--num_train_people", 12, "--num_dev_people", 8, "--num_test_people", 4, "--num_other_people", 2]
    works("generate_biographies.py", "--output_dir", home / "data", *people)
    data = ["--train_file", home / "data/biographies.txt", "--vocabulary_file", home / "data/birth_dev.tsv"]
    works("pretrain.py", *data, "--output_dir", home / "pretrained", "--max_steps", 4, *TINY)
    finetune = ["--model_name_or_path", home / "pretrained", "--questions_file", home / "data/birth_places_train.tsv"]
    finetune += ["--use_cpu", "--max_steps", 3]
    works("finetune.py", *finetune, "--output_dir", home / "finetuned")
    works("finetune.py", *finetune, "--output_dir", home / "scratch", "--preset", "assignment_short_from_scratch")
    return home


@pytest.fixture
def calibrated(home, tmp_path):
    """The finetuned run with a calibration; its few steps taught it nothing, so one is fitted to other signs."""
    run = tmp_path / "calibrated"
    shutil.copytree(home / "finetuned", run, ignore=shutil.ignore_patterns("predictions.txt", "report.json"))
    rng = np.random.default_rng(0)
    features = ConfidenceFeatures(*rng.normal(size=(3, 50)))
    comparison = Comparison(candidates=["Bra", "Mir"], unknown_names=["Ka Ma", "Ma Ka"])
    calibration = fit_calibration(features, features.contrast > 0, comparison)
    write_json(run / "calibration.json", asdict(calibration))
    return run
