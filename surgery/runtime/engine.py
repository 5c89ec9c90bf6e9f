"""What every runtime can do: run a network's files on given inputs, hand back its blobs, and be timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from surgery import formats
from surgery.errors import EngineError, EngineMissingError, ModelError, SurgeryError
from surgery.model import Model, Shape

Array = npt.NDArray[Any]  # float32 from Caffe and OpenCV; what the tensor holds from ONNX Runtime.
Inputs = Mapping[str, npt.NDArray[np.generic]]  # Input blob -> value, converted by the engine to the input's own type.
Phase = Literal["TRAIN", "TEST"]
MAX_AXES = 64  # NumPy's
MAX_INPUT = 2**27  # numbers: half a gigabyte as float32
Passes = Callable[[int], float]  # Runs so many forward passes one after the other and returns the seconds they took.


@dataclass(frozen=True)
class Job:
    """One network and the inputs to run it on; an engine loads it once.

    Attributes:
        files: a prototxt and, where there are any, its weights, or one ONNX file. Caffe without weights leaves every
            parameter as its filler makes it.
        inputs: one mapping for each forward pass. The arrays' shapes are the shapes that the net runs with.
        outputs: names of the blobs to return; None means the net's outputs.
        all_blobs: return every blob, the intermediate ones too; `outputs` must then be None.
        phase: selects layers by their include and exclude rules, as `level` and `stages` do. Caffe files only.
        level: as in Caffe's NetState.
        stages: as in Caffe's NetState.
    """

    files: Sequence[Path]
    inputs: Sequence[Inputs] = ({},)
    outputs: Sequence[str] | None = None
    all_blobs: bool = False
    phase: Phase = "TEST"
    level: int = 0
    stages: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.all_blobs and self.outputs is not None:
            raise ValueError("a job asks for all blobs and for named ones; choose one")

    @property
    def names(self) -> tuple[str, ...]:
        """The files by name, for messages."""
        return tuple(str(path) for path in self.files)

    @property
    def is_onnx(self) -> bool:
        """Whether the file is an ONNX model."""
        return formats.is_onnx(self.files[0])

    @property
    def weights(self) -> Path | None:
        """The file of weights beside the definition, None where there is none."""
        return self.files[1] if len(self.files) > 1 else None


class Engine(Protocol):
    """A runtime. Nothing it does may take down or write into the calling process."""

    name: str

    def missing(self) -> str | None:
        """Return why the runtime cannot be used here and how to get it, or None if it can."""
        ...

    def version(self) -> str:
        """Return the runtime's name and version; raises EngineMissingError."""
        ...

    def run(self, job: Job, *, threads: int = 1) -> list[dict[str, Array]]:
        """Load the net once and return, for each input set, the blobs asked for (see `Job`).

        No input set sees a trace of the ones before it: recurrent layers start anew. Of a blob that several
        layers write in place, the value is the last layer's. All blobs come in the order in which they are made.

        Raises:
            EngineError: the runtime refused the files, or failed.
            EngineMissingError: the runtime is not installed.
        """
        ...

    def run_jobs(self, jobs: Sequence[Job], *, threads: int = 1) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of the runtime; a job that fails gives an error and ends only itself."""
        ...

    def timed(self, job: Job, *, threads: int = 1) -> AbstractContextManager[Passes]:
        """Load the net in a process of its own, give it the first input set, and hand out a function that runs it.

        That function measures forward passes only: no loading, no first allocation that an earlier pass has done. The
        runtime's own optimisations are on, unlike in `run`, which computes the graph as it is written.

        Raises:
            EngineError: the runtime refused the files, or failed, then or when the function is called.
            EngineMissingError: the runtime is not installed.
        """
        ...


def job_of(model: Model, files: Sequence[Path], inputs: Sequence[Inputs], *, all_blobs: bool = False) -> Job:
    """Return the job of running a model, with the state in which it was read, from its files."""
    run = model.format.runnable(model)
    return Job(files, inputs, None, all_blobs, cast("Phase", run.phase), run.level, run.stages)


def check_present(engine: Engine) -> None:
    """Raise EngineMissingError where the runtime is not installed."""
    if reason := engine.missing():
        raise EngineMissingError(engine.name, reason)


def one(outcomes: Sequence[list[dict[str, Array]] | EngineError]) -> list[dict[str, Array]]:
    """Return the blobs of the only job; raises its error."""
    (outcome,) = outcomes
    if isinstance(outcome, EngineError):
        raise outcome
    return outcome


def absent(engine: str, job: Job) -> EngineError | None:
    """Return an error that names a file that is not there, or None."""
    for path in job.files:
        if not path.is_file():
            return EngineError(engine, "no such file", files=(str(path),))
    return None


def refused(engine: str, error: SurgeryError) -> EngineError:
    """Return what was found before the runtime had the files, as its error; an excerpt of the file is left out."""
    return EngineError(engine, str(error).splitlines()[0])


def model_of(engine: str, job: Job) -> Model:
    """Return the job's model, in the shapes of its first input set; raises EngineError."""
    shapes = shapes_of(job.inputs[0])
    try:
        return formats.load(job.files, phase=job.phase, level=job.level, stages=job.stages, input_shapes=shapes)
    except SurgeryError as error:
        raise refused(engine, error) from error


def shapes_of(inputs: Inputs) -> dict[str, Shape]:
    """Return the inputs' shapes."""
    return {name: array.shape for name, array in inputs.items()}


def check_inputs(shapes: Mapping[str, Shape]) -> None:
    """Raise ModelError where inputs of these shapes are too large to be made up."""
    total = sum(math.prod(shape) for shape in shapes.values())
    if total > MAX_INPUT:
        stated = ", ".join(f"'{name}' {'x'.join(map(str, shape))}" for name, shape in list(shapes.items())[:5])
        raise ModelError(f"the inputs {stated} are {total} numbers; random ones are made for up to {MAX_INPUT}")
    for name, shape in shapes.items():
        if len(shape) > MAX_AXES:
            raise ModelError(f"input '{name}' has {len(shape)} axes; at most {MAX_AXES} are possible")
