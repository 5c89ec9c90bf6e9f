"""Differences written by hand, to draw: small ones with every kind of entry, and as many layers as are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp

from surgery.diff.difference import (
    BlobError,
    Change,
    Difference,
    Entry,
    Factored,
    Layer,
    Numeric,
    Part,
    Reweighed,
    Side,
)

HOSTILE = "</script><img onerror=alert(1) src=x>\u202e\u2028'\"`${1}--><!--"


def layer(key: str, *sources: str, kind: str = "Convolution") -> Layer:
    """A layer that reads other layers, "" standing for the input `data`; each makes a blob of its own name."""
    bottoms = tuple(source or "data" for source in sources)
    counts = {"params": 9000, "macs": 900_000} if kind == "Convolution" else {"params": 0, "macs": 0}
    return Layer(key, kind, bottoms, (key,), sources, ((1, 16, 8, 8),), **counts)


def side(name: str, layers: Sequence[Layer]) -> Side:
    return Side((name,), "caffe", tuple(layers), (("data", (1, 3, 8, 8)),), (layers[-1].key,) if layers else ())


def same(layers: Sequence[Layer], name: str = "a.prototxt") -> Difference:
    """A network and itself."""
    entries = tuple(Entry("same", (layer.key,), (layer.key,)) for layer in layers)
    return Difference(side(name, layers), side(f"other-{name}", layers), entries)


def cut(layers: Sequence[Layer], chosen: Callable[[Layer], bool], name: str = "a.prototxt") -> Difference:
    """A network, and it with two layers in the place of each that is chosen."""
    made: list[Layer] = []
    entries = []
    end: dict[str, str] = {}
    for whole in layers:
        read = replace(whole, sources=tuple(end.get(source, source) for source in whole.sources))
        if not chosen(whole):
            made.append(read)
            entries.append(Entry("same", (whole.key,), (whole.key,)))
            continue
        first, last = f"{whole.key}_1", f"{whole.key}_2"
        made.append(replace(read, key=first, tops=(first,), params=2000, macs=200_000))
        made.append(replace(read, key=last, bottoms=(first,), sources=(first,), params=1000, macs=100_000))
        end[whole.key] = last
        spectrum = tuple(exp(-i / 9) for i in range(200))
        factored = Factored("svd-spatial", (12,), 0.0834, spectra=(spectrum,))
        entries.append(Entry("split", (whole.key,), (first, last), parts=(Part(whole.key, (first, last), factored),)))
    return Difference(side(name, layers), side(f"cut-{name}", made), tuple(entries))


def inception() -> list[Layer]:
    """Four branches, one of them a single layer, and their Concat."""
    return [
        layer("stem", ""),
        layer("one", "stem"),
        layer("three_reduce", "stem"),
        layer("three", "three_reduce"),
        layer("five_reduce", "stem"),
        layer("five", "five_reduce"),
        layer("pool", "stem", kind="Pooling"),
        layer("project", "pool"),
        layer("join", "one", "three", "five", "project", kind="Concat"),
        layer("out", "join"),
    ]


def residual(blocks: int) -> list[Layer]:
    """Blocks as ResNet has them: three convolutions with BatchNorm, Scale and ReLU, then the sum with what came in."""
    layers = [layer("data_conv", "")]
    for i in range(blocks):
        entered = layers[-1].key
        for j in range(3):
            for kind in ("Convolution", "BatchNorm", "Scale", "ReLU")[: 4 if j < 2 else 3]:
                layers.append(layer(f"block{i}/{kind.lower()}{j}", layers[-1].key, kind=kind))
        layers.append(layer(f"block{i}/sum", layers[-1].key, entered, kind="Eltwise"))
        layers.append(layer(f"block{i}/relu", f"block{i}/sum", kind="ReLU"))
    return layers


def every_kind() -> Difference:
    """One entry of each kind, names that mean harm, a stem that two heads share, and errors along depth."""
    a = [
        layer("keep", ""),
        layer("alter", "keep"),
        layer("gone", "alter", kind="ReLU"),
        layer("old", "gone"),
        layer("head1", "old"),
        layer("head2", "old"),
        layer("x_1", "head1"),
        layer("x_2", "x_1"),
        layer(HOSTILE, "x_2", "head2", kind=HOSTILE),
    ]
    b = [
        layer("keep", ""),
        layer("alter", "keep"),
        layer("come", "alter", kind="Sigmoid"),
        layer("new", "come"),
        layer("stem", "new"),
        layer("head1", "stem"),
        layer("head2", "stem"),
        layer("x", "head1"),
        layer(HOSTILE, "x", "head2", kind=HOSTILE),
    ]
    shared = Factored("shared stem", (7,), 0.25, shared=("stem",))
    entries = (
        Entry("same", ("keep",), ("keep",)),
        Entry(
            "changed",
            ("alter",),
            ("alter",),
            (Change("kernel_size", "3", "5"), Change(HOSTILE, None, HOSTILE)),
            (Reweighed("weight", (16, 3, 3, 3), (16, 3, 5, 5), None), Reweighed("bias", (16,), (16,), 0.5)),
        ),
        Entry("removed", ("gone",), ()),
        Entry("added", (), ("come",)),
        Entry("renamed", ("old",), ("new",)),
        Entry(
            "split",
            ("head1", "head2"),
            ("stem", "head1", "head2"),
            parts=(Part("head1", ("stem", "head1"), shared), Part("head2", ("stem", "head2"), shared)),
        ),
        Entry("merged", ("x_1", "x_2"), ("x",), parts=(Part("x", ("x_1", "x_2"), Factored("svd", (3,), None, "why")),)),
        Entry("reordered", (HOSTILE,), (HOSTILE,), is_moved=True),
    )
    blobs = (
        BlobError("keep", "keep", 0.0, 0.0),
        BlobError("alter", "alter", 0.1, 2.0),
        BlobError(HOSTILE, "old", 0.3, 3),
    )
    return Difference(
        side("a.prototxt", a),
        side("b.prototxt", b),
        entries,
        (Change("outputs", "x", HOSTILE),),
        numeric=Numeric(blobs, 4, "numpy", 1e-4),
        notes=(HOSTILE,),
    )
