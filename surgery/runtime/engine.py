"""What every runtime can do: run a network's files on given inputs and hand back its blobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from surgery.errors import EngineError

Array = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[np.generic]]  # Input blob -> value, converted to float32 by the engine.
Phase = Literal["TRAIN", "TEST"]


@dataclass(frozen=True)
class Job:
    """One network and the inputs to run it on; an engine loads it once.

    Attributes:
        prototxt: the definition.
        weights: the trained parameters; None leaves every parameter as its filler makes it.
        inputs: one mapping for each forward pass. The arrays' shapes are the shapes that the net runs with.
        outputs: names of the blobs to return; None means the net's outputs.
        all_blobs: return every blob, the intermediate ones too; `outputs` must then be None.
        phase: selects layers by their include and exclude rules, as `level` and `stages` do.
        level: as in Caffe's NetState.
        stages: as in Caffe's NetState.
    """

    prototxt: Path
    weights: Path | None = None
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
    def files(self) -> tuple[str, ...]:
        """The files by name, for messages."""
        return tuple(str(path) for path in (self.prototxt, self.weights) if path is not None)


class Engine(Protocol):
    """A runtime. Nothing it does may take down or write into the calling process."""

    name: str

    def missing(self) -> str | None:
        """Return why the runtime cannot be used here and how to get it, or None if it can."""
        ...

    def version(self) -> str:
        """Return the runtime's name and version; raises EngineMissingError."""
        ...

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
    ) -> list[dict[str, Array]]:
        """Load the net once and return, for each input set, the blobs asked for (see `Job`).

        No input set sees a trace of the ones before it: recurrent layers start anew. Of a blob that several
        layers write in place, the value is the last layer's.

        Raises:
            EngineError: the runtime refused the files, or failed.
            EngineMissingError: the runtime is not installed.
        """
        ...

    def run_jobs(self, jobs: Sequence[Job], *, threads: int = 1) -> list[list[dict[str, Array]] | EngineError]:
        """Do several jobs in one start of the runtime; a job that fails gives an error and ends only itself."""
        ...
