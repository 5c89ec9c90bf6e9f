"""Judge ONNX files against known outputs, in a process that a bad file may take down without harm.

Run as a program it reads one job in JSON from each line of its input and prints one judgement for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TOLERANCE = 1e-4  # relative L2: sums of float32 in another order
CLOSE = 1e-5


@dataclass(frozen=True)
class Judgement:
    """What became of one file.

    `kind` is "right", or how it is wrong: "empty" is a graph without a node, "rejected" is what the runtime refuses,
    "inputs" and "outputs" are not the net's, "shape", "numbers". `checked` says whether onnx.checker passes the file
    with full checks, `error` is the largest relative L2 distance of an output, None where it did not come to that.
    """

    kind: str
    checked: bool
    detail: str = ""
    error: float | None = None


def judged(jobs: Sequence[tuple[Path, Path]]) -> list[Judgement]:
    """Judge files against archives that hold `in:<blob>` and `out:<blob>`, as the reference cases do."""
    results: list[Judgement] = []
    while len(results) < len(jobs):
        left = jobs[len(results) :]
        lines = "\n".join(json.dumps([str(path) for path in job]) for job in left)
        command = [sys.executable, str(Path(__file__).resolve())]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        results += [Judgement(**json.loads(line)) for line in done.stdout.splitlines()]
        if len(results) < len(jobs):
            results.append(Judgement("rejected", checked=False, detail=f"the runtime crashed (code {done.returncode})"))
    return results


def judge(model: Path, archive: Path) -> Judgement:
    """Run one ONNX file and compare what it gives."""
    import onnxruntime

    with np.load(archive) as arrays:
        inputs = {key[3:]: arrays[key] for key in arrays if key.startswith("in:")}
        expected = {key[4:]: arrays[key] for key in arrays if key.startswith("out:")}
    complaint = _complaint(model)
    checked = complaint is None
    if _is_empty(model):
        return Judgement("empty", checked, "a graph without a node")
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        fed = _fed(session.get_inputs(), inputs)
        if fed is None:
            names = [entry.name for entry in session.get_inputs()]
            return Judgement("inputs", checked, f"has the inputs {names}, expected {list(inputs)}")
        names = [entry.name for entry in session.get_outputs()]
        found = dict(zip(names, session.run(names, fed), strict=True))
    except Exception as error:  # The runtime raises what it likes; all of it means the same here.
        return Judgement("rejected", checked, _line(error, model))
    paired = _paired(found, expected)
    if paired is None:
        return Judgement("outputs", checked, f"has the outputs {names}, expected {list(expected)}")
    for name, (own, wanted) in paired.items():
        if own.shape != wanted.shape:
            return Judgement("shape", checked, f"{name} is {own.shape}, expected {wanted.shape}")
    errors = {name: distance(own, wanted) for name, (own, wanted) in paired.items()}
    name, worst = max(errors.items(), key=lambda item: item[1])
    if not worst <= TOLERANCE:
        return Judgement(
            "numbers", checked, f"{name} is {worst:.3g} off (relative L2)", worst if np.isfinite(worst) else None
        )
    return Judgement("right", checked, complaint or "", worst)


def distance(found: Array, expected: Array) -> float:
    """Return ||found - expected|| / ||expected||, infinite where NaNs or infinities are not at the same places."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.where(np.isfinite(a), 0, a), np.where(np.isfinite(b), 0, b), equal_nan=True):
        return float("inf")
    a, b = (np.where(np.isfinite(b), x, 0) for x in (a, b))
    gap, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    return gap / norm if norm else (0.0 if gap == 0 else float("inf"))


def _is_empty(model: Path) -> bool:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return not onnx.load(str(model), load_external_data=False).graph.node
    except DecodeError:  # The runtime will say so.
        return False


def _complaint(model: Path) -> str | None:
    import onnx

    try:
        onnx.checker.check_model(str(model), full_check=True)
    except Exception as error:  # Also what protobuf raises for a file that is no model at all.
        return f"onnx.checker: {_line(error, model)}"
    return None


def _fed(entries: Sequence[Any], inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """Return the arrays by the names that the file gives its inputs: the blob's, with a suffix, or by position.

    An input that the file does without is left out: whether that was right its outputs will tell.
    """
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    fed = {}
    for i, entry in enumerate(entries):
        names = [name for name in inputs if name == entry.name] or [n for n in inputs if entry.name == f"{n}_input"]
        if not names and len(entries) == len(inputs):
            names = [list(inputs)[i]]
        if not names:
            return None
        fed[entry.name] = inputs[names[0]].astype(kinds.get(entry.type, np.float32))
    return fed


def _paired(found: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, tuple[Array, Array]] | None:
    """Return each expected blob with an output: of its name, else the nearest of those that nothing else claims."""
    if len(found) < len(expected):
        return None
    free = {name: array for name, array in found.items() if name not in expected}
    paired = {}
    for name, wanted in expected.items():
        if name in found:
            paired[name] = (found[name], wanted)
            continue
        if not free:
            return None
        best = min(free, key=lambda key: _gap(free[key], wanted))
        paired[name] = (free.pop(best), wanted)
    return paired


def _gap(found: Array, expected: Array) -> float:
    return distance(found, expected) if found.shape == expected.shape else float("inf")


def _line(error: Exception, model: Path) -> str:
    """Return a message's beginning and end; the runtime puts its own source lines between them."""
    text = " ".join(str(error).split()).replace(str(model), model.name)
    return text if len(text) < 300 else f"{text[:100]} ... {text[-180:]}"


def _main() -> None:
    for line in sys.stdin:
        judgement = judge(*(Path(path) for path in json.loads(line)))
        print(json.dumps(vars(judgement)), flush=True)


if __name__ == "__main__":
    _main()
