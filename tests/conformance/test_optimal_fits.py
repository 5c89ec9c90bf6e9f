"""Linear fits to data reach the least error that there is, on layers of real networks.

The bounds are computed apart: the network's own blobs, as a runtime makes them, are unfolded here, and the best
approximation of each rank is written down from the eigenvectors of all inputs or responses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import calibration
from surgery.factor import METHODS
from surgery.factor.statistics import Statistics
from surgery.fitting import fit
from surgery.formats import Source
from surgery.ops import Chain, Conv2d, Op, collapse
from surgery.runtime import Job
from surgery.runtime.images import decoded
from surgery.survey import survey
from tests.engines import require_onnxruntime, require_opencv
from tests.shared import shared

WITHIN = 1.01


@dataclass(frozen=True)
class Layer:
    """A layer, its statistics, and apart from them its inputs x (N, n) in the images that are not held out."""

    op: Op
    statistics: Statistics
    x: np.ndarray

    def error(self, chain: Chain) -> float:
        """Root of the mean over x of |y - ŷ|², y what the layer makes of x; biases count."""
        whole = collapse(chain)
        missing = (whole.weight - self.op.weight).reshape(len(self.op.weight), -1)
        shift = (0 if whole.bias is None else whole.bias) - (0 if self.op.bias is None else self.op.bias)
        return float(np.sqrt(np.square(self.x @ missing.T + shift).sum(axis=1).mean()))


def pictures(count: int) -> np.ndarray:
    require_opencv()
    files = sorted(shared("data/imagenet_sample_256").glob("*.jpg"))[:count]
    images = np.stack([decoded(file, channels=3)[14:241, 14:241] for file in files])
    return (images.astype(np.float32) - np.float32([104, 117, 123])).transpose(0, 3, 1, 2).copy()


def digits(count: int) -> np.ndarray:
    images = np.load(shared("data/mnist_train.npz"))["images"][:count, None]
    return images.astype(np.float32) / 256


def unfolded(maps: np.ndarray, op: Op) -> np.ndarray:
    """What the layer reads of maps (N, channels, h, w): a row for each position, channel by channel."""
    if not isinstance(op, Conv2d):
        return maps.reshape(len(maps), -1)
    (ph, pw), kernel = op.padding, op.kernel
    assert (op.stride, op.dilation, op.groups) == ((1, 1), (1, 1), 1)
    padded = np.pad(maps, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, maps.shape[1] * kernel[0] * kernel[1])


def layer_of(files: tuple[Path, ...], key: str, bottom: str, images: np.ndarray, folder: Path) -> Layer:
    """The layer with statistics of every position, and what it reads there as the network's own blob says."""
    engine, model = require_onnxruntime(), Source(files).load()
    op = next(site.op for site in survey(model).sites if site.key == key)
    np.save(folder / "images.npy", images)
    with calibration(model, folder / "images.npy", (key,), positions=10**6, symmetric=True) as data:
        statistics = data.statistics_for((key,), {})
    fitted = np.arange(len(images)) % 5 != 4  # Every fifth image is held out.
    (blobs,) = engine.run(Job(files, ({"data": images[fitted]},), outputs=(bottom,)))
    return Layer(op, replace(statistics, relu=False), unfolded(blobs[bottom], op).astype(np.float64))


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    folder = shared("zoo/caffemodel/squeezenet_v1.0")
    files = folder / "deploy.prototxt", folder / "squeezenet.caffemodel"
    return layer_of(files, "fire4/conv3x3_2", "fire4/conv1x1_1", pictures(20), tmp_path_factory.mktemp("squeezenet"))


@pytest.fixture(scope="module")
def fully_connected(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    folder = shared("zoo/caffemodel/lenet_JachinShen")
    files = folder / "lenet_deploy.prototxt", folder / "lenet_iter_10000.caffemodel"
    return layer_of(files, "ip1", "pool2", digits(2000), tmp_path_factory.mktemp("lenet"))


def test_the_statistics_are_of_the_inputs_unfolded_here(convolution: Layer, fully_connected: Layer) -> None:
    for layer in (convolution, fully_connected):
        moments = layer.statistics.moments
        assert moments.count == len(layer.x)
        expected = np.cov(layer.x, rowvar=False, bias=True)
        # Blobs of float32 from batches of other sizes: about a hundred roundings of 6e-8 of the largest.
        np.testing.assert_allclose(moments.xx[0], expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.parametrize("rank", [8, 32, 64, 96])
def test_response_reaches_the_principal_components_of_the_responses(convolution: Layer, rank: int) -> None:
    """What is left of the covariance of the responses, by NumPy on the responses themselves."""
    responses = convolution.x @ convolution.op.weight.reshape(len(convolution.op.weight), -1).T
    values = np.linalg.eigvalsh(np.cov(responses, rowvar=False, bias=True))
    bound = float(np.sqrt(values[:-rank].sum()))
    method = replace(METHODS["response"], activation="linear")
    error = convolution.error(fit(convolution.op, method, (rank,), convolution.statistics).fit.chain)
    assert bound * (1 - 1e-6) <= error <= WITHIN * bound
    assert convolution.error(METHODS["svd-channel"].factor(convolution.op, (rank,)).chain) > WITHIN * bound


@pytest.mark.parametrize("rank", [8, 30, 60, 120])
def test_whitened_svd_reaches_the_optimum_of_its_own_problem(fully_connected: Layer, rank: int) -> None:
    """The singular values of W C^(1/2) that are cut off, the root of the inputs' covariance C by its eigenvectors."""
    values, vectors = np.linalg.eigh(np.cov(fully_connected.x, rowvar=False, bias=True))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    tail = np.linalg.svd(fully_connected.op.weight.astype(np.float64) @ root, compute_uv=False)[rank:]
    bound = float(np.linalg.norm(tail))
    error = fully_connected.error(
        fit(fully_connected.op, METHODS["svd"], (rank,), fully_connected.statistics).fit.chain
    )
    assert bound * (1 - 1e-6) <= error <= WITHIN * bound
    assert fully_connected.error(METHODS["svd"].factor(fully_connected.op, (rank,)).chain) > WITHIN * bound
