"""Check a parcel: that it is whole and unchanged, and that the network in it gives the golden outputs here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import DataError, EngineError, VerificationError
from surgery.output import TOOL
from surgery.package import golden
from surgery.package.archive import chunks_of, measured
from surgery.package.manifest import FORMAT, MANIFEST, SUMS
from surgery.package.reading import Parcel, opened
from surgery.package.vectors import INDEX, Array, Vector, npy, parsed, read_list
from surgery.runtime import ENGINES, Job
from surgery.verify import AUTO_ENGINES

LIST_BYTES, MANIFEST_BYTES = 1 << 20, 1 << 24
VECTOR_BYTES = 1 << 30  # of all golden vectors, which are held in memory

Samples = list[dict[str, Array]]


@dataclass(frozen=True)
class Checked:
    """What was found in order: the parcel's own SHA-256, how many files, and each output's distance by runtime."""

    sha256: str
    files: int
    target: str
    samples: int
    distances: Mapping[str, Mapping[str, float]]


def check(path: Path) -> Checked:
    """Check a parcel, which is taken for hostile until it is known better; nothing is written but into the temp folder.

    Raises DataError where it is no parcel of this tool, byte for byte as the tool spells it; VerificationError where
    the bytes of a file are not what SHA256SUMS says, or the network's outputs are not the golden ones; EngineError
    where no runtime here runs the network.
    """
    with opened(path) as parcel:
        _check_sums(parcel)
        facts = _manifest(parcel)
        inputs, outputs, tolerances = _vectors(parcel)
        distances = _run(parcel, facts, inputs, outputs, tolerances)
        return Checked(
            sha256=measured(chunks_of(path)).sha256,
            files=len(parcel.entries),
            target=facts["target"],
            samples=len(inputs),
            distances=distances,
        )


def _check_sums(parcel: Parcel) -> None:
    lines = parcel.read(SUMS, LIST_BYTES).decode("ascii", "replace").split("\n")[:-1]
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    names = [name for name in parcel.entries if name != SUMS]
    if list(stated) != names or len(lines) != len(names):
        odd = next(iter(set(stated) ^ set(names)), SUMS)
        raise VerificationError(f"{parcel.path}: {SUMS} and the files do not match: see '{odd[:200]}'")
    for name, entry in parcel.entries.items():
        found = measured(parcel.chunks(name))
        if found.crc != entry.crc or found.sha256 != stated.get(name, found.sha256):
            raise VerificationError(f"{parcel.path}: '{name}' was changed: it is not what {SUMS} says; get it anew")


def _manifest(parcel: Parcel) -> dict[str, Any]:
    raw = parcel.read(MANIFEST, MANIFEST_BYTES)
    try:
        facts = json.loads(raw)
        found = facts["tool"], facts["format"]
        twin = facts["twin"] or {"files": [], "outputs": {}}
        names = [facts["target"], *facts["model"]["files"], *twin["files"], *twin["outputs"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(parcel.path, f"{MANIFEST} is not what this tool writes ({str(error)[:100]})") from error
    if found != (TOOL, FORMAT):
        raise DataError(parcel.path, f"{MANIFEST} is of {str(found)[:60]}; expected '{TOOL}', format {FORMAT}")
    if not facts["model"]["files"] or not all(isinstance(name, str) for name in names):
        raise DataError(parcel.path, f"{MANIFEST} does not name the network's files")
    return dict(facts)


def _vectors(parcel: Parcel) -> tuple[Samples, Samples, dict[str, float]]:
    """Return inputs and outputs by sample and blob, and the outputs' tolerances; raises DataError."""
    place = f"{parcel.path}: {INDEX}"
    listed = list(read_list(parcel.read(INDEX, LIST_BYTES).decode("utf-8", "replace"), place))
    if len({vector.file for vector in listed}) != len(listed):
        raise DataError(place, "names a file twice")
    if sum(parcel.entries[v.file].size for v in listed if v.file in parcel.entries) > VECTOR_BYTES:
        raise DataError(place, f"names more than {VECTOR_BYTES} bytes of golden vectors")
    count = 1 + max((vector.sample for vector in listed), default=-1)
    if not 0 < count <= len(listed):
        raise DataError(place, "names no golden vectors, or not all from sample 0 on")
    by_kind: dict[str, Samples] = {kind: [{} for _ in range(count)] for kind in ("input", "output")}
    for vector in listed:
        by_kind[vector.kind][vector.sample][vector.blob] = _array(parcel, vector)
    inputs, outputs = by_kind["input"], by_kind["output"]
    tolerances = {vector.blob: vector.tolerance for vector in listed if vector.kind == "output"}
    if not tolerances or any(set(blobs) != set(tolerances) for blobs in outputs):
        raise DataError(place, "does not name every output in every sample")
    return inputs, outputs, tolerances


def _array(parcel: Parcel, vector: Vector) -> Array:
    array = parsed(parcel.read(vector.file, VECTOR_BYTES), f"{parcel.path}: {vector.file}")
    copy = vector.file.removesuffix(".f32") + ".npy"
    if parcel.read(copy, VECTOR_BYTES) != npy(array):
        raise DataError(parcel.path, f"'{copy}' and '{vector.file}' do not hold the same numbers")
    return array


def _run(
    parcel: Parcel, facts: Mapping[str, Any], inputs: Samples, outputs: Samples, tolerances: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return each output's distance from the golden one, by the runtime that computed it."""
    twin = facts["twin"]
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        own = [parcel.copy(name, Path(scratch)) for name in facts["model"]["files"]]
        label, found = _first_that_runs(own, list(tolerances), inputs)
        distances = {label: _checked(label, golden.distances(outputs, found), tolerances)}
        if twin:
            files = [parcel.copy(name, Path(scratch)) for name in twin["files"]]
            found = golden.run("onnxruntime", Job(files, inputs), {name: twin["outputs"][name] for name in tolerances})
            distances[golden.TWIN] = _checked(golden.TWIN, golden.distances(outputs, found), tolerances)
    return distances


def _first_that_runs(files: Sequence[Path], names: Sequence[str], inputs: Samples) -> tuple[str, Samples]:
    reasons = []
    for engine in AUTO_ENGINES:
        try:
            return ENGINES[engine].version(), golden.run(engine, Job(files, inputs), {name: name for name in names})
        except EngineError as error:
            reasons.append(str(error))
    raise EngineError("the files are whole and unchanged, but no runtime here runs the network", "; ".join(reasons))


def _checked(label: str, distances: dict[str, float], tolerances: Mapping[str, float]) -> dict[str, float]:
    for name, distance in distances.items():
        if not distance <= tolerances[name]:
            told = f"output '{name}' is {distance:.1e} (relative L2) from the golden vectors in {label}"
            raise VerificationError(f"{told}; at most {tolerances[name]:g} agrees")
    return distances
