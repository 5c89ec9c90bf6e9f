"""What a library prints past Python reaches nobody."""

from __future__ import annotations

import ctypes
import os

import pytest

from surgery.silence import silenced_output


@pytest.mark.skipif(os.name != "posix", reason="needs a C library that is loaded with Python")
def test_what_c_prints_is_dropped_and_what_comes_after_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    print("before")
    with silenced_output():
        libc.printf(b"dropped\n")
    libc.printf(b"after\n")
    libc.fflush(None)
    assert capfd.readouterr().out == "before\nafter\n"
