"""SSD's layers against real Caffe, and DetectionOutput also against SSD's rules in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from surgery.convert.to_onnx import to_onnx
from surgery.errors import ConversionError
from surgery.model import Shape
from surgery.runtime import Array, Job
from tests.convert.to_onnx.nets import Draw, Net, Results, compare, converted, inputs, layer, single, write
from tests.engines import require_onnxruntime

CLASSES, PRIORS = 4, 60


def priors(rng: np.random.Generator, shape: Shape) -> Array:
    """Boxes of some size within the image, and variances."""
    centre, size = rng.uniform(0.2, 0.8, (PRIORS, 2)), rng.uniform(0.1, 0.4, (PRIORS, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    return np.stack([boxes, np.tile([0.1, 0.1, 0.2, 0.2], (PRIORS, 1))]).reshape(shape).astype(np.float32)


def scores(rng: np.random.Generator, shape: Shape) -> Array:
    """Probabilities of each prior's classes."""
    odds = np.exp(rng.normal(0, 2, (shape[0], PRIORS, CLASSES)))
    return (odds / odds.sum(-1, keepdims=True)).reshape(shape).astype(np.float32)


def tied(rng: np.random.Generator, shape: Shape) -> Array:
    """A few different scores only, in tenths."""
    return np.round(scores(rng, shape), 1)


@dataclass(frozen=True)
class Case:
    """Fields of a DetectionOutput."""

    nms_threshold: float = 0.45
    top_k: int | None = None
    keep_top_k: int = -1
    confidence_threshold: float | None = None
    code_type: str = "CENTER_SIZE"
    share_location: bool = True
    background_label_id: int = 0
    variance_encoded_in_target: bool = False
    scores: Draw = scores
    batch: int = 2

    @property
    def net(self) -> Net:
        top_k = "" if self.top_k is None else f"top_k: {self.top_k}"
        threshold = "" if self.confidence_threshold is None else f"confidence_threshold: {self.confidence_threshold}"
        param = (
            f"detection_output_param {{ num_classes: {CLASSES} share_location: {str(self.share_location).lower()} "
            f"background_label_id: {self.background_label_id} code_type: {self.code_type} "
            f"nms_param {{ nms_threshold: {self.nms_threshold} {top_k} }} keep_top_k: {self.keep_top_k} "
            f"variance_encoded_in_target: {str(self.variance_encoded_in_target).lower()} {threshold} }}"
        )
        boxes = 1 if self.share_location else CLASSES
        shapes = (self.batch, PRIORS * boxes * 4), (self.batch, PRIORS * CLASSES), (1, 2, PRIORS * 4)
        return single("DetectionOutput", param, *shapes, values={"x1": self.scores, "x2": priors}, batch=self.batch > 1)


CASES = {
    "everything": Case(),
    "top_k": Case(top_k=7),
    "top_k above the priors": Case(top_k=1000),
    "keep_top_k": Case(keep_top_k=5),
    "keep_top_k above the boxes": Case(keep_top_k=500),
    "confidence_threshold": Case(confidence_threshold=0.5),
    "all": Case(top_k=20, keep_top_k=9, confidence_threshold=0.1),
    "one image": Case(top_k=20, keep_top_k=9, confidence_threshold=0.1, batch=1),
    "nothing": Case(confidence_threshold=1.0),
    "nothing in one image": Case(confidence_threshold=1.0, batch=1),
    "corners": Case(code_type="CORNER", top_k=30),
    "corners and size": Case(code_type="CORNER_SIZE", keep_top_k=10),
    "a box for each class": Case(share_location=False, top_k=12),
    "corners for each class": Case(share_location=False, code_type="CORNER", keep_top_k=12),
    "background in the middle": Case(background_label_id=2, confidence_threshold=0.2),
    "background at the end": Case(background_label_id=3, confidence_threshold=0.2),
    "no background": Case(share_location=False, background_label_id=-1, confidence_threshold=0.2),
    "variances in the target": Case(variance_encoded_in_target=True, nms_threshold=0.2),
    "corners, variances in the target": Case(variance_encoded_in_target=True, code_type="CORNER"),
    "size, variances in the target": Case(variance_encoded_in_target=True, code_type="CORNER_SIZE"),
    "nothing overlaps too much": Case(nms_threshold=1.5),
    "nothing may overlap": Case(nms_threshold=0),
    "equal scores": Case(scores=tied, top_k=15),
}  # fmt: skip


@pytest.fixture(scope="module")
def detections(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare({name: case.net for name, case in CASES.items()}, tmp_path_factory.mktemp("detection"))


@pytest.mark.parametrize("name", [name + dynamic for name, c in CASES.items() for dynamic in ("", " (dynamic)")
                                  if c.batch > 1 or not dynamic])  # fmt: skip
def test_detections_are_caffes(name: str, detections: Results) -> None:
    assert detections[name].error < 1e-6  # Boxes and scores are a few float32 operations.


OPSETS = (13, 18, 22)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Array]:
    """What ONNX Runtime finds, all cases in one start of it."""
    folder = tmp_path_factory.mktemp("rules")
    keys = [(name, opset) for name in CASES for opset in OPSETS]
    jobs = [
        Job([converted(CASES[name].net, folder / str(i), opset=opset).path], [inputs(CASES[name].net)])
        for i, (name, opset) in enumerate(keys)
    ]
    results = require_onnxruntime().run_jobs(jobs)
    return {key: result[0]["y0"] for key, result in zip(keys, results, strict=True) if isinstance(result, list)}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", CASES)
def test_detections_are_those_of_ssds_rules(name: str, opset: int, found: dict[tuple[str, int], Array]) -> None:
    expected = detect(CASES[name], *inputs(CASES[name].net).values())
    assert found[name, opset].shape == expected.shape
    # exp() may differ in its last bit.
    np.testing.assert_allclose(found[name, opset], expected, rtol=1e-5, atol=1e-6)


def detect(case: Case, offsets: Array, confidences: Array, prior: Array) -> Array:
    """What SSD's DetectionOutput gives, rule by rule."""
    offsets = offsets.reshape(case.batch, PRIORS, -1, 4)
    confidences = confidences.reshape(case.batch, PRIORS, CLASSES)
    threshold = -np.inf if case.confidence_threshold is None else np.float32(case.confidence_threshold)
    rows = []
    for image in range(case.batch):
        kept: dict[int, list[int]] = {}
        boxes = {}
        for label in range(CLASSES):
            if label == case.background_label_id:
                continue
            own = offsets[image, :, 0 if case.share_location else label]
            boxes[label] = decode(case, own, *prior.reshape(2, PRIORS, 4))
            kept[label] = suppress(case, boxes[label], confidences[image, :, label], threshold)
        found = [(confidences[image, i, label], label, i) for label, indices in kept.items() for i in indices]
        if -1 < case.keep_top_k < len(found):
            found = sorted(found, key=lambda one: -one[0])[: case.keep_top_k]
        found.sort(key=lambda one: one[1])
        rows += [[image, label, score, *boxes[label][index]] for score, label, index in found]
    nothing = [[image, -1, -1, -1, -1, -1, -1] for image in range(case.batch)]
    return np.asarray(rows or nothing, np.float32)[np.newaxis, np.newaxis]


def decode(case: Case, offsets: Array, prior: Array, variance: Array) -> Array:
    if not case.variance_encoded_in_target:
        offsets = variance * offsets
    if case.code_type == "CORNER":
        return prior + offsets
    size = prior[:, 2:] - prior[:, :2]
    if case.code_type == "CORNER_SIZE":
        return prior + offsets * np.tile(size, 2)
    centre = (prior[:, :2] + prior[:, 2:]) / 2 + offsets[:, :2] * size
    half = np.exp(offsets[:, 2:]) * size / 2
    return np.concatenate([centre - half, centre + half], 1)


def suppress(case: Case, boxes: Array, confidences: Array, threshold: float) -> list[int]:
    order = [int(i) for i in np.argsort(-confidences, kind="stable") if confidences[i] > threshold]
    kept: list[int] = []
    for index in order[: case.top_k]:
        if all(overlap(boxes[index], boxes[other]) <= case.nms_threshold for other in kept):
            kept.append(index)
    return kept


def overlap(a: Array, b: Array) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if width <= 0 or height <= 0:
        return 0.0
    area = width * height
    return float(area / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - area))


def test_the_cases_suppress_and_keep_something() -> None:
    """Else the comparisons above would show little."""

    def count(case: Case) -> int:
        return detect(case, *inputs(case.net).values()).shape[2]

    everything = count(Case(nms_threshold=1.5))
    assert everything == 2 * PRIORS * (CLASSES - 1)
    assert count(Case()) < 0.75 * everything
    assert count(Case(keep_top_k=5)) == 10
    corners = detect(CASES["corners"], *inputs(CASES["corners"].net).values())[0, 0]
    assert (corners[:, 3] > corners[:, 5]).any()  # Turned inside out, which counts as overlapping nothing.


def test_the_number_of_detections_is_a_symbol_that_layers_behind_follow(tmp_path: Path) -> None:
    text = CASES["all"].net.text + layer("Permute", "y0", "turned", "permute_param { order: 2 }", "turned")
    net = replace(CASES["all"].net, text=text)
    one = converted(net, tmp_path)
    assert [output.shape for output in one.conversion.inner] == [(1, 1, "layer_items", 7)]
    assert [output.shape for output in one.conversion.outputs] == [("layer_items", 1, 1, 7)]
    (found,) = require_onnxruntime().run(Job([one.path], [inputs(net)]))
    assert found["turned"].shape == (18, 1, 1, 7)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ("num_classes: 4", "nms_param"),
        ("num_classes: 4 nms_param { nms_threshold: 0.6 eta: 0.9 }", "eta"),
        ("num_classes: 4 nms_param { } objectness_score: 0.1", "objectness_score"),
        ("num_classes: 4 nms_param { } background_label_id: -1", "background_label_id"),
        ("num_classes: 4 nms_param { top_k: 0 }", "nothing"),
    ],
)
def test_what_ssd_does_not_share_or_onnx_cannot_do_is_refused(fields: str, reason: str, tmp_path: Path) -> None:
    shapes = (1, PRIORS * 4), (1, PRIORS * CLASSES), (1, 2, PRIORS * 4)
    net = single("DetectionOutput", f"detection_output_param {{ {fields} }}", *shapes)
    with pytest.raises(ConversionError, match=rf"'layer' \(DetectionOutput\): .*{reason}"):
        to_onnx(write(net, tmp_path))


def test_eta_without_effect_is_taken(tmp_path: Path) -> None:
    """SSD lowers the threshold while it is above 0.5 only."""
    net = CASES["everything"].net
    with_eta = replace(net, text=net.text.replace("nms_threshold: 0.45", "nms_threshold: 0.45 eta: 0.9"))
    assert with_eta.text != net.text
    assert compare({"eta": with_eta}, tmp_path)["eta"].error < 1e-6


PRIOR_BOX = "prior_box_param { clip: %s %s }"  # The build's default of `clip` is not SSD's.
SIZES: tuple[Shape, Shape] = (2, 8, 5, 7), (2, 3, 40, 61)
PRIOR_NETS = {
    fields: single("PriorBox", PRIOR_BOX % (("true" if "1.7" in fields else "false"), fields), *SIZES)
    for fields in (
        "min_size: 30",
        "min_size: 30.7 max_size: 61.9",
        "min_size: 30 max_size: 60 aspect_ratio: 2",
        "min_size: 30 max_size: 60 aspect_ratio: 2 aspect_ratio: 3 flip: false",
        "min_size: 30 min_size: 11 max_size: 60 max_size: 17 aspect_ratio: 2 aspect_ratio: 0.5 aspect_ratio: 1",
        "min_size: 30 aspect_ratio: 1.7",
        "min_size: 43.3 max_size: 91 aspect_ratio: 2.3 aspect_ratio: 0.7 aspect_ratio: 3.1",
        "min_size: 30 variance: 0.3",
        "min_size: 30 variance: 0.1 variance: 0.2 variance: 0.3 variance: 0.4",
        "min_size: 30 img_size: 300",
        "min_size: 30 img_h: 300 img_w: 200",
        "min_size: 30 step: 8",
        "min_size: 30 step_h: 8 step_w: 16.5 offset: 0.25",
        "min_size: 30 step: 8.5 offset: 0",
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def prior_boxes(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return compare(PRIOR_NETS, tmp_path_factory.mktemp("prior_box"))


@pytest.mark.parametrize("fields", PRIOR_NETS)
def test_prior_boxes_are_caffes_to_the_last_bit(fields: str, prior_boxes: Results) -> None:
    for name in (fields, fields + " (dynamic)"):
        result = prior_boxes[name]
        assert not isinstance(result.expected, str), result.expected
        assert not isinstance(result.found, str), result.found
        np.testing.assert_array_equal(result.found["y0"], result.expected["y0"])


def test_a_prior_box_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="img_size"):
        to_onnx(write(single("PriorBox", "prior_box_param { min_size: 3 }", (1, 3, 5, 5)), tmp_path))


def small_ssd() -> Net:
    """SSD's wiring over two maps: box and score heads, permuted, flattened and joined, priors beside them."""
    conv = "convolution_param {{ num_output: {} kernel_size: 3 pad: 1 stride: {} }}"
    text = layer("Convolution", "x0", "small", conv.format(8, 4), "small")
    text += layer("ReLU", "small", "small", name="small_relu")
    text += layer("Normalize", "small", "large", "norm_param { across_spatial: false channel_shared: false }", "norm")
    text += layer("Convolution", "small", "deep", conv.format(8, 2), "deep")
    for source in ("large", "deep"):
        for head, outputs in (("loc", 3 * 4), ("conf", 3 * CLASSES)):
            name = f"{source}_{head}"
            text += layer("Convolution", source, name, conv.format(outputs, 1), name)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            text += layer("Permute", name, f"{name}_perm", order, f"{name}_perm")
            text += layer("Flatten", f"{name}_perm", f"{name}_flat", "flatten_param { axis: 1 }", f"{name}_flat")
        size = "min_size: 12 max_size: 20" if source == "large" else "min_size: 20 max_size: 40"
        boxes = f"prior_box_param {{ {size} aspect_ratio: 2 flip: false clip: false variance: 0.1 }}"
        text += layer("PriorBox", f"{source} x0", f"{source}_prior", boxes, f"{source}_prior")
    for head in ("loc", "conf"):
        text += layer("Concat", f"large_{head}_flat deep_{head}_flat", head, "concat_param { axis: 1 }", head)
    text += layer("Concat", "large_prior deep_prior", "prior", "concat_param { axis: 2 }", "prior")
    shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {CLASSES} }} }}"
    text += layer("Reshape", "conf", "conf_rows", shape, "conf_rows")
    text += layer("Softmax", "conf_rows", "conf_soft", "softmax_param { axis: 2 }", "conf_soft")
    text += layer("Flatten", "conf_soft", "conf_flat", "flatten_param { axis: 1 }", "conf_flat")
    found = (
        f"detection_output_param {{ num_classes: {CLASSES} nms_param {{ nms_threshold: 0.45 top_k: 50 }} "
        "code_type: CENTER_SIZE keep_top_k: 20 confidence_threshold: 0.3 }"
    )
    text += layer("DetectionOutput", "loc conf_flat prior", "found", found, "found")

    def weak(rng: np.random.Generator, shape: Shape) -> Array:
        """So weak that no two scores are 1 in single precision: SSD leaves the order of equal ones open."""
        return (0.1 * rng.standard_normal(shape)).astype(np.float32)

    names = ["small", "deep", *(f"{source}_{head}" for source in ("large", "deep") for head in ("loc", "conf"))]
    return Net(text, [(2, 3, 32, 40)], blobs={(name, 0): weak for name in names})


def test_a_small_ssd_finds_what_it_finds_in_caffe(tmp_path: Path) -> None:
    results = compare({"ssd": small_ssd()}, tmp_path)
    for result in results.values():
        assert not isinstance(result.expected, str), result.expected
        assert result.expected["found"].shape[2] > 10
        assert result.error < 1e-5  # Convolutions of float32 come before.
