"""A batch gives the same bytes wherever it runs and however often it was stopped; no model stops the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from surgery.batch import BOOK, Row, batch
from surgery.batch.work import compress
from surgery.choose import Amount, Request
from surgery.errors import PlanError
from surgery.formats import Source
from surgery.running import Runner, Task, cluster, local
from tests.clusters import cluster_address, kill_a_busy_worker
from tests.nets import conv_blobs
from tests.onnx_nets import node, tiny
from tests.shared import REPOSITORY, shared

HALF = Request(amount=Amount(macs=0.6))
# Of the pairs of the zoo the small ones; a damaged file, pairs that are not clear and a net without shapes among them.
SMALL = ("ascend_concat", "deep-landmark", "lenet_v1_everpeace", "lenet_yaleB", "mtcnn_blankWorld")
OTHERS = ("vanillacnn_landmark_old", "wechat_qrcode/sr.prototxt", "wechat_qrcode/sr.caffemodel")


def run(
    folder: Path, output: Path, runner: Runner, progress: Callable[[str, float], None] = lambda text, share: None
) -> tuple[list[Row], dict[str, float]]:
    return batch(folder, output, Source(()), HALF, (), runner, progress)


def promised(output: Path) -> dict[str, bytes]:
    """All bytes below a folder but those that say how long things took."""
    paths = [path for path in output.rglob("*") if path.is_file() and path.name != "timings.json"]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def states(rows: list[Row]) -> dict[str, str]:
    return {row.model: row.status for row in rows}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Six models: four that can be cut, one in which nothing can and one that is damaged; a data file among them."""
    import onnx

    folder = tmp_path / "zoo"
    for name in ("one", "two/deep"):
        shutil.copytree(REPOSITORY / "models" / "digits", folder / name)
    wide = {"w": conv_blobs(16, 16, 3, 3)[0]}
    path = tiny(folder, [node("Conv", "x w", "y")], inputs={"x": (1, 16, 8, 8)}, outputs=["y"], weights=wide)
    (folder / "data").mkdir()
    outside = folder / "data" / "m.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="w.bin", size_threshold=0)
    tiny(folder, [node("Relu", "x", "y")], inputs={"x": (1, 4)}, outputs=["y"], name="relu")
    (folder / "damaged.onnx").write_bytes(b"\xff" * 40)
    return folder


DONE = {"one/digits.caffemodel", "two/deep/digits.caffemodel", "net.onnx", "data/m.onnx"}


def test_each_model_gets_its_own_result_or_its_own_reason(zoo: Path, tmp_path: Path) -> None:
    with local(1) as runner:
        rows, seconds = run(zoo, tmp_path / "out", runner)
    assert states(rows) == dict.fromkeys(DONE, "done") | {"relu.onnx": "failed", "damaged.onnx": "skipped"}
    assert set(seconds) == DONE
    reasons = {row.model: row.reason for row in rows if row.status != "done"}
    assert str(reasons["relu.onnx"]).startswith("nothing to cut")
    assert str(reasons["damaged.onnx"]).startswith("damaged.onnx: ")
    assert all(row.macs[1] <= 0.6 * row.macs[0] for row in rows if row.status == "done")  # type: ignore[operator]
    found = json.loads((tmp_path / "out" / BOOK).read_text())
    assert [row["model"] for row in found["models"]] == sorted(states(rows))


def test_a_result_is_what_compress_writes(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    names = ("deploy.prototxt", "digits.caffemodel")
    files = {name: zoo / "one" / name for name in names}
    compress(files, tmp_path / "alone", names=names, reading=Source(()), request=HALF, engines=())
    with local(1) as runner:
        run(zoo, tmp_path / "out", runner)
    assert promised(tmp_path / "out" / "one" / "digits.caffemodel") == promised(tmp_path / "alone" / "result")


def test_several_processes_give_the_same_bytes(zoo: Path, tmp_path: Path) -> None:
    with local(1) as one, local(2) as two:
        assert run(zoo, tmp_path / "a", one)[0] == run(zoo, tmp_path / "b", two)[0]
    assert promised(tmp_path / "a") == promised(tmp_path / "b")


class Counting:
    """A runner that tells which models it was given."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.given: list[str] = []

    def map(self, tasks: list[Task], scratch: Path) -> object:
        self.given = sorted(str(next(iter(task.files.values())).path.name) for task in tasks)
        return self.runner.map(tasks, scratch)


def again(zoo: Path, output: Path) -> list[str]:
    """Run once more; return the first file of each model that was not taken as done."""
    with local(1) as runner:
        counting = Counting(runner)
        run(zoo, output, counting)  # type: ignore[arg-type]
    return counting.given


def test_a_second_run_does_nothing_that_is_done(zoo: Path, tmp_path: Path) -> None:
    assert len(again(zoo, tmp_path / "out")) == 5
    before = promised(tmp_path / "out")
    assert again(zoo, tmp_path / "out") == ["relu.onnx"]
    assert promised(tmp_path / "out") == before


def test_what_changed_is_done_again_and_what_went_is_taken_away(zoo: Path, tmp_path: Path) -> None:
    again(zoo, tmp_path / "out")
    (zoo / "relu.onnx").unlink()
    before = promised(tmp_path / "out")
    changed = tmp_path / "out" / "data" / "m.onnx" / "m.onnx"
    changed.write_bytes(b"")
    assert again(zoo, tmp_path / "out") == ["m.onnx"]
    (zoo / "net.onnx").rename(zoo / "new.onnx")
    assert again(zoo, tmp_path / "out") == ["new.onnx"]
    after = promised(tmp_path / "out")
    assert after["data/m.onnx/m.onnx"] == before["data/m.onnx/m.onnx"]
    assert after["new.onnx/new.onnx"] == before["net.onnx/net.onnx"]
    assert not (tmp_path / "out" / "net.onnx").exists()


def test_a_result_of_another_request_does_not_outlive_a_failure(zoo: Path, tmp_path: Path) -> None:
    again(zoo, tmp_path / "out")
    with local(1) as runner:
        rows, _ = batch(zoo, tmp_path / "out", Source(()), Request(amount=Amount(macs=0.001)), (), runner)
    assert {row.status for row in rows} == {"failed", "skipped"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == [BOOK]


class StopError(Exception):
    pass


def test_stopped_in_the_middle_it_goes_on_where_it_was(zoo: Path, tmp_path: Path) -> None:
    def stop(text: str, share: float) -> None:
        if share > 0.3:
            raise StopError

    with local(1) as runner:
        with pytest.raises(StopError):
            run(zoo, tmp_path / "out", runner, stop)
        run(zoo, tmp_path / "whole", runner)
    assert sorted(row["status"] for row in json.loads((tmp_path / "out" / BOOK).read_text())["models"]) == [
        *["done"] * 2,
        "skipped",
        *["waiting"] * 3,
    ]
    assert len(again(zoo, tmp_path / "out")) == 3
    assert promised(tmp_path / "out") == promised(tmp_path / "whole")


@pytest.mark.parametrize("place", ["foreign.txt", "one/foreign.txt", "one/digits.caffemodel/foreign.txt"])
def test_what_others_wrote_stays(place: str, zoo: Path, tmp_path: Path) -> None:
    path = tmp_path / "out" / place
    path.parent.mkdir(parents=True)
    path.touch()
    with local(1) as runner, pytest.raises(PlanError, match="which this tool did not write"):
        run(zoo, tmp_path / "out", runner)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [path]


def test_a_book_that_leads_elsewhere_is_not_believed(zoo: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    shutil.copytree(zoo, victim / "zoo")
    (tmp_path / "out").mkdir()
    row = {"model": "../victim", "status": "done"}
    (tmp_path / "out" / BOOK).write_text(json.dumps({"format": 1, "tool": "surgery", "models": [row]}))
    with local(1) as runner:
        run(zoo, tmp_path / "out", runner)
    assert victim.is_dir()


@pytest.mark.parametrize(
    ("folder", "output", "reason"),
    [
        ("zoo", "zoo/out", "must not lie in each other"),
        ("zoo/one", "zoo", "must not lie in each other"),
        ("none", "out", "no such folder"),
        ("zoo/net.onnx", "out", "is a file"),
        ("empty", "out", "no model is below it"),
        ("zoo", "none/out", "its parent folder does not exist"),
    ],
)
def test_wrong_folders_are_refused_before_anything_is_done(
    folder: str, output: str, reason: str, zoo: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with local(1) as runner, pytest.raises(PlanError, match=reason):
        run(tmp_path / folder, tmp_path / output, runner)
    assert not (tmp_path / output / BOOK).exists()


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(zoo: Path, tmp_path: Path) -> None:
    _compare_with_cluster(zoo, tmp_path)


def test_pairs_of_the_zoo_give_the_same_bytes_on_a_cluster_though_a_worker_is_killed(tmp_path: Path) -> None:
    """The small pairs: all take a minute and more."""
    source = shared("zoo/caffemodel")
    for name in (*SMALL, *OTHERS):
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source / name, tmp_path / "zoo" / name)
    rows = _compare_with_cluster(tmp_path / "zoo", tmp_path)
    assert list(states(rows).values()).count("done") == 19


def _compare_with_cluster(folder: Path, scratch: Path) -> list[Row]:
    killed: list[int] = []

    def kill(text: str, share: float) -> None:
        if not killed:
            killed.append(kill_a_busy_worker(runner.client))  # type: ignore[attr-defined]

    with cluster_address() as address, cluster(address) as runner:
        rows, _ = run(folder, scratch / "there", runner, kill)
    assert len(killed) == 1
    with local(1) as here:
        assert run(folder, scratch / "here", here)[0] == rows
    assert promised(scratch / "here") == promised(scratch / "there")
    return rows
