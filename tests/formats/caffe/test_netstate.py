"""Which layers run in which state."""

from __future__ import annotations

import pytest

from surgery.errors import ModelError
from surgery.formats.caffe.netstate import NetState, active, state_of
from surgery.formats.caffe.network import layers
from surgery.formats.caffe.text import parse

# rules of a layer, state, whether it runs
CASES = [
    ("", NetState(), True),
    ("include { phase: TEST }", NetState("TEST"), True),
    ("include { phase: TEST }", NetState("TRAIN"), False),
    ("include { phase: TRAIN } include { phase: TEST }", NetState("TEST"), True),
    ("exclude { phase: TEST }", NetState("TEST"), False),
    ("exclude { phase: TRAIN }", NetState("TEST"), True),
    ("include {}", NetState(), True),
    ("exclude {}", NetState(), False),
    ("include { min_level: 1 }", NetState(level=0), False),
    ("include { min_level: 1 }", NetState(level=1), True),
    ("include { max_level: 1 }", NetState(level=1), True),
    ("include { max_level: 1 }", NetState(level=2), False),
    ("include { min_level: -1 max_level: -1 }", NetState(level=-1), True),
    ('include { stage: "a" stage: "b" }', NetState(stages=("a",)), False),
    ('include { stage: "a" stage: "b" }', NetState(stages=("b", "a", "c")), True),
    ('include { not_stage: "a" not_stage: "b" }', NetState(stages=("b",)), False),
    ('include { not_stage: "a" }', NetState(stages=("c",)), True),
    ('include { phase: TEST stage: "a" }', NetState("TRAIN", 0, ("a",)), False),
    ('exclude { phase: TEST stage: "a" }', NetState("TEST", 0, ("b",)), True),
    ("include { phase: 1 }", NetState("TEST"), True),
]


@pytest.mark.parametrize("spelling", ['layer {{ name: "x" type: "ReLU" {} }}', 'layers {{ name: "x" type: RELU {} }}'])
@pytest.mark.parametrize(("rules", "state", "runs"), CASES)
def test_a_layer_runs_as_its_rules_say(spelling: str, rules: str, state: NetState, runs: bool) -> None:
    found = layers(parse(spelling.format(rules)))
    assert active(found, state) == (found if runs else ())


def test_layers_keep_their_order_and_others_are_left_out() -> None:
    found = layers(parse('layer { name: "a" } layer { name: "b" exclude {} } layer { name: "c" }'))
    assert [layer.name for layer in active(found, NetState())] == ["a", "c"]


def test_include_beside_exclude_is_refused_with_the_layers_name() -> None:
    found = layers(parse('layer { name: "drop7" include { phase: TEST } exclude { stage: "x" } }'))
    with pytest.raises(ModelError, match="layer 'drop7' has both include and exclude rules"):
        active(found, NetState())


def test_v0_layers_have_no_rules() -> None:
    found = layers(parse('layers { layer { name: "x" type: "relu" } include { phase: TRAIN } }'))
    assert active(found, NetState("TEST")) == found


def test_a_files_own_state_gives_level_and_stages_but_no_phase() -> None:
    document = parse('state { phase: TRAIN level: 2 stage: "a" } layer { name: "x" }')
    assert state_of(document) == NetState("TEST", 2, ("a",))


def test_what_is_asked_for_goes_before_the_files_state_and_stages_add_up() -> None:
    document = parse('state { level: 2 stage: "a" } layer { name: "x" }')
    assert state_of(document, phase="TRAIN", level=0, stages=("b", "a")) == NetState("TRAIN", 0, ("a", "b"))


def test_without_a_state_the_defaults_stand() -> None:
    assert state_of(parse('layer { name: "x" }')) == NetState("TEST", 0, ())
