"""What a user feels first: importing is quick and quiet, and the auto classes know minGPT whatever comes first."""

import subprocess
import sys

import pytest

from hf_mingpt import __all__ as public_names

WHAT_IS_IMPORTED = """
import sys
import transformers
before = set(sys.modules)
import hf_mingpt
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
assert "torch" not in sys.modules
"""

BUILD = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
config = AutoConfig.for_model("mingpt", n_embd=16, n_head=2, n_layer=1)
print(type(AutoModel.from_config(config)).__name__, type(AutoModelForCausalLM.from_config(config)).__name__)
"""


def python(code: str) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_import_is_quick_and_quiet():
    """Quick, as it imports nothing but the package that registers, and what that needs."""
    done = python(WHAT_IS_IMPORTED)
    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"hf_mingpt", "wrapt"}
    assert done.stderr == ""


@pytest.mark.parametrize(
    "first",
    [
        "import hf_mingpt",
        "from transformers import AutoModel; import hf_mingpt",
        "from transformers import AutoTokenizer; import hf_mingpt",
        "import hf_mingpt; from transformers import GPT2LMHeadModel",
        "import hf_mingpt.configuration_mingpt",
        "import hf_mingpt.modeling_mingpt",
        "from hf_mingpt import load_run",
    ],
)
def test_auto_classes_know_mingpt_whatever_is_imported_first(first):
    assert python(f"{first}\n{BUILD}").stdout.split() == ["MinGPTModel", "MinGPTForCausalLM"]


def test_public_names_exist():
    import hf_mingpt

    for name in public_names:
        assert getattr(hf_mingpt, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = hf_mingpt.nothing
