"""Every real file: read, and written again without a change, it is the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery import formats
from surgery.errors import ModelError, ParseError
from tests.shared import shared


def copies(*files: Path, folder: Path) -> None:
    """Copy a model through reader and writer, and compare."""
    written = formats.copy(files, folder)
    assert len(written) == len(files)
    for file in files:
        twin = next(path for path in written if formats.is_weights(path) == formats.is_weights(file))
        assert twin.read_bytes() == file.read_bytes(), file


def pairs() -> Iterator[tuple[Path, Path]]:
    """Every file of weights with some definition: copying does not ask whether the two fit."""
    for weights in sorted(shared("zoo/caffemodel").rglob("*.caffemodel*")):
        definitions = sorted(path for path in weights.parent.glob("*.prototxt") if "solver" not in path.name)
        if definitions and weights.parent.name != "ascend_concat":
            yield definitions[0], weights
    for folder in sorted(path for path in shared("golden").iterdir() if (path / "net.caffemodel").exists()):
        yield folder / "net.prototxt", folder / "net.caffemodel"


def test_every_real_model_is_copied_byte_for_byte(tmp_path: Path) -> None:
    count = 0
    for definition, weights in pairs():
        copies(definition, weights, folder=tmp_path)
        count += 1
    assert count > 350


def test_every_real_definition_is_copied_byte_for_byte(tmp_path: Path) -> None:
    files = sorted(shared("zoo/prototxt").iterdir())
    assert len(files) > 500
    refused = []
    for file in files:
        try:
            copies(file, folder=tmp_path)
        except ModelError as error:
            assert error.message == f"{file}: is not a network: no layer, no input"
            refused.append(file.name)
    # Solvers with their networks inside them, in `train_net_param` and the like.
    assert len(refused) == 3
    assert all("consolidated_solver" in name for name in refused)


def test_the_corrupt_model_is_refused_with_the_offset(tmp_path: Path) -> None:
    folder = shared("zoo/caffemodel/ascend_concat")
    with pytest.raises(ParseError) as caught:
        formats.copy([*folder.glob("*.prototxt"), folder / "concat.caffemodel"], tmp_path)
    assert caught.value.offset is not None
