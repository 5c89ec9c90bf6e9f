"""Layers are timed as inside a network, once, and what is known is not measured again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from surgery.choose.latency import Shape
from surgery.errors import EngineMissingError
from surgery.formats import Source
from surgery.measure import cache, latency
from surgery.measure.latency import MOST_NETS, MOST_PARAMS_TOGETHER, machine, measure_table, network_ms
from surgery.runtime import Job, OnnxRuntime, Passes
from tests.engines import require, require_onnxruntime
from tests.runtime.onnx_files import conv_relu

CONV = Shape("convolution", 1, 8, 16, (3, 3), padding=(1, 1), input=(14, 14), has_bias=True)
WIDE = replace(CONV, in_channels=64, out_channels=512, input=(40, 40))
SHAPES = [CONV, WIDE, Shape("fully connected", 2, 30, 20), Shape("scale", 1, 8, 8, input=(5, 6))]
CALL, READING, PER_MAC = 0.02, 1e-6, 1e-7  # milliseconds that the simulated runtime takes: per call, number, MAC


@dataclass(frozen=True)
class Net:
    """What would have been written."""

    shape: Shape
    copies: int

    @property
    def milliseconds(self) -> float:
        numbers = self.shape.batch * self.shape.in_channels * self.shape.input[0] * self.shape.input[1]
        return CALL + READING * numbers + PER_MAC * self.copies * self.shape.macs


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[Shape]]:
    """Simulate the runtime, with an empty cache; returns the shapes of every batch that was timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    batches: list[list[Shape]] = []

    written: dict[Path, Net] = {}

    def write_onnx(shape: Shape, copies: int, path: Path) -> Path:
        if all(path.parent != other.parent for other in written):  # Each batch has a folder of its own.
            batches.append([])
        batches[-1] += [shape] if copies else []
        written[path] = Net(shape, copies)
        return path

    @contextmanager
    def timed(self: OnnxRuntime, job: Job, *, threads: int) -> Iterator[Passes]:
        yield lambda number: number * written[Path(job.files[0])].milliseconds / 1000

    monkeypatch.setattr(latency, "write_onnx", write_onnx)
    monkeypatch.setattr(OnnxRuntime, "timed", timed)
    monkeypatch.setattr(OnnxRuntime, "version", lambda self: "ONNX Runtime 1")
    return batches


def test_what_a_call_and_its_input_take_is_taken_off(timed: list[list[Shape]]) -> None:
    found = measure_table(SHAPES, "onnxruntime", threads=2)
    assert (found.runtime, found.threads, found.machine) == ("onnxruntime", 2, machine())
    assert found.rows == {shape: pytest.approx(PER_MAC * shape.macs, rel=1e-6) for shape in SHAPES}
    assert len(timed) == 1


def test_noise_makes_no_time_negative(timed: list[list[Shape]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "milliseconds", property(lambda net: 0.001 if net.copies else CALL))
    assert set(measure_table(SHAPES, "onnxruntime", threads=1).rows.values()) == {0.0}


def test_what_is_known_is_not_measured_again(timed: list[list[Shape]]) -> None:
    first = measure_table(SHAPES[:2], "onnxruntime", threads=1)
    again = measure_table([*SHAPES, CONV], "onnxruntime", threads=1)
    assert [set(batch) for batch in timed] == [set(SHAPES[:2]), set(SHAPES[2:])]
    assert list(again.rows) == SHAPES
    assert first.rows.items() <= again.rows.items()


def test_another_number_of_threads_or_a_wish_measures_anew(timed: list[list[Shape]]) -> None:
    measure_table([CONV], "onnxruntime", threads=1)
    measure_table([CONV], "onnxruntime", threads=2)
    measure_table([CONV], "onnxruntime", threads=1, known=False)
    measure_table([CONV], "onnxruntime", threads=1)
    assert timed == [[CONV]] * 3


def test_another_version_of_the_runtime_measures_anew(
    timed: list[list[Shape]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_table([CONV], "onnxruntime", threads=1)
    monkeypatch.setattr(OnnxRuntime, "version", lambda self: "ONNX Runtime 2")
    measure_table([CONV], "onnxruntime", threads=1)
    assert timed == [[CONV]] * 2


def test_a_damaged_cache_counts_as_none(timed: list[list[Shape]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "load", lambda kind, key: "soon")
    assert measure_table([CONV], "onnxruntime", threads=1).rows == {CONV: pytest.approx(PER_MAC * CONV.macs)}


def test_what_was_measured_before_an_interruption_is_kept(
    timed: list[list[Shape]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [replace(CONV, out_channels=i + 1) for i in range(2 * MOST_NETS)]

    def interrupted(text: str, share: float) -> None:
        assert 0 <= share < 1
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(shapes, "onnxruntime", threads=1, progress=interrupted)
    measure_table(shapes, "onnxruntime", threads=1)
    assert len(timed) == 2
    assert {shape for batch in timed for shape in batch} == set(shapes)


def test_no_more_nets_run_at_once_than_memory_allows(timed: list[list[Shape]]) -> None:
    heavy = [Shape("fully connected", 1, 25088, 4096 - i) for i in range(3)]
    measure_table([*heavy, *(replace(CONV, out_channels=i + 1) for i in range(40))], "onnxruntime", threads=1)
    assert sum(map(len, timed)) == 43
    for batch in timed:
        assert len(batch) <= MOST_NETS
        assert len(batch) == 1 or sum(shape.params for shape in batch) <= MOST_PARAMS_TOGETHER


@pytest.mark.parametrize("runtime", ["caffe", "onnxruntime", "opencv"])
def test_a_layer_of_far_more_work_takes_longer(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(runtime)
    monkeypatch.setattr(cache, "store", lambda kind, key, value: None)  # The user's own, where Caffe is found, too.
    found = measure_table([CONV, WIDE], runtime, threads=1, rounds=3, known=False)
    # 2600 times the MACs: a machine that does other things too is at most so unfair.
    assert found.rows[WIDE] > 5 * found.rows[CONV]


def test_a_network_takes_time(tmp_path: Path) -> None:
    require_onnxruntime()
    assert 0 < network_ms(Source((conv_relu(tmp_path / "a.onnx"),)), "onnxruntime", 1).median < 1000


def test_a_runtime_that_is_missing_is_named_before_anything_is_timed(
    timed: list[list[Shape]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGERY_CAFFE", "/nowhere")
    with pytest.raises(EngineMissingError, match="SURGERY_CAFFE is /nowhere"):
        measure_table([CONV], "caffe", threads=1)
    assert timed == []
