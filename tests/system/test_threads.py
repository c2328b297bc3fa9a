"""The threads of a training on a CPU: how long they wait awake."""

import json
import subprocess
import sys

import pytest

from ..conftest import ROOT, script_environment

# imports the file, and prints what libgomp would read at the moment at which torch is imported
UNTIL_TORCH = """
import json, os, runpy, sys

class Torch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(json.dumps(os.environ.get("GOMP_SPINCOUNT")), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Torch())
runpy.run_path(sys.argv[1], run_name="imported")
"""


@pytest.mark.parametrize("script", ["pretrain", "finetune", "run_demo"])
def test_a_script_that_trains_lets_waiting_threads_sleep(script):
    assert spin_count(script) == "1000"


@pytest.mark.parametrize(
    ("environment", "count"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_what_the_user_has_set_takes_precedence(environment, count):
    assert spin_count("finetune", **environment) == count


def spin_count(script: str, **environment: str) -> str | None:
    command = [sys.executable, "-c", UNTIL_TORCH, str(ROOT / f"scripts/{script}.py")]
    inherited = script_environment(**environment)
    inherited = {name: value for name, value in inherited.items() if name in environment or name not in _SET_HERE}
    done = subprocess.run(command, env=inherited, capture_output=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


_SET_HERE = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
