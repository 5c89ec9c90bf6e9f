"""Reports of the digits network, cut in some ways, as the command line makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from surgery.cli import main

DIGITS = Path(__file__).resolve().parents[2] / "models" / "digits"
FILES = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
DATA = ("--calibrate", DIGITS / "calibration.npz", "--images", "60", "--positions", "8")
MANY = ("--layer", "conv1=sdd:rank=6", "--layer", "conv2=tucker2:rank=12x9", "--layer", "ip1=svd:rank=20")


def run(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def compressed(folder: Path, *options: object) -> dict[str, Any]:
    """Return the report of the network cut into a folder, each cut checked alone."""
    run("compress", *FILES, "-o", folder, "--verify", "layers", *options)
    return report(folder)


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found
