"""Samples to train on: read one by one, in an order that a seed gives, moved and mirrored; one of ten is held back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.calibrate import transform_param
from surgery.calibrate.data import Array, Blobs, Data, open_data
from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.spread import GOLDEN
from surgery.errors import DataError, PlanError
from surgery.measure.labels import labels_of
from surgery.measure.outputs import Labels
from surgery.model import Model

HELD_BACK = 10  # One of so many samples is never trained on.
CHANNELS = (1, 3)  # of pictures


@dataclass(frozen=True)
class Augment:
    """How a training sample is changed before each use.

    Attributes:
        crop: pixels by which it is moved at most, each way. Where the preprocessing crops, its window moves, as Caffe's
            does in training; elsewhere zeros come in at the border.
        mirror: whether every second one, at random, is mirrored.
    """

    crop: int = 0
    mirror: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs by name (samples, ...), and the class of each sample where that is known.

    `count` of the samples count; others only fill up the batch of a network that takes no smaller one.
    """

    inputs: Mapping[str, Array]
    labels: Labels | None
    count: int


@dataclass(frozen=True, eq=False)
class Samples:
    """Data for training: what `epoch` gives follows from the seed and the arguments alone.

    Attributes:
        size: samples in a batch.
        fixed: whether the network takes no smaller batch.
    """

    data: Data
    labels: Labels | None
    size: int
    fixed: bool = False
    augment: Augment = Augment()
    seed: int = 0

    @property
    def trained(self) -> list[int]:
        """The numbers of the samples that are trained on."""
        return [i for i in range(self.data.count) if not is_held_back(i, self.data.count)]

    @property
    def steps(self) -> int:
        """Batches of an epoch: what is left over and would be a smaller batch comes in another epoch."""
        return max(1, len(self.trained) // self.size)

    def epoch(self, *turn: int) -> Iterator[Batch]:
        """Yield the training samples of an epoch, in an order and changed in ways that hang on the seed and `turn`."""
        rng = np.random.default_rng([self.seed, *turn])
        order = rng.permutation(self.trained)
        for start in range(0, self.steps * self.size, self.size):
            chosen = order[start : start + self.size]
            yield self._batch([int(i) for i in chosen], lambda i: self._changed(i, rng))

    def plain(self) -> Iterator[Batch]:
        """Yield all training samples as they are, in their own order."""
        return self._whole(self.trained)

    def held_back(self) -> Iterator[Batch]:
        """Yield the samples that are not trained on, in their own order."""
        return self._whole([i for i in range(self.data.count) if is_held_back(i, self.data.count)])

    def all(self) -> Iterator[Batch]:
        """Yield every sample as it is."""
        return self._whole(list(range(self.data.count)))

    def _whole(self, numbers: list[int]) -> Iterator[Batch]:
        for start in range(0, len(numbers), self.size):
            yield self._batch(numbers[start : start + self.size], self.data.read)

    def _batch(self, numbers: list[int], read: Callable[[int], Blobs]) -> Batch:
        filled = numbers + numbers[-1:] * ((self.size - len(numbers)) if self.fixed else 0)
        samples = [read(i) for i in filled]
        inputs = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
        return Batch(inputs, None if self.labels is None else self.labels[filled], len(numbers))

    def _changed(self, number: int, rng: np.random.Generator) -> Blobs:
        """Return a sample moved and mirrored; the same numbers are drawn whatever comes of them."""
        crop, draws = self.augment.crop, rng.random(3)
        if crop and self.data.cropped is not None:
            share = iter(draws[1:])
            sample = self.data.cropped(number, lambda spare: _place(spare, crop, next(share)))
        else:
            sample = self.data.read(number)
            offsets = [int(draw * (2 * crop + 1)) - crop for draw in draws[1:]]
            sample = {name: moved(array, (offsets[0], offsets[1])) for name, array in sample.items()}
        return {n: mirrored(a) for n, a in sample.items()} if self.augment.mirror and draws[0] < 0.5 else sample


def is_held_back(number: int, count: int) -> bool:
    """Return whether a sample is never trained on: one of every ten, of fewer the last.

    Its place among the ten changes without a period: classes may take turns, and one would be held back as a whole.
    """
    if count < HELD_BACK:
        return number == count - 1
    ten, place = divmod(number, HELD_BACK)
    return place == (ten * GOLDEN % 2**32) * HELD_BACK >> 32


def open_samples(
    path: Path,
    model: Model,
    *,
    labels: Path | None = None,
    preprocess: Preprocess | None = None,
    default: Callable[[], Preprocess | None] = lambda: None,
    images: int | None = None,
    size: int = 64,
    fixed: bool = False,
    augment: Augment | None = None,
    seed: int = 0,
) -> Samples:
    """Return the data at `path` for a model, with what labels there are; see `open_data` and `labels_of`.

    Pictures are read as `preprocess` says, else as `default` does, which is asked for pictures only, else as the model.
    Raises DataError for data that the network cannot take, for fewer labels than samples and for fewer than two
    samples; PlanError where samples that are no pictures are to be moved or mirrored.
    """
    inputs = model.format.runnable(model).inputs
    data = open_data(path, inputs, preprocess, lambda: default() or transform_param.stated(model), images)
    if data.count < 2:
        raise DataError(path, "holds one sample; expected at least one to train on and one to hold back")
    known = labels_of(data, labels)
    how = augment or Augment()
    for name, array in data.read(0).items() if how.crop or how.mirror else ():
        if _sides(array) is None:
            found = "x".join(map(str, array.shape))
            raise PlanError(f"input '{name}' is {found}, no picture; leave out --crop and --mirror")
    trained = sum(not is_held_back(i, data.count) for i in range(data.count))
    if fixed and trained < size:
        raise DataError(path, f"leaves {trained} samples to train on; the network takes {size} at a time, no fewer")
    return Samples(data, known, min(size, trained), fixed, how, seed)


def moved(array: Array, offsets: tuple[int, int]) -> Array:
    """Return a picture with its content moved down and to the right by pixels, zeros where nothing comes from."""
    sides = _sides(array)
    if sides is None or offsets == (0, 0):
        return array
    source, target = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    for side, offset in zip(sides, offsets, strict=True):
        length = array.shape[side]
        kept = max(0, length - abs(offset))
        source[side], target[side] = slice(max(0, -offset), max(0, -offset) + kept), slice(length - kept, None)
        if offset < 0:
            target[side] = slice(0, kept)
    result = np.zeros_like(array)
    result[tuple(target)] = array[tuple(source)]
    return result


def mirrored(array: Array) -> Array:
    """Return a picture with left and right exchanged."""
    sides = _sides(array)
    return array if sides is None else np.ascontiguousarray(np.flip(array, sides[1]))


def _place(spare: int, most: int, share: float) -> int:
    """Return where a crop begins, at most `most` from the centre: `share` in [0, 1) chooses among the places."""
    first, last = max(0, spare // 2 - most), min(spare, spare // 2 + most)
    return first + int(share * (last - first + 1))


def _sides(array: Array) -> tuple[int, int] | None:
    """Return the axes of rows and columns of a sample, channels first or last; None for what is no picture."""
    if array.ndim != 3:
        return None
    return (0, 1) if array.shape[2] in CHANNELS and array.shape[0] not in CHANNELS else (1, 2)
