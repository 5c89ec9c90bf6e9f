"""Runs command lines one after the other: exit code, output, time and, each in a fork of its own, peak memory.

`python -m tests.cli.child` reads lines, each a JSON list of argument lists, and answers each with a JSON list of what
came of them, with --measured including memory. Everything is imported first, as that is what takes the time.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import surgery
from surgery import cli

PATIENCE_S = 60
ADDRESS_SPACE = 6 << 30  # Far above what is allowed: a runaway dies here, not with the machine.


@dataclass(frozen=True)
class Ran:
    """What one command line did.

    `seconds` are of the processor, children's too: what else the machine does counts not. `peak_bytes` is VmHWM, mapped
    pages included, 0 where it was not measured.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int


def main() -> None:
    for module in pkgutil.walk_packages(surgery.__path__, "surgery."):
        # What trains would load PyTorch, whose pages count for every command.
        if not module.name.endswith(("__main__", "worker")) and not module.name.startswith("surgery.tune."):
            importlib.import_module(module.name)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    run = _measured if "--measured" in sys.argv else _ran
    for line in sys.stdin:
        print(json.dumps([asdict(run(arguments)) for arguments in json.loads(line)]), flush=True)


def _measured(arguments: list[str]) -> Ran:
    """Run the command in a fork, whose peak (VmHWM) begins at what the imports take."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = asdict(replace(_ran(arguments), peak_bytes=memory_bytes("VmHWM")))
            os.write(sender, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        text = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    result = Ran(**json.loads(text)) if text else Ran(status, "", "it died", PATIENCE_S, 0)
    # A fork counts a library's pages only where it touches them: all that are mapped here are added.
    return replace(result, peak_bytes=result.peak_bytes + memory_bytes("RssFile"))


def _ran(arguments: list[str]) -> Ran:
    """Run the command with its own output files; the exit code is 70 after a traceback."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        start = sum(os.times()[:4])
        try:
            code = _called(arguments)
        finally:
            seconds = sum(os.times()[:4]) - start
            for descriptor, copy in saved:
                os.dup2(copy, descriptor)
                os.close(copy)
        return Ran(code, _text(out), _text(err), seconds, 0)


def _called(arguments: list[str]) -> int:
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(PATIENCE_S)
    try:
        cli.main(arguments, prog_name="surgery")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc(limit=-3)
    finally:
        signal.alarm(0)
        sys.stdout.flush()
        sys.stderr.flush()
    return 70


def _out_of_time(*_: object) -> None:
    raise RuntimeError(f"took more than {PATIENCE_S} s")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(20_000).decode("utf-8", "replace")


def memory_bytes(entry: str) -> int:
    """Return what the kernel counts for this process; ru_maxrss would also count what its parent held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {entry}")


if __name__ == "__main__":
    main()
