"""Small Caffe nets made in tests: a prototxt's text and a caffemodel of given or random blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from surgery.formats.caffe import binary

Blobs = Mapping[str, Sequence[np.ndarray]]


def write_net(folder: Path, text: str, blobs: Blobs, *, generation: int = 2, legacy: bool = False) -> tuple[Path, Path]:
    """Write net.prototxt and net.caffemodel and return their paths."""
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_bytes(text.encode())
    weights.write_bytes(b"".join(layer_bytes(n, b, generation=generation, legacy=legacy) for n, b in blobs.items()))
    return prototxt, weights


def layer_bytes(
    name: str, blobs: Sequence[np.ndarray], *, kind: str = "Convolution", generation: int = 2, legacy: bool = False
) -> bytes:
    """Return one layer of a caffemodel."""
    head = binary.head(name, kind, (), (), generation)
    layer = binary.NewLayer(name, head, generation, tuple(blobs), legacy)
    return b"".join(piece if isinstance(piece, bytes) else piece.tobytes() for piece in layer.encode())


def conv_blobs(outputs: int, inputs: int, kh: int, kw: int, *, seed: int = 0, bias: bool = True) -> list[np.ndarray]:
    """Return a convolution's random weight and bias."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs, kh, kw), dtype=np.float32)
    return [weight, rng.standard_normal(outputs, dtype=np.float32)] if bias else [weight]


def dense_blobs(outputs: int, inputs: int, *, seed: int = 0, bias: bool = True) -> list[np.ndarray]:
    """Return a fully connected layer's random weight and bias."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
    return [weight, rng.standard_normal(outputs, dtype=np.float32)] if bias else [weight]
