"""Weights of either kind of file, a caffemodel or HDF5: read by layer name, written with some layers replaced."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgery.errors import ModelError, ParseError, SurgeryError
from surgery.formats.caffe import binary
from surgery.formats.caffe.network import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LayerWeights(Protocol):
    """What one entry of a weight file tells without reading numbers."""

    @property
    def name(self) -> str:
        """The layer's name."""
        ...

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of its blobs."""
        ...


class Weights(Protocol):
    """A weight file. Layers may repeat a name; Caffe takes the last."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    @property
    def layers(self) -> Sequence[LayerWeights]:
        """The file's layers in order."""
        ...

    def counts(self, index: int) -> list[tuple[Shape, int]]:
        """Return the shape of each blob of layer `index`, and how many numbers the file holds for it."""
        ...

    def arrays(self, index: int) -> tuple[NDArray[np.floating], ...]:
        """Return the blobs of layer `index`."""
        ...

    def refusal(self, index: int) -> str | None:
        """Return why the numbers of layer `index` cannot be read, or None."""
        ...

    def is_legacy(self, index: int) -> bool:
        """Return whether layer `index` states its shapes as num/channels/height/width."""
        ...

    def reweighed(self, index: int, blobs: Sequence[NDArray[np.floating]]) -> binary.NewLayer:
        """Return layer `index` with other numbers, everything else as it was."""
        ...

    def overwritten(self, numbers: Mapping[tuple[int, int], NDArray[np.floating]]) -> Weights:
        """Return the weights with other numbers in blobs, by number of the layer and of the blob; nothing else."""
        ...

    def generation(self, index: int) -> int:
        """Return the generation (1 or 2) in which new layers in place of layer `index` are to be written."""
        ...

    def write(self, replacements: Mapping[int, Sequence[binary.NewLayer]], path: Path) -> None:
        """Write the file with the layers of each index replaced."""
        ...


@dataclass(frozen=True, eq=False)
class BinaryWeights:
    """A caffemodel."""

    model: binary.Caffemodel

    @property
    def path(self) -> Path:
        """The file."""
        return self.model.path

    @property
    def layers(self) -> tuple[binary.LayerRecord, ...]:
        """The file's layers in order."""
        return self.model.layers

    @property
    def is_old(self) -> bool:
        """Return whether any layer is in V0's or V1's spelling."""
        return any(layer.generation < 2 for layer in self.layers)

    @property
    def has_v0(self) -> bool:
        """Return whether any layer is in V0's spelling, beside which no other can stand."""
        return any(layer.generation == 0 for layer in self.layers)

    def upgraded(self) -> BinaryWeights:
        """Return the weights in V2's spelling, held in a file without a name."""
        from surgery.formats.caffe.upgrade_binary import write_upgraded

        with tempfile.TemporaryFile() as file:
            write_upgraded(self.model, file)
            file.flush()
            return BinaryWeights(binary.mapped(file, self.path))

    def arrays(self, index: int) -> tuple[NDArray[np.floating], ...]:
        """See Weights."""
        return tuple(self.model.array(blob) for blob in self.layers[index].blobs)

    def counts(self, index: int) -> list[tuple[Shape, int]]:
        """See Weights."""
        return [(blob.shape, blob.count) for blob in self.layers[index].blobs if not blob.raw]

    def refusal(self, index: int) -> str | None:
        """See Weights."""
        if any(blob.raw for blob in self.layers[index].blobs):
            return "its weights are stored as raw_data (NVCaffe's half precision), which is not read"
        return None

    def is_legacy(self, index: int) -> bool:
        """See Weights."""
        return any(blob.legacy for blob in self.layers[index].blobs)

    def generation(self, index: int) -> int:
        """See Weights."""
        return 2 if self.layers[index].generation == 2 else 1

    def reweighed(self, index: int, blobs: Sequence[NDArray[np.floating]]) -> binary.NewLayer:
        """See Weights."""
        return binary.reweighed(self.model, self.layers[index], blobs)

    def overwritten(self, numbers: Mapping[tuple[int, int], NDArray[np.floating]]) -> BinaryWeights:
        """See Weights."""
        found = [(self.layers[index].blobs[blob], array) for (index, blob), array in numbers.items()]
        return BinaryWeights(binary.overwritten(self.model, found))

    def write(self, replacements: Mapping[int, Sequence[binary.NewLayer]], path: Path) -> None:
        """See Weights."""
        changes = [
            binary.Replacement(self.layers[index].start, self.layers[index].end, layers)
            for index, layers in replacements.items()
        ]
        binary.write(self.model, changes, path)


@dataclass(frozen=True, slots=True)
class H5Layer:
    """One group under /data of an HDF5 weight file."""

    name: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, eq=False)
class H5Weights:
    """HDF5 weights, as Caffe writes them: /data/<layer>/<blob index>."""

    path: Path
    layers: tuple[H5Layer, ...]

    def arrays(self, index: int) -> tuple[NDArray[np.floating], ...]:
        """See Weights."""
        layer = self.layers[index]
        with _opened_h5(self.path) as file:
            return tuple(file[f"data/{layer.name}/{i}"][...] for i in range(len(layer.shapes)))

    def counts(self, index: int) -> list[tuple[Shape, int]]:
        """See Weights."""
        return []  # HDF5 itself holds a shape and its numbers together.

    def refusal(self, index: int) -> str | None:
        """See Weights."""
        return None

    def is_legacy(self, index: int) -> bool:
        """See Weights."""
        return False

    def generation(self, index: int) -> int:
        """See Weights."""
        return 2

    def reweighed(self, index: int, blobs: Sequence[NDArray[np.floating]]) -> binary.NewLayer:
        """See Weights."""
        return binary.NewLayer(self.layers[index].name, b"", 2, tuple(blobs))

    def overwritten(self, numbers: Mapping[tuple[int, int], NDArray[np.floating]]) -> Weights:
        """See Weights. Each layer with other numbers is written anew, for HDF5 alone knows where a dataset lies."""
        from surgery.formats.caffe.changed import overwritten

        return overwritten(self, numbers)

    def write(self, replacements: Mapping[int, Sequence[binary.NewLayer]], path: Path) -> None:
        """See Weights. Untouched datasets are copied by HDF5 itself."""
        if not replacements:
            path.write_bytes(self.path.read_bytes())
            return
        replaced = {self.layers[index].name for index in replacements}
        h5py = _h5py(self.path)
        with _opened_h5(self.path) as old, h5py.File(path, "w") as new:
            for name in old:
                if name != "data":
                    old.copy(name, new)
            data = new.create_group("data")
            for name in old["data"]:
                if name not in replaced:
                    old["data"].copy(name, data)
            for layer in (layer for layers in replacements.values() for layer in layers):
                group = data.create_group(layer.name)
                for i, blob in enumerate(layer.blobs):
                    group.create_dataset(str(i), data=blob.astype("<f4"))


def read(path: Path) -> Weights:
    """Open a weight file of either kind, told apart by its content."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: is no regular file; expected weights")  # Opening a pipe would wait for ever.
    with path.open("rb") as file:
        head = file.read(8)
    if head == b"\x89HDF\r\n\x1a\n":
        return _read_h5(path)
    return BinaryWeights(binary.read(path))


def _read_h5(path: Path) -> H5Weights:
    with _opened_h5(path) as file:
        if not isinstance(file.get("data"), _h5py(path).Group):
            raise ModelError(f"{path}: has no group /data; expected HDF5 weights as Caffe writes them")
        return H5Weights(path, tuple(_h5_layers(file["data"])))


def _h5_layers(data: Any) -> Iterator[H5Layer]:
    for name, group in data.items():
        blobs = [group[key] for key in sorted((key for key in group if key.isdigit()), key=int)]
        if any(blob.dtype.kind != "f" for blob in blobs):
            raise ValueError(f"/data/{name} holds other things than floating-point numbers")
        yield H5Layer(name, tuple(tuple(int(n) for n in blob.shape) for blob in blobs))


@contextmanager
def _opened_h5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file to read; whatever h5py says of one that is damaged becomes a ParseError.

    It has no exception of its own: a flipped bit is an OSError or a RuntimeError here, a KeyError or a TypeError there.
    """
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SurgeryError:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).strip("'\"\n").partition("\n")[0] or type(error).__name__
        raise ParseError(path, f"is damaged: HDF5 says {reason}") from error


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ModelError(f"{path}: is HDF5; reading it takes h5py: pip install h5py") from None
    return h5py


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of the files' contents, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
