"""Run ONNX files, and Caffe files made into ONNX first, in ONNX Runtime, in processes of its own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import EngineError, SurgeryError
from surgery.model import Model, Shape
from surgery.runtime import taps
from surgery.runtime.engine import Array, Job, Passes, absent, check_present, model_of, one, refused, shapes_of
from surgery.runtime.jobs import (
    EndedEarlyError,
    Failure,
    Interpreter,
    Success,
    run_in_worker,
    stopped,
    timed_in_worker,
)

if TYPE_CHECKING:
    from surgery.convert.to_onnx import Conversion

_MODULE = "onnxruntime"
_OTHER_FLOATS = {"tensor(double)": "float64", "tensor(float16)": "float16"}


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Tensors of ONNX files come as what they hold: an int64 stays one. Caffe files are converted in the shapes of the
    inputs they get, and their blobs come under Caffe's names; without weights they cannot be run.
    """

    name = "onnxruntime"

    def missing(self) -> str | None:
        """Return why ONNX Runtime cannot be used here and how to get it, or None if it can."""
        # Found, not imported: that takes a tenth of a second, and is the worker's part.
        return None if find_spec(_MODULE) else "ONNX Runtime is not installed; pip install onnxruntime"

    def version(self) -> str:
        """Return ONNX Runtime's version."""
        check_present(self)
        try:
            return f"ONNX Runtime {metadata.version(_MODULE)}"
        except metadata.PackageNotFoundError:  # A build for other hardware, whose package has another name.
            names = metadata.packages_distributions().get(_MODULE, ["of unknown version"])
            return "ONNX Runtime " + ", ".join(f"{metadata.version(name)} ({name})" for name in names)

    def run(self, job: Job, *, threads: int = 1) -> list[dict[str, Array]]:
        """Load the net once for each set of input shapes and run every input set; see `Engine.run`."""
        return one(self.run_jobs([job], threads=threads))

    def run_jobs(self, jobs: Sequence[Job], *, threads: int = 1) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of ONNX Runtime; a job that fails gives an error and ends only itself."""
        check_present(self)
        parts = [part for number, job in enumerate(jobs) for part in _by_shapes(number, job)]
        with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
            prepared = [_prepared(part.job, Path(scratch) / str(i)) for i, part in enumerate(parts)]
            accepted = [ready.job for ready in prepared if isinstance(ready, _Ready)]
            outcomes = iter(run_in_worker(self.name, accepted, task="run", python=Interpreter.own(), threads=threads))
            results = [
                _result(part.job, ready, next(outcomes)) if isinstance(ready, _Ready) else ready
                for part, ready in zip(parts, prepared, strict=True)
            ]
        return [_joined(number, job, parts, results) for number, job in enumerate(jobs)]

    @contextmanager
    def timed(self, job: Job, *, threads: int = 1) -> Iterator[Passes]:
        """Load the net in a process of its own and hand out what runs it; see `Engine.timed`."""
        check_present(self)
        with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
            ready = _prepared(job, Path(scratch) / "net")
            if isinstance(ready, EngineError):
                raise ready
            try:
                with timed_in_worker(self.name, ready.job, python=Interpreter.own(), threads=threads) as passes:
                    yield passes
            except EndedEarlyError as error:
                raise _error(error.failure, job.names) from error


@contextmanager
def session(path: Path, *, threads: int = 1) -> Iterator[Callable[[Mapping[str, Array]], dict[str, Array]]]:
    """Load an ONNX file and hand out what runs it: inputs by name to the graph's own outputs by name.

    Images are float32; a graph that declares other floats gets them so.

    In this process, unlike an engine's jobs, and with all of ONNX Runtime's optimisations: for files that this program
    wrote itself and runs on batch after batch. Raises EngineError, then or when the function is called.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # Nothing: errors are raised as well.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        loaded = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its exceptions have no class in common but this one.
        raise _error(Failure(str(error), None, None, ""), (str(path),)) from error
    names = [output.name for output in loaded.get_outputs()]
    kinds = {value.name: _OTHER_FLOATS[value.type] for value in loaded.get_inputs() if value.type in _OTHER_FLOATS}

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: array.astype(kinds.get(name, array.dtype), copy=False) for name, array in inputs.items()}
        try:
            values: list[Any] = loaded.run(names, fed)
        except Exception as error:
            raise _error(Failure(str(error), None, None, ""), (str(path),)) from error
        return dict(zip(names, values, strict=True))

    yield run


@dataclass(frozen=True)
class _Part:
    """The input sets of job `number` that have the same shapes."""

    number: int
    sets: tuple[int, ...]
    job: Job


@dataclass(frozen=True)
class _Ready:
    """A job on an ONNX file, and the tensor of each Caffe blob asked for; None where the job is on ONNX itself."""

    job: Job
    tensors: Mapping[str, str] | None


def _by_shapes(number: int, job: Job) -> list[_Part]:
    """Return the job in parts that one conversion does for: Caffe's shapes are constants in the ONNX file."""
    if job.is_onnx:
        return [_Part(number, tuple(range(len(job.inputs))), job)]
    groups: dict[tuple[tuple[str, Shape], ...], list[int]] = {}
    for i, inputs in enumerate(job.inputs):
        groups.setdefault(tuple(sorted(shapes_of(inputs).items())), []).append(i)
    return [_Part(number, tuple(sets), replace(job, inputs=[job.inputs[i] for i in sets])) for sets in groups.values()]


def _joined(
    number: int, job: Job, parts: Sequence[_Part], results: Sequence[list[dict[str, Array]] | EngineError]
) -> list[dict[str, Array]] | EngineError:
    """Return what all parts of one job gave, in the order of its input sets."""
    blobs: dict[int, dict[str, Array]] = {}
    for part, result in zip(parts, results, strict=True):
        if part.number != number:
            continue
        if isinstance(result, EngineError):
            return result
        blobs.update(zip(part.sets, result, strict=True))
    return [blobs[i] for i in range(len(job.inputs))]


def _prepared(job: Job, folder: Path) -> _Ready | EngineError:
    """Return the job on an ONNX file, made in the new folder `folder` where need be."""
    if (refusal := absent("onnxruntime", job)) is not None:
        return refusal
    try:
        if not job.is_onnx:
            return _converted(job, folder)
        return _Ready(taps.with_taps("onnxruntime", job, folder, taps.by_name), None)
    except EngineError as error:
        return error


def _converted(job: Job, folder: Path) -> _Ready:
    from surgery.convert.to_onnx import to_onnx

    model = model_of("onnxruntime", job)
    folder.mkdir()
    path = folder / "net.onnx"
    try:
        conversion = to_onnx(model, all_blobs=job.all_blobs or job.outputs is not None)
        conversion.save(path)
    except SurgeryError as error:
        raise refused("onnxruntime", error) from error
    wanted = _wanted(job, model, conversion)
    return _Ready(replace(job, files=(path,), outputs=list(wanted.values()), all_blobs=False), wanted)


def _wanted(job: Job, model: Model, conversion: Conversion) -> dict[str, str]:
    """Return the blobs that the job asks for and their tensors; raises EngineError for one that is not there."""
    tensors = conversion.tensors
    if job.outputs is None:
        made = {tensor.name for tensor in conversion.outputs}
        # An input that no layer reads is an output of Caffe's too.
        unread = shapes_of(job.inputs[0]).keys() - {blob for node in model.nodes for blob in node.inputs}
        return {blob: name for blob, name in tensors.items() if name in made or (blob in unread and not job.all_blobs)}
    if unknown := next((name for name in job.outputs if name not in tensors), None):
        raise EngineError("onnxruntime", f"no layer makes a blob '{unknown}'", files=job.names)
    return {name: tensors[name] for name in job.outputs}


def _result(job: Job, ready: _Ready, outcome: Success | Failure) -> list[dict[str, Array]] | EngineError:
    if isinstance(outcome, Failure):
        return _error(outcome, job.names)
    if ready.tensors is None:
        return taps.in_running_order(job, outcome.blobs)
    return [{blob: values[name] for blob, name in ready.tensors.items()} for values in outcome.blobs]


_WRAPPING = re.compile(r"^(?:\w+: )?\[ONNXRuntimeError\] : \d+ : \w+ : ")
_LOADING = re.compile(r"^Load model from .*? failed: ?")  # Of what may be a copy that is gone when this is read.
_RUNNING = re.compile(r"^Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: ")
_PLACE = re.compile(r"\S+\.(?:cc|h|hpp):\d+ ")  # in its own source
_LONGEST = 1000  # It quotes a node with all its inputs.


def _error(failure: Failure, names: tuple[str, ...]) -> EngineError:
    """Return what went wrong as one line."""
    if failure.error is None:
        return EngineError("onnxruntime", stopped(failure), files=names)
    text = _WRAPPING.sub("", " ".join(failure.error[: 4 * _LONGEST].split()))
    text = _PLACE.sub("", _LOADING.sub("cannot be loaded: ", text))[:_LONGEST]
    layer = None
    if found := _RUNNING.match(text):
        text, layer = f"{found[1]}: {text[found.end() :]}", found[2] or None
    return EngineError("onnxruntime", text, layer=layer, files=names)
