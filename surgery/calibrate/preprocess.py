"""How a picture becomes a network's input, in Caffe's order: resize, channels, crop, subtract the mean, scale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.calibrate.mean_file import read_mean
from surgery.errors import DataError
from surgery.runtime.images import MAX_PIXELS, Pixels, check_opencv, resized

LARGEST = 1e15  # of a number: products of two are within float32.
CHANNELS = {"bgr": 3, "rgb": 3, "grey": 1}

Float32Array = npt.NDArray[np.float32]
Place = Callable[[int], int]  # of so many pixels to spare along a side, how many lie before the crop


def centre(spare: int) -> int:
    """Return where Caffe crops in the TEST phase."""
    return spare // 2


@dataclass(frozen=True, eq=False)
class MeanImage:
    """A mean for every pixel (channels, height, width), and the file that it is from."""

    pixels: Float32Array
    file: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Preprocess:
    """What Caffe's DataTransformer does in the TEST phase.

    Attributes:
        resize: height and width, or one number: the shorter side's, the proportions kept.
        crop: height and width of the part that is kept, the centre unless another place is asked for.
        channels: the order in which the network takes them, a key of CHANNELS.
        mean: what is subtracted, one number or one for each channel in that order; nothing where empty.
        mean_image: the same for every pixel: as large as the picture before the crop, as Caffe has it, or after it.
        scale: multiplies what is left.
    """

    resize: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    channels: str = "bgr"
    mean: tuple[float, ...] = ()
    mean_image: MeanImage | None = None
    scale: float = 1.0

    def apply(self, picture: Pixels, name: str, place: Place = centre) -> Float32Array:
        """Return the input (channels, height, width) of a picture (height, width, channels in the network's order).

        `place` is asked for the rows, then for the columns, where the crop begins.

        Raises DataError, with the picture's `name`, where it is smaller than the crop or the mean is of another size.
        """
        sized = picture if self.resize is None else resized(picture, self._size(name, picture.shape[:2]))
        whole = sized.transpose(2, 0, 1)
        size = whole.shape[1:]
        height, width = self.crop or size
        if height > size[0] or width > size[1]:
            raise DataError(name, f"is {_by(size)} pixels, smaller than the crop {_by((height, width))}")
        top, left = place(size[0] - height), place(size[1] - width)
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        result: Float32Array = (whole[window].astype(np.float32) - self._mean(name, whole, window)) * np.float32(
            self.scale
        )
        return np.ascontiguousarray(result)

    def facts(self) -> dict[str, Any]:
        """Return what `parsed` reads; the mean's file, if any, as seen from the working folder."""
        pairs = {"resize": self.resize, "crop": self.crop, "mean": self.mean or None}
        facts: dict[str, Any] = {name: list(pair) if isinstance(pair, tuple) else pair for name, pair in pairs.items()}
        image = self.mean_image
        facts |= {"mean_file": image.file, "mean_sha256": image.sha256} if image else {}
        return {n: v for n, v in {**facts, "channels": self.channels, "scale": self.scale}.items() if v is not None}

    def _size(self, name: str, size: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width after resizing."""
        if isinstance(self.resize, tuple):
            height, width = self.resize
        else:  # The longer side is rounded half up.
            shorter, wanted = min(size), self.resize or min(size)
            height, width = ((side * wanted * 2 + shorter) // (2 * shorter) for side in size)
        if height * width > MAX_PIXELS:
            raise DataError(name, f"would be resized to {_by((height, width))} pixels; at most {MAX_PIXELS} are taken")
        return height, width

    def _mean(self, name: str, whole: Pixels, window: tuple[slice, slice, slice]) -> Float32Array:
        if self.mean_image is None:
            return np.array(self.mean or (0.0,), np.float32).reshape(-1, 1, 1)
        pixels = self.mean_image.pixels
        if pixels.shape == whole.shape:
            return pixels[window]
        if pixels.shape == whole[window].shape:
            return pixels
        found = f"the mean in {self.mean_image.file} is {_by(pixels.shape)}"
        raise DataError(name, f"is {_by(whole.shape)} where {found}; resize to the mean's size")


def with_mean_file(path: Path) -> dict[str, Any]:
    """Return the fields of Preprocess for the mean in a file: numbers where each channel has only one."""
    pixels = read_mean(path)
    values = pixels.reshape(len(pixels), -1)
    if (values == values[:, :1]).all():
        return {"mean": tuple(map(float, values[:, 0]))}
    return {"mean_image": MeanImage(pixels, str(path), hashlib.sha256(path.read_bytes()).hexdigest())}


def read(path: Path) -> Preprocess:
    """Return what a JSON file states; the mean file is looked for beside it. Raises DataError."""
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(path, f"is no JSON: {error}") from error
    return parsed(stated, path, path.parent)


def parsed(stated: object, origin: Path | str, folder: Path) -> Preprocess:
    """Return the Preprocess that a JSON object states; see `Preprocess.facts`. Raises DataError for what it is not.

    `origin` is named in messages; a mean file is looked for in `folder`.
    """
    if not isinstance(stated, Mapping):
        raise DataError(origin, "expected an object with resize, crop, channels, mean or mean_file, and scale")
    unknown = next((name for name in stated if name not in _FIELDS), None)
    if unknown is not None:
        raise DataError(origin, f"'{unknown[:60]}' is not known; expected some of {', '.join(_FIELDS)}")
    fields = {name: _FIELDS[name](origin, name, value) for name, value in stated.items()}
    mean_file, sha256 = fields.pop("mean_file", None), fields.pop("mean_sha256", None)
    if mean_file is not None:
        if "mean" in fields:
            raise DataError(origin, "has both mean and mean_file; choose one")
        fields |= with_mean_file(folder / mean_file)
    result = Preprocess(**fields)
    if sha256 not in (None, result.mean_image and result.mean_image.sha256):
        raise DataError(origin, f"mean_file {mean_file} is not the one that was used: its SHA-256 differs")
    if len(result.mean) not in (0, 1, CHANNELS[result.channels]):
        raise DataError(origin, f"mean has {len(result.mean)} numbers for {CHANNELS[result.channels]} channels")
    if result.resize is not None:
        check_opencv()
    return result


def _shown(value: object) -> str:
    return repr(value)[:60]


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _pair(origin: Path | str, name: str, value: object) -> tuple[int, int]:
    sides: list[Any] = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and 0 < side < 1 << 16 for side in sides):
        raise DataError(origin, f"{name} is {_shown(value)}; expected a number of pixels, or [height, width]")
    return sides[0], sides[1]


def _resize(origin: Path | str, name: str, value: object) -> tuple[int, int] | int:
    pair = _pair(origin, name, value)
    return pair if isinstance(value, list) else pair[0]


def _channels(origin: Path | str, name: str, value: object) -> str:
    if not isinstance(value, str) or value not in CHANNELS:
        raise DataError(origin, f"{name} is {_shown(value)}; expected one of {', '.join(CHANNELS)}")
    return value


def _number(origin: Path | str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
        raise DataError(origin, f"{name} is {_shown(value)}; expected a number of at most {LARGEST:g}")
    return float(value)


def _scale(origin: Path | str, name: str, value: object) -> float:
    scale = _number(origin, name, value)
    if np.float32(scale) == 0:
        raise DataError(origin, f"{name} is {scale}, which makes every input 0; expected another number")
    return scale


def _numbers(origin: Path | str, name: str, value: object) -> tuple[float, ...]:
    return tuple(_number(origin, name, each) for each in (value if isinstance(value, list) else [value]))


def _text(origin: Path | str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise DataError(origin, f"{name} is {_shown(value)}; expected text")
    return value


_FIELDS: dict[str, Callable[[Path | str, str, object], Any]] = {
    "resize": _resize,
    "crop": _pair,
    "channels": _channels,
    "mean": _numbers,
    "mean_file": _text,
    "mean_sha256": _text,
    "scale": _scale,
}
