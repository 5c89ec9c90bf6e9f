"""Statistics kept in a file of their own, from which every symmetric fit can be redone when the images are gone.

An .npz: `header` is JSON, arrays are called `<number of the layer>.<what>`. Of a second moment Cxx the file holds the
leading eigenvectors, times the roots of their eigenvalues, and the diagonal of what is left; what the layer's outputs
do follows from that and the layer's own weights.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.calibrate.array_file import opened_npz
from surgery.calibrate.calibration import Calibration
from surgery.calibrate.gathering import LARGEST, bytes_of
from surgery.calibrate.patches import Float32Array, responses
from surgery.calibrate.record import check_record, differing
from surgery.calibrate.twin import scales_together
from surgery.errors import DataError, PlanError
from surgery.factor.statistics import MAX_SIDE, Moments, Samples, Statistics
from surgery.model import Model, Refusal
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Op, Scale
from surgery.ops.stack import stack
from surgery.output import TOOL, staged_file

FORMAT = 1
# Share of Cxx's trace that the eigenvectors left out hold together. On SqueezeNet no fit's error rises by 1e-8 of
# itself; with 1e-3 it rises by up to 3e-4, and the file is 4 % smaller.
REST = 1e-5
SAMPLE_BYTES = 1 << 23  # of either kind of samples of one layer

Arrays = Mapping[str, npt.NDArray[Any]]


def save(calibration: Calibration, keys: Sequence[str], path: Path) -> int:
    """Write the statistics of the layers `keys` to `path`, whole or not at all, and return the file's bytes.

    Raises PlanError where the calibration is not symmetric: its statistics hold for one set of cuts only; and where
    `path` is a file of another kind, which may be somebody's picture.
    """
    if path.is_file() and not _is_ours(path):
        raise PlanError(f"-o {path}: is there and holds no statistics; choose another name")
    if not calibration.record["symmetric"]:
        raise PlanError("statistics that follow the cuts before a layer cannot be kept; gather symmetric ones")
    model = calibration.model
    ordered = sorted(keys, key=calibration.keys.index)
    layers = []
    with staged_file(path, ()) as staged, zipfile.ZipFile(staged, "w") as archive:
        for i, key in enumerate(ordered):
            statistics = calibration.statistics_for((key,), {})
            layers.append({"key": key, "count": statistics.moments.count, "relu": statistics.relu})
            for name, array in _arrays(statistics).items():
                _write(archive, f"{i}.{name}", array)
        header = {"tool": TOOL, "format": FORMAT, "model": model.format.digest(model), "record": calibration.record}
        _write(archive, "header", np.frombuffer(json.dumps(header | {"layers": layers}).encode(), np.uint8))
    return path.stat().st_size


def from_file(path: Path, model: Model) -> Stored:
    """Return the statistics in a file that `save` wrote for this model; raises DataError."""
    header = _header(path)
    if header["model"] != model.format.digest(model):
        raise DataError(path, "holds the statistics of another model: its files have another digest")
    layers = {layer["key"]: (i, layer) for i, layer in enumerate(header["layers"])}
    return Stored(header["record"], tuple(layers), path, model, layers)


@dataclass(frozen=True, eq=False)
class Stored:
    """Statistics in a file: what `Calibration` gives, without the images, in any order."""

    record: Mapping[str, Any]
    keys: tuple[str, ...]
    path: Path
    model: Model
    layers: Mapping[str, tuple[int, Mapping[str, Any]]]

    @property
    def statistics_bytes(self) -> int:
        """What the statistics of one layer take at most; they are read one layer at a time."""
        images, count = self.record["images"], self.record["positions"]
        return max((bytes_of(self._op(key), images, count) for key in self.keys), default=0)

    def mismatch(self, record: Mapping[str, Any]) -> str | None:
        """Return in what the data differ from what a plan remembers, None where they are the same."""
        return differing(self.record, record)

    def statistics_for(self, keys: tuple[str, ...], done: Mapping[str, Chain]) -> Statistics:
        """Return the statistics of layers that read one value; what became of the layers before them does not count.

        Raises DataError where the file has none, or is damaged.
        """
        missing = next((key for key in keys if key not in self.layers), None)
        if missing is not None:
            raise DataError(self.path, f"has no statistics of '{missing}'; it has {', '.join(self.keys)}")
        ops = [self._op(key) for key in keys]
        op = ops[0] if len(ops) == 1 else stack(ops)
        relu = all(self.layers[key][1]["relu"] for key in keys)
        try:
            with opened_npz(self.path) as archive:
                scales = [_scale(archive, self.layers[key][0]) for key in keys]
                scale = scales_together(scales, [op.out_channels for op in ops])
                i, layer = self.layers[keys[0]]
                return _statistics(archive, i, layer["count"], op, scale, relu=relu)
        except DataError:
            raise
        except (ValueError, KeyError) as error:
            raise DataError(self.path, f"the statistics of '{keys[0]}' cannot be read: {error}") from error

    def _op(self, key: str) -> Op:
        op = self.model.format.lift(self.model, self.model.node(key))
        if isinstance(op, Refusal):
            raise PlanError(f"cannot be cut: {op.reason}", key)
        return op


def truncated(moment: Float64Array) -> tuple[Float32Array, Float32Array]:
    """Return rows (r, n) and a diagonal (n,) with rowsᵀ rows + diagonal all but equal to `moment` (n, n).

    The eigenvectors left out hold at most REST of the trace, and their part of the diagonal is kept, so the trace stays
    and no entry is off by more than that.
    """
    values, vectors = np.linalg.eigh(moment)
    left_out = np.cumsum(np.maximum(values, 0)) <= REST * moment.trace()
    kept = ~left_out & (values > 0)
    rows = vectors[:, kept].T * np.sqrt(values[kept])[:, None]
    rest = np.maximum(moment.diagonal() - np.einsum("ij,ij->j", rows, rows), 0)
    return rows.astype(np.float32), rest.astype(np.float32)


def _arrays(statistics: Statistics) -> dict[str, npt.NDArray[Any]]:
    moments = statistics.moments
    found: dict[str, npt.NDArray[Any]] = {"mean": moments.mean_x}
    for g, xx in enumerate(moments.xx):
        rows, rest = truncated(xx) if moments.is_dense else (xx, np.zeros(0, np.float32))
        found |= {f"rows{g}": rows, f"rest{g}": rest}
    found |= {"samples": _few(statistics.samples.x), "held_out": _few(statistics.held_out.x)}
    if statistics.scale is not None:
        found |= {"factor": statistics.scale.factor, "shift": statistics.scale.shift}
    return found


def _few(x: FloatArray) -> FloatArray:
    """Return samples of all images, as many as SAMPLE_BYTES hold."""
    most = max(1, SAMPLE_BYTES // max(1, x[:1].nbytes))
    return x[:: -(-len(x) // most) or 1]


def _write(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    # With the time of writing in it, the same statistics would not be the same bytes.
    entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _is_ours(path: Path) -> bool:
    try:
        _header(path)
    except DataError:
        return False
    return True


def _header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(path, "no such file")
    try:
        with opened_npz(path) as archive:
            header: dict[str, Any] = json.loads(archive["header"].tobytes())
    except (ValueError, KeyError, RecursionError) as error:
        raise DataError(path, "is no file of statistics; surgery calibrate writes them") from error
    if not isinstance(header, dict) or header.get("tool") != TOOL or not _has(header, _FIELDS):
        raise DataError(path, "is no file of statistics; surgery calibrate writes them")
    if header["format"] != FORMAT:
        raise DataError(path, f"has the format {str(header['format'])[:60]}; this version reads {FORMAT}")
    try:
        check_record(header["record"], "its header")
    except PlanError as error:
        raise DataError(path, error.message) from error
    if not all(
        isinstance(row, dict) and _has(row, _FIELDS_OF_A_LAYER) and row["count"] > 0 for row in header["layers"]
    ):
        raise DataError(path, f"its header has a layer without {', '.join(_FIELDS_OF_A_LAYER)} as they are written")
    return header


def _has(row: Mapping[str, Any], fields: Mapping[str, type]) -> bool:
    return all(type(row.get(name)) is kind for name, kind in fields.items())


def _scale(archive: Arrays, i: int) -> Scale | None:
    if f"{i}.factor" not in archive:
        return None
    factor, shift = (_array(archive, f"{i}.{name}", (None,)).astype(np.float64) for name in ("factor", "shift"))
    return Scale(factor, shift)


def _statistics(archive: Arrays, i: int, count: int, op: Op, scale: Scale | None, *, relu: bool) -> Statistics:
    """Return what the file's statistics of inputs say of a layer that reads them."""
    groups = op.groups if isinstance(op, Conv2d) else 1
    weight = op.weight.reshape(groups, op.out_channels // groups, -1).astype(np.float64)
    n = weight.shape[2]
    xx = np.stack([_moment(archive, f"{i}.", g, n) for g in range(groups)])
    mean = _array(archive, f"{i}.mean", (groups, n))
    is_dense = xx.shape[1] == xx.shape[2]
    yx = np.concatenate([w @ c if is_dense else (w @ c.T) @ c for w, c in zip(weight, xx, strict=True)])
    moments = Moments(
        count=count,
        mean_x=mean.astype(np.float64),
        xx=xx,
        mean_y=responses(op, mean[None])[0].astype(np.float64),
        yx=yx,
        factor=np.ones(len(yx)),
    )
    kinds = (_array(archive, f"{i}.{name}", (None, groups, n)) for name in ("samples", "held_out"))
    samples, held_out = (Samples(x, responses(op, x)) for x in kinds)
    return Statistics(moments, samples, held_out, scale, relu)


def _moment(archive: Arrays, place: str, g: int, n: int) -> FloatArray:
    """Return Cxx (n, n) again, or the rows (N, n) that stood for it."""
    rows = _array(archive, f"{place}rows{g}", (None, n))
    if n > MAX_SIDE:
        return rows
    rest, wide = _array(archive, f"{place}rest{g}", (n,)), rows.astype(np.float64)
    result: FloatArray = wide.T @ wide + np.diag(rest.astype(np.float64))
    return result


def _array(archive: Arrays, name: str, shape: tuple[int | None, ...]) -> FloatArray:
    """Return an array of numbers that can be squared; None in `shape` stands for any size. Raises ValueError."""
    found = archive[name]
    fits = found.ndim == len(shape) and all(a in (None, b) for a, b in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind != "f" or not (np.abs(found) <= LARGEST).all():
        stated = f"{found.dtype} of shape {found.shape}"
        raise ValueError(f"'{name}' is {stated}; expected finite numbers of shape {shape}, None being any")
    return found


_FIELDS = {"format": int, "model": str, "record": dict, "layers": list}
_FIELDS_OF_A_LAYER = {"key": str, "count": int, "relu": bool}
