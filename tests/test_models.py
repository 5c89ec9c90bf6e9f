"""The bundled network is what its card says, and the demo's own commands work on it."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import surgery
from surgery.runtime import ENGINES, Engine, Job
from tests.engines import require, require_opencv
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"
FILES = (DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")
HELD_BACK = np.load(DIGITS / "heldback.npz")


def accuracy(engine: Engine, prototxt: Path, weights: Path) -> float:
    inputs = {"data": HELD_BACK["images"][:, None].astype(np.float32) / 16}
    ((scores,),) = (blobs.values() for blobs in engine.run(Job((prototxt, weights), [inputs])))
    return float((scores.reshape(-1, 10).argmax(1) == HELD_BACK["labels"]).mean())


def surgery_prints(*words: str | Path) -> str:
    """Run a command of surgery in the repository's folder, as the demo does; return what it prints."""
    command: list[str | Path] = [sys.executable, "-m", "surgery", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_every_file_has_its_checksum() -> None:
    lines = (DIGITS / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert {path.name for path in DIGITS.iterdir()} == {*sums, "SHA256SUMS", "card.md"}
    for name, digest in sums.items():
        assert hashlib.sha256((DIGITS / name).read_bytes()).hexdigest() == digest, name


def test_it_is_large_enough_to_be_worth_cutting() -> None:
    facts = json.loads(surgery_prints("inspect", *FILES, "--json"))
    assert facts["totals"]["params"] >= 300_000
    kinds = [layer["type"] for layer in facts["layers"]]
    assert (kinds.count("Convolution"), kinds.count("InnerProduct")) == (2, 2)
    assert f"{facts['totals']['params']:,} parameters" in (DIGITS / "card.md").read_text(encoding="utf-8")


def test_held_back_and_calibration_digits_are_every_fourth_of_the_data_set() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    np.testing.assert_array_equal(HELD_BACK["images"], digits.images[::4])
    np.testing.assert_array_equal(HELD_BACK["labels"], digits.target[::4])
    calibration = np.load(DIGITS / "calibration.npz")["data"]
    np.testing.assert_array_equal(calibration, digits.images[2::4, None].astype(np.float32) / 16)


@pytest.mark.parametrize("name", ENGINES)
def test_it_reads_at_least_97_of_100_held_back_digits(name: str) -> None:
    assert accuracy(require(name), *FILES) >= 0.97


def test_the_training_net_has_the_deployed_nets_layers_and_shapes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    surgery_prints("deploy", DIGITS / "train_val.prototxt", FILES[1], "--shape", "data=1,1,8,8", "-o", made)
    deployed = (made / "train_val.prototxt", made / "digits.caffemodel")
    own, wanted = (
        [(node.key, node.type) for node in surgery.load(*files).nodes if node.type in ("Convolution", "InnerProduct")]
        for files in (deployed, FILES)
    )
    assert own == wanted
    engine = require_opencv()
    assert accuracy(engine, *deployed) == accuracy(engine, *FILES)


def test_the_demo_shrinks_the_network_and_every_command_it_names_works(tmp_path: Path) -> None:
    require_opencv()
    demo: list[str | Path] = [sys.executable, REPOSITORY / "tools" / "demo", "--here", "-o", tmp_path]
    printed = subprocess.run(demo, capture_output=True, text=True, check=True).stdout
    rows = {line.split("  ")[0].strip(): line.split() for line in printed.splitlines()}
    assert "verified: " in printed
    share = float(rows["parameters"][-1].rstrip("%"))
    assert share < 20
    for name in [name for name in rows if name.startswith("accuracy")]:
        before, after = (float(word.rstrip("%")) for word in rows[name][-4:-2])
        assert before >= 97
        assert after >= before - 2
    _, _, advice = printed.partition("To go on:")
    commands = [line.strip() for line in advice.replace("\\\n", "").splitlines() if "surgery " in line]
    assert len(commands) >= 3
    for command in commands:
        program, *words = shlex.split(command)
        assert Path(program).name == "surgery"
        surgery_prints(*words)
