"""The runtimes for tests: one that is missing skips a test on a user's machine and fails it in CI."""

from __future__ import annotations

import os

import pytest

from surgery.runtime import Caffe, Engine, OpenCV


def require_caffe() -> Caffe:
    caffe = Caffe()
    _require(caffe)
    return caffe


def require_opencv() -> OpenCV:
    opencv = OpenCV()
    _require(opencv)
    return opencv


def _require(engine: Engine) -> None:
    reason = engine.missing()
    if reason is None:
        return
    # A skip in CI would look like a pass for years.
    if os.environ.get("CI") == "true":
        pytest.fail(f"{engine.name} is missing in CI: {reason}")
    pytest.skip(f"{engine.name}: {reason}")
