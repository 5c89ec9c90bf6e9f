"""The benchmark of factorizations measures what it says, and finds every kind of promise that is not kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.shared import REPOSITORY

OWN = {"what": "surgery", "s": 1.0, "added_mb": 10.0, "float64_mb": 10.0, "error": 0.3}
PEER = {"what": "peer", "role": "peer", "s": 20.0, "added_mb": 100.0, "error": 0.31}
STAND_IN = {**PEER, "what": "stand-in", "role": "stand-in"}
BESIDE = {"what": "beside", "role": "beside", "s": 0.1, "added_mb": 1.0, "error": 0.1}
FAILED = {"what": "failed", "role": "peer", "failed": "does not install"}
VALUES = np.array([3.0, 2.0, 1.0])  # Singular values, cut at rank 2


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The tool as a module; its name has no ending, and it imports its neighbours."""
    loader = SourceFileLoader("bench_factor", str(REPOSITORY / "tools" / "bench-factor"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "tools"))
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    ("case", "own", "peers", "missed"),
    [
        ("cp64", {}, [PEER], []),
        ("cp64", {"s": 2.5}, [PEER], ["8 times as fast as peer, below 10"]),
        ("cp64", {"added_mb": 26.0}, [PEER], ["0.26 of the memory of peer, above 0.25"]),
        ("cp64", {"error": 0.32}, [PEER], ["error 0.32, above 0.31 (peers)"]),
        ("cp64", {}, [PEER, BESIDE], []),
        ("cp64", {}, [PEER, {**PEER, "s": 9.0}], ["9 times as fast as peer, below 10"]),
        ("tucker2", {"added_mb": 31.0}, [PEER], ["surgery: 3.10 times the layer's float64 size"]),
        ("tucker2", {"error": 9.0, "s": 9.0}, [FAILED], []),
        ("svd-spatial", {"error": 14**-0.5}, [PEER], []),
        ("svd-spatial", {"error": 0.2676}, [PEER], ["error 0.2676, above 0.267529 (optimum)"]),
        ("svd-spatial", {"s": 8.0, "error": 0.2}, [FAILED, STAND_IN], ["2.5 times as fast as stand-in, below 4"]),
        ("svd-spatial", {"s": 1.0, "error": 0.2}, [PEER, {**STAND_IN, "s": 0.1}], []),
        ("semi-nmf", {"error": 0.59}, [PEER], []),
        ("semi-nmf", {"error": 0.6}, [PEER], ["error 0.6, above 0.597614 (one rank)"]),
    ],
)
def test_a_promise_that_is_not_kept_is_a_miss_and_no_other(
    bench: Any, case: str, own: dict[str, float], peers: list[dict[str, Any]], missed: list[str]
) -> None:
    assert bench.misses(bench.CASES[case], VALUES, 2, OWN | own, peers) == missed


def test_a_solve_of_ours_that_fails_is_a_miss(bench: Any) -> None:
    failed = {"what": "surgery", "failed": "PlanError: no"}
    assert bench.misses(bench.CASES["svd"], VALUES, 2, failed, [PEER]) == ["PlanError: no"]


def test_a_generated_matrix_has_the_singular_values_that_errors_are_judged_by(bench: Any) -> None:
    import factoring  # Found where the tool finds it.

    matrix = factoring.decaying(48, 80)
    found = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    # No singular value moves by more than the norm of the rounding to float32, half a bit of each number (Weyl).
    assert np.abs(found - factoring.decay(48)).max() <= 2**-24 * np.linalg.norm(matrix)


SLEEPS = """
def solve(weight, rank):
    time.sleep(0.2)
    held = np.ones(50_000_000 // 8)
    return 0.5 * weight * held[0]

def approximation(solved):
    return solved
"""


def test_what_a_child_measures_is_its_own_time_memory_and_error(bench: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "weight.npy", np.ones((100, 100), np.float32))
    setting = bench.Bench(pythons={}, scratch=tmp_path, runs=1, threads=1, thinner=1)
    found = bench.measured(bench.Contender("half", SLEEPS), tmp_path / "weight.npy", [2], setting)
    assert found["s"] >= 0.2
    assert 49 < found["added_mb"] < 55  # 50 MB held, and what the kernel counts late
    assert found["float64_mb"] == pytest.approx(0.08)
    assert found["error"] == pytest.approx(0.5)
