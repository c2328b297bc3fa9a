"""The command `hf-mingpt` of an installed package: its names for the scripts, and texts that name scripts.

A program that runs as `hf-mingpt ask` is scripts/ask.py, and `sys.argv[0]` is "hf-mingpt ask". Texts are written for a
checkout, where that script is `scripts/ask.py`; `as_called` rewrites them for the command.
"""

import re
import sys
from pathlib import Path

PROGRAM = "hf-mingpt"
_PACKAGE = Path(__file__).parents[1]
# in a wheel inside the package, in a checkout beside it
SCRIPTS = next((p for p in (_PACKAGE / "scripts", _PACKAGE.parent / "scripts") if p.is_dir()), _PACKAGE / "scripts")
# The names of the scripts whose command is not the name of the file, by the file.
SHORT_NAMES = {
    "convert_checkpoint": "convert",
    "evaluate_birthplaces": "evaluate",
    "explain_answer": "explain",
    "explore_attention": "explore",
    "generate_biographies": "generate",
    "plot_run": "plot",
    "push_to_hub": "push",
    "read_answers": "read",
    "run_demo": "experiment",
    "show_examples": "show",
    "split_questions": "split",
}


def name_of(script: str) -> str:
    """The command of a script: `evaluate` for `evaluate_birthplaces`, and `train-tokenizer` for `train_tokenizer`."""
    return SHORT_NAMES.get(script, script.replace("_", "-"))


def program_words() -> list[str]:
    """How this program was called, without folders: `["hf-mingpt", "ask"]`, or `["ask.py"]`."""
    return sys.argv[0].split() if is_command() else [Path(sys.argv[0]).name]


def program_name() -> str:
    """What messages of this program begin with: `hf-mingpt ask`, or `ask.py`."""
    return " ".join(program_words())


def is_command() -> bool:
    """Whether this program was called as `hf-mingpt COMMAND`."""
    return re.fullmatch(rf"{PROGRAM} [\w-]+", sys.argv[0]) is not None


def as_called(text: str) -> str:
    """Rewrites a text that names scripts, launch configurations or extras of a checkout for the way this program runs.

    Run as `hf-mingpt`, "write it with scripts/calibrate.py" becomes "write it with hf-mingpt calibrate".
    """
    if not is_command():
        return text
    text = re.sub(r"(accelerate launch[^\n`]*?) scripts/(\w+)\.py", _launched, text)
    text = re.sub(r"(?:python )?(?<![\w./-])(scripts/)?(\w+)\.py\b", _called, text)
    text = re.sub(r"scripts/accelerate/(\w+\.yaml)", rf"$({PROGRAM} path \1)", text)
    return re.sub(r'pip install (?:-c constraints\.txt )?-e "\.(\[\w+\])"', r'pip install "hf_mingpt\1"', text)


def _launched(match: re.Match) -> str:
    return f"{match[1]} -m hf_mingpt.cli {name_of(match[2])}"


def _called(match: re.Match) -> str:
    is_script = match[1] or (SCRIPTS / f"{match[2]}.py").is_file()
    return f"{PROGRAM} {name_of(match[2])}" if is_script else match[0]
