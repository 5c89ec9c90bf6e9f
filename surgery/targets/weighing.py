"""The weights of a prepared network: the file as it is, or its numbers in a spelling that the target reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from surgery.formats.caffe import binary, lint_net
from surgery.formats.caffe.lint import weight_findings
from surgery.formats.caffe.network import Layer
from surgery.formats.caffe.weights import BinaryWeights, Weights
from surgery.targets.judging import as_problems
from surgery.targets.problem import Problem
from surgery.targets.profiles import Profile

# What lint says of weights as they stand and what writing them anew mends.
_MENDED = {"double-data", "hdf5-weights", "old-generation"}


def weight_problems(stored: Weights, net: lint_net.Net, profile: Profile) -> list[Problem]:
    """Return why the target would not load the weights into the network."""
    findings = weight_findings(stored, net, (profile.caffe,))
    found = as_problems([f for f in findings if f.severity == "error" and f.code not in _MENDED])
    if not profile.fills:
        found += _unfilled(stored, net, profile.name)
    return found + list(_uneven(stored, net, profile))


def _unfilled(stored: Weights, net: lint_net.Net, target: str) -> Iterator[Problem]:
    """Yield layers that no weights are loaded into, for a target that has no fillers."""
    names = {entry.name for entry in stored.layers if entry.shapes}
    for layer, inferred in zip(net.layers, net.inferred, strict=True):
        if inferred.blobs and layer.name not in names and not layer.message.has("blobs"):
            found = f"{stored.path.name} holds no weights for it"
            yield Problem(layer.name, "weights-missing", found, f"{target} makes none itself", "store them")


def _uneven(stored: Weights, net: lint_net.Net, profile: Profile) -> Iterator[Problem]:
    """Yield layers of HDF5 weights that leave out a blob of another layer: a caffemodel must hold all or none."""
    if isinstance(stored, BinaryWeights) or "hdf5" not in profile.caffe.without:
        return
    counts = {layer.name: blobs.blobs for layer, blobs in zip(net.layers, net.inferred, strict=True)}
    for entry in stored.layers:
        wanted = counts.get(entry.name)
        if wanted is not None and 0 < len(entry.shapes) < len(wanted):
            found = f"HDF5 holds {len(entry.shapes)} of its {len(wanted)} blobs, the others are another layer's"
            yield Problem(
                entry.name, "hdf5-weights", found, "a caffemodel holds all of them", "save it as a caffemodel"
            )


def changes_of(stored: Weights, profile: Profile) -> tuple[str, ...]:
    """Return what is done to the weights, nothing where they stay as they are, byte for byte."""
    if not isinstance(stored, BinaryWeights):
        return ("HDF5 weights written as a caffemodel",) if "hdf5" in profile.caffe.without else ()
    old = ("weights in V0's spelling upgraded to V2",) if "v0" in profile.caffe.without and stored.has_v0 else ()
    doubles = ("weights in double precision rounded to single",) if _doubles(stored, profile) else ()
    return old + doubles


def write(stored: Weights, layers: Sequence[Layer], profile: Profile, folder: Path, stem: str) -> Path:
    """Write the weights as `<stem>` and the ending of their kind, and return the path."""
    if not isinstance(stored, BinaryWeights):
        if "hdf5" not in profile.caffe.without:
            return _copied(stored, folder / f"{stem}{stored.path.suffix}")
        path = folder / f"{stem}.caffemodel"
        binary.write(
            binary.Caffemodel(path, b"", ()), [binary.Replacement(0, 0, list(_unpacked(stored, layers)))], path
        )
        return path
    path = folder / f"{stem}.caffemodel"
    if not changes_of(stored, profile):
        return _copied(stored, path)
    modern = stored.upgraded() if "v0" in profile.caffe.without and stored.has_v0 else stored
    # What is written anew is written in single precision.
    doubles = _doubles(modern, profile)
    modern.write({index: [modern.reweighed(index, modern.arrays(index))] for index in doubles}, path)
    return path


def _copied(stored: Weights, path: Path) -> Path:
    return Path(shutil.copyfile(stored.path, path))


def _unpacked(stored: Weights, layers: Sequence[Layer]) -> Iterator[binary.NewLayer]:
    """Yield the layers of an HDF5 file as a caffemodel holds them."""
    known = {layer.name: layer for layer in reversed(layers)}
    for index, entry in enumerate(stored.layers):
        if entry.shapes:
            layer = known.get(entry.name)
            links = (layer.type, layer.bottoms, layer.tops) if layer else ("", (), ())
            yield binary.NewLayer(entry.name, binary.head(entry.name, *links, 2), 2, stored.arrays(index))


def _doubles(stored: BinaryWeights, profile: Profile) -> list[int]:
    if "double_data" not in profile.caffe.without:
        return []
    return [i for i, entry in enumerate(stored.layers) if any(blob.double for blob in entry.blobs)]
