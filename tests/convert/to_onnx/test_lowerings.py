"""The table of what layers become, and what is said of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgery.convert.to_onnx import to_onnx
from surgery.convert.to_onnx.lowerings import LOWERINGS
from surgery.convert.to_onnx.refused import REASONS, UNKNOWN
from surgery.errors import ConversionError
from surgery.formats.caffe.layers import LAYERS
from tests.convert.to_onnx.nets import single, write
from tests.shared import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "onnx.md"


def test_the_documentation_has_every_type_and_no_other() -> None:
    rows = re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(LOWERINGS)


def test_the_documentation_has_every_type_that_is_refused_with_a_reason() -> None:
    refused = DOCUMENT.read_text(encoding="utf-8").split("## What is refused")[1].split("\n## ")[0]
    assert {name for name in REASONS if f"`{name}`" not in refused} == set()


def test_a_type_is_converted_or_refused_and_only_types_with_known_shapes_are_converted() -> None:
    assert LOWERINGS.keys() & REASONS.keys() == set()
    assert LOWERINGS.keys() - LAYERS.keys() == set()


@pytest.mark.parametrize("kind", [*sorted(REASONS.keys() - LAYERS.keys()), "NeverHeardOf"])
def test_a_refusal_says_why(kind: str, tmp_path: Path) -> None:
    reason = re.escape(REASONS.get(kind, UNKNOWN))
    with pytest.raises(ConversionError, match=rf"'layer' \({kind}\): {reason}"):
        to_onnx(write(single(kind, "", (1, 2)), tmp_path))
