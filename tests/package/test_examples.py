from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from surgery.formats import Source
from surgery.package import Asked, check, package
from surgery.package.examples import EXAMPLES
from surgery.package.vectors import npy, parsed, raw
from tests.engines import require, require_caffe
from tests.package.parcels import DIGITS, unpacked
from tests.shared import shared
from tests.targets.schemas import parse_net

ZOO = {
    "lenet": ("lenet_JachinShen/lenet_deploy.prototxt", "lenet_JachinShen/lenet_iter_10000.caffemodel"),
    "cifar10, V1 layers": (
        "cifar10_quick_v1_everpeace/cifar10_quick.prototxt",
        "cifar10_quick_v1_everpeace/cifar10_quick_iter_5000.caffemodel",
    ),
    "mtcnn, three outputs": ("mtcnn_kpzhang93/det3.prototxt", "mtcnn_kpzhang93/det3.caffemodel"),
    "squeezenet": ("squeezenet_v1.0/deploy.prototxt", "squeezenet_v1.0/squeezenet.caffemodel"),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example of Caffe's parcels, compiled as their README says."""
    build = require_caffe()._folder()
    missing = None if shutil.which("g++") else "no g++ here"
    if not (build / "include/caffe/caffe.hpp").exists():
        missing = f"no headers in {build}: it was built before tools/build-caffe kept them; build it anew"
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("example")
    example = EXAMPLES["caffe-android-lib"]
    (folder / example.file).write_bytes(example.text("deploy.caffemodel"))
    *compiling, _ = example.commands
    environment = {**os.environ, "CAFFE": str(build)}
    result = subprocess.run(
        ["sh", "-c", "\n".join(compiling)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / "check_golden"


def ran(*command: str | Path) -> tuple[int, str]:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr


def spoil(folder: Path) -> None:
    """Make one golden output another, in both its files."""
    file = folder / "golden/1-output-0.f32"
    array = parsed(file.read_bytes(), file.name) * np.float32(1.01)
    file.write_bytes(raw(array))
    file.with_suffix(".npy").write_bytes(npy(array))


@pytest.mark.parametrize("name", ZOO)
def test_a_zoo_parcel_unpacked_elsewhere_agrees_in_the_program_that_it_has(
    name: str, program: Path, tmp_path: Path
) -> None:
    files = tuple(shared(f"zoo/caffemodel/{file}") for file in ZOO[name])
    facts = package(Asked(Source(files), "caffe-android-lib"), tmp_path / "x.zip")
    assert check(tmp_path / "x.zip").target == "caffe-android-lib"
    with unpacked(tmp_path / "x.zip") as folder:
        assert (folder / "check_golden.cpp").read_bytes() == program.with_name("check_golden.cpp").read_bytes()
        # Raises for a field that the target's own schema does not have.
        parse_net((folder / "deploy.prototxt").read_text(), shared("caffe/schema_sh1r0.tsv").with_suffix(""))
        code, said = ran(program, folder)
    assert code == 0, said
    assert said.count("ok ") == 3 * len(facts["model"]["outputs"])


def test_the_program_tells_an_output_that_is_another_and_a_file_that_is_missing(program: Path, tmp_path: Path) -> None:
    package(Asked(Source(DIGITS), "caffe-1.0"), tmp_path / "x.zip")
    with unpacked(tmp_path / "x.zip") as folder:
        assert ran(program, folder)[0] == 0
        spoil(folder)
        code, said = ran(program, folder)
        assert (code, said.count("WRONG"), said.count("ok ")) == (1, 1, 2)
        (folder / "golden/2-input-0.f32").unlink()
        code, said = ran(program, folder)
        assert code not in (0, 1)
        assert "2-input-0.f32 is missing or too short" in said


@pytest.mark.parametrize("target", ["opencv", "onnxruntime"])
def test_the_script_of_another_runtime_agrees_and_tells_an_output_that_is_another(target: str, tmp_path: Path) -> None:
    require(target)
    package(Asked(Source(DIGITS), target), tmp_path / "x.zip")
    with unpacked(tmp_path / "x.zip") as folder:
        script = folder / EXAMPLES[target].file
        code, said = ran(sys.executable, script, folder)
        assert (code, said.count("ok ")) == (0, 3), said
        spoil(folder)
        code, said = ran(sys.executable, script, folder)
        assert (code, said.count("WRONG")) == (1, 1), said


def test_a_zoo_network_that_the_target_lacks_layers_for_is_refused_with_every_reason(tmp_path: Path) -> None:
    from surgery.errors import SurgeryError

    files = (
        shared("zoo/caffemodel/wechat_qrcode/detect.prototxt"),
        shared("zoo/caffemodel/wechat_qrcode/detect.caffemodel"),
    )
    with pytest.raises(SurgeryError, match=r"'Permute'.*'PriorBox'.*'DetectionOutput'"):
        package(Asked(Source(files), "caffe-android-lib"), tmp_path / "x.zip")
    assert not list(tmp_path.iterdir())
