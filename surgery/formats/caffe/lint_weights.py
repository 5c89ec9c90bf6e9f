"""Findings in a file of weights, alone and beside its network: what is loaded, what is ignored, what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from surgery.formats.caffe import meaning
from surgery.formats.caffe.binary import MAX_BYTES, BlobRecord, Caffemodel
from surgery.formats.caffe.finding import Finding, refusal
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.targets import Target
from surgery.formats.caffe.weights import BinaryWeights, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 1 << 20  # Numbers looked at in one go; 4 MiB stay in the cache's reach and bound the memory.
LISTED = 5  # Names shown of a longer list.

# Types that have weights whatever their parameters are.
_WEIGHTED = frozenset(
    {
        *("BN", "BatchNorm", "Convolution", "ConvolutionDepthwise", "Deconvolution", "DepthwiseConvolution", "Embed"),
        *("InnerProduct", "LSTM", "Normalize", "PReLU", "Parameter", "RNN"),
    }
)


def file_findings(stored: Weights, judged: Sequence[Target], types: Mapping[str, str]) -> list[Finding]:
    """Return what the file itself tells; `types` are the layers' types by name, where a network is known."""
    found = [*_container(stored, judged), *_duplicates(stored)]
    if isinstance(stored, BinaryWeights):
        found += _spellings(stored, judged)
    return [*found, *_sizes(stored, types), *_numbers(stored, types)]


def pair_findings(
    stored: Weights, layers: Sequence[Layer], expected: Mapping[int, tuple[Shape, ...] | None]
) -> list[Finding]:
    """Return how the file fits the layers that run; `expected` has each layer's blob shapes by id, None for unknown."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(layer.name, layer)
    found: list[Finding] = []
    for index, entry in enumerate(stored.layers):
        if entry.name in first:
            layer = first[entry.name]
            found += _misfit(stored, index, layer, expected[id(layer)])
    return [*found, *_unused(stored, first), *_fillers(stored, layers, expected), *_shared(stored, first)]


def _container(stored: Weights, judged: Sequence[Target]) -> Iterator[Finding]:
    where = str(stored.path)
    if isinstance(stored, BinaryWeights):
        size = stored.model.size
        if size > MAX_BYTES:
            message = f"{size} bytes; protobuf, and so Caffe, reads at most {MAX_BYTES}: use HDF5 or a smaller network"
            yield Finding("error", "file-too-large", where, message)
        return
    refusing = [target for target in judged if "hdf5" in target.without]
    if refusing:
        severity, words, targets = refusal(refusing, judged)
        yield Finding(severity, "hdf5-weights", where, f"HDF5 weights: {words}; convert them to a caffemodel", targets)


def _duplicates(stored: Weights) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for entry in stored.layers:
        seen[entry.name] = seen.get(entry.name, 0) + 1
    for name, count in seen.items():
        if count > 1:
            message = f"{stored.path} has {count} entries of this name; Caffe loads each and keeps the last"
            yield Finding("warning", "duplicate-entry", name, message)


def _spellings(stored: BinaryWeights, judged: Sequence[Target]) -> Iterator[Finding]:
    """Yield what is unusual in how a caffemodel is written."""
    where = str(stored.path)
    old = sorted({f"V{entry.generation}" for entry in stored.layers if entry.generation < 2})
    if old:
        message = f"layers in {' and '.join(old)} spelling; Caffe upgrades them in memory on every load"
        yield Finding("note", "old-weights", where, message)
    refusing = [target for target in judged if "v0" in target.without]
    if refusing and stored.has_v0:
        severity, words, targets = refusal(refusing, judged)
        yield Finding(severity, "old-generation", where, f"layers in V0's spelling: {words}; upgrade them", targets)
    doubles = [entry.name for entry in stored.layers if any(blob.double for blob in entry.blobs)]
    if doubles:
        refusing = [target for target in judged if "double_data" in target.without]
        severity, words, targets = refusal(refusing, judged) if refusing else ("note", "Caffe rounds them", ())
        message = f"weights in double precision ({_listed(doubles)}): {words}; the file is twice as large as it need be"
        yield Finding(severity, "double-data", where, message, targets)
    raws = [entry.name for entry in stored.layers if any(blob.raw for blob in entry.blobs)]
    refusing = [target for target in judged if not target.knows_field("BlobProto", "raw_data")]
    if raws and refusing:
        severity, words, targets = refusal(refusing, judged)
        message = f"weights in NVCaffe's raw_data ({_listed(raws)}): {words}, for them there are no numbers"
        yield Finding(severity, "raw-data", where, message, targets)


def _sizes(stored: Weights, types: Mapping[str, str]) -> Iterator[Finding]:
    for index, entry in enumerate(stored.layers):
        for i, (shape, count) in enumerate(stored.counts(index)):
            if math.prod(shape) != count or any(n < 0 for n in shape):
                loads = not types or entry.name in types
                message = f"blob {i} in {stored.path} says shape {_shown(shape)} but holds {count} numbers; "
                message += "Caffe stops: the file is damaged" if loads else "Caffe ignores the entry here"
                yield Finding("error" if loads else "warning", "number-count", entry.name, message)


def _numbers(stored: Weights, types: Mapping[str, str]) -> Iterator[Finding]:
    """Yield blobs that hold NaN or infinities, and BatchNorm layers that were never trained."""
    import numpy as np

    for index, entry in enumerate(stored.layers):
        kind, last = types.get(entry.name) or getattr(entry, "type", ""), None
        for i, blocks in enumerate(_blocks(stored, index)):
            bad = 0
            for block in blocks:
                bad += block.size - int(np.count_nonzero(np.isfinite(block)))
                last = block
            if bad:
                message = (
                    f"blob {i} in {stored.path} holds {bad} numbers that are NaN or infinite, as will be all results"
                )
                yield Finding("error", "not-finite", entry.name, message)
        if kind == "BatchNorm" and len(entry.shapes) == 3 and last is not None and last.size == 1 and last[0] == 0:
            message = "the scale factor is 0, so Caffe takes mean and variance as 0 and multiplies by 1/sqrt(eps); "
            yield Finding("warning", "batch-norm-factor", entry.name, message + "the layer was never trained")


def _blocks(stored: Weights, index: int) -> Iterator[Iterator[NDArray[np.floating]]]:
    """Yield for each blob its numbers in flat blocks, without a copy of a caffemodel's."""
    if isinstance(stored, BinaryWeights):
        for blob in stored.layers[index].blobs:
            yield _runs(stored.model, blob)
        return
    for array in stored.arrays(index):
        flat = array.reshape(-1)
        yield (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))


def _runs(model: Caffemodel, blob: BlobRecord) -> Iterator[NDArray[np.floating]]:
    import numpy as np

    kind = np.dtype("<f8" if blob.double else "<f4")
    for run in blob.runs:
        for start in range(0, run.count, BLOCK):
            count, offset = min(BLOCK, run.count - start), run.offset + start * run.stride
            yield np.ndarray((count,), kind, model.buffer, offset, (run.stride,))


def _misfit(stored: Weights, index: int, layer: Layer, known: Sequence[Shape] | None) -> Iterator[Finding]:
    """Yield why Caffe would refuse to load entry `index` into its layer."""
    entry = stored.layers[index]
    kind = getattr(entry, "type", "")
    if kind and kind != layer.type and entry.shapes:
        message = f"is {kind} in {stored.path} and {layer.type} in the network; Caffe compares no types and loads it"
        yield Finding("note", "type-differs", layer.name, message)
    wanted: Sequence[Sequence[int | None]] | None = known
    if wanted is None:
        wanted = meaning.stated_shapes(layer, entry.shapes)
    if wanted is None:
        return
    if len(entry.shapes) != len(wanted):
        # HDF5 leaves out blobs that belong to another layer.
        is_binary = isinstance(stored, BinaryWeights)
        if is_binary or len(entry.shapes) > len(wanted) or not any(layer.param_names):
            message = (
                f"{stored.path} has {len(entry.shapes)} blobs for it, the network makes {len(wanted)}; Caffe stops"
            )
            yield Finding("error", "blob-count", layer.name, f"{message}: the two files do not belong together")
        return
    legacy = stored.is_legacy(index)
    for i, (have, want) in enumerate(zip(entry.shapes, wanted, strict=True)):
        if not meaning.fits(have, want, legacy=legacy):
            message = f"blob {i} has shape {_shown(have)} in {stored.path}, {_shown(want)} in the network; Caffe stops"
            yield Finding("error", "blob-shape", layer.name, f"{message}: the two files do not belong together")


def _unused(stored: Weights, first: Mapping[str, Layer]) -> Iterator[Finding]:
    unused = [entry.name for entry in stored.layers if entry.shapes and entry.name not in first]
    if unused:
        has_none = all(entry.name not in first for entry in stored.layers if entry.shapes)
        hint = ": the two files do not belong together" if has_none else ""
        message = f"weights of {len(unused)} layers that do not run here ({_listed(unused)}); Caffe ignores them{hint}"
        yield Finding("warning" if has_none else "note", "weights-ignored", str(stored.path), message)


def _fillers(
    stored: Weights, layers: Sequence[Layer], expected: Mapping[int, tuple[Shape, ...] | None]
) -> Iterator[Finding]:
    """Yield layers that no weights are loaded into; where a name repeats, only the first layer gets any."""
    entries = {entry.name for entry in stored.layers}
    owners: set[str] = set()
    seen: set[str] = set()
    for layer in layers:
        is_first = layer.name not in seen
        seen.add(layer.name)
        names = layer.param_names
        if is_first and layer.name in entries:
            owners.update(names)
            continue
        blobs = expected[id(layer)]
        count = len(blobs) if blobs is not None else int(layer.type in _WEIGHTED)
        missing = [i for i in range(count) if i >= len(names) or not names[i] or names[i] not in owners]
        if missing and not layer.message.has("blobs"):
            reason = "has no entry in" if is_first else "comes second to a layer of its name, which gets the entry of"
            message = f"{reason} {stored.path}; its weights stay as its fillers make them (0 where it states none)"
            if "/" in layer.name and not isinstance(stored, BinaryWeights):
                message += ": HDF5 has no names with a '/', use a caffemodel"
            yield Finding("warning", "weights-at-filler", layer.name, message)


def _shared(stored: Weights, first: Mapping[str, Layer]) -> Iterator[Finding]:
    """Yield layers that share a blob by name while the file holds different numbers for them."""
    last = {entry.name: index for index, entry in enumerate(stored.layers)}
    users: dict[str, list[tuple[str, int]]] = {}
    for layer in first.values():
        for i, name in enumerate(layer.param_names):
            if name and layer.name in last and i < len(stored.layers[last[layer.name]].shapes):
                users.setdefault(name, []).append((layer.name, i))
    for name, blobs in users.items():
        for (one, i), (other, j) in pairwise(blobs):
            if not _equal(stored, (last[one], i), (last[other], j)):
                winner = max((one, other), key=lambda layer: last[layer])
                message = f"shares '{name}' with '{one}', but {stored.path} holds other numbers for each; "
                message += f"Caffe gives both those of '{winner}', the later entry"
                yield Finding("warning", "shared-values-differ", other, message)


def _equal(stored: Weights, one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two blobs hold the same numbers; blobs of other sizes cannot share and are no matter here."""
    import numpy as np

    pairs = [list(_blocks(stored, index))[blob] for index, blob in (one, other)]
    sizes = [math.prod(stored.layers[index].shapes[blob]) for index, blob in (one, other)]
    return sizes[0] != sizes[1] or all(
        a.shape != b.shape or np.array_equal(a, b, equal_nan=True) for a, b in zip(*pairs, strict=False)
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:LISTED])
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown


def _shown(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"
