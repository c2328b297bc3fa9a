"""Mutation testing: changes one operator or number of a module; the tests of that module should fail. `make mutants`.

    python tests/mutants.py --sample 174 --seed 0
    python tests/mutants.py --modules data.objectives data.salient_spans

The mutations are those of cosmic-ray, without type annotations and drawing. Its runner starts a Python process for each
of them, and imports alone take ten seconds; here each runs in a fork of one process that has imported the packages.
First a position in the source is drawn and then its replacement, so that an addition, which has ten replacements, does
not count ten times.
"""

import argparse
import ast
import collections
import difflib
import importlib
import os
import random
import resource
from importlib.machinery import SourceFileLoader
from pathlib import Path

import hypothesis
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
MODULES = [  # with tests that run in one process
    *(
        f"data.{name}"
        for name in ("assembly", "batching", "biographies", "birthplaces", "candidate_spans", "documents")
    ),
    *(f"data.{name}" for name in ("draws", "encoding", "loading", "masking_policy", "objectives", "questions")),
    *("data.answer_extraction", "data.salient_spans"),
    *("data.sequences", "data.span_corruption", "data.steps", "data.title_prefixes"),
    *(f"evaluation.{name}" for name in ("answering", "calibration", "confidence", "ensemble")),
    *(f"evaluation.{name}" for name in ("report", "scoring")),
    *("interpretability.attention_exploration", "interpretability.logit_lens"),
    *("training.optimization", "training.recipes", "system.command_line", "system.wording", "system.yaml_flags"),
    "tokenization_mingpt",
]
TEST_FILES = {  # of modules that have another, or more than one
    "data.objectives": "data/test_objectives.py data/test_objectives_of_other_tokenizers.py",
    "data.salient_spans": "data/test_salient_spans.py data/test_masked_spans.py",
    "data.steps": "data/test_steps.py data/test_workers.py",
    "tokenization_mingpt": "plugin/test_tokenization.py",
}
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")  # lines of `module TAB mutated line TAB reason`
IMPORTED_ONCE = ["torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn.linear_model", "scipy.stats"]
OPERATORS = {name: get_operator(name)() for name in operator_names() if "/Variable" not in name}


def relevant_code(source: str) -> str | None:
    """The syntax tree without type annotations and drawing functions; None if the source is invalid."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns, node.body = None, [] if node.name.startswith("draw_") else node.body
    return ast.dump(tree)


def find_mutations(source: str) -> list[list[tuple[str, int]]]:
    """For each position that can be changed, the operators and the index of their occurrence."""
    places = collections.defaultdict(list)
    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in OPERATORS.items():
        positions = (position for node in nodes for position in operator.mutation_positions(node))
        for occurrence, position in enumerate(positions):
            places[position].append((name, occurrence))
    return list(places.values())


def changed_line(source: str, mutated: str) -> str:
    lines = difflib.ndiff(source.splitlines(), mutated.splitlines())
    return " ".join(line[1:].strip() for line in lines if line.startswith("+")) or "(a line is removed)"


def run_tests(module: str, source: str, cpu_seconds: int) -> tuple[int, float]:
    """Runs the tests of a module with another source of it, in a fork. Returns the exit code and the CPU seconds."""
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))  # not wall time: the machine may be busy
        read_code = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str):
            return compile(source, loader.path, "exec") if name == f"hf_mingpt.{module}" else read_code(loader, name)

        SourceFileLoader.get_code = get_code
        wing, _, name = module.rpartition(".")
        files = [str(ROOT / "tests" / file) for file in TEST_FILES.get(module, f"{wing}/test_{name}.py").split()]
        os._exit(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files]))
    _, status, usage = os.wait4(child, 0)
    return status, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Do the tests notice a change of a module?")
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=MODULES, metavar="MODULE")
    parser.add_argument("--sample", type=int, default=174, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # tests/conftest.py would set it too late
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    sources = {
        module: (ROOT / "hf_mingpt" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        for module in args.modules
    }
    limits = {}
    for module, source in sources.items():
        failed, seconds = run_tests(module, source, 3600)
        if failed:
            raise SystemExit(f"The tests of {module} fail without a mutation: fix them first.")
        limits[module] = int(10 * seconds) + 30
    equivalent = {tuple(line.split("\t")[:2]) for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()}
    rng = random.Random(args.seed)
    places = [(module, place) for module, source in sources.items() for place in find_mutations(source)]
    rng.shuffle(places)
    results = collections.Counter[str]()
    for module, place in places:
        name, occurrence = rng.choice(place)
        mutated = mutate_code(sources[module], OPERATORS[name], occurrence)
        if relevant_code(mutated) in (None, relevant_code(sources[module])):
            continue
        line = changed_line(sources[module], mutated)
        failed, _ = run_tests(module, mutated, limits[module])
        result = "killed" if failed else "equivalent" if (module, line) in equivalent else "survived"
        results[result] += 1
        if not failed:
            print(f"{result}: {module}: {line}", flush=True)
        if results.total() == args.sample:
            break
    print(f"Seed {args.seed}: {results['killed']} of {results.total()} killed, {results['equivalent']} are equivalent.")


if __name__ == "__main__":
    main()
