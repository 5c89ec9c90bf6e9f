"""Small parcels for tests, made once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from surgery.formats import Source
from surgery.package import Asked, package
from surgery.package.reading import opened
from tests.shared import REPOSITORY

DIGITS = (REPOSITORY / "models/digits/deploy.prototxt", REPOSITORY / "models/digits/digits.caffemodel")
# Small enough to check thousands of times: no weights but those of one convolution.
TEXT = """
name: "tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 1 dim: 3 dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 }
  convolution_param { num_output: 2 kernel_size: 2 engine: CUDNN weight_filler { type: "xavier" } } }
"""


def tiny(folder: Path, more: str = "") -> Source:
    """The files of a network of one convolution, and of more layers behind it."""
    import numpy as np

    from surgery.formats.wire import encode_bytes, encode_tag, encode_varint

    def blob(*shape: int) -> bytes:
        numbers = np.random.default_rng(0).standard_normal(shape).astype("<f4")
        dims = b"".join(encode_tag(1, 0) + encode_varint(side) for side in shape)
        return encode_bytes(7, encode_bytes(7, dims) + encode_bytes(5, numbers.tobytes()))

    folder.mkdir(parents=True, exist_ok=True)
    prototxt, weights = folder / "tiny.prototxt", folder / "tiny.caffemodel"
    prototxt.write_text(TEXT + more)
    layer = encode_bytes(1, b"conv") + encode_bytes(2, b"Convolution") + blob(2, 1, 2, 2) + blob(2)
    weights.write_bytes(encode_bytes(100, layer))
    return Source((prototxt, weights))


@cache
def tiny_parcel() -> bytes:
    """The bytes of a parcel of `tiny`."""
    with tempfile.TemporaryDirectory() as folder:
        package(Asked(tiny(Path(folder)), "caffe-android-lib"), Path(folder) / "tiny.zip")
        return (Path(folder) / "tiny.zip").read_bytes()


def members(parcel: Path) -> dict[str, bytes]:
    """The files of a parcel."""
    with opened(parcel) as found:
        return {name: found.read(name, 1 << 30) for name in found.entries}


@contextmanager
def unpacked(parcel: Path) -> Iterator[Path]:
    """The files of a parcel in a folder elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        with opened(parcel) as found:
            for name in found.entries:
                found.copy(name, Path(folder))
        yield Path(folder)
