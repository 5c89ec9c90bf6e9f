"""A small network with data, cut in ways that bind weights, and the digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from surgery.formats import Source, digest
from surgery.plans import Cut, Plan
from surgery.rewriting import rewrite
from surgery.tune.asked import Asked
from surgery.tune.recipe import Recipe
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.shared import REPOSITORY

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 12 } }
layer { name: "relu2" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "score" type: "InnerProduct" bottom: "fc" top: "score" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""
SAMPLES = 60
DIGITS = REPOSITORY / "models" / "digits"
DIGITS_SOURCE = Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
DIGITS_CUTS = (Cut("conv2", "cp", (5,)), Cut("ip1", "svd", (4,)))


def small(folder: Path) -> Source:
    """Write the small network with random weights."""
    blobs = {"conv": conv_blobs(8, 3, 3, 3), "fc": dense_blobs(12, 128, seed=1), "score": dense_blobs(4, 12, seed=2)}
    scaled = {name: [each / each[0].size ** 0.5 for each in arrays] for name, arrays in blobs.items()}
    return Source(write_net(folder, NET, scaled))


def data(folder: Path, count: int = SAMPLES, seed: int = 0) -> tuple[Path, Path]:
    """Write random inputs for the small network, and classes."""
    rng = np.random.default_rng(seed)
    np.save(folder / "data.npy", rng.standard_normal((count, 3, 6, 6), dtype=np.float32))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in rng.integers(4, size=count)))
    return folder / "data.npy", folder / "labels.txt"


def digits(folder: Path, count: int = 300) -> tuple[Path, Path]:
    """Write digits as the network takes them, and which they are."""
    with np.load(DIGITS / "heldback.npz") as found:
        images, labels = found["images"][:count, None] / np.float32(16), found["labels"][:count]
    np.savez(folder / "digits.npz", data=images.astype(np.float32))
    (folder / "digits.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder / "digits.npz", folder / "digits.txt"


def cut(source: Source, cuts: tuple[Cut, ...], folder: Path) -> tuple[Source, Plan]:
    """Cut a network and write it."""
    folder.mkdir(exist_ok=True)
    plan = Plan(digest(source.files), cuts)
    model = rewrite(source.load(), plan).model
    return replace(source, files=model.format.save(model, folder, "cut")), plan


def asked(folder: Path, cuts: tuple[Cut, ...], **more: object) -> Asked:
    """Cut the small network and ask for two epochs of it, with labels."""
    source = small(folder)
    own, plan = cut(source, cuts, folder / "cut")
    samples, labels = data(folder)
    recipe = Recipe(epochs=2, rate=0.05, batch=18)
    given = {"plan": plan, "labels": labels, "recipe": recipe} | more
    return Asked(own, source, samples, **given)  # type: ignore[arg-type]
