"""Sensitivities that several workers measure are those of one process, bit for bit, whatever becomes of the workers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.calibrate import Preprocess
from surgery.calibrate.spread import taken
from surgery.choose.tables import Sensitivity
from surgery.errors import EngineError
from surgery.factor import METHODS
from surgery.formats import Source
from surgery.measure.kept import Ask
from surgery.measure.parts import measured_apart
from surgery.measure.sensitivity import sensitivity
from surgery.running import Runner, Task, cluster, local
from tests.calibrate.nets import KEYS, images, net, saved
from tests.clusters import cluster_address
from tests.nets import conv_blobs, write_net
from tests.onnx_nets import node, tiny
from tests.running import deeds

COUNT = 11
ASKS: Mapping[str, Sequence[Ask]] = {
    "conv1": [(METHODS["svd-channel"], (2,)), (METHODS["tucker2"], (4, 2))],
    "left": [(METHODS["svd-channel"], (3,))],
    "right": [(METHODS["tucker2"], (2, 2))],
    "joined": [(METHODS["svd-spatial"], (3,)), (METHODS["cp"], (4,))],
    "ip": [(METHODS["svd"], (1,)), (METHODS["svd"], (9,))],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    (tmp_path / "net").mkdir()
    return net(tmp_path / "net")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return saved(tmp_path, images(COUNT))


@dataclass
class Watched:
    """A runner that keeps the tasks that it was given; where a `mark` is given, the first of them dies at first."""

    runner: Runner
    mark: Path | None = None
    given: list[Task] = field(default_factory=list)

    @property
    def workers(self) -> int:
        return self.runner.workers

    def map(self, tasks: Sequence[Task], scratch: Path) -> Any:
        self.given = list(tasks)
        if self.mark is not None:
            arguments = {**tasks[0].arguments, "mark": str(self.mark)}
            dying = replace(tasks[0], function=deeds.measured_in_a_second_try, arguments=arguments)
            return self.runner.map([dying, *tasks[1:]], scratch)
        return self.runner.map(tasks, scratch)


def measured(source: Source, data: Path, runner: Runner | None, asks: Any = ASKS, **settings: Any) -> Sensitivity:
    apart = runner and partial(measured_apart, source, runner)
    return sensitivity(source.load(), data, asks, apart=apart, **settings)


def assert_same(found: Sensitivity, wanted: Sensitivity) -> None:
    assert found.losses == wanted.losses
    assert found.probes == wanted.probes
    assert tuple(found.losses) == tuple(wanted.losses)


def forget(folder: Path) -> None:
    shutil.rmtree(folder / "cache")


def test_processes_measure_the_same_bits_though_one_is_killed(source: Source, data: Path, tmp_path: Path) -> None:
    wanted = measured(source, data, None)
    forget(tmp_path)
    with local(2) as runner:
        watched = Watched(runner, tmp_path / "mark")
        assert_same(measured(source, data, watched), wanted)
    assert watched.mark is not None
    assert watched.mark.exists()
    named = [[key for key, asks in task.arguments["asks"].items() if asks] for task in watched.given]  # type: ignore[attr-defined]
    assert named == [["conv1"], ["left"], ["right"], ["joined", "ip"]]


def test_a_cluster_measures_the_same_bits_though_a_worker_is_killed_and_what_came_is_kept(
    source: Source, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = measured(source, data, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of the workers"))
    with cluster_address() as address, cluster(address) as runner:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        forget(tmp_path)
        watched = Watched(runner, tmp_path / "mark")
        told: list[str] = []

        def stop(text: str, share: float) -> None:
            told.extend([text] * text.startswith("measured"))
            if len(told) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measured(source, data, watched, progress=stop)
        assert len(watched.given) == 5
        assert (tmp_path / "mark").exists()
        watched.mark = None
        assert_same(measured(source, data, watched), wanted)
        assert len(watched.given) == 3
    shutil.rmtree(tmp_path / "of the workers")
    refusing = Watched(runner)  # Its cluster is no more.
    assert_same(measured(source, data, refusing), wanted)
    assert not refusing.given


@pytest.mark.parametrize("kind", ["folder", "list"])
def test_pictures_are_read_alike_wherever_they_lie(
    kind: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    rng = np.random.default_rng(0)
    names = ["b/one.png", "a two 2.png", "c.png", "b/three.png"]
    monkeypatch.chdir(tmp_path)
    for name in names:
        (tmp_path / "pictures" / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / "pictures" / name), rng.integers(0, 256, (12, 13, 3), np.uint8))
    (tmp_path / "listed.txt").write_text("".join(f"pictures/{name} 1\n" for name in names))
    path = {"folder": Path("pictures"), "list": Path("listed.txt")}[kind]
    settings = {"preprocess": Preprocess(resize=(9, 8), channels="rgb", mean=(100.0,)), "images": 2, "positions": 9}
    settings["labels"] = np.arange(4)
    wanted = measured(source, path, None, **settings)
    forget(tmp_path)
    with local(1) as runner:
        watched = Watched(runner)
        assert_same(measured(source, path, watched, **settings), wanted)
    read = [file.path for name, file in watched.given[0].files.items() if name.startswith("data/")]
    order = sorted(names) if kind == "folder" else names
    assert read == [tmp_path / "pictures" / order[i] for i in taken(4, 2)]
    assert list(taken(4, 2)) != [0, 1]


def test_all_settings_reach_the_workers(source: Source, data: Path, tmp_path: Path) -> None:
    labels = np.arange(COUNT) % 12
    settings = {"positions": 3, "seed": 7, "images": 9, "labels": labels, "probe_images": 4, "threads": 1}
    wanted = measured(source, data, None, **settings)
    forget(tmp_path)
    with local(1) as runner:
        assert_same(measured(source, data, runner, **settings), wanted)
    assert wanted.probes["ip"][0].accuracy is not None


def test_what_is_known_is_not_measured_again(source: Source, data: Path, tmp_path: Path) -> None:
    wanted = measured(source, data, None)
    forget(tmp_path)
    known = Sensitivity({key: own[:1] for key, own in wanted.losses.items()}, wanted.probes)
    with local(1) as runner:
        watched = Watched(runner)
        assert_same(measured(source, data, watched, known=known), wanted)
    sent: Any = [task.arguments["known"] for task in watched.given]
    assert [key for part in sent for key in part.losses] == [key for key in KEYS if len(ASKS[key]) > 1]


def test_weights_outside_of_an_onnx_file_go_along(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "inner").mkdir()
    weights = {"w": conv_blobs(4, 4, 3, 3)[0]}
    path = tiny(tmp_path, [node("Conv", "x w", "y", "c")], inputs={"x": ("N", 4, 5, 5)}, outputs=["y"], weights=weights)
    outside = tmp_path / "inner" / "m.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="w.bin", size_threshold=0)
    data = saved(tmp_path, np.random.default_rng(1).standard_normal((6, 4, 5, 5), dtype=np.float32))
    source, asks = Source((outside,)), {"c": [(METHODS["svd-channel"], (2,))]}
    wanted = measured(source, data, None, asks)
    forget(tmp_path)
    with local(1) as runner:
        watched = Watched(runner)
        assert_same(measured(source, data, watched, asks), wanted)
    assert list(watched.given[0].files) == ["model/m.onnx", "model/w.bin", "data/00000000/images.npy"]


def test_a_part_that_cannot_be_measured_names_its_layers_in_one_line(tmp_path: Path) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 5 dim: 5 }'
    text += 'layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4'
    text += ' kernel_size: 3 } } layer { name: "e" type: "Exp" bottom: "a" top: "e" exp_param { scale: 100 } }'
    source = Source(write_net(tmp_path, text, {"a": conv_blobs(4, 3, 3, 3)}))
    data = saved(tmp_path, np.random.default_rng(0).standard_normal((6, 3, 5, 5), dtype=np.float32))
    reason = "^measuring a to a: a: the output '.*' of the original network holds NaN or infinity"
    with local(1) as runner, pytest.raises(EngineError, match=reason) as caught:
        measured(source, data, runner, {"a": [(METHODS["svd-channel"], (2,))]})
    assert "\n" not in str(caught.value)
