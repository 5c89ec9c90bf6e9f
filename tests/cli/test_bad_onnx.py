"""Damaged and hostile ONNX files: for every verb one clear line, or an answer, in bounded time and memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.cli.main import VERBS
from surgery.errors import EngineError
from surgery.runtime import ENGINES, Job, jobs
from tests.cli import hostile_onnx
from tests.cli.commands import SPARE_BYTES, complaints, end_children, run
from tests.engines import require_onnxruntime

# Verb -> what follows it, for a file, a folder with a plan and a good network, and a place for results.
COMMANDS: dict[str, Callable[[str, Path, str], list[str]]] = {
    "inspect": lambda file, folder, out: [file],
    "lint": lambda file, folder, out: [file],
    "compress": lambda file, folder, out: [file, "-o", out, "--params", "0.5", "--verify", "none"],
    "plan": lambda file, folder, out: [file, "-o", out, "--params", "0.5"],
    "apply": lambda file, folder, out: [file, str(folder / "plan.json"), "-o", out, "--verify", "none"],
    "convert": lambda file, folder, out: [file, "-o", out],
    "verify": lambda file, folder, out: [file, str(folder / "good.onnx")],
    "diff": lambda file, folder, out: [file, str(folder / "good.onnx")],
    "tune": lambda file, folder, out: [
        *(file, "-o", out, "--teacher", str(folder / "good.onnx"), "--data", str(folder / "x.npy"), "--epochs", "1"),
    ],
    "package": lambda file, folder, out: [file, "-o", out, "--target", "onnxruntime"],
    "bench": lambda file, folder, out: [file, "--repeat", "1", "--warmup", "1"],
    "upgrade": lambda file, folder, out: [file, "-o", out],
    "deploy": lambda file, folder, out: [file, "-o", out],
    "extract": lambda file, folder, out: [file, "-o", out, "--outputs", "y", "--verify", "none"],
    "fold": lambda file, folder, out: [file, "-o", out, "--verify", "none"],
    "fc-to-conv": lambda file, folder, out: [file, "-o", out, "--verify", "none"],
    "merge": lambda file, folder, out: [file, "-o", out, "--verify", "none"],
    "calibrate": lambda file, folder, out: [file, "-o", out, "--data", str(folder / "x.npy")],
    "advise": lambda file, folder, out: [file, "--layer", "conv", "--macs", "0.5"],
}
THOROUGH = {"inspect", "compress", "convert"}
# What runs for long, or takes gigabytes, because the file says so.
ENDLESS = {
    "a loop without end",
    *(name for name in hostile_onnx.ODD if "2^28" in name),
    "a sum spread over 2^40",
    "a sum spread over 2^40 by a constant",
}
PYTORCH_BYTES = 300_000_000  # that it takes before it is used
RUNNING = {
    "verify",
    "bench",
    "advise",
    "calibrate",
    "package",
    "tune",
}  # What can be read goes on into a runtime, which takes a process of its own.


def test_every_verb_is_tried() -> None:
    assert {*COMMANDS, "batch"} == set(VERBS)  # It takes a folder, and what is wrong there is a row: tests/batch.


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good network, a plan for it, every bad file, and the data files that they speak of."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.bin").write_bytes(hostile_onnx.K.tobytes())
    folder = tmp_path_factory.mktemp("files")
    (folder / "good.onnx").write_bytes(hostile_onnx.GOOD)
    np.save(folder / "x.npy", np.ones((2, 3, 8, 8), np.float32))
    for group in (hostile_onnx.BAD, hostile_onnx.ODD, hostile_onnx.HUGE):
        for name, raw in group.items():
            (folder / f"{name}.onnx").write_bytes(raw)
    (folder / "sub").mkdir()
    for path in (folder / "data.bin", folder / "sub" / "data.bin"):
        path.write_bytes(hostile_onnx.K.tobytes())
    (folder / "empty.bin").touch()
    (folder / "folder.bin").mkdir()
    os.mkfifo(folder / "pipe.bin")
    (folder / "link.bin").symlink_to(outside / "secret.bin")
    (folder / "linked").symlink_to(outside)
    (folder / "zero.bin").symlink_to("/dev/zero")
    with (folder / "300 MB of zeros.onnx").open("wb") as sparse:
        sparse.truncate(3 * 10**8)
    (folder / "a folder.onnx").mkdir()
    (folder / "a loop.onnx").symlink_to("a loop.onnx")
    os.mkfifo(folder / "a pipe.onnx")
    (folder / "a device.onnx").symlink_to("/dev/zero")
    (ran,) = run([["plan", str(folder / "good.onnx"), "--params", "0.5", "-o", str(folder / "plan.json")]])
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture(scope="module", autouse=True)
def _children_end() -> Iterator[None]:
    yield
    end_children()


def assert_ends(verb: str, names: Sequence[str], folder: Path, codes: set[int], out: Path) -> None:
    """Each file ends with one of `codes`, as it should, and leaves nothing behind unless it ends with 0."""
    files = [str(folder / f"{name}.onnx") for name in names]
    results = [out / f"{i}.zip" if verb == "package" else out / str(i) for i in range(len(files))]
    before = _state(folder)
    commands = [[verb, *COMMANDS[verb](file, folder, str(result))] for file, result in zip(files, results, strict=True)]
    wrong = []
    for name, file, ran, result in zip(names, files, run(commands, "--measured"), results, strict=True):
        found = list(complaints(ran, codes, [file], SPARE_BYTES + PYTORCH_BYTES * (verb == "tune")))
        if ran.code and result.exists():
            found.append("left something at the destination")
        wrong += [f"{name}: {complaint}" for complaint in found]
    left = {path.name for path in out.iterdir()} - {result.name for result in results}
    assert not left, f"staging folders are left: {left}"
    assert _state(folder) == before, "the inputs were changed"
    assert not wrong, f"{len(wrong)} of {len(names)}:\n" + "\n".join(wrong)


def _state(folder: Path) -> dict[str, str]:
    """What lies in the folder, by path."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.stat().st_size < 10**7 else "large"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_bad_file_is_one_line_and_exit_2(verb: str, files: Path, tmp_path: Path) -> None:
    others = ["300 MB of zeros", "missing", "a folder", "a loop", "a pipe", "a device"]
    assert_ends(verb, [*hostile_onnx.BAD, *others], files, {2}, tmp_path)


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_odd_file_ends_in_an_answer(verb: str, files: Path, tmp_path: Path) -> None:
    if verb in RUNNING:
        require_onnxruntime()
    # Every verb reads files alike; these three look at all that is in them, the others at little more than the start.
    names = list(hostile_onnx.ODD) if verb in THOROUGH else list(hostile_onnx.ODD)[list(COMMANDS).index(verb) % 6 :: 6]
    asked = [name for name in names if name not in ENDLESS or verb not in RUNNING]
    assert_ends(verb, asked, files, {0, 1, 2}, tmp_path)


def test_a_network_that_runs_for_ever_is_stopped(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_onnxruntime()
    monkeypatch.setattr(jobs, "LIMIT_S", 2)
    job = Job([files / "a loop without end.onnx"], [{"x": np.ones((1, 3, 8, 8), np.float32)}])
    with pytest.raises(EngineError, match="SIGALRM"):
        ENGINES["onnxruntime"].run(job)
    with pytest.raises(EngineError, match="SIGALRM"), ENGINES["onnxruntime"].timed(job) as passes:
        passes(1)


@pytest.mark.parametrize("verb", sorted(THOROUGH))
def test_a_huge_file_ends_in_an_answer(verb: str, files: Path, tmp_path: Path) -> None:
    assert_ends(verb, list(hostile_onnx.HUGE), files, {0, 1, 2}, tmp_path)
