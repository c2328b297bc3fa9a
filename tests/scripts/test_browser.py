"""The page of scripts/demo.py as a visitor uses it, in headless Chromium: `make test-browser`."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from hf_mingpt.data.birthplaces import question_about
from hf_mingpt.data.questions import Question
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import ask, fit_calibration
from hf_mingpt.evaluation.confidence import ConfidenceFeatures
from hf_mingpt.hub.loading import load_calibration, load_run
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.wording import percent
from hf_mingpt.system.writing import write_json
from hf_mingpt.training.recipes import FinetuneRecipe

from ..conftest import small_model

pytestmark = pytest.mark.browser

NAME, LINE = "Ada Byron", "Ada Byron. Ada Byron was born in London."
SECONDS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a calibration, whose model has learned nothing."""
    from hf_mingpt.tokenization_mingpt import build_tokenizer, build_vocabulary

    folder = tmp_path_factory.mktemp("run")
    tokenizer = build_tokenizer(build_vocabulary([["Where was Ada Byron born? Zoë Quist in London."]]), 64)
    recipe = FinetuneRecipe(model_name_or_path="runs/p", questions_file="t.tsv", output_dir=str(folder))
    write_json(folder / "recipe.json", {"kind": "FinetuneRecipe", **asdict(recipe)})
    record = {"parameters": 1, "num_processes": 1, "mixed_precision": "no", "device": "cpu", "training_seconds": 1.0}
    model = small_model("rope", vocab_size=len(tokenizer), max_position_embeddings=64)
    save_run(folder, model, tokenizer, {**record, "command": "finetune.py"}, stop_at_mask=True)
    features = ConfidenceFeatures(*np.random.default_rng(0).normal(size=(3, 50)))
    calibration = fit_calibration(
        features, features.contrast > 0, candidates=["London", "Quist"], unknown_names=["Zoë Byron"]
    )
    write_json(folder / "calibration.json", asdict(calibration))
    return folder


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    """The page, served by the script."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "corpus.txt").write_text(LINE + "\n")
    (folder / "dev.tsv").write_text(f"{question_about(NAME)}\tLondon\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[2] / "scripts" / "demo.py"
    files = ["--train_file", folder / "corpus.txt", "--questions_file", folder / "dev.tsv", "--port", port]
    command = [str(part) for part in (sys.executable, script, run, *files)]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(10 * SECONDS):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1500"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.implicitly_wait(SECONDS)
        yield driver


def wait_for(browser, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, SECONDS).until(lambda _: condition())


def text_of(browser, element: str) -> str:
    return browser.find_element("id", element).text


def test_a_name_is_typed_and_the_answer_is_read(run, address, browser):
    model, tokenizer = load_run(str(run))
    calibration = load_calibration(str(run))
    (expected,) = ask(model.eval(), tokenizer, [NAME], calibration)
    browser.get(address)
    browser.find_element("css selector", "#name textarea, #name input").send_keys(NAME)
    browser.find_element("id", "ask").click()
    wait_for(browser, lambda: "likely to be correct" in text_of(browser, "answer"))
    shown, place = " ".join(text_of(browser, "answer").split()), " ".join(expected.answer.split())
    likely = f"{percent(expected.probability)} likely to be correct"
    below = f"below the threshold of {100 * calibration.threshold:.4g}%"
    assert shown == (f"{place} {likely}." if expected.confident else f"I don't know {place} is {likely}, {below}.")
    assert expected.alternatives[0][0] in text_of(browser, "alternatives")
    line = browser.find_element("css selector", "#line textarea, #line input")
    assert line.get_property("value") == LINE
    picture = wait_for(browser, lambda: browser.find_element("css selector", "#attention img"))
    assert wait_for(browser, lambda: picture.get_property("naturalWidth")) > 300
    if path := os.environ.get("SCREENSHOT"):
        height = browser.execute_script("return document.documentElement.scrollHeight")
        browser.set_window_size(1280, height + 150)  # the whole page; the window has a frame
        browser.save_screenshot(path)


def test_examples_fill_in_the_name(run, address, browser):
    model, tokenizer = load_run(str(run))
    (answer,) = answer_questions(model.eval(), tokenizer, [Question(question_about(NAME), None)])
    browser.get(address)
    kind = "correct" if answer == "London" else "wrong"
    wait_for(browser, lambda: f"Try: {kind}" in browser.page_source and "Try: invented" in browser.page_source)
    (example,) = (e for e in browser.find_elements("css selector", "button, td") if e.text.strip() == "Zoë Byron")
    example.click()
    field = browser.find_element("css selector", "#name textarea, #name input")
    wait_for(browser, lambda: field.get_property("value") == "Zoë Byron")


def test_a_character_that_the_model_does_not_know_is_named(address, browser):
    browser.get(address)
    browser.find_element("css selector", "#name textarea, #name input").send_keys("B☃")
    browser.find_element("id", "ask").click()
    wait_for(browser, lambda: "'☃'" in browser.find_element("tag name", "body").text)


def test_no_other_host_is_asked(address, browser):
    browser.get(address)
    browser.find_element("id", "ask")
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    hosts = {re.match(r"\w+://([^/:]+)", url)[1] for url in asked if "://" in url}
    assert hosts == {"127.0.0.1"}
