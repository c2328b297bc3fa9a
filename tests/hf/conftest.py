"""Makes transformers' common tests importable as the package `transformers_tests`, and ours as one of its models.

`download.py` has brought them. The mixins for generation and export are not shipped: empty ones stand in for them.
"""

import os
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from transformers.models.auto import modeling_auto

import hf_mingpt

HERE = Path(__file__).parent
SOURCE = Path(os.environ["TRANSFORMERS_TESTS"]) / f"transformers-{version('transformers')}" / "tests"
EXPLAINED: dict[str, str] = tomllib.loads((HERE / "skips.toml").read_text(encoding="utf-8"))


def _package(name: str, path: list[str], **members: type) -> None:
    module = ModuleType(name)
    module.__path__ = path
    vars(module).update(members)
    sys.modules[name] = module


_package("transformers_tests", [str(SOURCE)])
_package("transformers_tests.generation", [])
_package("transformers_tests.generation.test_utils", [], GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
_package("transformers_tests.exporters", [])
_package("transformers_tests.exporters.test_export", [], ExportTesterMixin=type("ExportTesterMixin", (), {}))

# The tests choose classes by these names; without them some would pass without having tested anything.
for _head, _mapping in {
    hf_mingpt.MinGPTModel: modeling_auto.MODEL_MAPPING_NAMES,
    hf_mingpt.MinGPTForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    hf_mingpt.MinGPTForSequenceClassification: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    hf_mingpt.MinGPTForTokenClassification: modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}.items():
    _mapping["mingpt"] = _head.__name__

_skipped: dict[str, str] = {}
_passed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    test = report.nodeid.rsplit("::", 1)[-1]
    if report.skipped:
        _skipped[test] = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
    elif report.when == "call":
        _passed.add(test)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run on a skip that is not explained, and on an explanation of what is not skipped."""
    unexplained = {test: why for test, why in _skipped.items() if test not in EXPLAINED}
    stale = sorted(set(EXPLAINED) & _passed - set(_skipped))
    for test, why in unexplained.items():
        print(f"\nskipped, but not explained in skips.toml: {test}: {why}")
    for test in stale:
        print(f"\nexplained in skips.toml, but not skipped: {test}")
    if (unexplained or stale) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
