"""HDF5 weights: read by layer, written with some layers replaced, refused where they are damaged."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import ModelError, ParseError, SurgeryError
from surgery.formats.caffe import weights
from surgery.formats.caffe.binary import NewLayer

h5py = pytest.importorskip("h5py", reason="h5py is not installed: HDF5 weights are not read")

LAYERS = {
    "conv": (np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.ones(2, np.float32)),
    "ip": tuple(np.full((1, 2), i, np.float32) for i in range(12)),  # Blob 10 comes behind 9, not behind 1.
    "relu": (),
}


def written(file: Path, layers: Mapping[str, tuple[np.ndarray, ...]] = LAYERS) -> Path:
    with h5py.File(file, "w") as root:
        root.create_group("diff").create_dataset("kept", data=[1, 2])
        data = root.create_group("data")
        for name, blobs in layers.items():
            group = data.create_group(name)
            for i, blob in enumerate(blobs):
                group.create_dataset(str(i), data=blob)
    return file


def contents(file: Path) -> dict[str, list[np.ndarray]]:
    stored = weights.read(file)
    return {layer.name: list(stored.arrays(i)) for i, layer in enumerate(stored.layers)}


def test_every_layer_is_read_with_its_blobs_in_order(tmp_path: Path) -> None:
    stored = weights.read(written(tmp_path / "net.h5"))
    assert {layer.name: layer.shapes for layer in stored.layers} == {
        name: tuple(blob.shape for blob in blobs) for name, blobs in LAYERS.items()
    }
    for name, blobs in contents(tmp_path / "net.h5").items():
        np.testing.assert_equal(blobs, list(LAYERS[name]))


def test_the_content_and_not_the_name_tells_hdf5(tmp_path: Path) -> None:
    assert isinstance(weights.read(written(tmp_path / "net.caffemodel")), weights.H5Weights)


def test_an_empty_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    weights.read(written(tmp_path / "net.h5")).write({}, tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == (tmp_path / "net.h5").read_bytes()


def test_only_replaced_layers_differ(tmp_path: Path) -> None:
    stored = weights.read(written(tmp_path / "net.h5"))
    names = [layer.name for layer in stored.layers]
    made = [NewLayer(f"conv_{i}", b"", 2, (np.full((2, 2), i, np.float64),)) for i in (1, 2)]
    stored.write({names.index("conv"): made}, tmp_path / "cut.h5")
    found = contents(tmp_path / "cut.h5")
    assert set(found) == {"conv_1", "conv_2", "ip", "relu"}
    np.testing.assert_equal(found["ip"], list(LAYERS["ip"]))
    assert [(blob.dtype, blob.tolist()) for blob in found["conv_2"]] == [(np.float32, [[2, 2], [2, 2]])]
    with h5py.File(tmp_path / "cut.h5") as root:
        assert root["diff/kept"][...].tolist() == [1, 2]


@pytest.mark.parametrize("raw", [b"", b"\0" * 1000, b"\xff" * 1000], ids=["cut off", "zeros", "ones"])
def test_a_file_that_is_only_a_signature_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + raw)
    with pytest.raises(ParseError, match="is damaged: HDF5 says "):
        weights.read(tmp_path / "net.h5")


@pytest.mark.parametrize(
    "build",
    [
        lambda root: None,
        lambda root: root.create_dataset("data", data=[1.0]),
        lambda root: root.create_group("data").create_dataset("conv", data=[1.0]),
        lambda root: root.create_group("data/conv/0"),
        lambda root: root.create_group("data/conv").create_dataset("0", data=["word"]),
        lambda root: root.create_group("data/conv").create_dataset("0", data=[1, 2]),
        lambda root: root.create_group("data/conv").__setitem__("0", h5py.SoftLink("/nowhere")),
        lambda root: root.create_group("data").__setitem__("conv", h5py.ExternalLink("other.h5", "/x")),
    ],
    ids=["nothing", "data is numbers", "a layer is numbers", "a blob is a group", "words", "integers", "link", "file"],
)
def test_hdf5_of_another_layout_is_refused(build: object, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "net.h5", "w") as root:
        build(root)  # type: ignore[operator]
    with pytest.raises((ModelError, ParseError), match=r"net\.h5: (has no group /data|is damaged)"):
        weights.read(tmp_path / "net.h5")


def test_any_damage_is_either_harmless_or_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "net.h5").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.choice([0, 255, 128, rng.randrange(256)])
        (tmp_path / "bad.h5").write_bytes(raw[: rng.choice([len(raw), len(raw), rng.randrange(len(raw))])])
        try:
            stored = weights.read(tmp_path / "bad.h5")
            for i in range(len(stored.layers)):
                stored.arrays(i)
            stored.write({0: []}, tmp_path / "cut.h5")
        except SurgeryError:
            refused += 1
    assert refused > 100
