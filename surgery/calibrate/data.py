"""Calibration data: pictures in a folder or a list, or arrays, read one by one as a network's inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.calibrate.array_file import image, opened_npz, read_npy
from surgery.calibrate.preprocess import CHANNELS, Place, Preprocess, centre
from surgery.calibrate.spread import taken
from surgery.errors import DataError
from surgery.model import Shape
from surgery.runtime.images import Pixels, check_opencv, decoded

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp", ".jp2"))
ARRAYS = frozenset((".npy", ".npz"))
LINE_LENGTH = 4096 + 32  # of a list: the longest path that Linux takes, and a label
SHOWN = 10  # names of a file's arrays

Array = npt.NDArray[Any]
Blobs = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Data:
    """`count` images for a network.

    `read` returns the inputs of image number i by name, each without its batch axis. `digest` is over all that they
    are made from: the files' contents in order and the preprocessing; where the files lie does not count. `cropped` is
    `read` with the crop at another place; None where nothing is cropped. `numbers` tells which of the images at `path`
    they are; None for all.
    """

    path: Path
    count: int
    digest: str
    preprocess: Preprocess | None
    read: Callable[[int], Blobs]
    cropped: Callable[[int, Place], Blobs] | None = None
    numbers: Sequence[int] | None = None

    def batches(self, size: int) -> Iterator[Blobs]:
        """Yield the inputs of `size` images at a time, the last ones in a smaller batch."""
        for start in range(0, self.count, size):
            images = [self.read(i) for i in range(start, min(start + size, self.count))]
            yield {name: np.stack([image[name] for image in images]) for name in images[0]}

    def only(self, chosen: Sequence[int]) -> Data:
        """Return the images of those places alone, in that order; the digest stays that of all."""
        read, cropped, numbers = self.read, self.cropped, self.numbers
        return replace(
            self,
            count=len(chosen),
            read=lambda i: read(chosen[i]),
            cropped=None if cropped is None else lambda i, place: cropped(chosen[i], place),
            numbers=chosen if numbers is None else [numbers[i] for i in chosen],
        )


def open_data(
    path: Path,
    inputs: Mapping[str, Shape],
    given: Preprocess | None,
    default: Callable[[], Preprocess | None],
    limit: int | None = None,
) -> Data:
    """Return the data at `path` for a network with these inputs, of at most `limit` images, as `taken` chooses them.

    - A folder: its pictures, those of folders inside too, sorted by name.
    - `.npy`, `.npz`: arrays named as the inputs are, or for a network of one input a single one, or one called
      "images". They are taken as they are where they have an input's shape behind the axis of images; bytes
      (images, height, width[, 3]), red first, are pictures.
    - any other file: a list as Caffe's ImageData reads it, in each line a picture, seen from the list, and a label,
      which is not used.

    Pictures become inputs as `given` says, else as `default` returns, which is asked for pictures only. Raises
    DataError.
    """
    if limit is not None and limit < 1:
        raise DataError(path, f"limit is {limit}; expected at least 1 image")
    if not inputs:
        raise DataError(path, "the network has no input to be fed")
    pictures = pictures_of(path)
    if pictures is not None:
        return _pictures(path, pictures, taken(len(pictures), limit), inputs, given or default())
    arrays = _arrays(path, inputs)
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        raise DataError(path, f"its arrays have {' and '.join(map(str, sorted(counts)))} images; expected as many each")
    if counts == {0}:
        raise DataError(path, "holds no images")
    numbers = taken(max(counts), limit)
    # With a network that has channels last, bytes may be either: what is said of pictures decides.
    if _are_ready(arrays, inputs) and not (given is not None and all(map(_is_picture, arrays.values()))):
        return _inputs(path, arrays, numbers, given)
    return _array_of_pictures(path, arrays, numbers, inputs, lambda: given or default())


def pictures_of(path: Path) -> list[Path] | None:
    """Return the pictures at `path`, None for a file of arrays; raises DataError."""
    if path.is_dir():
        return in_folder(path)
    if not path.is_file():
        raise DataError(path, "no such file or folder")
    if path.suffix.lower() in ARRAYS:
        return None
    return [path.parent / name for name, _ in in_list(path)]


def in_folder(folder: Path) -> list[Path]:
    """Return the pictures of a folder, and of those in it, sorted by name."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def in_list(path: Path) -> list[tuple[str, str]]:
    """Return name and label of each picture in a list, the label "" where there is none; raises DataError."""
    found = []
    for number, line in lines(path, "expected a folder of pictures, .npy, .npz or a list of pictures"):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        # Caffe's lines always end in a label; without one, all of the line is the name.
        is_labelled = name and label.lstrip("+-").isdigit()
        name, label = (name.strip(), label) if is_labelled else (line.strip(), "")
        if not (path.parent / name).is_file():
            raise DataError(f"{path}:{number}", f"no such picture: {path.parent / name}")
        found.append((name, label))
    return found


def lines(path: Path, expected: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text by number, of a file that is no text none but the first few.

    Raises DataError, which says what was `expected`.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_LENGTH), ""), 1):
                if len(line) == LINE_LENGTH:
                    raise DataError(f"{path}:{number}", f"the line has no end after {LINE_LENGTH} letters; {expected}")
                yield number, line
    except UnicodeDecodeError:
        raise DataError(path, f"is neither text nor an array; {expected}") from None


def _pictures(
    path: Path,
    found: Sequence[Path],
    numbers: Sequence[int],
    inputs: Mapping[str, Shape],
    preprocess: Preprocess | None,
) -> Data:
    files = [found[number] for number in numbers]
    if not files:
        raise DataError(path, "holds no pictures")
    how = _stated(path, preprocess)
    name, shape = _only_input(path, inputs)
    check_opencv()

    def read(i: int, place: Place = centre) -> Blobs:
        picture = decoded(files[i], channels=CHANNELS[how.channels])
        ordered = picture[:, :, ::-1] if how.channels == "rgb" else picture
        return {name: _fitting(how.apply(ordered, str(files[i]), place), shape, str(files[i]))}

    digest = _digest(how, (file.read_bytes() for file in files))
    return Data(path, len(files), digest, how, read, read if how.crop else None, numbers)


def _are_ready(arrays: Mapping[str, Array], inputs: Mapping[str, Shape]) -> bool:
    return all(array.shape[1:] == inputs[name][1:] for name, array in arrays.items())


def _is_picture(array: Array) -> bool:
    has_axes = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (1, 3))
    return array.dtype == np.uint8 and has_axes and array.size > 0


def _inputs(path: Path, arrays: Mapping[str, Array], numbers: Sequence[int], given: Preprocess | None) -> Data:
    if given is not None:
        raise DataError(path, "holds the network's inputs as they are, not pictures; leave out --preprocess")

    def read(i: int) -> Blobs:
        with np.errstate(over="ignore"):
            found = {name: np.asarray(image(array, numbers[i]), np.float32) for name, array in arrays.items()}
        for name, values in found.items():
            if not np.isfinite(values).all():
                label = f"image {numbers[i]} of '{name}'"
                raise DataError(path, f"{label} holds NaN or infinity, or more than float32 does")
        return found

    return Data(path, len(numbers), _digest(None, _contents(arrays, numbers)), None, read, None, numbers)


def _array_of_pictures(
    path: Path,
    arrays: Mapping[str, Array],
    numbers: Sequence[int],
    inputs: Mapping[str, Shape],
    preprocess: Callable[[], Preprocess | None],
) -> Data:
    name, shape = _only_input(path, inputs)
    pictures = arrays[name]
    if not _is_picture(pictures):
        found = f"'{name}' is {pictures.dtype} of shape {pictures.shape}"
        wanted = f"{(len(pictures), *shape[1:])}, or bytes (images, height, width[, 3])"
        raise DataError(path, f"{found}; expected {wanted}")
    how = _stated(path, preprocess())
    channels = pictures.shape[3] if pictures.ndim == 4 else 1
    if channels != CHANNELS[how.channels]:
        raise DataError(path, f"its pictures have {channels} channels; channels is {how.channels}")

    def read(i: int, place: Place = centre) -> Blobs:
        picture: Pixels = np.asarray(image(pictures, numbers[i])).reshape(*pictures.shape[1:3], channels)
        ordered = picture[:, :, ::-1] if how.channels == "bgr" else picture
        label = f"{path}: image {numbers[i]}"
        return {name: _fitting(how.apply(ordered, label, place), shape, label)}

    digest = _digest(how, _contents(arrays, numbers))
    return Data(path, len(numbers), digest, how, read, read if how.crop else None, numbers)


def _arrays(path: Path, inputs: Mapping[str, Shape]) -> Mapping[str, Array]:
    """Return the file's array for each input."""
    if path.suffix.lower() == ".npy":
        return _named(path, {"": read_npy(path)}, inputs)
    with opened_npz(path) as found:
        return _named(path, found, inputs)


def _named(path: Path, found: Mapping[str, Array], inputs: Mapping[str, Shape]) -> Mapping[str, Array]:
    """Return the array for each input."""
    arrays = {name: found[name] for name in inputs if name in found}
    if not arrays and len(inputs) == 1:
        chosen = list(found.values()) if len(found) == 1 else [found[name] for name in found if name == "images"]
        arrays = dict(zip(inputs, chosen, strict=False))
    missing = [name for name in inputs if name not in arrays]
    if missing:
        held = ", ".join(f"'{name}'" for name in list(found)[:SHOWN])
        raise DataError(path, f"holds {held or 'nothing'}; expected an array for each input: {', '.join(inputs)}")
    for name, array in arrays.items():
        if not array.ndim:
            raise DataError(path, f"'{name}' is a single number; expected numbers, image by image")
    return arrays


def _stated(path: Path, preprocess: Preprocess | None) -> Preprocess:
    if preprocess is None:
        stated = "resize, crop, channels, mean and scale"
        raise DataError(path, f"nothing says how pictures become the network's input; give --preprocess with {stated}")
    return preprocess


def _only_input(path: Path, inputs: Mapping[str, Shape]) -> tuple[str, Shape]:
    if len(inputs) > 1:
        raise DataError(
            path, f"the network has several inputs; give an .npz with an array for each: {', '.join(inputs)}"
        )
    ((name, shape),) = inputs.items()
    if len(shape) != 4:
        raise DataError(path, f"the network's input '{name}' is {shape}, no picture; give an array of that shape")
    return name, shape


def _fitting(made: Array, shape: Shape, label: str) -> Array:
    """Return what became of a picture (channels, height, width), channels last where the network has it so."""
    for array in (made, made.transpose(1, 2, 0)):
        if array.shape == shape[1:]:
            return array
    found, wanted = ("x".join(map(str, sizes)) for sizes in (made.shape, shape[1:]))
    raise DataError(label, f"becomes {found} where the network takes {wanted}; see resize, crop and channels")


def _contents(arrays: Mapping[str, Array], numbers: Sequence[int]) -> Iterator[bytes]:
    for name, array in arrays.items():
        yield json.dumps([name, str(array.dtype), (len(numbers), *array.shape[1:])]).encode()
        for number in numbers:
            yield np.ascontiguousarray(image(array, number)).tobytes()


def _digest(preprocess: Preprocess | None, contents: Iterator[bytes]) -> str:
    """Return the SHA-256 of the contents and of how they are read, wherever a mean's file lies."""
    facts = {} if preprocess is None else preprocess.facts()
    facts.pop("mean_file", None)
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for content in contents:
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()
