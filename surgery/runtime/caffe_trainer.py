"""Train in real Caffe; run by Caffe's own Python, so nothing of this package is imported here.

Arguments: the solver's file, then `weights` or `snapshot`, and the file to start from.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any


def main() -> None:
    """Train to the end."""
    # What Caffe logs to a reader that is gone ends it, as it would end `caffe train`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    solver_file, kind, start = sys.argv[1:]
    caffe: Any = importlib.import_module("caffe")  # By name: only the build's own Python has it.
    caffe.set_mode_cpu()
    solver = caffe.get_solver(solver_file)
    if kind == "snapshot":
        solver.restore(start)
    else:
        solver.net.copy_from(start)
    solver.solve()


if __name__ == "__main__":
    main()
