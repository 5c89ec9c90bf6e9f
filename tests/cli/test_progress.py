"""The bar's time left, by a clock that the test moves."""

from __future__ import annotations

import sys
import time
from io import StringIO

import pytest

from surgery.cli.progress import bar


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("before", "first", "left"),
    [(50.0, 0.1, "32 s left"), (2.0, 0.7, "8 s left")],
    ids=["a search before the first share", "an earlier run's share"],
)
def test_the_time_left_follows_from_what_this_run_has_done(
    before: float, first: float, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, terminal = [100.0], Terminal()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar() as show:
        show("searching", 0.0)
        now[0] += before
        show("epoch 1", first)
        assert "left" not in terminal.getvalue()
        now[0] += 4.0
        show("epoch 1", first + 0.1)
        assert f"] {first + 0.1:4.0%} {left}  epoch 1" in terminal.getvalue()
