"""Reference files that are too many or too foreign to live in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared(path: str) -> Path:
    """The file or folder `path` among the reference files; skips the test where they are not at hand."""
    root = Path(os.environ.get("SURGERY_SHARED") or REPOSITORY.parent / "shared")
    if not (root / path).exists():
        pytest.skip(f"no reference files: {root / path} is not there (SURGERY_SHARED names their folder)")
    return root / path
