from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate.array_file import image, read_npy


@pytest.mark.parametrize("order", ["C", "F"])
def test_images_of_a_mapped_file_are_copies_and_leave_no_pages_behind(order: str, tmp_path: Path) -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("no /proc here, which tells what is in memory")
    whole = np.random.default_rng(0).standard_normal((64, 3, 128, 128))  # 25 MB
    np.save(tmp_path / "x.npy", np.asarray(whole, order=order))
    array = read_npy(tmp_path / "x.npy")
    for i in (63, *range(64)):
        found = image(array, i)
        np.testing.assert_array_equal(found, whole[i])
        assert not np.shares_memory(found, array)
    own = next(part for part in smaps.read_text().split("VmFlags") if "x.npy" in part)
    held = int(re.search(r"^Rss: +(\d+) kB", own, re.MULTILINE)[1])  # type: ignore[index]
    assert held * 1024 < whole.nbytes / 10


def test_single_numbers_of_a_mapped_file_are_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(5.0))
    assert image(read_npy(tmp_path / "x.npy"), 3).shape == ()
