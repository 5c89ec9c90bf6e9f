"""Python environments for other people's packages, each made once in the user's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from measuring import CACHE


def environment(name: str, installs: Sequence[Sequence[str]], python: str | None = None) -> Path | str:
    """Return the Python of an environment that `installs`, arguments of one `pip install` each, have filled.

    A text says why it cannot be made. `python` makes the environment; the default is Python 3.11, the oldest that this
    project runs on.
    """
    chosen = python or shutil.which("python3.11") or sys.executable
    version = subprocess.run([chosen, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(repr((installs, version)).encode()).hexdigest()[:16]
    folder = CACHE / "peers" / f"{name}-{key}"
    own = folder / "env" / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pip = (str(own), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q")
        for command in ((chosen, "-m", "venv", str(folder / "env")), *((*pip, *words) for words in installs)):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = (done.stderr or done.stdout).strip().splitlines()
                return lines[-1] if lines else f"{Path(command[0]).name} failed with code {done.returncode}"
        (folder / "complete").touch()
    return own


def packages(python: Path) -> dict[str, str]:
    """Return the versions of what is in an environment."""
    command = [str(python), "-m", "pip", "list", "--disable-pip-version-check", "--format=freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("==", 1) for line in listed.stdout.split())
