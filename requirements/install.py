"""Make the virtual environment, and install one pinned, hashed set of packages into it.

    python3 requirements/install.py .venv run|test

Only the standard library is used. A Debian Python without `python3-venv` cannot give the new
environment a pip; the pip outside installs into it then.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON_MIN = (3, 11)


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2]
    if sys.version_info < PYTHON_MIN:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.exit(
            f"Windvane needs Python 3.11 or newer; this is {found}. Try: make {wanted} PYTHON=python3.12"
        )
    pip = ensure_environment(folder)
    pins = ROOT / "requirements" / f"{wanted}.txt"
    run([*pip, "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(pins)])
    run([*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", "-e", str(ROOT)])
    (folder / f".{wanted}").touch()


def ensure_environment(folder: Path) -> list[str]:
    """Make the environment if need be, and say how to call pip for it."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} ...", flush=True)
        if folder.exists():
            shutil.rmtree(folder)
        options = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
        run([sys.executable, "-m", "venv", *options, str(folder)])
    if subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return [str(python), "-m", "pip", "--disable-pip-version-check"]
    outside = [sys.executable, "-m", "pip"]
    if subprocess.run([*outside, "--version"], capture_output=True).returncode != 0:
        sys.exit("neither venv's pip nor a pip outside was found: apt-get install python3-pip")
    return [*outside, "--disable-pip-version-check", "--python", str(python)]


def run(command: list[str]) -> None:
    """Run a command; stop with its status when it fails."""
    print("+", " ".join(command), flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    main()
