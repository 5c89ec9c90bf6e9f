"""Small generated Caffe nets, computed by real Caffe and, converted, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from surgery import formats
from surgery.convert.to_onnx import Conversion, to_onnx
from surgery.errors import EngineError
from surgery.model import Model, Shape
from surgery.runtime import Array, Job
from tests.engines import require_caffe, require_onnxruntime
from tests.nets import write_net

Draw = Callable[[np.random.Generator, Shape], Array]


def normal(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def positive(rng: np.random.Generator, shape: Shape) -> Array:
    return rng.uniform(0.5, 2.0, shape).astype(np.float32)


def indices(below: int) -> Draw:
    """Whole numbers from 0 to `below` - 1, as floats."""
    return lambda rng, shape: rng.integers(0, below, shape).astype(np.float32)


@dataclass(frozen=True)
class Net:
    """Layers behind inputs x0, x1, ... of these shapes.

    Attributes:
        text: the layers.
        shapes: of the inputs.
        values: how to draw the inputs, by name; normal where nothing is said.
        blobs: how to draw blobs, by layer and index; normal where nothing is said.
        batch: whether the batch may be dynamic.
    """

    text: str
    shapes: Sequence[Shape]
    values: Mapping[str, Draw] = field(default_factory=dict)
    blobs: Mapping[tuple[str, int], Draw] = field(default_factory=dict)
    batch: bool = True

    @property
    def prototxt(self) -> str:
        heads = [
            f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims(shape)} }} }} }}\n'
            for i, shape in enumerate(self.shapes)
        ]
        return "".join(heads) + self.text


def dims(shape: Shape) -> str:
    return " ".join(f"dim: {size}" for size in shape)


def layer(kind: str, bottoms: str, tops: str, param: str = "", name: str = "layer") -> str:
    """The text of a layer; `bottoms` and `tops` are names with spaces between."""
    wires = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{kind}" {" ".join(wires)} {param} }}\n'


def single(
    kind: str,
    param: str,
    *shapes: Shape,
    tops: int = 1,
    values: Mapping[str, Draw] | None = None,
    blobs: Mapping[int, Draw] | None = None,
    batch: bool = True,
) -> Net:
    """A net of one layer that reads all inputs and makes y0, y1, ..."""
    bottoms = " ".join(f"x{i}" for i in range(len(shapes)))
    text = layer(kind, bottoms, " ".join(f"y{i}" for i in range(tops)), param)
    return Net(text, shapes, values or {}, {("layer", i): draw for i, draw in (blobs or {}).items()}, batch)


@dataclass(frozen=True)
class Converted:
    """A net's Caffe files, the conversion, and the ONNX file."""

    files: Sequence[Path]
    conversion: Conversion
    path: Path


def write(net: Net, folder: Path, *, seed: int = 0) -> Model:
    """Write the net's Caffe files with seeded blobs of the shapes that Caffe gives them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    prototxt, _ = write_net(folder, net.prototxt, {})  # What shapes its blobs have is for the layers to say.
    native = formats.load([prototxt]).native
    shapes = {layer.name: native.inferred[id(layer)].blobs or () for layer in native.active}
    blobs = {
        name: [net.blobs.get((name, i), normal)(rng, shape) for i, shape in enumerate(own)]
        for name, own in shapes.items()
        if own
    }
    return formats.load(write_net(folder, net.prototxt, blobs))


def inputs(net: Net, *, seed: int = 1, more: int = 0) -> dict[str, Array]:
    """Seeded inputs; with `more`, of a batch that is larger by so many."""
    rng = np.random.default_rng(seed)
    batch = net.shapes[0][:1]
    shapes = [(s[0] + more, *s[1:]) if more and s[:1] == batch else s for s in net.shapes]
    return {f"x{i}": net.values.get(f"x{i}", normal)(rng, shape) for i, shape in enumerate(shapes)}


def converted(net: Net, folder: Path, *, opset: int = 13, dynamic: bool = False) -> Converted:
    model = write(net, folder)
    conversion = to_onnx(model, opset=opset, batch="dynamic" if dynamic else "fixed")
    path = folder / "net.onnx"
    conversion.save(path)
    check(path)
    return Converted(model.native.files, conversion, path)


def run(net: Net, folder: Path) -> dict[str, Array]:
    """The net's outputs in ONNX Runtime, by blob."""
    one = converted(net, folder)
    result = _blobs(require_onnxruntime().run_jobs([Job([one.path], [inputs(net)])])[0], one.conversion.tensors)
    assert not isinstance(result, str), result
    return dict(result)


def operators(net: Net, folder: Path) -> list[str]:
    """The types of the operators that a net becomes."""
    return [operator.type for operator in converted(net, folder).conversion.operators]


def check(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path), full_check=True)


Results = Mapping[str, "Comparison"]


@dataclass(frozen=True)
class Comparison:
    """What Caffe and ONNX Runtime gave for a net, by blob; the text of an error where one of them failed."""

    expected: Mapping[str, Array] | str
    found: Mapping[str, Array] | str

    @property
    def error(self) -> float:
        """The largest relative L2 distance of an output; infinite where anything else differs."""
        assert not isinstance(self.expected, str), self.expected
        assert not isinstance(self.found, str), self.found
        assert self.found.keys() == self.expected.keys()
        return max(distance(self.found[name], value) for name, value in self.expected.items())


def compare(nets: Mapping[str, Net], folder: Path) -> Results:
    """Run every net in both: as it is and opset 13, and with a batch larger by one, converted with a dynamic batch.

    Of that second run the name has " (dynamic)" behind it.
    """
    caffe, onnxruntime = require_caffe(), require_onnxruntime()
    runs = {
        name + (" (dynamic)" if dynamic else ""): (
            converted(net, folder / f"{i}{dynamic}", opset=21 if dynamic else 13, dynamic=dynamic),
            inputs(net, more=int(dynamic)),
        )
        for i, (name, net) in enumerate(nets.items())
        for dynamic in (False, True)
        if net.batch or not dynamic
    }
    expected = caffe.run_jobs([Job(one.files, [values]) for one, values in runs.values()])
    found = onnxruntime.run_jobs([Job([one.path], [values]) for one, values in runs.values()])
    return {
        name: Comparison(_blobs(wanted, {}), _blobs(got, one.conversion.tensors))
        for (name, (one, _)), wanted, got in zip(runs.items(), expected, found, strict=True)
    }


def _blobs(result: list[dict[str, Array]] | EngineError, tensors: Mapping[str, str]) -> dict[str, Array] | str:
    """The outputs under the blobs' names."""
    if isinstance(result, EngineError):
        return str(result)
    blobs = {tensor: blob for blob, tensor in tensors.items()}
    return {blobs.get(name, name): value for name, value in result[0].items()}


def distance(found: Array, expected: Array) -> float:
    """||found - expected|| / ||expected||; infinite where shapes, NaNs or numbers beyond 1e30 are not the same.

    Next to Caffe's -3.4e38 for the maximum of nothing all other numbers would not count.
    """
    huge = ~(np.abs(expected) < 1e30)
    if found.shape != expected.shape or not np.array_equal(found[huge], expected[huge], equal_nan=True):
        return np.inf
    a, b = found[~huge].astype(np.float64), expected[~huge].astype(np.float64)
    gap, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return gap / norm if norm else (np.inf if gap else 0.0)
