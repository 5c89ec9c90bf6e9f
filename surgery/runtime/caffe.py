"""Run real Caffe, as `tools/build-caffe` builds it, in processes of its own."""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import EngineError, EngineMissingError
from surgery.model import Shape
from surgery.runtime.engine import Array, Job, Passes, Phase, absent, one
from surgery.runtime.jobs import (
    EndedEarlyError,
    Failure,
    Interpreter,
    Success,
    run_in_worker,
    signal_name,
    stopped,
    thread_limits,
    timed_in_worker,
)

_TRAINER = Path(__file__).with_name("caffe_trainer.py")
_LAST_LINES = 2000  # of a log that are kept for what went wrong: more than Caffe says of a whole network


@dataclass(frozen=True)
class NetLayer:
    """A layer as Caffe sets it up; `params` are the shapes of its parameter blobs."""

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: tuple[Shape, ...]


@dataclass(frozen=True)
class NetShapes:
    """A net as Caffe sets it up: after upgrading and filtering, with the Split layers that it inserts."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    blobs: dict[str, Shape]
    layers: tuple[NetLayer, ...]


@dataclass(frozen=True)
class LayerTimes:
    """Mean times of the forward pass in milliseconds; layers of the same name are added up."""

    layers: dict[str, float]
    total: float


class Caffe:
    """Real Caffe on the CPU, in float32."""

    name = "caffe"

    def missing(self) -> str | None:
        """Return why Caffe cannot be used here and how to get it, or None if it can."""
        chosen = os.environ.get("SURGERY_CAFFE")
        if chosen:
            return None if _is_build(Path(chosen)) else f"SURGERY_CAFFE is {chosen}, where no finished build is"
        if _newest_build() is None:
            return "no build of Caffe found; run tools/build-caffe, or name a build with SURGERY_CAFFE"
        return None

    def version(self) -> str:
        """Return the version of Caffe and what it was built from and for."""
        return (self._folder() / "version").read_text(encoding="utf-8").strip()

    def run(self, job: Job, *, threads: int = 1) -> list[dict[str, Array]]:
        """Load the net once and run every input set through it; see `Engine.run`.

        `all_blobs` includes the tops of the Split layers that Caffe inserts, named `<blob>_<layer>_<top>_split_<n>`.
        """
        return one(self.run_jobs([job], threads=threads))

    def run_jobs(self, jobs: Sequence[Job], *, threads: int = 1) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of Caffe; a net that aborts it gives an error and ends only its own job."""
        outcomes = self._outcomes(jobs, task="run", threads=threads)
        return [outcome if isinstance(outcome, EngineError) else outcome.blobs for outcome in outcomes]

    def blob_shapes(
        self,
        files: Sequence[Path],
        *,
        inputs: Mapping[str, Shape] | None = None,
        phase: Phase = "TEST",
        level: int = 0,
        stages: Sequence[str] = (),
    ) -> NetShapes:
        """Return the net as Caffe sets it up, without running it.

        Weights among the files are loaded too, which checks that they fit. `inputs` gives other shapes to all the
        net's inputs.
        """
        # Zeros without memory behind them until they are written out.
        arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in (inputs or {}).items()}
        job = Job(files, [arrays], phase=phase, level=level, stages=stages)
        (outcome,) = self.blob_shapes_of([job])
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    def blob_shapes_of(self, jobs: Sequence[Job]) -> list[NetShapes | EngineError]:
        """Set up several nets in one start of Caffe; only the shapes of a job's first input set matter."""
        outcomes = self._outcomes(jobs, task="shapes", threads=1)
        return [outcome if isinstance(outcome, EngineError) else _net_shapes(outcome.facts) for outcome in outcomes]

    @contextmanager
    def timed(self, job: Job, *, threads: int = 1) -> Iterator[Passes]:
        """Load the net in a process of its own and hand out what runs it; see `Engine.timed`."""
        python = self._python()
        if (refusal := _refusal(job)) is not None:
            raise refusal
        try:
            with timed_in_worker(self.name, job, python=python, threads=threads) as passes:
                yield passes
        except EndedEarlyError as error:
            raise _error(error.failure, job.names) from error

    def time(
        self,
        prototxt: Path,
        *,
        iterations: int = 50,
        threads: int = 1,
        phase: Phase = "TEST",
        level: int = 0,
        stages: Sequence[str] = (),
    ) -> LayerTimes:
        """Measure the forward pass with Caffe's own `caffe time`.

        Inputs have the shapes that the prototxt states and hold zeros; parameters are as their fillers make them.
        """
        folder = self._folder()
        if (missing := absent(self.name, Job([prototxt]))) is not None:
            raise missing
        process = subprocess.run(
            [
                folder / "bin/caffe",
                "time",
                f"-model={prototxt}",
                f"-iterations={iterations}",
                f"-phase={phase}",
                f"-level={level}",
                f"-stage={','.join(stages)}",
                "-forward_only",
            ],
            env={**os.environ, **_GLOG, **thread_limits(threads)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
        log = process.stderr.decode(errors="replace")
        if process.returncode:
            failure = Failure(error=None, signal=signal_name(process.returncode), position=None, log=log)
            raise _error(failure, (str(prototxt),))
        return _layer_times(log)

    def train(self, solver: str, start: str, folder: Path, *, threads: int = 1) -> Generator[str, None, None]:
        """Train in `folder`, and yield Caffe's log line by line; closing what is returned ends the run.

        `start` names the weights to start from or, as `.solverstate`, the snapshot to go on from. By way of pycaffe:
        the `caffe train` of some builds passes over its weights in silence. Raises EngineError where Caffe gives up,
        EngineMissingError.
        """
        python = self._python()
        kind = "snapshot" if start.endswith(".solverstate") else "weights"
        process = subprocess.Popen(
            [*python.command, _TRAINER, solver, kind, start],
            cwd=folder,
            env={**os.environ, **python.environment, **thread_limits(threads)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        log: deque[str] = deque(maxlen=_LAST_LINES)
        with process:
            try:
                for line in process.stderr or ():
                    log.append(line)
                    yield line
                process.wait()
            finally:
                process.kill()
        if process.returncode:
            failure = Failure(None, signal_name(process.returncode), None, "".join(log))
            raise _error(failure, (str(folder / solver),))

    def _outcomes(self, jobs: Sequence[Job], *, task: str, threads: int) -> list[Success | EngineError]:
        python = self._python()
        refusals = [_refusal(job) for job in jobs]
        accepted = [job for job, refusal in zip(jobs, refusals, strict=True) if refusal is None]
        outcomes = iter(run_in_worker(self.name, accepted, task=task, python=python, threads=threads))
        results: list[Success | EngineError] = []
        for job, refusal in zip(jobs, refusals, strict=True):
            outcome = refusal or next(outcomes)
            results.append(_error(outcome, job.names) if isinstance(outcome, Failure) else outcome)
        return results

    def _python(self) -> Interpreter:
        # Isolated: else the worker's own folder comes first, where `import caffe` would find this very file.
        return Interpreter([self._folder() / "env/bin/python", "-I"], _GLOG)

    def _folder(self) -> Path:
        reason = self.missing()
        if reason is not None:
            raise EngineMissingError(self.name, reason)
        chosen = os.environ.get("SURGERY_CAFFE")
        folder = Path(chosen) if chosen else _newest_build()
        assert folder is not None  # missing() has just said so.
        return folder.absolute()


def _net_shapes(facts: dict[str, Any]) -> NetShapes:
    """Return what the worker reported, as types."""
    return NetShapes(
        inputs=tuple(facts["inputs"]),
        outputs=tuple(facts["outputs"]),
        blobs={name: tuple(shape) for name, shape in facts["blobs"]},
        layers=tuple(
            NetLayer(
                name=layer["name"],
                type=layer["type"],
                bottoms=tuple(layer["bottoms"]),
                tops=tuple(layer["tops"]),
                params=tuple(tuple(shape) for shape in layer["params"]),
            )
            for layer in facts["layers"]
        ),
    )


def _is_build(folder: Path) -> bool:
    return (folder / "complete").exists() and (folder / "env/bin/python").exists()


def _newest_build() -> Path | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surgery"
    builds = [folder for folder in cache.glob("caffe-*") if _is_build(folder)]
    return max(builds, key=lambda folder: (folder / "complete").stat().st_mtime, default=None)


def _refusal(job: Job) -> EngineError | None:
    if job.is_onnx:
        return EngineError(
            "caffe", "runs no ONNX files; choose onnxruntime or opencv, or convert the model to Caffe", files=job.names
        )
    return absent("caffe", job)


# ---- what Caffe says when it aborts -----------------------------------------------------------------------------

# All of the log to standard error, whatever the user's environment says: the last layers named in it matter.
_GLOG = {"GLOG_logtostderr": "1", "GLOG_minloglevel": "0", "GLOG_v": "0", "GLOG_colorlogtostderr": "0"}
_LOG_LINE = re.compile(r"^([IWEF])\d{4,8} [\d:.]+ +\d+ \S+?:\d+\] (.*)$")
_SET_UP = re.compile(r"^(?:Creating [Ll]ayer|Setting up|Copying source layer) (.*)$")
_LAYER_IN_MESSAGE = (
    re.compile(r"\(layer '(.*?)', bottom index \d+\)"),  # Unknown bottom
    re.compile(r"from layer '(.*?)'; shape mismatch"),
    re.compile(r"Incompatible number of blobs for layer (.*)$"),
)
_PROTOBUF_ERROR = re.compile(r"^\[libprotobuf ERROR [^\]]*\] (.*)$", re.MULTILINE)


def _error(failure: Failure, files: tuple[str, ...]) -> EngineError:
    """Return what went wrong as one line."""
    if failure.error is not None:
        return EngineError("caffe", _one_line(failure.error), layer=failure.position, files=files)
    message, layer = _fatal_message(failure.log)
    if message is None:
        message = stopped(failure)
    return EngineError("caffe", message, layer=failure.position or layer, files=files)


def _fatal_message(log: str) -> tuple[str | None, str | None]:
    """Return the message that glog aborted with and the layer being set up then, each None if there is none."""
    layer = None
    depth = 0  # Recurrent layers set up a net inside the net; the user knows only the outer one.
    for severity, text in _log_records(log):
        if severity == "F":
            return _clean(text, log), _layer_in(text) or layer
        if text.startswith("Initializing net from parameters"):
            depth += 1
        elif text.startswith("Network initialization done"):
            depth -= 1
            layer = layer if depth else None
        elif depth < 2 and (found := _SET_UP.match(text)):
            layer = found[1]
    return None, layer


def _log_records(log: str) -> Iterator[tuple[str, str]]:
    for line in log.splitlines():
        if match := _LOG_LINE.match(line):
            yield match[1], match[2]


def _clean(text: str, log: str) -> str:
    """Return the text of a failed CHECK without its lists of all types and its advice."""
    if "Failed to parse NetParameter file" in text and (reasons := _PROTOBUF_ERROR.findall(log)):
        return _one_line(reasons[-1])
    return _one_line(re.sub(r" \(known types: .*\)| To learn this layer's parameters .*", "", text))


def _layer_in(text: str) -> str | None:
    for pattern in _LAYER_IN_MESSAGE:
        if found := pattern.search(text):
            return found[1]
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _layer_times(log: str) -> LayerTimes:
    """Read the table that `caffe time` logs."""
    layers: dict[str, float] = {}
    total = None
    for _, text in _log_records(log):
        if found := re.match(r"^ *(.*?)\tforward: (\S+) ms\.$", text):
            layers[found[1]] = layers.get(found[1], 0.0) + float(found[2])
        elif found := re.match(r"^Average Forward pass: (\S+) ms\.$", text):
            total = float(found[1])
    if total is None:
        raise EngineError("caffe", "`caffe time` ended without a total")
    return LayerTimes(layers, total)
