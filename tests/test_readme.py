"""What the README says works as it is printed there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import surgery
from surgery.factor import METHODS, choices
from tests.nets import conv_blobs, write_net
from tests.shared import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
METHODS_PAGE = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
OLD = """name: "old"
input: "data"
input_dim: 1
input_dim: 1
input_dim: 8
input_dim: 8
layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" inner_product_param { num_output: 10 } }
"""
NORMALISED = """name: "bn"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every `surgery` command of the README's console blocks, in order; a backslash continues a line."""
    lines = "\n".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("surgery ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository's, to run the examples in."""
    shutil.copytree(REPOSITORY / "models", tmp_path / "models")
    (tmp_path / "old.prototxt").write_text(OLD)
    statistics = [np.arange(4, dtype=np.float32), np.arange(1, 5, dtype=np.float32), np.ones(1, np.float32)]
    files = write_net(tmp_path, NORMALISED, {"conv": conv_blobs(4, 3, 3, 3), "bn": statistics})
    for file in files:
        file.rename(file.with_stem("bn"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs_as_printed(folder: Path) -> None:
    (example,) = blocks("python")
    assert len([line for line in example.splitlines() if line]) == 5
    subprocess.run([sys.executable, "-c", example], cwd=folder, check=True)
    small = next(folder.rglob("model.caffemodel"))
    assert small.stat().st_size < (folder / "models" / "digits" / "digits.caffemodel").stat().st_size


def test_the_commands_run_as_printed_one_after_the_other(folder: Path) -> None:
    assert {words[1] for words in commands()} >= {"inspect", "lint", "compress", "plan", "apply", "deploy", "verify"}
    for words in commands():
        process = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        expected = 1 if words[1] == "diff" else 0  # The two models differ.
        assert process.returncode == expected, f"{shlex.join(words)}\n{process.stderr}"


def test_every_command_and_method_has_its_place() -> None:
    from surgery.cli.main import VERBS

    assert {words[1] for words in commands()} == set(VERBS)
    table = README.partition("## What it does")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)) == set(METHODS)


def test_every_option_of_a_method_is_in_its_row() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|(.*)$", METHODS_PAGE.partition("## Data")[0], re.MULTILINE)
    assert [name for name, _ in rows] == list(METHODS)
    for name, row in rows:
        words = [word for option, values in choices(METHODS[name]).items() for word in (option, *values)]
        assert all(f"`{word}`" in row for word in words), name


def test_the_public_names_are_the_readmes_list() -> None:
    section = README.partition("### Public names")[2].partition("\n#")[0]
    assert set(re.findall(r"^- `surgery\.(\w+)", section, re.MULTILINE)) == set(surgery.__all__)
    for name in surgery.__all__:
        # A function, though modules of the same names are imported by then.
        assert name == "__version__" or callable(getattr(surgery, name)), name


def test_every_dependency_has_its_reason() -> None:
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = "\n".join([setup["options"]["install_requires"], *extras.values()]).split()
    names = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted} - {"surgery"}
    section = README.partition("## Dependencies")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)", section, re.MULTILINE)) == names


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (REPOSITORY / target).exists(), target
