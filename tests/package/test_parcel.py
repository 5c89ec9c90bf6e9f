from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.errors import DataError, ModelError, PlanError, SurgeryError, VerificationError
from surgery.formats import Source
from surgery.package import Asked, check, package
from surgery.package.examples import EXAMPLES
from surgery.package.vectors import parsed, read_list
from surgery.targets import PROFILES, Prepared, prepare
from tests.engines import require_onnxruntime, require_opencv
from tests.package.parcels import DIGITS, members, tiny, tiny_parcel

ASKED = Asked(Source(DIGITS), "caffe-android-lib")


@pytest.fixture(autouse=True)
def _runtime() -> None:
    require_onnxruntime()


def test_two_runs_give_the_same_bytes_wherever_the_files_lie(tmp_path: Path) -> None:
    package(replace(ASKED, source=tiny(tmp_path / "in")), tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == tiny_parcel()
    for name, content in members(tmp_path / "x.zip").items():
        assert str(tmp_path).encode() not in content, name
        assert tempfile.gettempdir().encode() not in content, name


def test_the_sums_are_those_of_every_file_but_themselves(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(tiny_parcel())
    found = members(tmp_path / "x.zip")
    listed = dict(reversed(line.split("  ")) for line in found.pop("SHA256SUMS").decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}


def test_a_parcel_has_the_network_without_what_only_training_needs(tmp_path: Path) -> None:
    source = tiny(tmp_path / "in")
    (tmp_path / "x.zip").write_bytes(tiny_parcel())
    found = members(tmp_path / "x.zip")
    assert found["deploy.caffemodel"] == source.files[1].read_bytes()
    text = found["deploy.prototxt"].decode()
    assert "Input" in text
    for word in ("CUDNN", "filler", "lr_mult"):
        assert word not in text
    facts = json.loads(found["MANIFEST.json"])
    assert facts["model"]["inputs"] == {"data": {"shape": [1, 1, 3, 3]}}
    assert facts["source"]["files"][1]["sha256"] == hashlib.sha256(found["deploy.caffemodel"]).hexdigest()
    assert facts["changes"]


def test_raw_and_npy_vectors_are_the_same_and_as_many_as_asked_for(tmp_path: Path) -> None:
    package(replace(ASKED, source=tiny(tmp_path / "in"), samples=5), tmp_path / "x.zip")
    found = members(tmp_path / "x.zip")
    vectors = list(read_list(found["golden/index.txt"].decode(), "x"))
    assert [(v.kind, v.sample) for v in vectors] == [(kind, i) for i in range(5) for kind in ("input", "output")]
    for vector in vectors:
        (tmp_path / "x.npy").write_bytes(found[vector.file.replace(".f32", ".npy")])
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), parsed(found[vector.file], vector.file))


def test_given_inputs_are_the_golden_inputs(tmp_path: Path) -> None:
    images = np.random.default_rng(3).random((4, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    package(replace(ASKED, inputs=tmp_path / "images.npy"), tmp_path / "x.zip")
    found = members(tmp_path / "x.zip")
    for i in range(3):
        np.testing.assert_array_equal(parsed(found[f"golden/{i}-input-0.f32"], "x"), images[i : i + 1])
    with pytest.raises(DataError, match="holds 4 samples; 5 golden vectors take 5"):
        package(replace(ASKED, inputs=tmp_path / "images.npy", samples=5), tmp_path / "y.zip")


def test_what_is_given_beside_goes_along_under_its_own_name(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "labels.txt": "".join(f"{i}\n" for i in range(10)),
        "plan.json": json.dumps({"format": 3, "source": "0" * 64, "cuts": [], "left": []}),
        "timings.json": json.dumps({"rewrite": 1.0, "write": 0.5, "verify": 2.0}),
        "LICENSE.txt": "Free.\n",
        "preprocess.json": json.dumps({"scale": 0.0625, "channels": "grey"}),
    }
    paths = {name: tmp_path / f"my-{name}" for name in given}
    for name, text in given.items():
        paths[name].write_text(text)
    asked = replace(
        ASKED,
        labels=paths["labels.txt"],
        plan=paths["plan.json"],
        timings=paths["timings.json"],
        licence=paths["LICENSE.txt"],
        preprocess=paths["preprocess.json"],
        note="from <b>here</b>",
    )
    package(asked, tmp_path / "x.zip")
    found = members(tmp_path / "x.zip")
    for name in set(given) - {"preprocess.json"}:
        assert found[name].decode() == given[name]
    assert found["SOURCE.txt"] == b"from <b>here</b>\n"
    assert "Multiply by 0.0625" in found["README.md"].decode()
    assert r"from \<b\>here" in found["README.md"].decode()
    assert check(tmp_path / "x.zip").samples == 3


def test_the_page_of_a_parcel_is_that_of_the_report_given_and_of_no_other_network(tmp_path: Path) -> None:
    from tests.report.digits import compressed

    cut = tmp_path / "cut"
    known = compressed(cut, "--layer", "ip1=svd:rank=20")
    asked = replace(
        ASKED, source=Source((cut / "deploy.prototxt", cut / "deploy.caffemodel")), report=cut / "report.json"
    )
    package(asked, tmp_path / "x.zip")
    found = members(tmp_path / "x.zip")
    assert json.loads(found["report.json"])["layers"] == known["layers"]
    assert str(known["layers"][0]["rank"][0]) in found["report.html"].decode()
    with pytest.raises(DataError, match=f"{known['totals']['after']['params']} parameters; expected surgery, format 2"):
        package(replace(asked, source=Source(DIGITS)), tmp_path / "y.zip")


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        ({"labels": "nine.txt"}, DataError, "holds 9 labels; the network's output has 10 classes"),
        ({"licence": "nothing"}, DataError, "is no file"),
        ({"plan": "nine.txt"}, PlanError, "is not JSON"),
        ({"timings": "nine.txt"}, DataError, "is not JSON|no times"),
        ({"report": "nine.txt"}, DataError, "is no report of a cut"),
        ({"mean": "nine.txt"}, PlanError, "give --preprocess too"),
        ({"samples": 2}, PlanError, "at least 3"),
        ({"source": Source(DIGITS[:1])}, ModelError, "weights"),
        ({"target": "caffe-2.0"}, PlanError, "caffe-2.0"),
    ],
)
def test_what_cannot_be_packed_is_refused_and_nothing_is_written(
    change: dict[str, Any], error: type[SurgeryError], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "nine.txt").write_text("x\n" * 9)
    (tmp_path / "x.zip").write_text("what was there before")
    placed = {
        name: tmp_path / value if isinstance(value, str) and name != "target" else value
        for name, value in change.items()
    }
    with pytest.raises(error, match=reason):
        package(replace(ASKED, **placed), tmp_path / "x.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"nine.txt", "x.zip"}
    assert (tmp_path / "x.zip").read_text() == "what was there before"


def test_a_runtime_that_refuses_the_network_is_told_without_paths_of_the_machine(tmp_path: Path) -> None:
    require_opencv()
    sums = 'layer { name: "sum" type: "Reduction" bottom: "conv" top: "sum" reduction_param { axis: 1 } }'
    source = tiny(tmp_path / "in", sums)
    facts = [package(replace(ASKED, source=source), tmp_path / f"{i}.zip") for i in range(2)]
    assert any(note.startswith("opencv: ") for note in facts[0]["golden"]["notes"])
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()
    assert tempfile.gettempdir() not in str(facts[0])


def test_a_network_that_is_not_the_given_one_any_more_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*args: Any, **options: Any) -> Prepared:
        ready = prepare(*args, **options)
        content = bytearray(ready.files[1].read_bytes())
        content[-3] ^= 0x80  # Of the bias, its last number but for sign and exponent.
        ready.files[1].write_bytes(content)
        return ready

    monkeypatch.setattr("surgery.package.parcel.prepare", spoilt)
    with pytest.raises(VerificationError, match=r"'conv' is .* from the given network's"):
        package(replace(ASKED, source=tiny(tmp_path / "in")), tmp_path / "x.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_network_that_reads_its_data_itself_is_packed_and_told_to_be_compared_with_nothing(tmp_path: Path) -> None:
    source = Source((DIGITS[0].with_name("train_val.prototxt"), DIGITS[1]), shapes=(("data", (1, 1, 8, 8)),))
    facts = package(replace(ASKED, source=source), tmp_path / "x.zip")
    assert facts["original"]["runtime"] is None
    assert "reads data" in facts["original"]["reason"]
    assert "not compared with the network as it was given" in members(tmp_path / "x.zip")["README.md"].decode()


def test_a_twin_is_in_every_run_the_same_and_checked_too(tmp_path: Path) -> None:
    source = tiny(tmp_path / "in")
    facts = [package(replace(ASKED, source=source, has_twin=True), tmp_path / f"{i}.zip") for i in range(2)]
    assert facts[0]["twin"] == {"files": ["deploy.onnx"], "outputs": {"conv": "conv"}}
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()
    assert "the ONNX twin" in check(tmp_path / "0.zip").distances


def test_a_parcel_is_named_zip_and_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"ends in \.zip"):
        package(ASKED, tmp_path / "x.tar")
    with pytest.raises(PlanError, match="its folder does not exist"):
        package(ASKED, tmp_path / "nowhere" / "x.zip")


def test_every_target_has_an_example() -> None:
    assert set(EXAMPLES) == set(PROFILES)
