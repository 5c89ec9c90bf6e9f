"""The number of BLAS threads holds for every library that a solve uses, also one that is loaded late."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from surgery.factor.threads import blas_threads
from surgery.factor.solver import truncated_svd
import numpy as np, threadpoolctl
with blas_threads(1):
    truncated_svd(np.random.default_rng(0).standard_normal((300, 400)), 5)
    counts = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
assert len(counts) >= 2, counts  # NumPy's and SciPy's
assert set(counts) == {1}, counts
"""


def test_scipys_own_blas_is_limited_too() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
