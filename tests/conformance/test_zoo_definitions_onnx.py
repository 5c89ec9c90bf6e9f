"""Every network definition of the zoo becomes a sound ONNX graph, or is refused with all layers that have none.

Weights are placeholders that take no memory; what the graphs compute is compared elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from surgery import formats
from surgery.convert.to_onnx import Conversion, to_onnx
from surgery.convert.to_onnx.conversion import TensorType
from surgery.errors import ConversionError, SurgeryError
from surgery.formats.caffe.deploy import deploy
from surgery.formats.caffe.liveness import is_source
from surgery.model import Model, Shape, placeholder
from tests.shared import shared

PARTS = 8  # so that the workers of a parallel run share the files
SMALL = 4096  # numbers; an initializer above stays out of the file that is checked


@dataclass(frozen=True)
class Entry:
    name: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Placeholders:
    """A file of weights as the conversion reads it, that is nowhere and all zeros."""

    path: Path
    layers: tuple[Entry, ...]

    def refusal(self, index: int) -> None:
        return None

    def arrays(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(placeholder(shape) for shape in self.layers[index].shapes)


def deployed(path: Path, folder: Path) -> Path:
    """The file, or, where it reads data, what deploying it makes of it: inputs with a batch of one."""
    net = formats.load([path]).native
    sources = {layer.type for layer in net.active if is_source(layer, net.active)}
    if sources <= {"Input", "DummyData", "Parameter"}:
        return path
    result = folder / path.name
    result.write_bytes(deploy(net.document, net.state, net.shapes).encode())
    return result


def loaded(path: Path) -> Model:
    """A network with placeholders for weights."""
    model = formats.load([path])
    net = model.native
    shapes = {layer.name: net.inferred[id(layer)].blobs for layer in reversed(net.active)}
    entries = tuple(Entry(name, tuple(blobs)) for name, blobs in shapes.items() if blobs)
    return replace(model, native=replace(net, weights=Placeholders(path, entries)))


def check(conversion: Conversion, path: Path) -> None:
    """Let ONNX check everything and infer all shapes, which must be ours; large weights are inputs there."""
    import onnx

    small = {name: array for name, array in conversion.initializers.items() if array.size <= SMALL}
    large = [TensorType(n, array.shape) for n, array in conversion.initializers.items() if array.size > SMALL]
    replace(conversion, initializers=small, inputs=[*conversion.inputs, *large]).save(path)
    onnx.checker.check_model(str(path), full_check=True)


def of_part(part: int) -> Iterator[Path]:
    yield from sorted(shared("zoo/prototxt").glob("*.prototxt"))[part::PARTS]


@pytest.mark.parametrize("part", range(PARTS))
def test_definitions_become_sound_graphs_of_the_shapes_that_caffe_reported(part: int, tmp_path: Path) -> None:
    faults, converted = [], 0
    for path in of_part(part):
        reported = shared("zoo/shapes") / f"{path.stem}.json"
        try:
            source = deployed(path, tmp_path)
            conversion = to_onnx(loaded(source))
        except ConversionError as error:
            faults += [
                f"{path.name}: {reason}" for reason in error.reasons if not re.match(r"'.*' \(\S+\): \S", reason)
            ]
            # Caffe's own layers are all there; its builds that gave the shapes have none but SSD's beside them.
            faults += [f"{path.name}: {error}"] if reported.exists() else []
        except SurgeryError as error:
            faults += [f"{path.name}: {error}"] if reported.exists() else []
        else:
            check(conversion, tmp_path / "net.onnx")
            faults += differences(conversion, reported) if reported.exists() and source == path else []
            converted += 1
    assert faults == []
    assert converted >= 160 / PARTS  # Of 545 files; the others state no shapes or have layers of unknown forks.


def differences(conversion: Conversion, reported: Path) -> list[str]:
    """Blobs whose shape is not the one that Caffe reported."""
    blobs = json.loads(reported.read_text(encoding="utf-8"))["blobs"]
    found = {each.name: each.shape for each in (*conversion.inputs, *conversion.outputs, *conversion.inner)}
    return [
        f"{reported.stem}: '{blob}' is {found[tensor]}, in Caffe {blobs[blob]}"
        for blob, tensor in conversion.tensors.items()
        if blob in blobs
        and tensor in found
        and found[tensor] != tuple(blobs[blob])
        and all(isinstance(size, int) for size in found[tensor])  # Of detections Caffe reports one until it has run.
    ]
