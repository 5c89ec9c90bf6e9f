"""Statistics of one site, from what it reads: positions drawn at random, added up batch by batch in bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isqrt

import numpy as np

from surgery.calibrate.data import Array
from surgery.calibrate.patches import Float32Array, patches, positions, responses
from surgery.calibrate.twin import Site
from surgery.errors import PlanError
from surgery.factor.statistics import MAX_SIDE, Samples, Statistics, moments_of
from surgery.ops import Conv2d, Op

POSITIONS = 64  # of each image, of a layer that has as many
HELD_OUT = 5  # Every fifth image is kept from all fits.
SAMPLES = 4000
SAMPLES_HELD_OUT = 2000
SAMPLE_BYTES = 1 << 28  # of either kind of samples, and of the rows that stand for moments too large to be held
PATCH_BYTES = 1 << 26  # of patches at a time
LARGEST = 1e15  # that a layer reads or makes: sums of its squares are within float32.
CHUNK_ROWS = 2048  # Adding up moments takes n² per chunk, however few rows it has.


def is_held_out(image: int, images: int) -> bool:
    """Return whether an image is kept from the fits: every fifth, of fewer the last, never the only one."""
    return image % HELD_OUT == HELD_OUT - 1 or (1 < images < HELD_OUT and image == images - 1)


def bytes_of(op: Op, images: int, count: int = POSITIONS) -> int:
    """Return what a layer's statistics take at most, with `count` positions of each of `images` images.

    With what solves with them: in the place of the moments, or as large as the square of the rows that stand for them.
    """
    groups, size = _inputs(op)
    row = _row_bytes(op)
    rows = sum(min(images * count, most, SAMPLE_BYTES // row) for most in (SAMPLES, SAMPLES_HELD_OUT))
    rows_and_yx = row * rows + 8 * op.out_channels * size
    if size > MAX_SIDE:
        kept = min(images * count, _most_rows(op))
        return rows_and_yx + 4 * groups * size * kept + 8 * kept**2
    return rows_and_yx + 8 * groups * size**2


def gathered(
    site: Site, inputs: Iterator[tuple[Array, Array]], images: Sequence[int], count: int, seed: int, *, symmetric: bool
) -> Statistics:
    """Return a site's statistics; `inputs` are its inputs in the original and in the half-cut network by batch.

    At most `count` positions of each image are drawn, by `seed` and the site's key, whatever other sites there are.
    """
    rng = np.random.default_rng([seed, zlib.crc32(site.key.encode())])
    kept = _Gathering(site, sum(images), count, rng)
    moments = moments_of(kept.chunks(inputs, images))
    return Statistics(
        moments, joined(kept.kept["samples"]), joined(kept.kept["held out"]), site.scale, site.relu, symmetric
    )


class _Share:
    """Takes positions of images as they come, as many of each, so that those of all `images` are at most `most`."""

    def __init__(self, most: int, images: int) -> None:
        self.most, self.images, self.seen = most, max(images, 1), 0

    def of(self, x: Float32Array, y: Float32Array) -> Samples:
        """Return the samples taken of some images: x (images, positions, groups, n), y (images, positions, out)."""
        ends = np.arange(self.seen, self.seen + len(x) + 1) * self.most // self.images
        self.seen += len(x)
        taken = np.arange(x.shape[1]) < np.diff(ends)[:, None]
        return Samples(x[taken], y[taken])


class _Gathering:
    """What is kept of one site's positions while they stream by."""

    def __init__(self, site: Site, images: int, count: int, rng: np.random.Generator) -> None:
        held = sum(is_held_out(i, images) for i in range(images))
        row = _row_bytes(site.op)
        # Once for all batches: a view of a file is not aligned, and each product would copy it.
        op = replace(site.op, weight=np.array(site.op.weight, np.float32))
        self.site, self.images, self.count, self.rng = replace(site, op=op), images, count, rng
        self.kinds = {
            "moments": _Share(_most_rows(site.op), images - held),
            "samples": _Share(min(SAMPLES, SAMPLE_BYTES // row), images - held),
            "held out": _Share(min(SAMPLES_HELD_OUT, SAMPLE_BYTES // row), held),
        }
        self.kept: dict[str, list[Samples]] = {"samples": [], "held out": []}

    def chunks(self, inputs: Iterator[tuple[Array, Array]], images: Sequence[int]) -> Iterator[Samples]:
        """Yield what moments are made of, in chunks of some thousand rows, keeping samples on the way."""
        number, pending = 0, list[Samples]()
        for (own, cut), count in zip(inputs, images, strict=True):
            for x, y in self._positions(own, cut, count):
                if not all((np.abs(values) <= LARGEST).all() for values in (x, y)):
                    raise PlanError(f"reads or makes NaN or more than {LARGEST:g} on these data", self.site.key)
                held = np.array([is_held_out(number + i, self.images) for i in range(len(x))])
                number += len(x)
                self.kept["samples"].append(self.kinds["samples"].of(x[~held], y[~held]))
                self.kept["held out"].append(self.kinds["held out"].of(x[held], y[held]))
                pending.append(self.kinds["moments"].of(x[~held], y[~held]))
                if sum(map(len, pending)) >= CHUNK_ROWS:
                    yield joined(pending)
                    pending = []
        if sum(map(len, pending)):
            yield joined(pending)

    def _positions(self, own: Array, cut: Array, images: int) -> Iterator[tuple[Float32Array, Float32Array]]:
        """Yield patches and the original's outputs, of a few images at a time."""
        places = positions(self.site, own, images, self.count, self.rng)
        step = max(1, PATCH_BYTES // (_row_bytes(self.site.op) * places.shape[1]))
        rows = len(own) // images
        for start in range(0, images, step):
            few, part = places[start : start + step], slice(start * rows, (start + step) * rows)
            x = patches(self.site, own[part], few)
            with np.errstate(over="ignore", invalid="ignore"):  # What comes of that is told in `chunks`.
                y = responses(self.site.op, x)
            yield (x if cut is own else patches(self.site, cut[part], few)), y


def joined(parts: Sequence[Samples]) -> Samples:
    """Return several samples as one."""
    return Samples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


def _inputs(op: Op) -> tuple[int, int]:
    """Return groups and the inputs of each output."""
    return (op.groups if isinstance(op, Conv2d) else 1), op.weight[0].size


def _row_bytes(op: Op) -> int:
    groups, size = _inputs(op)
    return 4 * (groups * size + op.out_channels)


def _most_rows(op: Op) -> int:
    """Return from how many positions moments are taken at most: all, unless the positions themselves are kept."""
    groups, size = _inputs(op)
    return min(SAMPLE_BYTES // (4 * groups * size), isqrt(SAMPLE_BYTES // 8)) if size > MAX_SIDE else 1 << 40
