"""Results appear whole or not at all, whenever the process dies; what others wrote is never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from surgery import output
from surgery.errors import PlanError
from surgery.output import REPORT, TOOL, check_destination, staged, write_file
from tests.shared import REPOSITORY

OLD = {"net.prototxt": "old text", "net.caffemodel": "old weights", REPORT: ""}
NEW = {"net.prototxt": "new text, longer", "net.caffemodel": "new weights", "plan.json": "{}", REPORT: ""}


def report_of(files: dict[str, str]) -> str:
    return json.dumps({"tool": TOOL, "files": sorted(files)})


def contents(folder: Path) -> dict[str, str] | None:
    return {path.name: path.read_text() for path in folder.iterdir()} if folder.exists() else None


def fill(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Write files with the report that lists them; return what then stands in the folder."""
    whole = {**files, REPORT: report_of(files)}
    folder.mkdir(exist_ok=True)
    for name, text in whole.items():
        (folder / name).write_text(text)
    return whole


# Writes NEW into a folder, and kills itself, as `kill -9` would, before or after the n-th call that changes the disk.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from surgery import output
from surgery.output import staged

folder, step, files = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
calls = 0
if sys.argv[4] == "two renames":
    output._exchanged = lambda one, other: False

def counted(function):
    def call(*arguments, **options):
        global calls
        for after in (False, True):
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            if not after:
                result = function(*arguments, **options)
        return result
    return call

output._exchanged = counted(output._exchanged)
for name in ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir", "chmod", "open"):
    setattr(os, name, counted(getattr(os, name)))
with staged(folder) as staging:
    for name, text in files.items():
        (staging / name).write_text(text)
"""


@pytest.mark.parametrize("swap", ["one exchange", "two renames"])
@pytest.mark.parametrize("before", ["nothing", "an empty folder", "old files"])
def test_killed_at_any_step_the_destination_holds_nothing_the_old_or_the_new(
    before: str, swap: str, tmp_path: Path
) -> None:
    new = {**NEW, REPORT: report_of(NEW)}
    outcomes = []
    for step in range(200):
        parent = tmp_path / f"{step}"
        parent.mkdir()
        folder = parent / "out"
        old: dict[str, str] | None = None
        if before == "an empty folder":
            folder.mkdir()
            old = {}
        elif before == "old files":
            old = fill(folder, OLD)
        (parent / "other").write_text("somebody's")
        code = _killed(folder, step, new, swap)
        found = contents(folder)
        assert found in (None, old, new), (step, found)
        assert (parent / "other").read_text() == "somebody's"
        if found == new:
            check_destination(folder, [])
        outcomes.append("none" if found is None else "new" if found == new else "old")
        if code == 0:
            break
    else:
        pytest.fail("the writer never came to its end")
    assert outcomes[-1] == "new"
    assert step > 10, "the killing must have hit the steps between"
    if before == "nothing":
        assert "none" in outcomes
    elif swap == "one exchange" and sys.platform == "linux":
        assert "none" not in outcomes


def _killed(folder: Path, step: int, files: dict[str, str], swap: str = "one exchange") -> int:
    """Run the writer in a fork that inherits its imports: a new interpreter for each step would take seconds."""
    child = os.fork()
    if child == 0:
        try:
            sys.argv = ["-c", str(folder), str(step), json.dumps(files), swap]
            exec(compile(KILLED, "killed", "exec"), {"__name__": "killed"})
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code


def test_after_a_kill_the_next_run_succeeds(tmp_path: Path) -> None:
    new = {**NEW, REPORT: report_of(NEW)}
    folder = tmp_path / "out"
    for step in range(0, 60, 3):
        if _killed(folder, step, new) == 0:
            break
        check_destination(folder, [])
        with staged(folder) as staging:
            fill(staging, NEW)
        assert contents(folder) == new


def test_killed_compressing_leaves_nothing_the_old_or_the_new(tmp_path: Path) -> None:
    """The whole command, killed at moments that are spread over its run."""
    model = REPOSITORY / "models" / "digits"
    source = [str(model / "deploy.prototxt"), str(model / "digits.caffemodel")]
    command = [sys.executable, "-m", "surgery", "compress", *source, "--params", "0.5", "--verify", "none", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    whole = _digest(tmp_path / "whole")
    folder = tmp_path / "out"
    killed = 0
    start = time.monotonic()
    subprocess.run([*command, str(folder)], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    length = time.monotonic() - start
    for tenth in range(4, 11):
        process = subprocess.Popen([*command, str(folder)], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        time.sleep(length * tenth / 10)
        process.kill()
        killed += process.wait() != 0
        assert not folder.exists() or _digest(folder) == whole
    assert killed


def _digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.json"}


def test_an_error_while_writing_leaves_the_old_files_and_no_staging(tmp_path: Path) -> None:
    old = fill(tmp_path / "out", OLD)

    def write() -> None:
        with staged(tmp_path / "out") as staging:
            (staging / "net.prototxt").write_text("half of")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert contents(tmp_path / "out") == old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("step", ["rename", "fsync"])
def test_an_error_while_moving_into_place_leaves_the_old_files(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fill(tmp_path / "out", OLD)
    with pytest.raises(OSError, match="Input/output error"):
        _write_with_a_failing(step, tmp_path / "out", monkeypatch)
    monkeypatch.undo()
    assert contents(tmp_path / "out") == old
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _write_with_a_failing(step: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = getattr(os, step)

    def failing(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:  # The second rename puts the new folder in the place of the old, which is out of the way then.
            raise OSError(5, "Input/output error")
        return real(*arguments, **options)

    monkeypatch.setattr(output, "_exchanged", lambda one, other: False)
    with staged(folder) as staging:
        fill(staging, NEW)
        monkeypatch.setattr(os, step, failing)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "sub"])
def test_a_folder_that_holds_something_foreign_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    fill(folder, OLD)
    (folder / name).mkdir() if name == "sub" else (folder / name).write_text("mine")
    with pytest.raises(PlanError, match=f"holds '{name}', which this tool did not write"):
        check_destination(folder, [])


@pytest.mark.parametrize("report", ["", "[]", "{}", '{"tool": "other", "files": ["a"]}', "\udcff", "[" * 100_000])
def test_a_folder_with_another_programs_report_is_refused(report: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")
    (tmp_path / "out" / REPORT).write_bytes(report.encode("utf-8", "surrogateescape"))
    with pytest.raises(PlanError, match="which this tool did not write"):
        check_destination(tmp_path / "out", [])


def test_a_file_that_appears_while_the_command_runs_survives(tmp_path: Path) -> None:
    fill(tmp_path / "out", OLD)
    check_destination(tmp_path / "out", [])

    def write() -> None:
        with staged(tmp_path / "out") as staging:
            fill(staging, NEW)
            (tmp_path / "out" / "notes.txt").write_text("mine")

    with pytest.raises(PlanError, match="which this tool did not write"):
        write()
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("where", ["the folder itself", "through a link", "the file itself"])
def test_the_inputs_folder_is_refused(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "net.prototxt"
    file.write_text("")
    (tmp_path / "link").symlink_to(folder)
    destination = {"the folder itself": folder, "through a link": tmp_path / "link", "the file itself": file}[where]
    with pytest.raises(PlanError, match=r"holds the input net\.prototxt"):
        check_destination(destination, [file])


def test_a_missing_parent_and_a_file_in_the_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PlanError, match="its parent folder does not exist"):
        check_destination(tmp_path / "missing" / "out", [])
    with pytest.raises(PlanError, match="is a file; expected a folder"):
        check_destination(tmp_path / "file", [])
    with pytest.raises(PlanError, match="its parent folder does not exist"):
        check_destination(tmp_path / "file" / "out", [])


def test_a_link_in_the_place_of_the_folder_stays_a_link_or_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "real", OLD)
    (tmp_path / "out").symlink_to(tmp_path / "real")
    try:
        check_destination(tmp_path / "out", [])
        with staged(tmp_path / "out") as staging:
            new = fill(staging, NEW)
    except PlanError:
        assert (tmp_path / "out").is_symlink()
        return
    assert contents(tmp_path / "out") == new
    assert (tmp_path / "out").is_symlink(), "replacing the link would leave the old files where nobody sees them"


def test_the_folder_gets_the_permissions_that_the_user_asks_for(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with staged(tmp_path / "out") as staging:
            fill(staging, NEW)
        write_file(tmp_path / "plan.json", "{}")
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o640


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(target, "new")
    monkeypatch.undo()
    assert contents(tmp_path) == {"plan.json": "old"}
    write_file(target, "new")
    assert contents(tmp_path) == {"plan.json": "new"}
    with pytest.raises(PlanError, match="its folder does not exist"):
        write_file(tmp_path / "missing" / "plan.json", "new")
