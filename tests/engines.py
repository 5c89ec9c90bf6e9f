"""The runtimes for tests: one that is missing skips a test on a user's machine and fails it in CI."""

from __future__ import annotations

import os
from typing import cast

import pytest

from surgery.runtime import ENGINES, Caffe, Engine, OnnxRuntime, OpenCV


def require_caffe() -> Caffe:
    return cast("Caffe", require("caffe"))


def require_onnxruntime() -> OnnxRuntime:
    return cast("OnnxRuntime", require("onnxruntime"))


def require_opencv() -> OpenCV:
    return cast("OpenCV", require("opencv"))


def require(name: str) -> Engine:
    engine = ENGINES[name]
    reason = engine.missing()
    if reason is None:
        return engine
    # A skip in CI would look like a pass for years.
    if os.environ.get("CI") == "true":
        pytest.fail(f"{engine.name} is missing in CI: {reason}")
    pytest.skip(f"{engine.name}: {reason}")
