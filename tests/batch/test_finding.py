"""Which files below a folder are models, and which prototxt belongs to which weights."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from surgery.batch.finding import Found, Unpaired, find
from surgery.formats import Source
from tests.nets import conv_blobs, write_net
from tests.onnx_nets import node, tiny
from tests.shared import REPOSITORY, shared

CONV = """layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}"
  convolution_param {{ num_output: {outputs} kernel_size: 3 }} }}
"""
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
READER = 'layer { name: "data" type: "Data" top: "data" data_param { source: "lmdb" batch_size: 1 } }\n'


def net(folder: Path, name: str = "net", outputs: int = 4) -> Path:
    """Write a pair of one convolution; return the path of its weights."""
    folder.mkdir(exist_ok=True)
    files = write_net(folder, INPUT + CONV.format(name="conv", outputs=outputs), {"conv": conv_blobs(outputs, 3, 3, 3)})
    _, stored = (file.rename(file.with_stem(name)) for file in files)
    return stored


def found(folder: Path) -> dict[str, list[str] | str]:
    """The names of each model's files, or why it has no pair."""
    return {
        one.model: one.reason if isinstance(one, Unpaired) else [path.name for path in one.loaded]
        for one in find(folder, Source(()))
    }


def test_of_all_files_only_models_are_found(tmp_path: Path) -> None:
    net(tmp_path / "deep")
    net(tmp_path / ".hidden")
    for name in ("lone.prototxt", "data.h5", "net.solverstate.h5", ".hidden.onnx", "readme.md"):
        (tmp_path / name).touch()
    assert found(tmp_path) == {"deep/net.caffemodel": ["net.prototxt", "net.caffemodel"]}


def test_the_prototxt_of_the_same_name_is_meant(tmp_path: Path) -> None:
    for name in ("a", "b", "deploy"):
        net(tmp_path, name)
    assert found(tmp_path) == {
        f"{name}.caffemodel": [f"{name}.prototxt", f"{name}.caffemodel"] for name in ("a", "b", "deploy")
    }


def test_weights_decide_between_prototxts_of_other_names(tmp_path: Path) -> None:
    small, large = net(tmp_path, "small", 4), net(tmp_path, "large", 5)
    small.rename(tmp_path / "iter_4.caffemodel")
    large.rename(tmp_path / "iter_5.caffemodel")
    assert found(tmp_path) == {
        "iter_4.caffemodel": ["small.prototxt", "iter_4.caffemodel"],
        "iter_5.caffemodel": ["large.prototxt", "iter_5.caffemodel"],
    }


def test_one_that_reads_data_is_the_last_choice_and_a_solver_none(tmp_path: Path) -> None:
    net(tmp_path).rename(tmp_path / "iter_9.caffemodel")
    (tmp_path / "train_val.prototxt").write_text(READER + CONV.format(name="conv", outputs=4))
    (tmp_path / "solver.prototxt").write_text('net: "train_val.prototxt"\nbase_lr: 0.1\n')
    assert found(tmp_path) == {"iter_9.caffemodel": ["net.prototxt", "iter_9.caffemodel"]}
    (tmp_path / "net.prototxt").unlink()
    assert found(tmp_path) == {"iter_9.caffemodel": ["train_val.prototxt", "iter_9.caffemodel"]}


def test_of_two_that_fit_the_one_called_deploy_is_meant(tmp_path: Path) -> None:
    net(tmp_path).rename(tmp_path / "iter_9.caffemodel")
    shutil.copy(tmp_path / "net.prototxt", tmp_path / "my_deploy.prototxt")
    assert found(tmp_path) == {"iter_9.caffemodel": ["my_deploy.prototxt", "iter_9.caffemodel"]}


def test_two_that_fit_alike_are_no_pair(tmp_path: Path) -> None:
    net(tmp_path, "a")
    net(tmp_path, "b").unlink()
    (tmp_path / "a.caffemodel").rename(tmp_path / "c.caffemodel")
    assert found(tmp_path) == {
        "c.caffemodel": "fits a.prototxt, b.prototxt equally; give one of them the name c.prototxt"
    }


def test_weights_that_nothing_fits_say_why(tmp_path: Path) -> None:
    net(tmp_path, "a", 4).unlink()
    net(tmp_path, "b", 5).rename(tmp_path / "c.caffemodel")
    (tmp_path / "b.prototxt").write_text(INPUT + CONV.format(name="other", outputs=5))
    reason = found(tmp_path)["c.caffemodel"]
    assert isinstance(reason, str)
    assert reason.startswith(
        "no prototxt beside it fits: a.prototxt: conv: blob 0 has shape (5, 3, 3, 3) in c.caffemodel"
    )
    assert reason.endswith("b.prototxt: the weights of 'other' are missing")
    (tmp_path / "a.prototxt").unlink()
    (tmp_path / "b.prototxt").unlink()
    assert found(tmp_path) == {"c.caffemodel": "there is no prototxt beside it"}


def test_damaged_files_say_why(tmp_path: Path) -> None:
    (tmp_path / "a.caffemodel").write_bytes(b"\xff" * 40)
    (tmp_path / "b.onnx").write_bytes(b"\xff" * 40)
    reasons = found(tmp_path)
    assert list(reasons) == ["a.caffemodel", "b.onnx"]
    assert all(isinstance(text, str) and text.startswith(name) for name, text in reasons.items())


def test_an_onnx_model_comes_with_its_data_files(tmp_path: Path) -> None:
    import onnx

    weights = {"w": conv_blobs(4, 3, 3, 3)[0]}
    path = tiny(tmp_path, [node("Conv", "x w", "y")], inputs={"x": (1, 3, 8, 8)}, outputs=["y"], weights=weights)
    onnx.save(onnx.load(path), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    path.unlink()
    (one,) = find(tmp_path, Source(()))
    assert isinstance(one, Found)
    assert one.files == (tmp_path / "m.onnx", tmp_path / "m.bin")
    assert one.loaded == (tmp_path / "m.onnx",)


def test_the_model_that_ships_is_found_with_its_deploy_prototxt() -> None:
    assert found(REPOSITORY / "models") == {"digits/digits.caffemodel": ["deploy.prototxt", "digits.caffemodel"]}


def test_pairs_of_the_zoo_are_such_that_caffe_loads() -> None:
    zoo = shared("zoo/caffemodel")
    with (zoo / "PAIRS.tsv").open(encoding="utf-8") as file:
        loads = {(r["weights"], r["prototxt"]) for r in csv.DictReader(file, delimiter="\t") if r["loads_in"] != "none"}
    weights = {stored for stored, _ in loads}
    pairs = {}
    for one in find(zoo, Source(())):
        if isinstance(one, Found):
            pairs[one.model] = str(one.loaded[0].relative_to(zoo))
        elif one.model in weights:
            assert " equally; " in one.reason
    # Those that Caffe itself does not load read data that nobody has.
    known = {pair for pair in pairs.items() if pair[0] in weights}
    assert known <= loads
    assert len(known) >= 45
