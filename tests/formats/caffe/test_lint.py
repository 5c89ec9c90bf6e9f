"""Each finding on a minimal file, and that real Caffe refuses what is an error and takes what is not."""

from __future__ import annotations

import csv
import json
import struct
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError, ModelError, ParseError
from surgery.formats.caffe import lint_weights, text
from surgery.formats.caffe.finding import Finding
from surgery.formats.caffe.lint import lint
from surgery.formats.caffe.netstate import NetState, state_of
from surgery.formats.wire import encode_bytes
from surgery.runtime.engine import Job
from tests.engines import require_caffe
from tests.nets import conv_blobs, layer_bytes
from tests.shared import shared

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 6 } } }\n'
TEST = NetState()


def layer(kind: str, name: str = "a", bottom: str = "x", top: str = "y", more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} }}\n'


def conv(name: str = "a", bottom: str = "x", top: str = "y", more: str = "", param: str = "kernel_size: 3") -> str:
    return layer("Convolution", name, bottom, top, f"convolution_param {{ num_output: 2 {param} }} {more}")


def relu(name: str, bottom: str, top: str, more: str = "") -> str:
    return layer("ReLU", name, bottom, top, more)


V1 = 'layers { name: "a" type: RELU bottom: "x" top: "y" }\n'
CLEAN = INPUT + conv() + relu("r", "y", "y") + layer("Pooling", "p", "y", "z", "pooling_param { kernel_size: 2 }")

# Code of an error and a network that Caffe refuses over it.
REFUSED: Sequence[tuple[str, str]] = [
    ("unknown-field", INPUT + relu("a", "x", "y", "reluu_param { }")),
    ("unknown-field", INPUT + conv(param="kernel_size: 3 kernel: 3")),
    ("unknown-value", INPUT + layer("Pooling", more="pooling_param { pool: MEDIAN kernel_size: 2 }")),
    ("unknown-value", 'input: "x" input_dim: [1, 2, 6, 6]\n' + V1.replace("RELU", "CUSTOM")),
    ("foreign-value", INPUT + relu("a", "x", "y", "relu_param { engine: MKLDNN }")),
    ("wrong-type", INPUT + conv(param="kernel_size: 3.5")),
    ("wrong-type", INPUT + conv(param="kernel_size: 3 weight_filler { type: xavier }")),
    ("wrong-type", INPUT + relu("a", "x", "y", "relu_param: 3")),
    ("wrong-type", INPUT + 'layer { name { } type: "ReLU" bottom: "x" top: "y" }'),
    ("given-twice", INPUT + conv(param="kernel_size: 3 bias_term: true bias_term: true")),
    ("given-twice", INPUT + conv(more="convolution_param { bias_term: true }")),
    ("byte-order-mark", "\ufeff" + CLEAN),
    ("mixed-generations", INPUT + V1),
    ("include-and-exclude", INPUT + relu("a", "x", "y", "include { phase: TEST } exclude { phase: TRAIN }")),
    ("input-without-shape", 'input: "x"\n' + relu("a", "x", "y")),
    ("input-without-shape", 'layer { name: "in" type: "Input" top: "x" }\n' + conv()),
    ("upgrade-refused", 'layers { layer { name: "a" type: "custom" } }\n'),
    ("unknown-layer-type", INPUT + layer("Dence")),
    ("unknown-bottom", INPUT + relu("a", "w", "y")),
    ("unknown-bottom", INPUT + relu("a", "z", "y") + relu("b", "x", "z")),
    ("unknown-bottom", INPUT + relu("a", "x", "y", "include { phase: TRAIN }") + relu("b", "y", "z")),
    ("blob-made-twice", INPUT + relu("a", "x", "y") + conv("b", "x", "y")),
    ("blob-made-twice", INPUT + relu("a", "x", "y") + relu("b", "y", "x")),
    ("read-before-in-place", INPUT + relu("a", "x", "y") + conv("b", "y", "z") + relu("c", "y", "y")),
    ("read-before-in-place", INPUT + conv("b", "x", "z") + relu("c", "x", "x")),
    ("read-before-in-place", INPUT + relu("a", "x", "y", "loss_weight: 1") + relu("c", "y", "y")),
    ("in-place-refused", INPUT + relu("r", "x", "y") + layer("AbsVal", "a", "y", "y")),
    ("in-place-refused", INPUT + relu("r", "x", "y") + layer("Flatten", "a", "y", "y")),
    ("in-place-refused", INPUT + layer("Reshape", "a", "x", "x", "reshape_param { shape { dim: 0 dim: -1 } }")),
    ("lone-kernel", INPUT + conv(param="kernel_h: 3")),
    ("loss-weight-count", INPUT + relu("a", "x", "y", "loss_weight: 0 loss_weight: 0")),
    ("propagate-down-count", INPUT + relu("a", "x", "y", "propagate_down: true propagate_down: true")),
    ("param-count", INPUT + conv(more="param { } param { } param { }")),
    ("param-count", INPUT + relu("a", "x", "y", "param { }")),
    ("layer-refused", INPUT + conv(param="kernel_size: 9")),
    ("layer-refused", INPUT + conv(param="kernel_size: 3 group: 4")),
    ("layer-refused", INPUT + 'layer { name: "a" type: "Concat" top: "y" }'),
    (
        "two-top-loss",
        INPUT
        + 'layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 1 dim: 6 dim: 6 } } }\n'
        + 'layer { name: "a" type: "SoftmaxWithLoss" bottom: "x" bottom: "l" top: "y" top: "z" }',
    ),
    (
        "shared-shape",
        INPUT + conv("a", more='param { name: "w" }') + conv("b", "x", "z", 'param { name: "w" }', "kernel_size: 5"),
    ),
    (
        "shared-multiplier",
        INPUT
        + conv("a", more='param { name: "w" lr_mult: 1 }')
        + conv("b", "x", "z", 'param { name: "w" lr_mult: 2 }'),
    ),
    ("unknown-filler", INPUT + conv(param='kernel_size: 3 weight_filler { type: "Xavier" }')),
    ("engine-cudnn", INPUT + relu("a", "x", "y", "relu_param { engine: CUDNN }")),
]

# Code of an error that Caffe, or some build of it, does not notice on loading, and why it is one.
GARBAGE: Sequence[tuple[str, str]] = [
    # Reads past the end of an array.
    ("input-count", 'input: "x" input_dim: 1 input_dim: 2 input_dim: 6\n' + relu("a", "x", "y")),
    ("input-count", 'input: "x" input: "z" input_shape { dim: 1 }\n' + relu("a", "x", "y")),
    # Overwrites what it still reads.
    (
        "in-place-wrong",
        INPUT + relu("r", "x", "y") + layer("Pooling", "a", "y", "y", "pooling_param { kernel_size: 2 }"),
    ),
    ("in-place-wrong", INPUT + relu("r", "x", "y") + layer("LRN", "a", "y", "y")),
    ("in-place-wrong", INPUT + relu("r", "x", "y") + layer("Eltwise", "a", "y", "y", 'bottom: "x"')),
    ("in-place-wrong", INPUT + relu("r", "x", "y") + conv("a", "y", "y")),
    # Clip is in BVLC's master only.
    ("missing-field", INPUT + layer("Clip", more="clip_param { min: 0 }")),
    # BVLC's master stops; other builds read a stride of 1, and train the statistics.
    ("lone-stride", INPUT + conv(param="kernel_size: 3 stride_h: 2")),
    ("batch-norm-params", INPUT + layer("BatchNorm", more="param { }")),
    # Stops at the first run only.
    ("empty-blob", INPUT.replace("dim: 2", "dim: 0") + relu("a", "x", "y")),
]

# Severity and code of what Caffe takes without a word.
TAKEN: Sequence[tuple[str, str, str]] = [
    ("note", "upgraded-on-load", 'input: "x" input_dim: [1, 2, 6, 6]\n' + relu("a", "x", "y")),
    ("note", "upgraded-on-load", 'input: "x" input_shape { dim: [1, 2, 6, 6] }\n' + V1),
    ("note", "input-ignored", 'input: "x"\n' + INPUT + relu("a", "x", "y")),
    ("warning", "shape-without-input", "input_dim: 3\n" + INPUT + relu("a", "x", "y")),
    (
        "warning",
        "input-dim-ignored",
        'input: "x" input_shape { dim: 1 dim: 2 } input_dim: 3\n' + relu("a", "x", "y"),
    ),
    ("note", "duplicate-layer-name", INPUT + relu("a", "x", "y") + relu("a", "y", "z")),
    ("warning", "duplicate-layer-name", INPUT + conv("a") + conv("a", "y", "z")),
    ("note", "name-with-slash", INPUT + relu("a/b", "x", "y")),
    ("note", "in-place-on-input", INPUT + relu("a", "x", "x")),
    ("warning", "in-place-doubtful", INPUT + relu("r", "x", "y") + conv("a", "y", "y", param="kernel_size: 3 pad: 1")),
    (
        "warning",
        "shared-memory-changed",
        INPUT + layer("Split", "s", "x", "y", 'top: "z"') + relu("a", "y", "y") + conv("b", "z", "w"),
    ),
    (
        "warning",
        "shared-memory-changed",
        INPUT + layer("Flatten", "f", "x", "y") + relu("a", "y", "y") + conv("b", "x", "w"),
    ),
]


def write(folder: Path, content: str) -> Path:
    path = folder / "net.prototxt"
    path.write_bytes(content.encode())
    return path


def of_text(folder: Path, content: str, target: str | None = "caffe-master") -> list[Finding]:
    return lint(write(folder, content), None, state=TEST, input_shapes={}, target=target)


def kinds(findings: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(finding.severity, finding.code) for finding in findings}


def errors(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize(("code", "content"), [*REFUSED, *GARBAGE], ids=lambda value: value[:24])
def test_an_error_is_found(code: str, content: str, tmp_path: Path) -> None:
    severity = "warning" if code == "engine-cudnn" else "error"  # Builds for a GPU take it.
    assert (severity, code) in kinds(of_text(tmp_path, content))


@pytest.mark.parametrize(("severity", "code", "content"), TAKEN, ids=lambda value: value[:24])
def test_what_caffe_takes_is_no_error(severity: str, code: str, content: str, tmp_path: Path) -> None:
    found = of_text(tmp_path, content)
    assert (severity, code) in kinds(found)
    assert not errors(found)


def test_nothing_is_said_of_a_clean_network(tmp_path: Path) -> None:
    assert of_text(tmp_path, CLEAN, target=None) == []


@pytest.mark.parametrize(
    "content",
    [
        INPUT + layer("Split", "s", "x", "y", 'top: "z"') + conv("b", "z", "w") + relu("a", "y", "y"),
        INPUT + relu("r", "x", "y") + layer("LRN", "a", "y", "y", "lrn_param { norm_region: WITHIN_CHANNEL }"),
        INPUT
        + relu("r", "x", "y")
        + relu("q", "x", "z")
        + layer("Eltwise", "a", "y", "y", 'bottom: "z" eltwise_param { operation: PROD }'),
        INPUT + layer("BatchNorm", more="param { } param { } param { }"),
        INPUT + conv(param='kernel_size: 3 bias_term: false bias_filler { type: "none" }'),
        INPUT + conv("a", more='param { name: "w" lr_mult: 1 }') + conv("b", "x", "z", 'param { name: "w" }'),
    ],
)
def test_what_only_looks_wrong_is_not_an_error(content: str, tmp_path: Path) -> None:
    assert [finding for finding in of_text(tmp_path, content) if finding.severity != "note"] == []


def test_caffe_refuses_what_is_an_error_and_takes_the_rest(tmp_path: Path) -> None:
    caffe = require_caffe()
    nets = [(code, content, True) for code, content in REFUSED]
    nets += [(code, content, False) for _, code, content in TAKEN] + [("clean", CLEAN, False)]
    jobs = []
    for number, (_, content, _) in enumerate(nets):
        folder = tmp_path / str(number)
        folder.mkdir()
        jobs.append(Job([write(folder, content)], [{}]))
    results = caffe.blob_shapes_of(jobs)
    wrong = [
        (code, content, str(result))
        for (code, content, is_refused), result in zip(nets, results, strict=True)
        if isinstance(result, EngineError) != is_refused
    ]
    assert wrong == []


def test_a_field_that_only_some_runtimes_know_is_a_warning_that_names_the_others(tmp_path: Path) -> None:
    clip = INPUT + layer("Clip", more="clip_param { min: 0 max: 6 }")
    found = of_text(tmp_path, clip, target=None)
    assert kinds(found) == {("warning", "foreign-field"), ("warning", "unknown-layer-type")}
    assert all(finding.targets == ("caffe-1.0", "caffe-ssd", "caffe-android-lib") for finding in found)
    assert of_text(tmp_path, clip, "caffe-master") == []
    assert ("error", "foreign-field") in kinds(of_text(tmp_path, clip, "caffe-1.0"))


def test_a_network_that_no_single_runtime_takes_is_an_error(tmp_path: Path) -> None:
    content = INPUT + layer("Clip", more="clip_param { min: 0 max: 6 }")
    content += layer("Permute", "b", "y", "z", "permute_param { order: [0, 2, 3, 1] }")
    assert ("error", "no-common-runtime") in kinds(of_text(tmp_path, content, target=None))


def test_opencv_passes_over_fields_that_it_does_not_know(tmp_path: Path) -> None:
    content = INPUT + layer("Pooling", more="pooling_param { kernel_size: 2 round_mode: FLOOR }")
    assert kinds(of_text(tmp_path, content, "opencv")) == {("warning", "ignored-field")}


def test_a_target_refuses_what_its_build_lacks(tmp_path: Path) -> None:
    cudnn = INPUT + relu("a", "x", "y", "relu_param { engine: CUDNN }")
    assert ("error", "engine-cudnn") in kinds(of_text(tmp_path, cudnn, "caffe-android-lib"))
    staged = INPUT + relu("a", "x", "y", 'exclude { stage: "deploy" }')
    assert ("error", "rules-ignored") in kinds(of_text(tmp_path, staged, "opencv"))
    v0 = 'input: "x" input_dim: [1, 2, 6, 6]\nlayers { layer { name: "a" type: "relu" } bottom: "x" top: "y" }'
    assert ("error", "old-generation") in kinds(of_text(tmp_path, v0, "opencv"))


def test_an_optional_layer_type_is_a_note(tmp_path: Path) -> None:
    content = INPUT + layer("Python", more='python_param { module: "m" layer: "L" }')
    assert kinds(of_text(tmp_path, content)) == {("note", "optional-layer-type")}


def test_a_finding_in_the_text_says_where_and_is_told_once(tmp_path: Path) -> None:
    content = INPUT + "".join(relu(name, "x", name, "\n  relu_parm { }") for name in "abc")
    (found,) = [finding for finding in of_text(tmp_path, content) if finding.code == "unknown-field"]
    assert found.where == f"{tmp_path / 'net.prototxt'}:3:3"
    assert found.message.endswith("did you mean 'relu_param'? (3 places)")


def test_the_worst_comes_first(tmp_path: Path) -> None:
    content = 'input: "x" input_dim: [1, 2, 6, 6]\n' + conv("a/b") + conv("c", "w", "z") + conv("a/b", "x", "u")
    found = [finding.severity for finding in of_text(tmp_path, content)]
    assert found == sorted(found, key=["error", "warning", "note"].index)
    assert len(set(found)) == 3


def test_unreadable_files_raise(tmp_path: Path) -> None:
    with pytest.raises(ParseError):
        of_text(tmp_path, "layer {")
    with pytest.raises(ModelError, match="is not a network"):
        of_text(tmp_path, 'name: "x"')
    with pytest.raises(ModelError, match="no runtime"):
        of_text(tmp_path, CLEAN, target="caffe-2")


# --- weights

NET = INPUT + conv("a") + conv("b", "y", "z")
Entries = Sequence[tuple[str, Sequence[np.ndarray]]]
GOOD: Entries = [("a", conv_blobs(2, 2, 3, 3)), ("b", conv_blobs(2, 2, 3, 3, seed=1))]


def of_pair(folder: Path, entries: Entries | bytes, content: str | None = NET, **more: str) -> list[Finding]:
    weights = folder / "net.caffemodel"
    is_bytes = isinstance(entries, bytes)
    weights.write_bytes(entries if is_bytes else b"".join(layer_bytes(name, blobs) for name, blobs in entries))
    prototxt = write(folder, content) if content is not None else None
    return lint(prototxt, weights, state=TEST, input_shapes={}, target=more.get("target", "caffe-master"))


def changed(blobs: Sequence[np.ndarray], value: float) -> list[np.ndarray]:
    first = blobs[0].copy()
    first.flat[3] = value
    return [first, *blobs[1:]]


@pytest.mark.parametrize(
    ("severity", "code", "entries"),
    [
        ("error", "blob-count", [GOOD[0], ("b", conv_blobs(2, 2, 3, 3, bias=False))]),
        ("error", "blob-count", [GOOD[0], ("b", [])]),
        ("error", "blob-shape", [GOOD[0], ("b", conv_blobs(2, 2, 5, 3))]),
        ("error", "blob-shape", [GOOD[0], ("b", [GOOD[1][1][0], np.zeros((1, 2), np.float32)])]),
        ("error", "not-finite", [GOOD[0], ("b", changed(GOOD[1][1], np.nan))]),
        ("error", "not-finite", [GOOD[0], ("b", changed(GOOD[1][1], -np.inf))]),
        ("warning", "weights-at-filler", [GOOD[0]]),
        ("warning", "duplicate-entry", [*GOOD, GOOD[0]]),
        ("note", "weights-ignored", [*GOOD, ("c", conv_blobs(2, 2, 1, 1))]),
        ("warning", "weights-ignored", [("c", conv_blobs(2, 2, 1, 1))]),
    ],
)
def test_weights_that_do_not_fit(severity: str, code: str, entries: Entries, tmp_path: Path) -> None:
    assert (severity, code) in kinds(of_pair(tmp_path, entries))
    assert of_pair(tmp_path, GOOD) == []


def test_caffe_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    caffe = require_caffe()
    for number, (entries, is_refused) in enumerate(
        [
            (GOOD, False),
            ([GOOD[0]], False),
            ([*GOOD, GOOD[0]], False),
            ([GOOD[0], ("b", [])], True),
            ([GOOD[0], ("b", conv_blobs(2, 2, 5, 3))], True),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = of_pair(folder, entries)
        (result,) = caffe.blob_shapes_of([Job([folder / "net.prototxt", folder / "net.caffemodel"], [{}])])
        assert isinstance(result, EngineError) == bool(errors(found)) == is_refused


def test_a_lone_caffemodel_is_linted_too(tmp_path: Path) -> None:
    entries = [*GOOD, ("a", changed(GOOD[0][1], np.nan))]
    found = of_pair(tmp_path, entries, None)
    assert kinds(found) == {("warning", "duplicate-entry"), ("error", "not-finite")}
    assert of_pair(tmp_path, b"", None) == []


def blob_bytes(shape: Sequence[int], body: bytes) -> bytes:
    return encode_bytes(7, encode_bytes(1, bytes(shape))) + body


def layer_of(name: str, *blobs: bytes, number: int = 100) -> bytes:
    fields = (1, 7) if number == 100 else (4, 6)
    parts = [encode_bytes(fields[0], name.encode()), *(encode_bytes(fields[1], blob) for blob in blobs)]
    return encode_bytes(number, b"".join(parts))


def test_unusual_spellings_of_numbers(tmp_path: Path) -> None:
    double = layer_of("a", blob_bytes([2], encode_bytes(8, struct.pack("<2d", 1, 2))))
    assert kinds(of_pair(tmp_path, double, None)) == {("note", "double-data")}
    assert kinds(of_pair(tmp_path, double, None, target="opencv")) == {("error", "double-data")}
    raw = layer_of("a", blob_bytes([2], encode_bytes(12, bytes(4))))
    assert ("error", "raw-data") in kinds(of_pair(tmp_path, raw, None))
    assert of_pair(tmp_path, raw, None, target="opencv") == []
    short = layer_of("a", blob_bytes([3], encode_bytes(5, struct.pack("<2f", 1, 2))))
    assert ("error", "number-count") in kinds(of_pair(tmp_path, short, None))
    old = layer_of("a", blob_bytes([1], encode_bytes(5, struct.pack("<f", 1))), number=2)
    assert kinds(of_pair(tmp_path, old, None)) == {("note", "old-weights")}


def test_unpacked_numbers_are_looked_at_too(tmp_path: Path) -> None:
    unpacked = b"".join(b"\x2d" + struct.pack("<f", value) for value in (1.0, float("nan"), 2.0))
    assert ("error", "not-finite") in kinds(of_pair(tmp_path, layer_of("a", blob_bytes([3], unpacked)), None))


def test_a_batch_norm_with_factor_zero(tmp_path: Path) -> None:
    content = INPUT + layer("BatchNorm", "n")
    ones, zero = np.ones(2, np.float32), np.zeros(1, np.float32)
    found = of_pair(tmp_path, [("n", [ones, ones, zero])], content)
    assert kinds(found) == {("warning", "batch-norm-factor"), ("note", "type-differs")}
    assert kinds(of_pair(tmp_path, [("n", [ones, ones, zero + 1])], content)) == {("note", "type-differs")}


SHARED = INPUT + "".join(
    conv(name, bottom, top, f'param {{ name: "w" }} param {{ name: "v{name}" }}')
    for name, bottom, top in (("a", "x", "y"), ("b", "y", "z"))
)


def test_shared_weights_of_different_values(tmp_path: Path) -> None:
    found = of_pair(tmp_path, GOOD, SHARED)
    assert kinds(found) == {("warning", "shared-values-differ")}
    assert found[0].where == "b"
    assert "those of 'b'" in found[0].message
    same = [GOOD[0], ("b", [GOOD[0][1][0], GOOD[1][1][1]])]
    assert of_pair(tmp_path, same, SHARED) == []


def test_a_layer_that_shares_all_its_weights_needs_no_entry(tmp_path: Path) -> None:
    assert of_pair(tmp_path, [GOOD[0]], SHARED.replace('"vb"', '"va"')) == []
    assert kinds(of_pair(tmp_path, [GOOD[0]], SHARED)) == {("warning", "weights-at-filler")}


def test_weights_in_the_prototxt_are_not_at_filler(tmp_path: Path) -> None:
    content = INPUT + conv("a") + conv("b", "y", "z", "blobs { } blobs { }")
    assert of_pair(tmp_path, [GOOD[0]], content) == []


def test_a_second_layer_of_a_name_stays_at_filler(tmp_path: Path) -> None:
    found = of_pair(tmp_path, [GOOD[0]], INPUT + conv("a") + conv("a", "y", "z"))
    assert kinds(found) == {("warning", "duplicate-layer-name"), ("warning", "weights-at-filler")}


def test_hdf5_weights(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        for name, blobs in GOOD:
            for i, blob in enumerate(blobs):
                file[f"data/{name}/{i}"] = blob
    prototxt = write(tmp_path, NET)
    assert lint(prototxt, path, state=TEST, input_shapes={}, target="caffe-master") == []
    found = lint(prototxt, path, state=TEST, input_shapes={}, target="caffe-android-lib")
    assert kinds(found) == {("error", "hdf5-weights")}
    slashed = write(tmp_path, NET.replace('name: "b"', 'name: "b/c"'))
    found = lint(slashed, path, state=TEST, input_shapes={}, target="caffe-master")
    assert ("warning", "weights-at-filler") in kinds(found)
    assert any("no names with a '/'" in finding.message for finding in found)


def test_a_file_above_protobufs_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint_weights, "MAX_BYTES", 100)
    assert ("error", "file-too-large") in kinds(of_pair(tmp_path, GOOD))


def test_looking_at_large_weights_copies_none(tmp_path: Path) -> None:
    blob = np.ones((4096, 2048), np.float32)  # 32 MiB
    tracemalloc.start()
    try:
        of_pair(tmp_path, [("a", [blob])], None)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        lint(None, tmp_path / "net.caffemodel", state=TEST, input_shapes={})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written > peak
    assert peak < 16 << 20


# --- reference files


def golden() -> list[tuple[Path, Mapping[str, Sequence[str]]]]:
    folder = shared("golden")
    return [(folder / c["case"], c) for c in json.loads((folder / "index.json").read_text())["cases"]]


def test_networks_that_ran_in_caffe_have_no_error() -> None:
    found = {}
    for folder, case in golden():
        state = NetState(stages=tuple(case["stages"]))
        both = folder / "net.prototxt", folder / "net.caffemodel"
        found[folder.name] = [f.code for f in errors(lint(*both, state=state, input_shapes={}, target="caffe-master"))]
    # It runs, and computes something else than its text says.
    assert {name: codes for name, codes in found.items() if codes} == {"eltwise_inplace_first": ["in-place-wrong"]}


@pytest.mark.parametrize(
    ("target", "schema"),
    [("caffe-master", "bvlc_master"), ("caffe-1.0", "bvlc_1.0"), ("caffe-android-lib", "sh1r0"), ("caffe-ssd", "ssd")],
)
def test_a_field_finding_is_there_where_that_schema_refuses_the_text(target: str, schema: str) -> None:
    refused = set(json.loads(shared("caffe/proto_accept.json").read_text())[schema])
    found = {
        folder.name
        for folder, _ in golden()
        if any(
            finding.code in ("foreign-field", "unknown-field", "foreign-value", "unknown-value")
            for finding in lint(folder / "net.prototxt", None, state=TEST, input_shapes={}, target=target)
        )
    }
    assert found == refused


def of_zoo(names: Sequence[str], target: str) -> dict[str, list[Finding] | None]:
    """The errors in files of the zoo; None for one that is no network."""
    found: dict[str, list[Finding] | None] = {}
    for name in names:
        path = shared("zoo/prototxt") / name
        try:
            findings = lint(path, None, state=state_of(text.read(path)), input_shapes={}, target=target)
        except ModelError:
            found[name] = None
        else:
            found[name] = errors(findings)
    return found


def zoo_results(kind: str, matches: Callable[[str], bool]) -> list[str]:
    results = json.loads(shared("zoo/caffe_results.json").read_text())[kind]
    return [name for name, result in results.items() if matches(result)]


def test_networks_that_bvlc_caffe_set_up_have_no_error() -> None:
    found = of_zoo(zoo_results("shapes", lambda result: result == "bvlc"), "caffe-master")
    assert len(found) > 150
    assert {name: codes for name, codes in found.items() if codes != []} == {}


def test_networks_that_bvlc_caffe_refused_to_read_have_errors() -> None:
    found = of_zoo(zoo_results("upgrade", lambda result: result == "fail"), "caffe-master")
    assert len(found) > 90
    assert [name for name, codes in found.items() if codes == []] == []


def test_networks_that_bvlc_caffe_read_have_no_error_in_their_text() -> None:
    found = of_zoo(zoo_results("upgrade", lambda result: result == "ok"), "caffe-master")
    in_text = {"unknown-field", "foreign-field", "unknown-value", "foreign-value", "wrong-type", "given-twice"}
    assert [name for name, some in found.items() if some is None or in_text & {f.code for f in some}] == []


def test_weights_that_bvlc_caffe_loaded_have_no_error() -> None:
    folder = shared("zoo/caffemodel")
    with (folder / "PAIRS.tsv").open(encoding="utf-8", newline="") as file:
        pairs = [row for row in csv.DictReader(file, delimiter="\t") if "bvlc" in row["loads_in"]]
    found = {}
    for row in pairs:
        both = folder / row["prototxt"], folder / row["weights"]
        found[row["weights"], row["prototxt"]] = errors(lint(*both, state=TEST, input_shapes={}, target="caffe-master"))
    assert len(found) > 100
    assert {pair: some for pair, some in found.items() if some} == {}
