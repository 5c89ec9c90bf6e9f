"""Run a command in a process of its own and measure it, and say what machine and what versions figures come from."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surgery" / "bench"

# A child counts the memory of whoever started it into its own peak; this starter is smaller than any other Python.
_STARTER = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
facts = {"code": os.waitstatus_to_exitcode(status), "s": seconds, "peak_mb": usage.ru_maxrss * 1024 / 1e6}
with open(sys.argv[1], "w") as file:
    json.dump(facts, file)
"""


@dataclass(frozen=True)
class Measured:
    """What a command did: `code` is None where it ran into its time limit; `text` is all that it printed."""

    code: int | None
    seconds: float
    peak_mb: float
    text: str


def measure(
    command: Sequence[str], *, folder: Path, limit_s: float, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in `folder`: seconds with the interpreter's start, megabytes of resident memory at the peak.

    Mapped pages count. A command that takes longer than `limit_s` is killed with all that it started.
    """
    with tempfile.TemporaryDirectory() as scratch:
        facts = Path(scratch) / "facts"
        starter = [sys.executable, "-I", "-S", "-c", _STARTER, str(facts), *command]
        with subprocess.Popen(
            starter,
            cwd=folder,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                return Measured(None, limit_s, 0.0, output.decode(errors="replace"))
        found = json.loads(facts.read_text())
        return Measured(found["code"], found["s"], found["peak_mb"], output.decode(errors="replace"))


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "python": platform.python_version(),
    }


def versions(*names: str) -> dict[str, str]:
    """Return the versions of installed distributions."""
    return {name: metadata.version(name) for name in names}


def commit() -> str:
    """Return the commit that is checked out."""
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
