"""Run Caffe and ONNX files in OpenCV's dnn module, in processes of its own."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from surgery.errors import EngineError
from surgery.model import Model
from surgery.runtime import taps
from surgery.runtime.engine import Array, Job, Passes, absent, check_present, model_of, one
from surgery.runtime.jobs import EndedEarlyError, Failure, Interpreter, run_in_worker, stopped, timed_in_worker

Producer = tuple[str, int]  # (layer as OpenCV names it, which of its outputs, from 0)
_GET = "pip install 'opencv-python-headless<5'"


def producers(layers: Iterable[tuple[str, str, Sequence[str]]]) -> dict[str, Producer]:
    """Return where OpenCV keeps the last value of each blob, from the (name, type, tops) of the layers in order.

    Types are as Caffe 1.0 spells them ("Convolution"). Input blobs are left out: OpenCV does not give them back.
    """
    table: dict[str, Producer] = {}
    repetitions: Counter[str] = Counter()
    for name, kind, tops in layers:
        own = f"{name}_{repetitions[name]}" if repetitions[name] else name
        repetitions[name] += 1
        if kind == "Input":
            continue
        for top, blob in enumerate(tops):
            # OpenCV makes a layer of each top of a convolution, and gives it the top's name.
            table[blob] = (blob, 0) if kind == "Convolution" else (own, top)
    return table


class OpenCV:
    """OpenCV 4 on the CPU: Caffe files, their blobs under Caffe's names, and ONNX files.

    Of what it can compute it tells itself only layers, so the job's model says which layer makes which blob. Of an ONNX
    file its own names are those of the graph's outputs alone; an inner tensor is made an output in a copy first.
    """

    name = "opencv"

    def missing(self) -> str | None:
        """Return why OpenCV cannot be used here and how to get it, or None if it can."""
        try:
            import cv2
        except ImportError as error:
            return f"OpenCV cannot be imported ({error}); {_GET}"
        if int(cv2.__version__.split(".")[0]) >= 5:
            return f"OpenCV {cv2.__version__} has no Caffe importer any more; {_GET}"
        return None

    def version(self) -> str:
        """Return OpenCV's version."""
        check_present(self)
        import cv2

        return f"OpenCV {cv2.__version__}"

    def run(
        self, job: Job, *, threads: int = 1, producers: Mapping[str, Producer] | None = None
    ) -> list[dict[str, Array]]:
        """Load the net once and run every input set through it; see `Engine.run` and `run_jobs`."""
        return one(self.run_jobs([job], threads=threads, producers=[producers]))

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        threads: int = 1,
        producers: Sequence[Mapping[str, Producer] | None] | None = None,
    ) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of OpenCV; a job that fails gives an error and ends only itself.

        `producers` (see the function) says for each job which layer makes which blob, where that is known better than
        from the files. A phase, level or stages other than the defaults, which OpenCV would ignore, give an error.
        """
        check_present(self)
        tables = producers if producers is not None else [None] * len(jobs)
        with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
            prepared = [
                _prepared(job, table, Path(scratch) / str(i))
                for i, (job, table) in enumerate(zip(jobs, tables, strict=True))
            ]
            accepted = [ready.job for ready in prepared if isinstance(ready, _Ready)]
            outcomes = iter(run_in_worker(self.name, accepted, task="run", python=Interpreter.own(), threads=threads))
            results: list[list[dict[str, Array]] | EngineError] = []
            for job, ready in zip(jobs, prepared, strict=True):
                if isinstance(ready, EngineError):
                    results.append(ready)
                    continue
                outcome = next(outcomes)
                if isinstance(outcome, Failure):
                    results.append(_error(outcome, job.names))
                else:
                    results.append(_by_blobs(job, ready.table, outcome.blobs))
        return results

    @contextmanager
    def timed(self, job: Job, *, threads: int = 1) -> Iterator[Passes]:
        """Load the net in a process of its own and hand out what runs it; see `Engine.timed`."""
        check_present(self)
        if (refusal := _refusal(job)) is not None:
            raise refusal
        try:
            with timed_in_worker(self.name, job, python=Interpreter.own(), threads=threads) as passes:
                yield passes
        except EndedEarlyError as error:
            raise _error(error.failure, job.names) from error


@dataclass(frozen=True)
class _Ready:
    """A job in OpenCV's terms, and the layers that make a Caffe net's blobs; None for ONNX, which names tensors."""

    job: Job
    table: Mapping[str, Producer] | None


def _prepared(job: Job, table: Mapping[str, Producer] | None, folder: Path) -> _Ready | EngineError:
    """Return the job for the worker; files that it needs go into `folder`."""
    if (refusal := _refusal(job)) is not None:
        return refusal
    try:
        if job.is_onnx:
            return _Ready(taps.with_taps("opencv", job, folder, taps.with_types), None)
        known = table if table is not None else _producers_of(model_of("opencv", job))
    except EngineError as error:
        return error
    for blob in job.outputs or ():
        if blob not in known:
            return EngineError("opencv", f"no layer makes a blob '{blob}'", files=job.names)
    return _Ready(_by_layers(job, known), known)


def _refusal(job: Job) -> EngineError | None:
    if job.phase != "TEST" or job.level or job.stages:
        asked = f"phase {job.phase}, level {job.level}, stages {list(job.stages)}"
        return EngineError("opencv", f"OpenCV ignores phases, levels and stages; asked for {asked}", files=job.names)
    return absent("opencv", job)


def _producers_of(model: Model) -> dict[str, Producer]:
    return producers((node.key.partition("#")[0], node.type, node.outputs) for node in model.nodes)


def _by_layers(job: Job, table: Mapping[str, Producer]) -> Job:
    """Return `job` with its outputs in the worker's terms: layer, tab, number of the top."""
    if job.all_blobs:
        return replace(job, outputs=[_label(producer) for producer in table.values()], all_blobs=False)
    if job.outputs is None:
        return job
    return replace(job, outputs=[_label(table[blob]) for blob in job.outputs])


def _by_blobs(
    job: Job, table: Mapping[str, Producer] | None, results: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    if table is None:
        return taps.in_running_order(job, results)
    if job.all_blobs or job.outputs is not None:
        names = job.outputs if job.outputs is not None else list(table)
        return [{blob: values[_label(table[blob])] for blob in names} for values in results]
    # Unconnected layers are named without a top.
    blobs = {layer: blob for blob, (layer, top) in table.items() if top == 0}
    return [{blobs.get(layer, layer): value for layer, value in values.items()} for values in results]


def _label(producer: Producer) -> str:
    layer, top = producer
    return f"{layer}\t{top}"


_EXCEPTION = re.compile(r"OpenCV\([^)]*\) \S+?:\d+: error: \((?:-?\d+):([^)]*)\) ?(.*?)(?: in function '(.*)')?$", re.S)
_LAYER = re.compile(r"OPENCV/DNN: \[.*?\]:\((.*?)\)")
_PROTOBUF_ERROR = re.compile(r"^\[libprotobuf ERROR [^\]]*\] (.*)$", re.MULTILINE)


def _error(failure: Failure, files: tuple[str, ...]) -> EngineError:
    """Return what went wrong as one line."""
    layers = _LAYER.findall(failure.log)
    layer = layers[-1] if layers else failure.position
    if failure.error is None:
        return EngineError("opencv", stopped(failure), layer, files)
    parsing = _PROTOBUF_ERROR.findall(failure.log)
    text = " ".join(failure.error.split())
    if found := _EXCEPTION.search(text):
        kind, detail, function = found[1], found[2], found[3]
        text = f"{kind}: {detail}" + (f" in {function}" if function else "")
    if parsing and "Failed to parse" in text:
        text = parsing[-1]
    return EngineError("opencv", text, layer, files)
