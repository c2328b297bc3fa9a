"""Downloads the source of the installed transformers, for its common tests: `python download.py FOLDER`."""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def main(folder: Path) -> None:
    release = f"transformers-{version('transformers')}"
    if (folder / release).exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*pip, "--dest", temporary, release.replace("-", "==")], check=True)
        with tarfile.open(Path(temporary) / f"{release}.tar.gz") as archive:
            archive.extractall(temporary, filter="data")
        tests_folder = Path(temporary) / release / "tests"
        # files that the tests read and that are not published: the list of tiny models on the Hub, and a text
        for name, content in {"utils/tiny_model_summary.json": "{}", "fixtures/sample_text.txt": "A line.\n"}.items():
            (tests_folder / name).parent.mkdir()
            (tests_folder / name).write_text(content)
        folder.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / release).rename(folder / release)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
