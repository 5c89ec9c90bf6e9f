"""Run Caffe files in OpenCV's dnn module, in processes of its own."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from surgery.errors import EngineError, EngineMissingError
from surgery.runtime.engine import Array, Inputs, Job, Phase
from surgery.runtime.jobs import Failure, run_in_worker

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
    """OpenCV 4 on the CPU. It knows layers, not blobs: see `run`."""

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
        self._check_present()
        import cv2

        return f"OpenCV {cv2.__version__}"

    def run(
        self,
        prototxt: Path,
        weights: Path | None,
        inputs: Sequence[Inputs],
        *,
        outputs: Sequence[str] | None = None,
        all_blobs: bool = False,
        phase: Phase = "TEST",
        level: int = 0,
        stages: Sequence[str] = (),
        threads: int = 1,
        producers: Mapping[str, Producer] | None = None,
    ) -> list[dict[str, Array]]:
        """Load the net once and run every input set through it; see `Engine.run`.

        Without `producers`, what is returned and what `outputs` names are OpenCV's *layers*, each standing for its
        first output, because OpenCV does not keep the names of blobs. With `producers` (from the function of that name)
        they are blobs, as in Caffe. The default is the first top of every layer that nothing reads.

        Raises:
            EngineError: also if the phase, level or stages are not the defaults, which OpenCV would ignore.
        """
        job = Job(prototxt, weights, inputs, outputs, all_blobs, phase, level, stages)
        (outcome,) = self.run_jobs([job], threads=threads, producers=[producers])
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        threads: int = 1,
        producers: Sequence[Mapping[str, Producer] | None] | None = None,
    ) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of OpenCV; a job that fails gives an error and ends only itself."""
        self._check_present()
        tables = producers if producers is not None else [None] * len(jobs)
        results: list[list[dict[str, Array]] | EngineError | None] = [
            _refusal(job, table) for job, table in zip(jobs, tables, strict=True)
        ]
        accepted = [i for i, refusal in enumerate(results) if refusal is None]
        outcomes = run_in_worker(
            self.name,
            [_by_layers(jobs[i], tables[i]) for i in accepted],
            task="run",
            # Without its own folder first in the path, where modules of the same names as engines live.
            python=[sys.executable, "-P"],
            environment={},
            threads=threads,
        )
        for i, outcome in zip(accepted, outcomes, strict=True):
            if isinstance(outcome, Failure):
                results[i] = _error(outcome, jobs[i].files)
            else:
                results[i] = [_by_blobs(values, jobs[i], tables[i]) for values in outcome.blobs]
        return [result for result in results if result is not None]

    def _check_present(self) -> None:
        reason = self.missing()
        if reason is not None:
            raise EngineMissingError(self.name, reason)


def _refusal(job: Job, table: Mapping[str, Producer] | None) -> EngineError | None:
    for path in (job.prototxt, job.weights):
        if path is not None and not path.is_file():
            return EngineError("opencv", "no such file", files=(str(path),))
    if job.phase != "TEST" or job.level or job.stages:
        asked = f"phase {job.phase}, level {job.level}, stages {list(job.stages)}"
        return EngineError("opencv", f"OpenCV ignores phases, levels and stages; asked for {asked}", files=job.files)
    for blob in job.outputs or ():
        if table is not None and blob not in table:
            return EngineError("opencv", f"no layer makes a blob '{blob}'", files=job.files)
    return None


def _by_layers(job: Job, table: Mapping[str, Producer] | None) -> Job:
    """Return `job` with its outputs in the worker's terms: layer, tab, number of the top."""
    if table is None:
        return job
    if job.all_blobs:
        return replace(job, outputs=[_label(producer) for producer in table.values()], all_blobs=False)
    if job.outputs is None:
        return job
    return replace(job, outputs=[_label(table[blob]) for blob in job.outputs])


def _by_blobs(values: dict[str, Array], job: Job, table: Mapping[str, Producer] | None) -> dict[str, Array]:
    if table is None:
        return values
    if job.all_blobs or job.outputs is not None:
        names = job.outputs if job.outputs is not None else list(table)
        return {blob: values[_label(table[blob])] for blob in names}
    # Unconnected layers are named without a top.
    blobs = {layer: blob for blob, (layer, top) in table.items() if top == 0}
    return {blobs.get(layer, layer): value for layer, value in values.items()}


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
        last = failure.log.strip().rsplit("\n", 1)[-1]
        return EngineError("opencv", f"stopped by {failure.signal}" if failure.signal else last, layer, files)
    parsing = _PROTOBUF_ERROR.findall(failure.log)
    text = " ".join(failure.error.split())
    if found := _EXCEPTION.search(text):
        kind, detail, function = found[1], found[2], found[3]
        text = f"{kind}: {detail}" + (f" in {function}" if function else "")
    if parsing and "Failed to parse" in text:
        text = parsing[-1]
    return EngineError("opencv", text, layer, files)
