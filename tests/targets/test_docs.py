"""docs/targets.md tells of every target and every rewrite."""

from __future__ import annotations

import re

from surgery.targets import PROFILES, REWRITES
from tests.shared import REPOSITORY


def test_every_target_and_every_rewrite_has_a_row() -> None:
    rows = re.findall(r"^\| `([^`]+)`", (REPOSITORY / "docs" / "targets.md").read_text(encoding="utf-8"), re.M)
    assert rows == [*PROFILES, *REWRITES]
