"""`surgery bench --table` and `--device-files` write what `surgery plan` reads, or say in one line what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from surgery.choose.latency import LatencyTable, Shape, shapes_at
from surgery.choose.latency_csv import from_csv
from surgery.cli import main
from surgery.formats import load
from surgery.measure import latency
from surgery.survey import survey
from tests.engines import require_onnxruntime
from tests.nets import conv_blobs, write_net
from tests.runtime.onnx_files import conv_relu

PROTOTXT = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 8 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 16 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "last" type: "InnerProduct" bottom: "conv" top: "last" inner_product_param { num_output: 4 } }
"""


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def read(file: Path) -> LatencyTable:
    return from_csv(file.read_text(), file)


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    dense = conv_blobs(4, 16 * 7 * 7, 1, 1)
    return write_net(tmp_path, PROTOTXT, {"conv": conv_blobs(16, 8, 3, 3), "last": [dense[0].reshape(4, -1), dense[1]]})


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Make every time that is measured a millisecond; returns how it was asked for."""
    asked: list[dict[str, object]] = []

    def measure_table(shapes: list[Shape], runtime: str, **others: object) -> LatencyTable:
        asked.append({"runtime": runtime, **others})
        return LatencyTable(runtime, int(str(others["threads"])), "here", dict.fromkeys(shapes, 1.0))

    monkeypatch.setattr(latency, "measure_table", measure_table)
    return asked


def test_a_measured_table_is_of_the_layers_and_of_their_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_onnxruntime()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = conv_relu(tmp_path / "a.onnx")
    result = run(
        model, "--table", tmp_path / "a.csv", "--method", "svd-channel", "--repeat", 1, "--warmup", 1, "--json"
    )
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    found = read(tmp_path / "a.csv")
    assert made["shapes"] == len(found.rows)
    assert (made["runtime"], made["machine"]) == (found.runtime, found.machine) == ("onnxruntime", latency.machine())
    for site in survey(load((model,))).sites:
        if "svd-channel" in site.break_even:
            assert found.total(shapes_at(site, site.op)) is not None
    # Known by now: nothing is run.
    monkeypatch.setattr(latency, "turn", None)
    run(model, "--table", tmp_path / "b.csv", "--method", "svd-channel")
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()


def test_what_is_asked_for_is_what_is_measured(
    net: tuple[Path, Path], tmp_path: Path, pretended: list[dict[str, object]]
) -> None:
    file = tmp_path / "table.csv"
    options = ["--runtime", "caffe", "--threads", 3, "--warmup", 5, "--fresh"]
    result = run(*net, "--table", file, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(" layers timed in caffe on here\n")
    run(*net, "--table", tmp_path / "other.csv", "--repeat", 7)
    first, second = ({name: own[name] for name in own if name != "progress"} for own in pretended)
    assert first == {"runtime": "caffe", "threads": 3, "rounds": latency.ROUNDS, "warmup": 5, "known": False}
    assert second == {"runtime": "onnxruntime", "threads": 1, "rounds": 7, "warmup": 3, "known": True}
    assert {shape.batch for shape in read(file).rows} == {2}


def test_methods_say_which_cuts_are_timed(
    net: tuple[Path, Path], tmp_path: Path, pretended: list[dict[str, object]]
) -> None:
    file = tmp_path / "table.csv"
    run(*net, "--table", file, "--method", "svd-spatial")
    kernels = {shape.kernel for shape in read(file).rows if shape.kind == "convolution"}
    assert kernels == {(3, 3), (3, 1), (1, 3)}


def test_device_files_are_the_same_shapes(
    net: tuple[Path, Path], tmp_path: Path, pretended: list[dict[str, object]]
) -> None:
    folder, file = tmp_path / "phone", tmp_path / "table.csv"
    result = run(*net, "--device-files", folder, "--threads", 4)
    assert result.exit_code == 0, result.output
    assert (
        result.stdout
        == f"{folder}: {len(list(folder.glob('*.prototxt')))} layers to time; {folder}/README.txt says how\n"
    )
    run(*net, "--table", file)
    asked = (folder / "latency.csv").read_text()
    filled = "\n".join(line.replace(",,", ",1,") for line in asked.splitlines())
    (folder / "latency.csv").write_text(filled)
    assert read(folder / "latency.csv").threads == 4
    assert read(folder / "latency.csv").rows == read(file).rows
    # What someone filled in is not lost.
    again = run(*net, "--device-files", folder)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert (folder / "latency.csv").read_text() == filled


def test_requests_that_cannot_be_met_are_one_line(net: tuple[Path, Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.prototxt"
    bare.write_text(PROTOTXT.split("\n", 1)[0])
    for words, code, message in (
        ([*net, "--table", tmp_path / "a.csv", "--device-files", tmp_path / "d"], 2, "give one of them"),
        ([*net, *net, "--table", tmp_path / "a.csv"], 2, "--table is for one model in one runtime; found 2 and 1"),
        ([*net, "--table", tmp_path / "a.csv", "--runtime", "caffe,opencv"], 2, "found 1 and 2"),
        ([*net, "--table", net[0]], 2, "is an input"),
        ([*net, "--table", tmp_path], 2, "is a folder"),
        ([*net, "--table", bare], 2, "is there already, perhaps with times of a device"),
        ([*net, "--table", tmp_path / "a.csv", "--method", "magic"], 2, "'magic'"),
        ([*net, "--device-files", tmp_path], 2, "holds the input"),
        ([*net, "--fresh"], 2, "give --table too"),
        ([bare, "--table", tmp_path / "a.csv"], 1, "nothing to cut"),
    ):
        result = run(*words)
        assert result.exit_code == code, (words, result.output)
        assert isinstance(result.exception, SystemExit), words
        assert result.stderr.count("\n") == 1, result.stderr
        assert message in result.stderr, (words, result.stderr)
    assert not (tmp_path / "a.csv").exists()
