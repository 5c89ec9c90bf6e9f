"""How pictures become inputs, as a parcel tells it: as JSON, in words, and the mean image as Caffe keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from surgery.calibrate.preprocess import MeanImage, Preprocess, with_mean_file
from surgery.errors import PlanError
from surgery.formats.wire import VARINT, encode_bytes, encode_tag, encode_varint

JSON_FILE, MEAN_FILE = "preprocess.json", "mean.binaryproto"
_ORDERS = {"bgr": "channels blue, green, red", "rgb": "channels red, green, blue", "grey": "one channel, grey"}
_SIZES, _DATA = (1, 2, 3, 4), 5  # Fields of caffe.BlobProto: num, channels, height, width; the numbers.


def with_mean(stated: Preprocess | None, mean: Path | None) -> Preprocess | None:
    """Return what is stated, with the mean in a file where one is given; raises PlanError where both state one."""
    if mean is None:
        return stated
    if stated is None:
        raise PlanError(f"--mean {mean}: nothing says what else becomes of a picture; give --preprocess too")
    if stated.mean or stated.mean_image is not None:
        raise PlanError(f"--mean {mean}: --preprocess, or the network's transform_param, states a mean; keep one")
    return replace(stated, **with_mean_file(mean))


def files(preprocess: Preprocess | None) -> dict[str, bytes]:
    """Return the files that say it, by name: the JSON, and the mean image where there is one."""
    if preprocess is None:
        return {}
    made = {}
    if (image := preprocess.mean_image) is not None:
        made[MEAN_FILE] = binaryproto(image)
        kept = MeanImage(image.pixels, MEAN_FILE, hashlib.sha256(made[MEAN_FILE]).hexdigest())
        preprocess = replace(preprocess, mean_image=kept)
    return made | {JSON_FILE: (json.dumps(preprocess.facts(), indent=2) + "\n").encode()}


def binaryproto(image: MeanImage) -> bytes:
    """Return a mean image as Caffe's compute_image_mean saves one."""
    shape = (1, *image.pixels.shape)
    sizes = (encode_tag(n, VARINT) + encode_varint(side) for n, side in zip(_SIZES, shape, strict=True))
    return b"".join(sizes) + encode_bytes(_DATA, np.asarray(image.pixels, "<f4").tobytes())


def steps(preprocess: Preprocess) -> Iterator[str]:
    """Yield what is done to a picture, step by step, in words."""
    yield f"Decode the picture to 8 bits a channel, in this order: {_ORDERS[preprocess.channels]}."
    if isinstance(preprocess.resize, tuple):
        yield f"Resize it to {_by(preprocess.resize)} (height x width) by bilinear interpolation as in OpenCV."
    elif preprocess.resize is not None:
        yield f"Resize it, its shorter side to {preprocess.resize} pixels, by bilinear interpolation as in OpenCV."
    if preprocess.crop is not None:
        yield f"Keep the {_by(preprocess.crop)} pixels (height x width) in its centre."
    if preprocess.mean_image is not None:
        yield (
            f"Subtract the mean image in {MEAN_FILE} ({_by(preprocess.mean_image.pixels.shape)}: channels x height x "
            "width), pixel by pixel; of one as large as the picture before the crop, the same centre."
        )
    elif preprocess.mean:
        values = ", ".join(f"{value:g}" for value in preprocess.mean)
        each = "from every channel" if len(preprocess.mean) == 1 else "from the channels in that order"
        yield f"Subtract {values} {each}."
    if preprocess.scale != 1:
        yield f"Multiply by {preprocess.scale:.9g}."
    yield "Store it as float32: channel by channel, each row by row from the top."


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
