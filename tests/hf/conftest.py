"""Makes transformers' common tests importable as the package `transformers_tests`, and adds minGPT to its models.

`download.py` downloads them. Its mixins for generation and export are not published: empty ones replace them, and
`ranks.py` replaces the functions that start the processes of the distributed tests.
"""

import os
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import ranks
from transformers.models.auto import modeling_auto

import hf_mingpt

HERE = Path(__file__).parent
SOURCE = Path(os.environ["TRANSFORMERS_TESTS"]) / f"transformers-{version('transformers')}" / "tests"
EXPLAINED: dict[str, list[str]] = tomllib.loads((HERE / "skips.toml").read_text(encoding="utf-8"))


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
sys.modules["transformers_tests.distributed_testing_utils"] = ranks

# The tests choose classes by these names; without them some tests would pass without testing anything.
for _head, _mapping in {
    hf_mingpt.MinGPTModel: modeling_auto.MODEL_MAPPING_NAMES,
    hf_mingpt.MinGPTForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    hf_mingpt.MinGPTForSequenceClassification: modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    hf_mingpt.MinGPTForTokenClassification: modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}.items():
    _mapping["mingpt"] = _head.__name__

_skipped: dict[str, str] = {}  # by test: the explanation in skips.toml, or the reason of the skip


def _explanation(test: str) -> str | None:
    return next((why for why, patterns in EXPLAINED.items() if any(fnmatch(test, p) for p in patterns)), None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        test = report.nodeid.rsplit("::", 1)[-1]
        _skipped[report.nodeid] = _explanation(test) or f"NOT EXPLAINED in skips.toml: {test}: {report.longrepr[2]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for why, number in Counter(_skipped.values()).most_common():
        terminalreporter.write_line(f"{number:4} skipped: {why}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the session if a skip is not explained."""
    unexplained = any(why.startswith("NOT EXPLAINED") for why in _skipped.values())
    if unexplained and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
