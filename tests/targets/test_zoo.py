"""Every public definition is either made ready, in words that the target's own schema has, or refused with reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.errors import ModelError, ParseError, TargetError
from surgery.formats import Source
from surgery.formats.caffe import text
from surgery.formats.caffe.network import layers
from surgery.targets import REWRITES, prepare
from tests.shared import shared
from tests.targets.schemas import parse_net

SLICES = 8  # so that workers share them
# Definitions that are none: templates with holes, solvers, and files of both generations.
BROKEN = 8
TRAINING = ("lr_mult", "decay_mult", "loss_weight", "engine", "include", "exclude", "propagate_down", "phase: TEST")


@pytest.mark.parametrize("part", range(SLICES))
def test_a_definition_is_ready_in_the_targets_own_words_or_refused_with_reasons(part: int, tmp_path: Path) -> None:
    schema = shared("caffe/schema_sh1r0.tsv").with_suffix("")
    ready = refused = broken = 0
    for path in sorted(shared("zoo/prototxt").iterdir())[part::SLICES]:
        try:
            made = prepare(Source((path,)), "caffe-android-lib", tmp_path, allow=REWRITES)
        except TargetError as error:
            assert error.reasons
            assert all(": " in reason for reason in error.reasons), error.reasons
            refused += 1
            continue
        except (ModelError, ParseError):
            broken += 1
            continue
        ready += 1
        content = made.files[0].read_text()
        parse_net(content, schema)
        assert not [
            word for word in TRAINING if f"{word}:" in content or f"{word} {{" in content or f"  {word}\n" in content
        ]
        found = layers(text.read(made.files[0]))
        assert all(layer.generation == 2 for layer in found)
        assert any(layer.type == "Input" for layer in found) or not any(layer.bottoms for layer in found), path.name
    assert ready > 10
    assert refused > 10
    assert broken <= BROKEN
