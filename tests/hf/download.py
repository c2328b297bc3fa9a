"""Downloads the common tests in the source distribution of the installed transformers: `python download.py FOLDER`."""

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
            tests = [m for m in archive.getmembers() if m.name.startswith(f"{release}/tests/")]
            archive.extractall(temporary, tests, filter="data")
        (Path(temporary) / release / "tests" / "utils").mkdir()
        # The pipeline mixin reads the list of the Hub's tiny models, which is not shipped: ours is not among them.
        (Path(temporary) / release / "tests" / "utils" / "tiny_model_summary.json").write_text("{}")
        folder.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / release).rename(folder / release)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
