"""Statistics of a network's layers from calibration data, asked for one by one while the layers are being cut."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.calibrate import preprocess as reading
from surgery.calibrate import transform_param
from surgery.calibrate.data import Data, open_data
from surgery.calibrate.gathering import POSITIONS, bytes_of, gathered
from surgery.calibrate.passes import Cursor, Progress
from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.record import differing, record_of, settings_of
from surgery.calibrate.twin import Twin, together, twin_of
from surgery.errors import DataError, PlanError
from surgery.factor.statistics import Statistics
from surgery.model import Model
from surgery.ops import Chain


@dataclass(frozen=True, eq=False)
class Calibration:
    """What is known of layers from data that are at hand.

    Attributes:
        record: what a plan remembers: which data, and all that the statistics depend on besides (JSON).
        model: the network.
        keys: the layers in the order in which the network runs them, and in which they are to be asked for.
        twin: the ONNX twin of the network.
        data: the data.
        folder: a scratch folder of its own, which is gone with it.
    """

    record: Mapping[str, Any]
    model: Model
    keys: tuple[str, ...]
    twin: Twin
    data: Data
    folder: Path
    _cursor: Cursor = field(repr=False)

    @property
    def statistics_bytes(self) -> int:
        """What the statistics of one layer take at most; they are held one layer at a time."""
        images, count = self.record["images"], self.record["positions"]
        return max((bytes_of(site.op, images, count) for site in self._cursor.sites.values()), default=0)

    def mismatch(self, record: Mapping[str, Any]) -> str | None:
        """Return in what the data differ from what a plan remembers, None where they are the same."""
        return differing(self.record, record)

    def statistics_for(self, keys: tuple[str, ...], done: Mapping[str, Chain]) -> Statistics:
        """Return the statistics of layers that read one value, the wanted outputs of all side by side.

        `done` is what layers before them became. Gathered when asked for; raises ValueError where layers are not asked
        for in running order, DataError where the scratch folder has no room.
        """
        cut = {} if self.record["symmetric"] else done
        self._cursor.move(min(keys, key=self.keys.index), cut)
        site = together([self._cursor.sites[key] for key in keys])
        inputs = self._cursor.inputs()
        count, seed = self.record["positions"], self.record["seed"]
        return gathered(site, inputs, self._cursor.images, count, seed, symmetric=not cut)


@contextmanager
def calibration(
    model: Model,
    data: Path,
    keys: Sequence[str],
    *,
    preprocess: Path | Preprocess | None = None,
    images: int | None = None,
    positions: int = POSITIONS,
    symmetric: bool = False,
    seed: int = 0,
    scratch: Path | None = None,
    threads: int = 1,
    progress: Progress = lambda text, share: None,
) -> Iterator[Calibration]:
    """Give statistics of the layers `keys` of a model from at most `images` of the data (see `open_data`).

    Without `preprocess`, pictures are read as the model's own data layer says. Unless `symmetric`, the inputs of a
    layer are those that it has in the network whose layers before it are cut already; the wanted outputs are the
    original's in any case. `positions` are looked at in each image. What runs between two layers is spooled to a folder
    in `scratch`, by default the system's for temporary files.

    Raises DataError, PlanError for a key that names no layer that can be cut, ConversionError for layers of a Caffe
    network that have no ONNX equivalent.
    """
    if positions < 1:
        raise PlanError(f"positions is {positions}; expected at least 1 of each image")
    if scratch is not None and not scratch.is_dir():
        raise DataError(scratch, "no such folder; --scratch is one that is there")
    given = reading.read(preprocess) if isinstance(preprocess, Path) else preprocess
    with tempfile.TemporaryDirectory(prefix="surgery-", dir=scratch) as name:
        twin = twin_of(model, keys, Path(name))
        found = open_data(data, twin.inputs, given, lambda: transform_param.stated(model), images)
        record = record_of(found, positions=positions, seed=seed, symmetric=symmetric)
        cursor = Cursor(twin, found, Path(name), threads=threads, progress=progress)
        yield Calibration(record, model, tuple(cursor.sites), twin, found, Path(name), cursor)


@contextmanager
def replayed(
    model: Model,
    data: Path,
    keys: Sequence[str],
    record: Mapping[str, Any],
    *,
    scratch: Path | None = None,
    threads: int = 1,
    progress: Progress = lambda text, share: None,
) -> Iterator[Calibration]:
    """Give the calibration that a plan remembers, from the data at `data`; see `calibration` and `mismatch`.

    Raises PlanError for a record that `calibration` did not write.
    """
    settings = settings_of(record)
    with calibration(model, data, keys, scratch=scratch, threads=threads, progress=progress, **settings) as found:
        yield found
