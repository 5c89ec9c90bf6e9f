"""PyTorch for tests: where it is missing, tests are skipped on a user's machine and fail in CI."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def require_torch() -> None:
    """To be called before what imports torch is imported."""
    if find_spec("torch") is not None:
        return
    # A skip in CI would look like a pass for years.
    if os.environ.get("CI") == "true":
        pytest.fail("torch is missing in CI", pytrace=False)
    pytest.skip("torch is not installed", allow_module_level=True)
