"""The files for a device: a script that any Caffe can run fills the table in, and goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from surgery.choose.latency import LatencyTable, Shape
from surgery.choose.latency_csv import from_csv
from surgery.measure.device import README, SCRIPT, TABLE, device_files
from tests.engines import require_caffe

SHAPES = [
    Shape("convolution", 1, 16, 32, (3, 3), padding=(1, 1), input=(28, 28), has_bias=True),
    Shape("fully connected", 1, 800, 500),
    Shape("scale", 1, 500, 500),
    Shape("convolution", 1, 32, 32, (3, 3), padding=(1, 1), groups=32, input=(28, 28)),
]
# Logs like `caffe time`, 1.5 ms for every layer; notes what it ran, and does not know nets of the name in $BROKEN.
PRETENDER = """#!/bin/sh
echo "$3" >> runs.txt
[ "$3" != "${BROKEN:-}" ] || exit 1
echo "I0101 00:00:00.000000     1 caffe.cpp:404] Average time per layer: " >&2
echo "I0101 00:00:00.000000     1 caffe.cpp:407]       data\tforward: 0.001 ms." >&2
echo "I0101 00:00:00.000000     1 caffe.cpp:407]     layer0\tforward: 1.5 ms." >&2
echo "I0101 00:00:00.000000     1 caffe.cpp:410]     layer0\tbackward: 7 ms." >&2
"""


def run(folder: Path, **environment: object) -> subprocess.CompletedProcess[str]:
    added = {name: str(value) for name, value in environment.items()}
    command = ["sh", str(folder / SCRIPT)]
    return subprocess.run(command, env=os.environ | added, capture_output=True, text=True, check=True)


def read(folder: Path) -> LatencyTable:
    return from_csv((folder / TABLE).read_text(), folder / TABLE)


@pytest.fixture
def pretender(tmp_path: Path) -> Path:
    program = tmp_path / "pretender"
    program.write_text(PRETENDER)
    program.chmod(0o755)
    return program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "for the phone"
    made.mkdir()
    written = device_files([*SHAPES, SHAPES[0]], made, threads=2)
    assert sorted(path.name for path in written) == sorted(path.name for path in made.iterdir())
    return made


def test_the_folder_says_what_to_do(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        *(f"000{i}.prototxt" for i in range(1, 5)), TABLE, SCRIPT, README
    }  # fmt: skip
    assert "caffe time -model FILE -iterations 50` for each of 4" in (folder / README).read_text().replace("\n   ", " ")
    assert read(folder).rows == {}


def test_the_script_fills_the_table_in(folder: Path, pretender: Path) -> None:
    run(folder, CAFFE=pretender)
    found = read(folder)
    assert (found.runtime, found.threads) == ("caffe", 2)
    assert found.rows == dict.fromkeys(SHAPES, 1.5)


def test_a_layer_that_fails_stays_empty_and_the_next_run_does_only_that(folder: Path, pretender: Path) -> None:
    told = run(folder, CAFFE=pretender, BROKEN="0002.prototxt").stderr
    assert "0002.prototxt: not timed; 0002.log says why" in told
    assert read(folder).rows == {shape: 1.5 for shape in SHAPES if shape != SHAPES[1]}
    (folder / "runs.txt").unlink()
    run(folder, CAFFE=pretender)
    assert (folder / "runs.txt").read_text() == "0002.prototxt\n"
    assert read(folder).rows == dict.fromkeys(SHAPES, 1.5)


def test_what_people_write_into_the_table_stays(folder: Path, pretender: Path) -> None:
    table = folder / TABLE
    text = table.read_text().replace("# machine: \n", "# machine: my phone\n").replace(",,0003", ",0.25,0003")
    table.write_text(text)
    run(folder, CAFFE=pretender)
    assert read(folder).machine == "my phone"
    assert read(folder).rows == dict.fromkeys(SHAPES, 1.5) | {SHAPES[2]: 0.25}


def test_real_caffe_times_every_layer(folder: Path) -> None:
    run(folder, CAFFE=require_caffe()._folder() / "bin" / "caffe", ITERATIONS=3)
    found = read(folder).rows
    assert list(found) == SHAPES
    assert all(0 < time < 1000 for time in found.values())
