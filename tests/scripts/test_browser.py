"""The page of scripts/demo.py as a visitor uses it, in headless Chromium: `make test-browser`."""

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
from hf_mingpt.data.subjects import Template
from hf_mingpt.evaluation.answer_page import describe_reason
from hf_mingpt.evaluation.answering import answer_questions
from hf_mingpt.evaluation.calibration import ask, fit_calibration
from hf_mingpt.evaluation.confidence import Comparison, ConfidenceFeatures
from hf_mingpt.hub.loading import load_calibration, load_run
from hf_mingpt.hub.saving import save_run
from hf_mingpt.system.wording import percent
from hf_mingpt.system.writing import write_json
from hf_mingpt.training.recipes import FinetuneRecipe

from ..conftest import small_model

pytestmark = pytest.mark.browser

NAME, LINE = "Ada Byron", "Ada Byron. Ada Byron was born in London."
OTHER = "Zoë Quist"  # two questions share a form, one does not
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
    features = ConfidenceFeatures(*np.random.default_rng(0).normal(size=(4, 50)))
    names, forms = {"candidates": ["London", "Quist"], "unknown_names": ["Zoë Byron"]}, [[Template("", ". in [MASK].")]]
    calibration = fit_calibration(features, features.contrast > 0, Comparison(**names, masked_forms=forms))
    write_json(folder / "calibration.json", asdict(calibration))
    return folder


@pytest.fixture(scope="module")
def address(run, tmp_path_factory):
    """The page, served by the script."""
    folder = tmp_path_factory.mktemp("page")
    lines, questions = [LINE, LINE.replace(NAME, OTHER)], [question_about(name) for name in (NAME, OTHER)]
    (folder / "corpus.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "dev.tsv").write_text("".join(f"{question}\tLondon\n" for question in questions), encoding="utf-8")
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


def type_in(browser, *keys) -> None:
    browser.find_element("css selector", "#name textarea, #name input").send_keys(*keys)


def answer_to(browser, question: str) -> str:
    """The text of the answer, when it is that to a question, on one line."""
    wait_for(browser, lambda: text_of(browser, "answer").startswith(question))
    return " ".join(text_of(browser, "answer").split())


def test_a_name_is_typed_and_the_answer_is_read(run, address, browser):
    model, tokenizer = load_run(str(run))
    calibration = load_calibration(str(run))
    (expected,) = ask(model.eval(), tokenizer, [NAME], calibration)
    browser.get(address)
    type_in(browser, NAME)
    browser.find_element("id", "ask").click()
    shown, place = answer_to(browser, question_about(NAME)), " ".join(expected.answer.split())
    likely = f"{percent(expected.probability)} likely to be correct"
    below = f"below the threshold of {100 * calibration.threshold:.4g}%"
    said = (
        f"{place} {likely}." if expected.confident else f"I don't know The best guess, {place}, is {likely}, {below}."
    )
    assert shown.startswith(f"{question_about(NAME)} {said} {describe_reason(expected)} Asked in other forms, it gives")
    assert f"{NAME}. in ⁇." in shown
    assert expected.alternatives[0][0] in shown
    abstentions = browser.execute_script("return document.querySelectorAll('#answer .abstains').length")
    assert abstentions == (not expected.confident)
    line = browser.find_element("css selector", "#line textarea, #line input")
    assert line.get_property("value") == LINE
    picture = wait_for(browser, lambda: browser.find_element("css selector", "#attention svg"))
    assert picture.rect["width"] > 300


def test_a_masked_form_is_asked_by_keyboard_on_a_phone(address, browser):
    """The text field has the focus, Enter asks, Tab leads to the button; nothing is wider than the screen."""
    from selenium.webdriver.common.keys import Keys

    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        browser.get(address)
        wait_for(browser, lambda: browser.switch_to.active_element.tag_name in ("textarea", "input"))
        browser.switch_to.active_element.send_keys(f"{NAME} was born in [MASK].", Keys.ENTER)
        assert "likely to be correct" in answer_to(browser, f"{NAME} was born in ⁇.")
        browser.switch_to.active_element.send_keys(Keys.TAB)
        assert browser.switch_to.active_element.get_attribute("id") == "ask"
        wait_for(browser, lambda: browser.find_element("css selector", "#attention svg"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


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
    type_in(browser, "B☃")
    browser.find_element("id", "ask").click()
    wait_for(browser, lambda: "'☃'" in browser.find_element("tag name", "body").text)


def test_no_other_host_is_asked(address, browser):
    browser.get(address)
    browser.find_element("id", "ask")
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    hosts = {re.match(r"\w+://([^/:]+)", url)[1] for url in asked if "://" in url}
    assert hosts == {"127.0.0.1"}
