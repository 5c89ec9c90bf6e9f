"""The losses as real Caffe computes them, against formulas and finite differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.formats import load
from surgery.formats.caffe import weights
from surgery.model import Overwrite
from surgery.runtime import ENGINES, Job
from surgery.tune.caffe import Goal, Stored, feed_of, run
from surgery.tune.caffe.history import Log
from surgery.tune.caffe.storing import softened
from tests.engines import require_caffe
from tests.tune.caffe.digits import DIGITS, ORIGINAL, cut_digits, one_step, samples

# A weight after the step is the one before less the gradient, both near 1 in float32, so that the difference is good to
# 1e-7 of that; the gradients looked at are around 1e-2 and sum a hundred products.
STEP = 2e-5
PRINTED = 1e-4  # Caffe prints six digits; a sum of a hundred float32 terms is good to five.


def blobs_of(files, inputs, names):  # type: ignore[no-untyped-def]
    """What a network makes of samples, in ONNX Runtime."""
    model = load(files)
    job = Job(files, [{"data": x[None]} for x in inputs], names)
    assert model.format.name == "caffe"
    found = ENGINES["onnxruntime"].run(job)
    return {name: np.concatenate([blobs[name] for blobs in found]).astype(np.float64) for name in names}


def inputs_of(feed: Stored, numbers) -> np.ndarray:  # type: ignore[no-untyped-def, type-arg]
    return np.stack([feed.data.read(i)["data"] for i in numbers])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_gives_the_gradient_of_the_cross_entropy_at_a_temperature(
    temperature: float, tmp_path: Path
) -> None:
    require_caffe()
    goal = Goal(distil=0.5, temperature=temperature)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    _, found = one_step(tmp_path / "run", cut, goal, feed)
    x = inputs_of(feed, feed.train)
    wanted = softened(blobs_of(ORIGINAL.files, x, ["ip2"])["ip2"], temperature)
    own = blobs_of(cut.files, x, ["ip2", "ip1"])
    slope = 0.5 * temperature * (softened(own["ip2"], temperature) - wanted) / len(x)  # by each logit
    np.testing.assert_allclose(found["ip2"][1], slope.sum(axis=0), rtol=0, atol=STEP)
    np.testing.assert_allclose(found["ip2"][0], slope.T @ own["ip1"], rtol=0, atol=STEP)
    assert np.abs(found["ip2"][0]).max() > 50 * STEP


@pytest.mark.parametrize(
    "goal",
    [
        Goal(labels=1),
        Goal(distil=1, temperature=4),
        Goal(responses=1, layers=("conv2", "ip1"), distil=0.1),
    ],
    ids=["labels", "distil", "mixed"],
)
def test_a_step_down_the_gradient_changes_the_loss_by_as_much_as_the_gradient_says(goal: Goal, tmp_path: Path) -> None:
    require_caffe()
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files, found = one_step(tmp_path / "run", cut, goal, feed)
    square = sum(float(np.vdot(each, each)) for blobs in found.values() for each in blobs)
    step = 0.02 / square  # The loss is to change by 4 % of 1: small beside its curve, large beside its six digits.
    losses = []
    for sign in (1, -1):
        model = cut.load()
        own = {name: model.native.weights.arrays(model.node(name).native.index) for name in found}
        moved = {
            name: {i: (own[name][i] + sign * step * slope).astype(np.float32) for i, slope in enumerate(slopes)}
            for name, slopes in found.items()
        }
        edited = model.edit(*(Overwrite(name, blobs) for name, blobs in moved.items()))
        (tmp_path / str(sign)).mkdir()
        saved = edited.format.save(edited, tmp_path / str(sign), "net")[1]
        (files.folder / files.weights).write_bytes(saved.read_bytes())
        (files.folder / "train.log").unlink()
        for path in files.folder.glob("tuned_iter_*"):
            path.unlink()
        losses.append(run(files).points[0].loss or 0.0)
    # Of third order is what is left; the loss is convex in none of these, but nearly quadratic over such a step.
    assert losses[0] - losses[1] == pytest.approx(2 * step * square, rel=0.05)


def test_a_response_counts_as_a_share_of_the_originals_squares(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(responses=3, layers=("conv2", "ip1"))
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files, _ = one_step(tmp_path / "run", cut, goal, feed)
    first = Log((files.folder / "train.log").read_text().splitlines()).points[0]
    x = inputs_of(feed, feed.train)
    # What a layer makes before the ReLU behind it works in place on it: without that ReLU, its output.
    shares = []
    for name in ("conv2", "ip1"):
        wanted, own = (raw(source, x, name, tmp_path / f"{i}{name}") for i, source in enumerate((ORIGINAL, cut)))
        shares.append(np.sum((own - wanted) ** 2) / np.sum(wanted**2))
    assert first.loss == pytest.approx(3 * np.mean(shares), rel=PRINTED)


def raw(source, x, name, folder):  # type: ignore[no-untyped-def]
    """What a layer makes, of a network that ends before the layer that works in place on it."""
    text = source.files[0].read_text()
    end = text.index(f'bottom: "{name}"\n  top: "{name}"')
    folder.mkdir()
    path = folder / "net.prototxt"
    path.write_text(text[: text.rindex("layer {", 0, end)])
    return blobs_of((path, source.files[1]), x, [name])[name]


def test_responses_alone_teach_each_cut_layer_from_its_own_original_only(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(responses=1, layers=("ip1",))
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    _, found = one_step(tmp_path / "run", cut, goal, feed, decay=0.01)
    moved = {name for name, blobs in found.items() if any(np.any(blob) for blob in blobs)}
    assert moved == {name for name in found if name.startswith("ip1")}
    assert len(moved) == 2


def test_frozen_layers_keep_their_weights_bit_for_bit(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    everything = {entry.name for entry in weights.read(cut.files[1]).layers if entry.shapes}
    _, found = one_step(tmp_path / "run", cut, goal, feed, decay=0.01, frozen=everything - {"ip2", "conv1"})
    assert {name for name, blobs in found.items() if any(np.any(blob) for blob in blobs)} == {"ip2", "conv1"}


def test_samples_without_labels_teach_the_original_s_outputs(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(distil=1)
    feed = feed_of(DIGITS / "calibration.npz", ORIGINAL.load())
    assert isinstance(feed, Stored)
    _, found = one_step(tmp_path / "run", cut_digits(tmp_path / "cut"), goal, feed)
    assert np.any(found["conv1"][0])
