# Two doors: `make demo` runs the experiment on generated biographies, `make test` runs the tests.
# Both set up .venv first, with the versions of constraints.txt.
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test test-versions test-versions-quick test-hf test-tools test-large test-browser test-tutorial test-wheel release notebooks fuzz bench docs checks clean
.DEFAULT_GOAL := demo

demo: $(VENV)/demo-ready
	$(BIN)/python scripts/run_demo.py --output_dir runs/demo

test: $(VENV)/ready
	$(BIN)/python -m pytest

# The same answers with the lowest versions that pyproject.toml admits, and with the newest that there are, each in an
# environment beside the main one. They see its packages, so that only what differs is installed. Only torch is the one of
# constraints.txt in both, which is a CPU build: on Linux the registry's other builds bring gigabytes of CUDA.
PACKAGES_OF = $$($(1)/bin/python -c "import site; print(site.getsitepackages()[0])")
define beside
	$(PYTHON) -m venv $(1)
	echo "$(call PACKAGES_OF,$(VENV))" > "$(call PACKAGES_OF,$(1))/main.pth"
endef
VERSION_TESTS ?= tests/plugin tests/data tests/evaluation tests/interpretability tests/hub/test_saving.py tests/hub/test_loading.py
TORCH := $(shell grep '^torch==' constraints.txt)
test-versions: test-lowest test-newest
.PHONY: test-lowest test-newest
test-lowest: $(VENV)-lowest/ready
	$(VENV)-lowest/bin/python -m pytest $(VERSION_TESTS)
test-newest: newest
	$(VENV)-newest/bin/python -m pytest $(VERSION_TESTS)

# the model and its answers, with and without the package: the part that .ci/run has the time for
QUICK_TESTS := tests/plugin/test_modeling.py tests/evaluation/test_answering.py tests/hub/test_saving.py::test_a_run_loads_with_and_without_the_package
test-versions-quick:
	$(MAKE) test-versions VERSION_TESTS="-n 0 $(QUICK_TESTS)"

LOWEST := import tomllib; bounds = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(bound.replace(">=", "==") for bound in bounds if not bound.startswith("torch>=")), sep="\n")
$(VENV)-lowest/ready: pyproject.toml $(VENV)/ready
	$(call beside,$(VENV)-lowest)
	$(PYTHON) -c '$(LOWEST)' > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint $(VENV)-lowest/constraints.txt --editable ".[test]" $(TORCH)
	touch $@

.PHONY: newest
newest: $(VENV)/ready
	$(call beside,$(VENV)-newest)
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]" $(TORCH)

# transformers' own common tests, which its source distribution brings
test-hf: $(VENV)/ready
	$(BIN)/python tests/hf/download.py $(VENV)/transformers-tests
	TRANSFORMERS_TESTS=$(VENV)/transformers-tests $(BIN)/python -m pytest -o addopts= --quiet --disable-warnings tests/hf

# the tools of docs/compatibility.md that need packages of their own, in an environment beside the main one
test-tools: $(VENV)-tools/ready
	$(VENV)-tools/bin/python -m pytest -o addopts= --quiet -m tools tests/tools tests/hub/test_spaces.py

$(VENV)-tools/ready: pyproject.toml constraints.txt $(VENV)/ready
	$(call beside,$(VENV)-tools)
	grep -vE '^(pyarrow|importlib.metadata)==' constraints.txt > $(VENV)-tools/constraints.txt  # mlflow needs older ones
	$(VENV)-tools/bin/python -m pip install --quiet --constraint $(VENV)-tools/constraints.txt --editable ".[test,tools]"
	if command -v npm > /dev/null; then npm install --silent --ignore-scripts --prefix $(VENV)-tools/js @huggingface/transformers@4.3.2; fi
	touch $@

# the page of scripts/demo.py in headless Chromium, which is installed if it is not there (Debian, as root)
test-browser: $(VENV)/ready-browser
	command -v chromedriver > /dev/null || (apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver)
	$(BIN)/python -m pytest -o addopts= --quiet -m browser tests/scripts/test_browser.py

# the commands of docs/tutorial.md as they stand: ten minutes
test-tutorial: $(VENV)/ready
	$(BIN)/python -m pytest -o addopts= --quiet -m tutorial tests/scripts/test_tutorial.py

# wheel and sdist: built, checked, installed into an environment of their own, and the experiment by `hf-mingpt` alone
test-wheel: $(VENV)/ready-release
	$(BIN)/python -m pytest -o addopts= --quiet -m wheel tests/scripts/test_wheel.py

# wheel, sdist, runs, notebooks and checksums in dist/release-VERSION, for a person to upload; RUNS="folder folder",
# URL=https://github.com/owner/hf_mingpt where the repository is public
RUNS ?=
URL =
ADDRESS = HF_MINGPT_URL='$(or $(URL),$(HF_MINGPT_URL))'
release: $(VENV)/ready-release
	$(ADDRESS) $(BIN)/python .ci/release.py $(RUNS)

# executes docs/notebooks and keeps what comes out: half an hour on two cores, less with a GPU
notebooks: $(VENV)/ready
	$(BIN)/python docs/notebooks/run.py

# random bytes for the readers of other people's files: half a minute
FUZZ_SECONDS ?= 30
fuzz: $(VENV)/ready-fuzz
	$(BIN)/python tests/fuzz/readers.py -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -artifact_prefix=$(VENV)/ -verbosity=0

# a gigabyte of text, and 200,000 steps, in flat memory: half an hour, and six gigabytes of disk
test-large: $(VENV)/ready
	$(BIN)/python -m pytest -o addopts= --quiet -m large tests/data/test_large.py

# ours beside transformers' GPT-2, and nanoGPT if NANOGPT is a checkout of it, on the corpus and the run of `make demo`
# or on yours
CORPUS ?= runs/demo/data/biographies.txt
QUESTIONS ?= runs/demo/data/birth_dev.tsv
RUN ?= runs/demo/finetuned
bench: $(VENV)/ready
	$(BIN)/python benchmarks/bench.py --train_file $(CORPUS) --questions_file $(QUESTIONS) --answers_run $(RUN) \
		$(if $(NANOGPT),--nanogpt $(NANOGPT))
	$(BIN)/python benchmarks/scaling.py

# the site of README.md and docs/, in site/: a dead link or a missing docstring fails; with URL it links to the repository
docs: $(VENV)/ready-docs
	$(ADDRESS) $(BIN)/mkdocs build --strict

checks: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mlinter hf_mingpt
	$(BIN)/codespell

# what the demo needs; what the tests and checks need, the demo's included; and beyond that the extra of another target
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
$(VENV)/demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[plot]"
	touch $@

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) ".[dev]"
	touch $(VENV)/demo-ready $@

$(VENV)/ready-%: $(VENV)/ready
	$(INSTALL) ".[dev,$*]"
	touch $@

# the extras of all that .ci/run makes, in one installation
.PHONY: ready-for-ci
ready-for-ci: $(VENV)/ready-browser,docs,fuzz
	touch $(VENV)/ready-browser $(VENV)/ready-docs $(VENV)/ready-fuzz

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest $(VENV)-tools runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# do the tests notice when one operator of a module is changed? SAMPLE random mutants of SEED: half an hour
SAMPLE ?= 174
SEED ?= 0
.PHONY: mutants
mutants: $(VENV)/ready-mutants
	$(BIN)/python tests/mutants.py --sample $(SAMPLE) --seed $(SEED)
