"""What kind of training data a path holds, and how Caffe is to get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from surgery.calibrate.data import ARRAYS, Blobs, in_list, lines, open_data
from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.spread import taken
from surgery.calibrate.transform_param import stated
from surgery.errors import DataError, PlanError
from surgery.measure.labels import chosen, labels_of
from surgery.model import Model
from surgery.tune.caffe import databases, hdf5
from surgery.tune.caffe.feeds import Feed, Own, Stored
from surgery.tune.data import is_held_back, mirrored, moved

VARIANTS = 4  # of each training sample that are stored where samples are moved or mirrored, the first as it is


def feed_of(
    path: Path,
    model: Model,
    *,
    needs_teacher: bool = False,
    labels: Path | None = None,
    preprocess: Preprocess | None = None,
    images: int | None = None,
    is_list_own: bool = False,
) -> Feed:
    """Return what Caffe trains on, as it is found at `path`.

    - LMDB, LevelDB (a folder), HDF5 (a file, or a text that names some) and, with `is_list_own`, a list of pictures are
      read by Caffe's own data layers, which take the labels that lie in them. Where a teacher is needed, HDF5 is stored
      anew, with what the teacher makes of it; the others cannot be read here.
    - All else that calibration takes, pictures and arrays, is stored as HDF5; every tenth sample is held back. `labels`
      are those of `surgery plan`, `preprocess` is how pictures become inputs, else what the network states, and at most
      `images` are read, spread over all of them.

    Raises DataError.
    """
    found = _own(path, preprocess, needs_teacher=needs_teacher, is_list_own=is_list_own)
    if found is not None:
        if labels is not None:
            raise DataError(labels, f"Caffe's {found.type} layer takes the labels in {path}; leave out --labels")
        if images is not None:
            raise DataError(path, f"Caffe's {found.type} layer reads all samples there are; leave out --images")
        return found
    inputs = model.format.runnable(model).inputs
    if _is_hdf5(path):
        whole, held_labels = hdf5.data_of(path, inputs)
        data = whole.only(taken(whole.count, images))
        known = None if held_labels is None else chosen(held_labels, data)
    else:
        data = open_data(path, inputs, preprocess, lambda: stated(model), images)
        known = labels_of(data, labels)
    held = [i for i in range(data.count) if is_held_back(i, data.count)]
    train = [i for i in range(data.count) if not is_held_back(i, data.count)]
    return Stored(data, known, train, held)


def augmented(feed: Feed, crop: int, *, mirror: bool, seed: int) -> Feed:
    """Return the samples with VARIANTS of each that is trained on, moved by up to `crop` pixels, half of them mirrored.

    Caffe's own layers mirror, and crop where the preprocessing does. Raises PlanError where they are to move more.
    """
    if not crop and not mirror:
        return feed
    if isinstance(feed, Own):
        if crop or feed.type == "HDF5Data":
            raise PlanError(f"Caffe's {feed.type} layer cannot do that to samples; leave out --crop and --mirror")
        return replace(feed, mirror=mirror)
    data, count = feed.data, feed.data.count

    def read(i: int) -> Blobs:
        variant, number = divmod(i, count)
        sample = data.read(number)
        if not variant:
            return sample
        rng = np.random.default_rng([seed, variant, number])
        down, right = (int(offset) for offset in rng.integers(-crop, crop, 2, endpoint=True))
        shifted = {name: moved(array, (down, right)) for name, array in sample.items()}
        is_mirrored = mirror and rng.random() < 0.5
        return {name: mirrored(array) for name, array in shifted.items()} if is_mirrored else shifted

    many = replace(data, count=VARIANTS * count, digest=f"{data.digest}:{crop}:{mirror}:{seed}", read=read)
    labels = None if feed.labels is None else np.tile(feed.labels, VARIANTS)
    return Stored(many, labels, [count * v + i for v in range(VARIANTS) for i in feed.train], feed.held)


def _own(path: Path, preprocess: Preprocess | None, *, needs_teacher: bool, is_list_own: bool) -> Own | None:
    """Return the data as one of Caffe's data layers reads them, None where they are to be stored."""
    is_lmdb = (path / "data.mdb").is_file()
    if is_lmdb or (path / "CURRENT").is_file():
        if needs_teacher:
            advice = "to learn from the original's outputs give HDF5 or pictures"
            raise DataError(path, f"is a database, which only Caffe reads; {advice}")
        return Own("Data", path, images=databases.entries(path) if is_lmdb else None, preprocess=preprocess)
    if _is_hdf5(path):
        return None if needs_teacher else Own("HDF5Data", path, images=hdf5.rows_of(path))
    if not is_list_own:
        return None
    if path.is_dir() or path.suffix.lower() in ARRAYS or needs_teacher:
        raise DataError(path, "Caffe's own layer reads a list of pictures and their labels, and no teacher's outputs")
    return Own("ImageData", path, images=len(in_list(path)), preprocess=preprocess)


def _is_hdf5(path: Path) -> bool:
    """Return whether a path is an HDF5 file, or a text whose first line names one."""
    if path.suffix.lower() in hdf5.SUFFIXES:
        return True
    if not path.is_file() or path.suffix.lower() in ARRAYS:
        return False
    first = next((line.strip() for _, line in lines(path, "expected data") if line.strip()), "")
    return Path(first).suffix.lower() in hdf5.SUFFIXES
