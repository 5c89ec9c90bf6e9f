"""What a run leaves beside its output until it is done, so that a killed one goes on to the same end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.errors import PlanError
from surgery.tune.learner import State

RUN, STATE = "run.json", "state.pt"


class Checkpoint:
    """A folder beside the output: what the run was asked for, models of the steps that are done, and a state."""

    def __init__(self, output: Path, asked: Mapping[str, Any], *, fresh: bool = False) -> None:
        """Begin in the folder that belongs to an output, or go on there; with `fresh` what is there is thrown away.

        `asked` is all that the result depends on, as JSON values. Raises PlanError where the folder is another run's.
        """
        output = Path(os.path.realpath(output))
        self.folder = output.parent / f".{output.name}.tuning"
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(exist_ok=True)
        found = self._read() if (self.folder / STATE).is_file() else None
        if found is None:  # Nor is anything lost of a run that kept no state.
            self._write(RUN, json.dumps(asked, indent=1).encode())
        elif different := next((name for name, value in asked.items() if found.get(name) != value), None):
            was, now = (str(of.get(different))[:60] for of in (found, asked))
            raise PlanError(
                f"{self.folder}: keeps a run with another {different} ({was}, now {now}); --fresh throws it away"
            )

    @property
    def state(self) -> State | None:
        """What was kept last, None at the start."""
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            found: State = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # What a damaged file raises is torch's own affair.
            raise PlanError(f"{path}: cannot be read ({type(error).__name__}); --fresh begins anew") from error
        return found

    def keep(self, state: State) -> None:
        """Put a state in the place of the last one, whole or not at all."""
        handle, name = tempfile.mkstemp(prefix=STATE, dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(self.folder / STATE)

    def remove(self) -> None:
        """Throw all away: the run is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> Mapping[str, Any]:
        try:
            found = json.loads((self.folder / RUN).read_bytes())
        except (OSError, ValueError) as error:
            raise PlanError(f"{self.folder / RUN}: cannot be read ({error}); --fresh begins anew") from error
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, content: bytes) -> None:
        handle, part = tempfile.mkstemp(prefix=name, dir=self.folder)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(self.folder / name)
