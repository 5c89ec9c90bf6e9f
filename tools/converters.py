"""The converters from Caffe to ONNX that are compared, each in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import environments
from measuring import ROOT, Measured, measure

Arguments = Callable[[Path, Path, Path, Sequence[str]], list[str]]  # prototxt, weights, result, stages


@dataclass(frozen=True)
class Converter:
    """A converter that can be run; `folder` is where, `arguments` makes the command behind its Python."""

    name: str
    python: Path
    folder: Path
    arguments: Arguments

    def convert(
        self, files: tuple[Path, Path], target: Path, *, stages: Sequence[str] = (), limit_s: float
    ) -> Measured:
        """Convert a pair of prototxt and caffemodel to the file `target`, in a process of its own."""
        command = [str(self.python), *self.arguments(*files, target, stages)]
        # Unbuffered, so that the last line is what stopped it.
        environment = {"PATH": os.environ["PATH"], "HOME": str(target.parent), "PYTHONUNBUFFERED": "1"}
        return measure(command, folder=self.folder, limit_s=limit_s, environment=environment)


@dataclass(frozen=True)
class Peer:
    """Somebody else's converter and how it was seen to run.

    Attributes:
        name: of the distribution.
        installs: arguments of `pip install`, one call each.
        arguments: of its Python, to convert one pair.
        note: why it is installed so.
        recorded: what was measured of it before, for when it does not install.
    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    arguments: Arguments
    note: str
    recorded: str


# NumPy 1.24 took away np.float, which both use; protobuf 4 refuses the code that an old protoc made for both.
_PINS = ("onnx==1.17.0", "numpy==1.23.5", "protobuf==3.20.3")
PEERS = (
    Peer(
        "caffe2onnx",
        (_PINS, ("--no-deps", "caffe2onnx==2.0.1")),
        lambda prototxt, weights, target, stages: [
            *("-m", "caffe2onnx.convert"),
            *("--prototxt", str(prototxt), "--caffemodel", str(weights), "--onnx", str(target)),
        ],
        "installed without its requirement onnx==1.6.0, which no longer builds",
        "20.9 s and 674 MB for a ResNet-50 by half of 24 MB",
    ),
    Peer(
        "caffe-onnx",
        ((*_PINS, "caffe-onnx==0.1.2"),),
        lambda prototxt, weights, target, stages: [
            *("-c", "from src.cli import main; main()"),
            *(str(prototxt), str(weights), target.stem, str(target.parent)),
        ],
        "installed with an onnx, NumPy and protobuf old enough for it",
        "21.7 s and 669 MB for a ResNet-50 by half of 24 MB",
    ),
)


def surgery() -> Converter:
    """Return this project's converter, as its command is run."""

    def arguments(prototxt: Path, weights: Path, target: Path, stages: Sequence[str]) -> list[str]:
        named = [word for stage in stages for word in ("--stage", stage)]
        return ["-m", "surgery", "convert", str(prototxt), str(weights), "-o", str(target), *named]

    return Converter("surgery", Path(sys.executable), ROOT, arguments)


def installed(peer: Peer, python: str | None = None) -> Converter | str:
    """Return a peer in an environment of its own, made once, or why it cannot be installed.

    `python` makes the environment; the default is Python 3.11, the oldest that this project runs on.
    """
    found = environments.environment(peer.name, peer.installs, python)
    if isinstance(found, str):
        return found
    version = subprocess.run([str(found), "--version"], capture_output=True, text=True, check=True).stdout
    name = f"{peer.name} in {version.strip()}" if python else peer.name
    return Converter(name, found, found.parents[2], peer.arguments)


def older_python() -> str | None:
    """Return a Python 3.10 that runs, None where there is none: the newest with a build in C++ of protobuf 3.20.

    The peers' time and memory go almost wholly into protobuf, so they are another tool there.
    """
    places = [shutil.which("python3.10"), *sorted(Path.home().glob(".pyenv/versions/3.10*/bin/python3.10"))]
    for place in places:
        if place and not subprocess.run([place, "--version"], capture_output=True, check=False).returncode:
            return str(place)
    return None


def packages(converter: Converter) -> dict[str, str]:
    """Return the versions of what is in a peer's environment, and how its protobuf is made."""
    kind = "from google.protobuf.internal import api_implementation; print(api_implementation.Type())"
    done = subprocess.run([str(converter.python), "-c", kind], capture_output=True, text=True, check=True)
    return environments.packages(converter.python) | {"protobuf is made of": done.stdout.strip()}
