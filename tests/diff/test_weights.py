"""Weights are the same where they are the same numbers, in whatever type and order they are stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.diff import weights
from surgery.diff.network import Blob
from surgery.diff.weights import blocks, digest, equal, relative_error, reweighed

RNG = np.random.default_rng(0)
ARRAY = RNG.standard_normal((6, 5, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few numbers, so that every array here has several."""
    monkeypatch.setattr(weights, "BLOCK", 4)


def blob(array: np.ndarray, shape: tuple[int, ...] | None = None) -> Blob:
    return Blob("weight", shape or array.shape, lambda: array)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (6, 5, 3), (2, 4), (1, 1, 1, 9)])
def test_blocks_hold_every_number_once_in_order(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    found = [block.reshape(-1) for block in blocks(array)]
    assert np.concatenate([*found, np.empty(0, int)]).tolist() == array.reshape(-1).tolist()
    assert all(block.size <= weights.BLOCK for block in found)


@pytest.mark.parametrize(
    "stored", [lambda a: a, lambda a: a.astype(np.float64), lambda a: a.astype(">f4"), np.asfortranarray]
)
def test_how_numbers_are_stored_does_not_count(stored: Callable[[np.ndarray], np.ndarray]) -> None:
    other = stored(ARRAY)
    assert equal(ARRAY, other)
    assert digest([blob(ARRAY)]) == digest([blob(other)])
    assert not reweighed([blob(ARRAY)], [blob(other)])


def test_one_bit_counts() -> None:
    other = ARRAY.copy()
    other[-1, -1, -1] = np.nextafter(other[-1, -1, -1], np.float32(9))
    assert not equal(ARRAY, other)
    assert digest([blob(ARRAY)]) != digest([blob(other)])
    (found,) = reweighed([blob(ARRAY)], [blob(other)])
    assert found.relative_error == pytest.approx(np.linalg.norm(other - ARRAY) / np.linalg.norm(ARRAY), rel=1e-6)


def test_what_is_no_number_equals_itself_and_gives_no_error() -> None:
    broken = ARRAY.copy()
    broken[2, 2, 2] = np.nan
    assert equal(broken, broken.copy())
    assert not equal(ARRAY, broken)
    assert relative_error(ARRAY, broken) is None
    assert relative_error(np.zeros(3), np.ones(3)) is None


def test_axes_of_one_number_in_front_do_not_count_and_others_do() -> None:
    vector = ARRAY[0, 0]
    assert not reweighed([blob(vector)], [blob(vector.reshape(1, 1, 1, 3))])
    (found,) = reweighed([blob(vector)], [blob(vector.reshape(3, 1))])
    assert (found.before, found.after, found.relative_error) == ((3,), (3, 1), None)


def test_a_blob_that_is_not_there_is_told() -> None:
    (found,) = reweighed([blob(ARRAY)], [blob(ARRAY), blob(ARRAY[0])])
    assert (found.before, found.after) == (None, (5, 3))


def test_mapped_numbers_are_still_there_after_their_memory_was_given_back(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.save(path, ARRAY)
    mapped = np.load(path, mmap_mode="r")
    weights.release(mapped)
    assert equal(mapped, ARRAY)
