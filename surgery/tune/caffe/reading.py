"""What training made of a model's weights, blob by blob."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from surgery.calibrate.data import Array
from surgery.errors import ModelError
from surgery.formats.caffe import weights
from surgery.model import Model


def trained_blobs(path: Path, model: Model, kept: Collection[str] = ()) -> dict[str, dict[int, Array]]:
    """Return, by layer and number, the blobs of a snapshot that differ from the model's, in the model's shapes.

    Layers that only training has are left out, and those in `kept`: forks of Caffe let weight decay shrink all three
    blobs of a BatchNorm, which changes nothing but their last bits. Raises ModelError where a blob has another size, or
    holds something that is no number.
    """
    snapshot = weights.read(path)
    own: weights.Weights = model.native.weights
    entries = {entry.name: i for i, entry in enumerate(snapshot.layers)}
    result: dict[str, dict[int, Array]] = {}
    for node in model.nodes:
        if node.key in kept or node.native.index is None or node.native.layer.name not in entries:
            continue
        pairs = zip(own.arrays(node.native.index), snapshot.arrays(entries[node.native.layer.name]), strict=True)
        found = ((i, _changed(path, node.key, old, new)) for i, (old, new) in enumerate(pairs))
        if blobs := {i: new for i, new in found if new is not None}:
            result[node.key] = blobs
    return result


def _changed(path: Path, key: str, old: Array, new: Array) -> Array | None:
    """Return what became of a blob, None where it is the same."""
    if old.size != new.size:
        raise ModelError(f"{path}: a blob of '{key}' has {new.size} numbers where the model has {old.size}")
    shaped: Array = np.asarray(new, np.float32).reshape(old.shape)
    if not np.isfinite(shaped).all():
        raise ModelError(f"{path}: '{key}' holds NaN or infinity after training; lower the learning rate")
    return None if np.array_equal(shaped, old.astype(np.float32)) else shaped
