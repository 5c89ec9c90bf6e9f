"""Carry out tasks on an existing Dask cluster: files go there once by content, results come back as bytes.

A cluster runs what its clients send, and clients trust its scheduler; `tls://` addresses, which Dask's own settings
make possible, keep others out. Of a result only JSON and the bytes of files are read, under names that are checked.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from surgery.errors import REASON_LENGTH, EngineError, EngineMissingError
from surgery.running.outcomes import Lost, Outcomes, Runner, outcomes
from surgery.running.task import Done, Failure, File, Function, Outcome, Task, perform
from surgery.version import __version__

CONNECT_S = 10
ANSWER_S = 60  # A worker may be busy with what others gave it, and imports surgery first.
WORKERLESS_S = 60.0  # A cluster that replaces its workers does so within this.
LOOK_S = 2.0

Reply = tuple[str | None, str | None, dict[str, bytes]]  # The value as JSON or the reason why not, and the files.


@contextmanager
def cluster(address: str) -> Iterator[Runner]:
    """Give a runner on the workers of the scheduler at `address`, such as tcp://10.0.0.5:8786.

    Raises EngineMissingError without dask.distributed, EngineError where no scheduler or no worker answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        text = "a Dask cluster needs dask.distributed, which is not installed; pip install 'surgery[dask]'"
        raise EngineMissingError("--scheduler", text) from error
    for name in ("distributed", "distributed.client"):  # What they log of losses is told here, or made good.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    _knock(address)
    try:
        client: Any = Client(address, timeout=CONNECT_S, set_as_default=False)
    except OSError as error:
        raise EngineError(f"--scheduler {address}", f"no Dask scheduler answers there: {_line(error)}") from error
    try:
        _check(client, address)
        yield _Cluster(client, address)
    finally:
        client.close(timeout=LOOK_S)


def _knock(address: str) -> None:
    """Raise EngineError unless something listens at the address: Dask itself would try again and again, and hang."""
    from distributed import Security

    found = re.fullmatch(r"(?:(tcp|tls)://)?\[?([^\[\]/]+?)\]?:([0-9]{1,5})", address)
    try:
        if not found:
            raise ValueError("is no address")  # noqa: TRY301 - one message for all that may be wrong
        if found[1] == "tls" and not Security().get_connection_args("client")["ssl_context"]:
            raise ValueError("Dask's settings (distributed.comm.tls) name no certificates")  # noqa: TRY301
        socket.create_connection((found[2], int(found[3])), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        hint = "expected the address of a running Dask scheduler, like tcp://10.0.0.5:8786"
        raise EngineError(f"--scheduler {address}", f"{error}; {hint}") from error


def _check(client: Any, address: str) -> None:
    """Raise EngineError unless there are workers, and they and the scheduler, which reads tasks too, have surgery."""
    if not client.nthreads():
        raise EngineError(f"--scheduler {address}", "has no workers; start some (dask worker ADDRESS)")
    try:
        found = client.submit(_version, pure=False).result(timeout=ANSWER_S)
    except Exception as error:  # Whatever the other side has in the place of surgery.
        text = f"cannot run surgery: {_line(error)}; expected version {__version__} on its scheduler and workers"
        raise EngineError(f"--scheduler {address}", text) from error
    if found != __version__:
        text = f"runs surgery {found}, expected {__version__}; install the same everywhere"
        raise EngineError(f"--scheduler {address}", text)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]


@dataclass(frozen=True)
class _Cluster:
    client: Any
    address: str

    @property
    def workers(self) -> int:
        """See `Runner`."""
        return max(1, _count(self.client, self.address))

    def map(self, tasks: Sequence[Task], scratch: Path) -> Outcomes:
        """See `Runner`."""
        return outcomes(_Workers(self.client, self.address, tasks), tasks, scratch)


class _LostError(Exception):
    """A worker is no more that was to take a file."""


class _Workers:
    """As many tasks are under way as there are workers: what is in flight is all that is held, and all that is lost."""

    def __init__(self, client: Any, address: str, tasks: Sequence[Task]) -> None:
        self.client = client
        self.address = address
        self.tasks = tasks
        self.running: dict[int, tuple[Any, Path]] = {}
        self.ended: queue.Queue[int] = queue.Queue()
        self.sent: dict[str, Any] = {}  # SHA-256 -> the future of a file's bytes
        self.needed = Counter(file.sha256 for task in tasks for file in task.files.values())

    def room(self) -> bool:
        return len(self.running) < max(1, self._count())

    def start(self, index: int, task: Task, folder: Path) -> None:
        try:
            contents = [self._send(file) for file in task.files.values()]
        except _LostError:  # A worker that was to hold a file is no more.
            self.running[index] = (None, folder)
            self.ended.put(index)
            return
        call = (task.function, dict(task.arguments), list(task.files), contents, __version__)
        future = self.client.submit(_perform, *call, pure=False)  # After a loss the same call is made anew.
        self.running[index] = (future, folder)
        future.add_done_callback(lambda _: self.ended.put(index))

    def finished(self) -> tuple[int, Outcome | Lost]:
        waited = 0.0
        while True:
            try:
                index = self.ended.get(timeout=LOOK_S)
                break
            except queue.Empty:
                waited = 0.0 if self._count() else waited + LOOK_S
                if waited >= WORKERLESS_S:
                    raise _gone(self.address, f"has had no workers for {WORKERLESS_S:.0f} s") from None
        outcome = self._outcome(*self.running.pop(index))
        if isinstance(outcome, Lost):
            time.sleep(LOOK_S)  # Until the scheduler knows, and another worker has come.
            self._count()
        return index, outcome

    def forget(self, index: int) -> None:
        self.needed.subtract(file.sha256 for file in self.tasks[index].files.values())
        self.sent = {sha256: future for sha256, future in self.sent.items() if self.needed[sha256]}

    def _send(self, file: File) -> Any:
        """Return the future of a file's bytes, which are sent unless a worker still has them."""
        sent = self.sent.pop(file.sha256, None)
        if sent is None or sent.status != "finished":
            key = f"surgery-{file.sha256}"
            content = file.path.read_bytes()
            try:
                sent = self.client.scatter({key: content})[key]
            except (OSError, RuntimeError) as error:
                raise _LostError from error
        self.sent[file.sha256] = sent
        return sent

    def _count(self) -> int:
        return _count(self.client, self.address)

    def _outcome(self, future: Any, folder: Path) -> Outcome | Lost:
        from distributed.scheduler import KilledWorker

        lost = Lost("its worker was lost, or the one that held its files")
        if future is None:
            return lost
        try:
            reply = future.result()
        except CancelledError:
            return lost
        except KilledWorker as error:
            return Failure(f"its worker died, and so did each of the {error.allowed_failures} after it")
        except Exception as error:  # What a worker raises can be anything: it may have another version, or none.
            return Failure(f"its worker failed: {_line(error)}")
        return _received(reply, folder)


def _count(client: Any, address: str) -> int:
    """Return how many workers there are; raises EngineError where the scheduler does not answer."""
    try:
        return len(client.nthreads())
    except (OSError, RuntimeError) as error:
        raise _gone(address, f"does not answer any more ({_line(error)})") from error


def _gone(address: str, what: str) -> EngineError:
    return EngineError(f"--scheduler {address}", f"{what}; what is finished is kept: run the same again")


def _received(reply: Any, folder: Path) -> Outcome:
    """Write a worker's files into the empty `folder`; what is no `Reply` is a failure."""
    try:
        value, reason, files = reply
        if value is None:
            return Failure(str(reason)[:REASON_LENGTH])
        odd = next((name for name in files if not _is_plain(name)), None)
        if odd is not None:
            return Failure(f"its worker sent a file of the name {odd!r}; expected a relative path below its folder")
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Done(json.loads(value), folder)
    except (AttributeError, TypeError, ValueError):
        return Failure("its worker sent what is no result; expected JSON and files")


def _is_plain(name: str) -> bool:
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or any(character in name for character in "\\:\0")
    return not odd and name == str(path) != "."


def _version() -> str:
    return __version__


# A worker may have several threads, but the number of BLAS threads is the whole process's.
_TURN = threading.Lock()


def _perform(
    function: Function, arguments: Mapping[str, object], names: Sequence[str], contents: Sequence[bytes], version: str
) -> Reply:
    """Carry out a task on a worker, which shares no disk with us."""
    from distributed import get_worker

    if version != __version__:
        return None, f"a worker has surgery {__version__}, expected {version}; install the same everywhere", {}
    place = get_worker().local_directory
    with _TURN, tempfile.TemporaryDirectory(prefix="surgery-", dir=place) as scratch:
        given, made = Path(scratch) / "given", Path(scratch) / "made"
        made.mkdir()
        files = {name: given / name for name in names}
        for path, content in zip(files.values(), contents, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        outcome = perform(function, arguments, files, made)
        if isinstance(outcome, Failure):
            return None, outcome.reason, {}
        written = (path for path in made.rglob("*") if path.is_file())
        return json.dumps(outcome.value), None, {p.relative_to(made).as_posix(): p.read_bytes() for p in written}
