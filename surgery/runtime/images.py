"""Read pictures as Caffe reads them: decoded and resized by OpenCV."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from surgery.errors import DataError, EngineMissingError

Pixels = npt.NDArray[np.uint8]  # (height, width, channels)


def check_opencv() -> None:
    """Raise EngineMissingError where OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise EngineMissingError("opencv", "pictures are read and resized by OpenCV; pip install surgery[opencv]")


def decoded(path: Path, *, channels: int) -> Pixels:
    """Return a picture's pixels: three channels in the order blue, green, red, or a single grey one."""
    import cv2

    mode = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
    # Not imread: it prints what it cannot read, and takes no path that is not UTF-8.
    found = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", np.uint8), mode)
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
