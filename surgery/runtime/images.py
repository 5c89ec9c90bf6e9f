"""Read pictures as Caffe reads them: decoded and resized by OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surgery.errors import DataError, EngineMissingError

MAX_PIXELS = 1 << 27  # of a picture: a kilobyte of PNG may say that it has more than memory holds.

Pixels = npt.NDArray[np.uint8]  # (height, width, channels)


def check_opencv() -> None:
    """Raise EngineMissingError where OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise EngineMissingError("opencv", "pictures are read and resized by OpenCV; pip install surgery[opencv]")


def decoded(path: Path, *, channels: int) -> Pixels:
    """Return a picture's pixels: three channels in the order blue, green, red, or a single grey one."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # Heeded where OpenCV is loaded after it.
    import cv2

    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    # Not imread: it takes no path that is not UTF-8.
    raw = np.frombuffer(path.read_bytes() or b"\0", np.uint8)
    try:
        with _silence():
            found = cv2.imdecode(raw, mode)
    except cv2.error as error:
        raise DataError(path, f"cannot be read as a picture of at most {MAX_PIXELS} pixels") from error
    if found is None:
        raise DataError(path, "cannot be read as a picture")
    pixels: Pixels = np.asarray(found, np.uint8).reshape(*found.shape[:2], channels)
    return pixels


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return the picture at `size` (height, width), by bilinear interpolation as in Caffe."""
    import cv2

    if pixels.shape[:2] == size:
        return pixels
    result: Pixels = np.asarray(cv2.resize(pixels, size[::-1]), np.uint8)
    return result.reshape(*size, pixels.shape[2])


@contextmanager
def _silence() -> Iterator[None]:
    """Keep off the terminal what OpenCV's libraries write there themselves, past Python, of pictures with flaws."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
