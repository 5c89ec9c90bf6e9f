"""A real Dask scheduler and its workers give what one process gives, also when one of them is killed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import EngineError, EngineMissingError
from surgery.running import Done, Failure, Task, cluster, local
from surgery.running.dask_cluster import _received
from tests.clusters import WORKERS, cluster_address
from tests.running import deeds
from tests.running.test_processes import outcomes_of, tasks_in


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster_address() as given:
        yield given


def test_a_cluster_gives_what_this_process_gives(address: str, tmp_path: Path) -> None:
    refused = Task(deeds.refused, {}, {"a/one.txt": tasks_in(tmp_path)[0].files["c.txt"]})
    tasks = [*tasks_in(tmp_path), refused]
    with local(1) as here, cluster(address) as there:
        assert outcomes_of(there, tasks, tmp_path) == outcomes_of(here, tasks, tmp_path)
        assert there.workers == WORKERS


def test_a_task_whose_worker_was_killed_is_done_again(address: str, tmp_path: Path) -> None:
    whole = tasks_in(tmp_path)
    tasks = [Task(deeds.killed_at_first, {"mark": str(tmp_path / "mark")}, whole[0].files), *whole]
    with local(1) as here, cluster(address) as there:
        found = outcomes_of(there, tasks, tmp_path)
        assert found[0] == found[1]
        assert {i - 1: found[i] for i in (1, 2, 3)} == outcomes_of(here, whole, tmp_path)


def test_a_file_that_several_tasks_read_is_sent_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    tasks = tasks_in(tmp_path)
    with cluster(address) as there:
        client: Any = there.client  # type: ignore[attr-defined]
        scatter = client.scatter

        def counted(data: dict[str, bytes]) -> object:
            sent.extend(data)
            return scatter(data)

        monkeypatch.setattr(client, "scatter", counted)
        outcomes_of(there, tasks, tmp_path)
    assert sorted(sent) == sorted({f"surgery-{file.sha256}" for task in tasks for file in task.files.values()})


def test_a_worker_of_another_version_is_told_apart(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgery.running.dask_cluster.__version__", "9.9.9")
    with pytest.raises(EngineError, match=r"runs surgery .*, expected 9\.9\.9; install the same"), cluster(address):
        pass


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "", ".", "a//b", "c:\\out", "a\0b"])
def test_a_result_is_only_written_below_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    outcome = _received(("{}", None, {name: b"bytes"}), tmp_path / "own")
    assert isinstance(outcome, Failure)
    assert outcome.reason.startswith("its worker sent a file of the name ")
    assert [path.name for path in tmp_path.rglob("*")] == ["own"]


@pytest.mark.parametrize(
    "reply", [None, "text", (1, 2), ("{", None, {}), ("1", None, {"a": "text"}), ("1", None, {1: b""})]
)
def test_what_is_no_result_is_a_failure(reply: object, tmp_path: Path) -> None:
    assert _received(reply, tmp_path) == Failure("its worker sent what is no result; expected JSON and files")


def test_a_plain_result_is_written(tmp_path: Path) -> None:
    assert _received(("[1]", None, {"a/b.bin": b"bytes"}), tmp_path) == Done([1], tmp_path)
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("given", "reason"),
    [("nonsense", "is no address"), ("http://localhost:1", "is no address"), ("tls://127.0.0.1:1", "no certificates")],
)
def test_what_is_no_address_is_refused_in_one_line(given: str, reason: str) -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with pytest.raises(EngineError, match=reason) as caught, cluster(given):
        pass
    assert "\n" not in str(caught.value)
    assert "expected the address of a running Dask scheduler" in str(caught.value)


def test_where_nobody_listens_it_says_so_at_once() -> None:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    with socket.socket() as bound:  # Bound without listening: a port that refuses.
        bound.bind(("127.0.0.1", 0))
        given = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"--scheduler {given}: .*Connection refused"), cluster(given):
            pass


def test_without_dask_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "distributed", missing)
    with pytest.raises(EngineMissingError, match=r"pip install 'surgery\[dask\]'"), cluster("tcp://127.0.0.1:1"):
        pass
