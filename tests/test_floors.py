"""What may import what, what a quick command must not load, and what is generated must be fresh."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest

from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_a_module_imports_only_from_lower_floors() -> None:
    program = Path(sysconfig.get_path("scripts")) / "lint-imports"
    if not program.exists():
        pytest.skip("import-linter is not installed")
    # Without its cache, which other processes may be writing.
    result = run([program, "--no-logo", "--no-cache"])
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("contract", "exempt"), [("engines", {"runtime", "tune"}), ("readers", {"convert", "formats"})]
)
def test_no_module_is_left_out_of_a_contract(contract: str, exempt: set[str]) -> None:
    setup = ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = setup[f"importlinter:contract:{contract}"]["source_modules"].split()
    found = {path.stem for path in (REPOSITORY / "surgery").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(listed) == {f"surgery.{name}" for name in found - exempt - {"__init__", "__pycache__"}}


HEAVY = ("cv2", "google.protobuf", "h5py", "onnx", "onnxruntime", "scipy", "torch")
PROBE = f"""
import sys
from surgery.cli import main
main({{words!r}}, standalone_mode=False)
print("loaded:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "models/digits/deploy.prototxt", "models/digits/digits.caffemodel"],
        ["inspect", "models/digits/deploy.prototxt", "models/digits/digits.caffemodel", "--json"],
        ["inspect", "models/digits/digits.caffemodel"],
        ["lint", "models/digits/deploy.prototxt", "models/digits/digits.caffemodel"],
    ],
    ids=" ".join,
)
def test_looking_at_a_model_loads_no_runtime_and_no_solver(words: list[str]) -> None:
    result = run([sys.executable, "-c", PROBE.format(words=words)])
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1].strip() == "loaded:"


def test_importing_surgery_loads_next_to_nothing() -> None:
    code = "import sys, surgery; print(*[m for m in ('numpy', 'click', 'scipy', 'cv2') if m in sys.modules])"
    assert run([sys.executable, "-c", code]).stdout.strip() == ""


def test_the_table_of_the_schema_is_fresh() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    result = run([sys.executable, REPOSITORY / "tools" / "compile-proto", "--check"])
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_installed_copy_has_all_its_files(tmp_path: Path) -> None:
    """What setup.cfg packages: every module, the marker for type checkers, and the worker, which runs as a file."""
    # Python 3.12 and later make environments without it; pip then fetches it for itself.
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    # In a copy, because setuptools writes beside its sources.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    for path in (REPOSITORY / "surgery").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    code = "import setuptools; setuptools.setup()"
    build = [sys.executable, "-W", "ignore", "-c", code, "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    result = subprocess.run(build, cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    built = {str(path.relative_to(tmp_path / "built")) for path in (tmp_path / "built").rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(source)) for path in (source / "surgery").rglob("*") if path.is_file()}
    assert built == wanted
