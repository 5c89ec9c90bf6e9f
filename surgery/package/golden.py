"""Golden vectors: what the network gives for some inputs, and how closely runtimes agree about it.

The outputs are those of one runtime on one thread, so that the same files give the same numbers on one machine. The
tolerance of an output comes from the other runtimes that are there: each sums in an order of its own, as the device
will, so the largest distance between them is what another order costs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import EngineError, EngineMissingError, ModelError, VerificationError
from surgery.model import Model
from surgery.package.vectors import INDEX, Vector, listed, npy, raw
from surgery.runtime import ENGINES, Array, Inputs, Job, job_of
from surgery.verify import AUTO_ENGINES, TOLERANCE

LEAST_SAMPLES = 3
MARGIN = 10  # The runtimes here are two or three draws of how sums can be ordered; a device is another one.
FLOOR = 1e-6  # Eight roundings of float32: nothing is asked to agree more closely, even where the runtimes here do.

TWIN = "the ONNX twin"

Blobs = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Golden:
    """Inputs and outputs of some forward passes, and what is known of how closely they can be met.

    Attributes:
        inputs: of each sample, by blob.
        outputs: of each sample, by blob, from the runtime `reference`.
        tolerances: the largest relative L2 distance, in a sample, at which an output agrees.
        distances: by runtime, the largest distance of each output from the reference's, over the samples.
        notes: runtimes that could not be asked, or whose word does not count, and why.
    """

    inputs: Sequence[Inputs]
    outputs: Sequence[Blobs]
    tolerances: Mapping[str, float]
    reference: str
    distances: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()

    def files(self) -> dict[str, bytes]:
        """Return all files of the vectors by name, the list among them."""
        made: dict[str, bytes] = {}
        vectors = []
        for vector, array in self._vectors():
            vectors.append(vector)
            made |= {vector.file: raw(array), vector.file.removesuffix(".f32") + ".npy": npy(array)}
        return made | {INDEX: listed(vectors).encode()}

    def facts(self) -> dict[str, Any]:
        """Return how the vectors were made, as JSON values."""
        return {
            "samples": len(self.inputs),
            "reference": self.reference,
            "threads": 1,
            "distances": self.distances,
            "tolerances": self.tolerances,
            "notes": list(self.notes),
        }

    def _vectors(self) -> Iterator[tuple[Vector, Any]]:
        for i, sample in enumerate(zip(self.inputs, self.outputs, strict=True)):
            for kind, arrays in zip(("input", "output"), sample, strict=True):
                for j, (blob, array) in enumerate(arrays.items()):
                    file = f"golden/{i}-{kind}-{j}.f32"
                    tolerance = self.tolerances.get(blob, 0.0) if kind == "output" else 0.0
                    yield Vector(kind, i, file, tolerance, blob), array  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Twin:
    """The network in another format, and what it calls the network's outputs."""

    files: tuple[Path, ...]
    outputs: Mapping[str, str]

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Return its files and what it calls the outputs `names`, as JSON values."""
        return {"files": [path.name for path in self.files], "outputs": {name: self.outputs[name] for name in names}}


def compute(model: Model, files: Sequence[Path], inputs: Sequence[Inputs], runtime: str, twin: Twin | None) -> Golden:
    """Run a network on `inputs` in every runtime that is there, one thread each.

    Caffe's word is the reference for a Caffe network where it is there, else the next runtime's that runs it.
    `runtime` is the one that the target is: it must agree within TOLERANCE where it is here, and so must the twin.
    Raises VerificationError where they do not, where an output is not finite, or where no output depends on the inputs;
    EngineError where no runtime runs the network.
    """
    names = _outputs(model)
    same = {name: name for name in names}
    jobs = {engine: (engine, job_of(model, files, inputs), same) for engine in _able(model)}
    if twin is not None:
        jobs[TWIN] = ("onnxruntime", Job(twin.files, inputs), {name: twin.outputs[name] for name in names})
    ran: dict[str, list[dict[str, Array]]] = {}
    notes = []
    for label, job in jobs.items():
        try:
            ran[label] = run(*job)
        except EngineError as error:
            notes.append(_reason(error))
    reference = next((name for name in AUTO_ENGINES if name in ran), None)
    if reference is None:
        raise EngineError("no runtime runs the network", "; ".join(notes))
    outputs = ran.pop(reference)
    _check_outputs(outputs, names)
    return _measured(Golden(inputs, outputs, {}, ENGINES[reference].version(), {}, tuple(notes)), ran, (runtime, TWIN))


def _measured(golden: Golden, ran: Mapping[str, Sequence[Blobs]], strict: Collection[str]) -> Golden:
    """Return the vectors with the tolerances that what other runtimes gave leads to; those in `strict` must agree."""
    found = {label: distances(golden.outputs, result) for label, result in ran.items()}
    close = {label: own for label, own in found.items() if max(own.values()) <= TOLERANCE}
    far = {label: own for label, own in found.items() if label not in close}
    for label, own in far.items():
        if label in strict:
            worst = max(own, key=own.__getitem__)
            told = f"'{worst}' is {own[worst]:.1e} (relative L2) from {golden.reference}"
            raise VerificationError(f"{label}: {told}; at most {TOLERANCE:g} is rounding, so nothing was written")
    return replace(
        golden,
        tolerances={name: tolerance([own[name] for own in close.values()]) for name in golden.outputs[0]},
        distances={_version(label): _rounded(own) for label, own in close.items()},
        notes=(*golden.notes, *(f"{label} computes something else: {_rounded(own)}" for label, own in far.items())),
    )


def compared(original: Model, files: Sequence[Path], golden: Golden) -> dict[str, Any]:
    """Return how far the golden outputs are from those of the network as it was given, as JSON values.

    The first runtime that can run it on the golden inputs decides; where none can, `reason` says why. Raises
    VerificationError where an output is farther than TOLERANCE.
    """
    names = {name: name for name in golden.outputs[0]}
    ready = original.format.runnable(original)
    reasons = [ready.unready] if ready.unready else []
    if not reasons and set(ready.inputs) != set(golden.inputs[0]):
        reasons = [f"its inputs are {', '.join(ready.inputs)}"]
    for engine in () if reasons else _able(original):
        try:
            found = run(engine, job_of(original, files, golden.inputs), names)
        except EngineError as error:
            reasons.append(_reason(error))
            continue
        own = distances(golden.outputs, found)
        version = ENGINES[engine].version()
        for name, distance in own.items():
            if not distance <= TOLERANCE:
                told = f"'{name}' is {distance:.1e} (relative L2) from the given network's in {version}"
                raise VerificationError(f"{told}; at most {TOLERANCE:g} is rounding, so nothing was written")
        return {"runtime": version, "distances": _rounded(own), "reason": None}
    return {"runtime": None, "distances": None, "reason": "; ".join(reasons)}


def run(engine: str, job: Job, names: Mapping[str, str]) -> list[dict[str, Array]]:
    """Return a network's outputs on one thread; `names` says what its files call each. Raises EngineError."""
    if reason := ENGINES[engine].missing():
        raise EngineMissingError(engine, reason)
    results = ENGINES[engine].run(replace(job, outputs=list(names.values())))
    return [{name: blobs[own] for name, own in names.items()} for blobs in results]


def distances(expected: Sequence[Blobs], found: Sequence[Blobs]) -> dict[str, float]:
    """Return each output's largest relative L2 distance from what is expected, over the samples."""
    pairs = list(zip(expected, found, strict=True))
    return {name: max(_distance(a[name], b[name]) for a, b in pairs) for name in expected[0]}


def tolerance(distances: Sequence[float]) -> float:
    """Return the tolerance that distances between runtimes give: 1, 2 or 5 times a power of ten.

    With no second runtime it is TOLERANCE, which holds for float32 in general.
    """
    if not distances:
        return TOLERANCE
    wanted = max(MARGIN * max(distances), FLOOR)
    steps = (float(f"{digit}e{power}") for power in range(-6, 0) for digit in (1, 2, 5))
    return next(step for step in steps if step >= wanted)


def _able(model: Model) -> tuple[str, ...]:
    """Return the runtimes that read the model's format."""
    return tuple(name for name in AUTO_ENGINES if name != "caffe" or model.format.name == "caffe")


def _reason(error: EngineError) -> str:
    """Return what stopped a runtime, without the machine's paths: the same network gives the same parcel."""
    if isinstance(error, EngineMissingError):
        return f"{error.engine}: not there"
    text = str(EngineError(error.engine, error.message, error.layer))
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/surgery-\w+/", "", text)


def _outputs(model: Model) -> list[str]:
    """Return the outputs that layers compute; raises ModelError where there is none."""
    inputs = model.format.runnable(model).inputs
    names = [name for name in model.format.outputs(model) if name not in inputs]
    if not names:
        raise ModelError("the network computes no output; expected a layer whose top no other layer reads")
    return names


def _check_outputs(outputs: Sequence[Blobs], names: Sequence[str]) -> None:
    for i, blobs in enumerate(outputs):
        for name in names:
            if not np.isfinite(blobs[name]).all():
                raise VerificationError(
                    f"output '{name}' of sample {i} is not finite; give inputs that suit the network"
                )
    if all(np.array_equal(outputs[0][name], other[name]) for other in outputs[1:] for name in names):
        raise VerificationError("different inputs give the same outputs, so golden vectors would show nothing")


def _distance(expected: Array, found: Array) -> float:
    if expected.shape != found.shape:
        return float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    norm, error = float(np.linalg.norm(a)), float(np.linalg.norm(a - b))
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def _rounded(distances: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{distance:.1e}") for name, distance in distances.items()}


def _version(label: str) -> str:
    return ENGINES[label].version() if label in ENGINES else label
