"""Where Caffe gets its training samples: stored for it as HDF5, or read by its data layers from the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from surgery.calibrate.data import Data
from surgery.calibrate.preprocess import Preprocess
from surgery.measure.outputs import Labels

DataLayer = Literal["Data", "ImageData", "HDF5Data"]


@dataclass(frozen=True, eq=False)
class Stored:
    """Samples that this program reads and stores as HDF5, with what the teacher makes of them.

    Stock Caffe does not augment HDF5; data whose `read` crops and mirrors, over several times as many numbers as there
    are pictures, is stored so.

    Attributes:
        data: the samples.
        labels: the class of each (data.count,), None where unknown.
        train: numbers of the samples to train on.
        held: numbers of those that tell when the network is best; they are tested after each epoch.
    """

    data: Data
    labels: Labels | None
    train: Sequence[int]
    held: Sequence[int]


@dataclass(frozen=True)
class Own:
    """The user's own files, read by one of Caffe's data layers; each sample has a label.

    Attributes:
        type: "Data" for LMDB and LevelDB, "ImageData" for a list of pictures and labels, "HDF5Data" for a text that
            names .h5 files in which the datasets are called like the network's inputs, and "label".
        train: that file or folder.
        test: the same to test on; where None, that is done on the training samples.
        images: how many training samples there are, None where unknown.
        test_images: how many there are to test on, None where unknown.
        preprocess: what is done to a picture; a crop is taken anywhere in training, from the centre in tests.
        mirror: whether training mirrors half of the pictures.
    """

    type: DataLayer
    train: Path
    test: Path | None = None
    images: int | None = None
    test_images: int | None = None
    preprocess: Preprocess | None = None
    mirror: bool = False


Feed = Stored | Own
