"""The bundled digits, cut, and samples to tune them on."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.formats import Source, load
from surgery.plans import Cut, Plan
from surgery.rewriting import rewrite
from surgery.tune.caffe import Files, Goal, Solver, Stored, Task, feed_of, run, write
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"
ORIGINAL = Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
CUTS = (Cut("conv2", "svd-spatial", (4,)), Cut("ip1", "svd", (6,)))


def cut_digits(folder: Path) -> Source:
    """Cut conv2 and ip1 far enough to lose accuracy."""
    folder.mkdir()
    model = rewrite(ORIGINAL.load(), Plan("", CUTS)).model
    return Source(model.format.save(model, folder, "digits"))


def samples(folder: Path, count: int | None = None) -> Stored:
    """Return handwritten digits with their labels, every tenth held back."""
    pytest.importorskip("h5py", reason="Caffe's samples are HDF5: h5py is not installed")
    with np.load(DIGITS / "heldback.npz") as found:
        images, labels = found["images"][:count, None] / np.float32(16), found["labels"][:count]
    np.savez(folder / "digits.npz", data=images.astype(np.float32))
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    feed = feed_of(folder / "digits.npz", ORIGINAL.load(), labels=folder / "labels.txt")
    assert isinstance(feed, Stored)
    return feed


def lmdb(folder: Path, entries: tuple[int, int]) -> Path:
    """Write the two pages with which an LMDB begins; the second is of the later transaction."""
    folder.mkdir()
    pages = b""
    for transaction, count in enumerate(entries, 1):
        free = struct.pack("<IHHQQQQQ", 4096, 8, 0, 0, 0, 0, 0, 2**64 - 1)
        stored_in = struct.pack("<IHHQQQQQ", 0, 0, 1, 0, 1, 0, count, 2)
        meta = struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 2**20) + free + stored_in + struct.pack("<QQ", 2, transaction)
        pages += (struct.pack("<QHHHH", transaction - 1, 0, 8, 0, 0) + meta).ljust(4096, b"\0")
    (folder / "data.mdb").write_bytes(pages)
    return folder


def one_step(
    folder: Path, cut: Source, goal: Goal, feed: Stored, decay: float = 0, **options: object
) -> tuple[Files, dict[str, list]]:  # type: ignore[type-arg]
    """Train one batch of all samples at rate 1; return the files and, by layer, the gradient of each blob."""
    solver = Solver(iterations=1, rate=1, policy="fixed", batch=len(feed.train), momentum=0, weight_decay=decay)
    files = write(Task(cut, feed, goal, solver, teacher=ORIGINAL, **options), folder)  # type: ignore[arg-type]
    run(files)
    return files, gradient(cut.files, (cut.files[0], folder / "tuned_iter_1.caffemodel"))


def gradient(before: Sequence[Path], after: Sequence[Path]) -> dict[str, list]:  # type: ignore[type-arg]
    """Return, by layer, by how much each blob went down."""
    old, new = (load(files).native.weights for files in (before, after))
    entries = {entry.name: i for i, entry in enumerate(new.layers)}
    pairs = ((entry, old.arrays(i), new.arrays(entries[entry.name])) for i, entry in enumerate(old.layers))
    return {entry.name: [a - b for a, b in zip(*arrays, strict=True)] for entry, *arrays in pairs if entry.shapes}
