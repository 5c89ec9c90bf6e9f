"""Caffe's data layers for training and tests, as lines of a prototxt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.calibrate.preprocess import Preprocess
from surgery.errors import DataError
from surgery.formats.caffe.schema import quote
from surgery.tune.caffe.blocks import Lines, in_phase, layer
from surgery.tune.caffe.feeds import Own

NAME = "tune_data"
PHASES = ("TRAIN", "TEST")


def hdf5(phase: str, tops: Sequence[str], source: str, batch: int) -> Lines:
    """Return what reads the datasets `tops` of the files that the text `source` names, in the order of the rows.

    Not shuffled: the rows are in a random order already, and an interrupted run goes on where it was.
    """
    param = f"hdf5_data_param {{ source: {quote(source)} batch_size: {batch} }}"
    return layer(NAME, "HDF5Data", [], tops, in_phase(phase), param)


def own(feed: Own, phase: str, path: Path, tops: Sequence[str], batch: int) -> Lines:
    """Return what reads the user's database or list of pictures; raises DataError for what it cannot do to these."""
    path, how = path.absolute(), feed.preprocess or Preprocess()
    _check(feed, how, path)
    fields = [in_phase(phase), *_transform(how, mirror=feed.mirror and phase == "TRAIN", is_list=feed.type != "Data")]
    source = f"source: {quote(str(path))} batch_size: {batch}"
    if feed.type == "Data":
        fields.append(f"data_param {{ {source} backend: {_backend(path)} }}")
    else:
        shuffle = " shuffle: true" if phase == "TRAIN" else ""
        # The list names pictures as seen from itself; Caffe puts this in front of the names.
        root = quote(f"{path.parent}/")
        fields.append(f"image_data_param {{ {source} root_folder: {root}{shuffle}{_size(how)}{_colour(how)} }}")
    return layer(NAME, feed.type, [], tops, *fields)


def _check(feed: Own, how: Preprocess, path: Path) -> None:
    refused = {
        "red first": how.channels == "rgb",
        "a crop that is no square": how.crop is not None and how.crop[0] != how.crop[1],
        "a resize to the shorter side": isinstance(how.resize, int),
        "a resize of what a database holds": feed.type == "Data" and how.resize is not None,
        "a mean image that is no .binaryproto": how.mean_image is not None
        and not how.mean_image.file.endswith(".binaryproto"),
    }
    found = [what for what, is_asked in refused.items() if is_asked]
    if found:
        raise DataError(
            path, f"Caffe's {feed.type} layer has no {', no '.join(found)}; have the samples stored instead"
        )


def _transform(how: Preprocess, *, mirror: bool, is_list: bool) -> list[str]:
    """Return transform_param where it says anything; Caffe subtracts the mean before it scales, as here."""
    fields = [f"crop_size: {how.crop[0]}"] if how.crop else []
    fields += ["mirror: true"] if mirror else []
    fields += [f"mean_value: {value:.9g}" for value in how.mean]
    fields += [f"mean_file: {quote(str(Path(how.mean_image.file).absolute()))}"] if how.mean_image else []
    fields += [f"scale: {how.scale:.9g}"] if how.scale != 1 else []
    fields += ["force_gray: true"] if how.channels == "grey" and not is_list else []
    return [f"transform_param {{ {' '.join(fields)} }}"] if fields else []


def _size(how: Preprocess) -> str:
    if not isinstance(how.resize, tuple):
        return ""
    return f" new_height: {how.resize[0]} new_width: {how.resize[1]}"


def _colour(how: Preprocess) -> str:
    return " is_color: false" if how.channels == "grey" else ""


def _backend(path: Path) -> str:
    return "LMDB" if (path / "data.mdb").exists() else "LEVELDB"
