"""The targets: what is known of each beside its schema and its layer types, which `formats.caffe.targets` has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from surgery.formats.caffe.lint_net import Net
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.caffe.targets import TARGETS, Target
from surgery.targets import opencv
from surgery.targets.tree import Tree


@dataclass(frozen=True, eq=False)
class Profile:
    """One target.

    Attributes:
        name: What the user calls it.
        summary: What it is, in a sentence.
        reader: What its Caffe knows; None where it reads ONNX.
        limits: Returns what it refuses or computes otherwise of a layer whose type and fields it knows.
        respelt: Returns a layer's fields in the spelling that it reads right.
        fills: Whether it makes the weights that no file holds from their fillers.
        notes: What whoever runs a network there must know.
        advises: Returns what they must know of one network.
    """

    name: str
    summary: str
    reader: Target | None
    limits: Callable[[Layer, LayerShapes], Sequence[tuple[str, opencv.Limit]]] = lambda layer, shapes: ()
    respelt: Callable[[Tree, Layer, LayerShapes], Tree] = lambda fields, layer, shapes: fields
    fills: bool = True
    notes: tuple[str, ...] = ()
    advises: Callable[[Net], Sequence[str]] = lambda net: ()

    @property
    def caffe(self) -> Target:
        """The Caffe that reads its files, of a target that has one."""
        assert self.reader is not None, f"{self.name} reads no Caffe files"
        return self.reader


def _for_wrapper(net: Net) -> Sequence[str]:
    """Return what CaffeMobile, the Java class of caffe-android-lib, would do wrong with a network."""
    fed, given = list[Shape | None](), dict[str, Shape | None]()
    for layer, found in zip(net.layers, net.inferred, strict=True):
        given = {name: shape for name, shape in given.items() if name not in layer.bottoms}
        given.update(zip(layer.tops, found.tops, strict=True))
        fed += found.tops if layer.type == "Input" else ()
    takes = len(fed) == 1 and fed[0] is not None and len(fed[0]) == 4 and fed[0][1] in (1, 3)
    gives = len(given) == 1 and all(shape is not None and shape[2:] in ((), (1, 1)) for shape in given.values())
    if takes and gives:
        return ()
    return (
        "CaffeMobile, the library's Java class, feeds one input of 1 or 3 channels and reads one output of shape "
        f"(1, C); this network takes {_shown(fed)} and gives {_shown(given.values())}: call it from C++",
    )


def _shown(shapes: Iterable[Shape | None]) -> str:
    return " and ".join("x".join(map(str, shape)) if shape else "a blob" for shape in shapes)


_ALL = (
    Profile(
        name="caffe-android-lib",
        summary="sh1r0/caffe 080c238 (BVLC of mid-2016) as caffe-android-lib builds it: CPU only, without HDF5 and "
        "Python layers",
        reader=TARGETS["caffe-android-lib"],
        notes=(
            "it opens real files only, which an app copies out of its assets first, and takes three times the weights' "
            "bytes while it reads them",
        ),
        advises=_for_wrapper,
    ),
    Profile(name="caffe-1.0", summary="BVLC Caffe at its 1.0 tag (April 2017)", reader=TARGETS["caffe-1.0"]),
    Profile(name="caffe-master", summary="BVLC Caffe's master of 2020", reader=TARGETS["caffe-master"]),
    Profile(name="caffe-ssd", summary="the SSD fork of Caffe", reader=TARGETS["caffe-ssd"]),
    Profile(
        name="opencv",
        summary="OpenCV 4's Caffe importer",
        reader=TARGETS["opencv"],
        limits=opencv.limits_of,
        respelt=opencv.respelt,
        fills=False,
        notes=("OpenCV 5 no longer reads Caffe files",),
    ),
    Profile(name="onnxruntime", summary="ONNX Runtime 1.17 and newer, opset 13", reader=None),
)

PROFILES: Mapping[str, Profile] = {profile.name: profile for profile in _ALL}
