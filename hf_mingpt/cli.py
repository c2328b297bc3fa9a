"""The command of an installed package, `hf-mingpt COMMAND`, also `accelerate launch -m hf_mingpt.cli COMMAND`.

A command is a file of scripts/, which a wheel holds inside the package. It runs as if it had been called there.
"""

import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from . import __version__
from .system.commands import PROGRAM, SCRIPTS, SHORT_NAMES, name_of

_PATH_HELP = "Prints where a file of the package is, such as a launch configuration: hf-mingpt path fsdp2.yaml"
_EXTRAS = {"fastapi": "serve", "gradio": "demo", "matplotlib": "plot"}
_USAGE = f"""\
usage: {PROGRAM} COMMAND [FILE.yaml] [--flag VALUE ...]
       accelerate launch -m hf_mingpt.cli COMMAND [FILE.yaml] [--flag VALUE ...]

Commands ({PROGRAM} COMMAND --help explains one; the documentation writes scripts/NAME.py):
"""


def main() -> None:
    """Runs the command that `sys.argv` names, or lists all of them."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_describe_commands())
    elif name == "--version":
        print(__version__)
    elif name == "path":
        print(_find_file(arguments))
    else:
        run_script(_find_script(name), arguments)


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Runs a script as the main module of this process. Its messages begin with the name of its command.

    `runpy` would give it the name of the file, which the user has not typed.
    """
    sys.argv = [f"{PROGRAM} {name_of(script.stem)}", *arguments]
    module = ModuleType("__main__")
    module.__file__ = str(script)
    sys.modules["__main__"] = module
    try:
        exec(compile(script.read_bytes(), script, "exec"), vars(module))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in _EXTRAS:
            raise
        _stop(f'{package} is not installed: pip install "hf_mingpt[{_EXTRAS[package]}]".', sys.argv[0])


def _scripts() -> dict[str, Path]:
    """The scripts by their commands, in alphabetical order."""
    return dict(sorted((name_of(path.stem), path) for path in SCRIPTS.glob("*.py")))


def _describe_commands() -> str:
    lines = {name: _first_line(path) for name, path in _scripts().items()} | {"path": _PATH_HELP}
    width = max(map(len, lines))
    return _USAGE + "\n".join(f"  {name:{width}}  {line}" for name, line in lines.items())


def _first_line(script: Path) -> str:
    docstring = ast.get_docstring(ast.parse(script.read_bytes())) or ""
    return docstring.partition("\n")[0]


def _find_script(name: str) -> Path:
    """The script of a command, which may also have the name of its file: `push`, `push_to_hub` or `push_to_hub.py`."""
    scripts = _scripts()
    stem = Path(name).name.removesuffix(".py").replace("-", "_")
    if (command := name_of(stem)) in scripts:
        return scripts[command]
    _refuse(name, [*scripts, *SHORT_NAMES, "path"])


def _find_file(names: Sequence[str]) -> Path:
    """A file or folder below scripts/ by its name, which is unique there; the folder itself without a name."""
    if not names:
        return SCRIPTS
    files = {path.name: path for path in SCRIPTS.rglob("*") if "__pycache__" not in path.parts}
    if names[0] in files:
        return files[names[0]]
    _refuse(names[0], list(files))


def _refuse(name: str, known: Sequence[str]) -> NoReturn:
    near = get_close_matches(name, known, 1)
    instead = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(sorted(known))}."
    _stop(f"{name!r} is unknown: {instead}")


def _stop(sentence: str, program: str = PROGRAM) -> NoReturn:
    print(f"{program}: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
