"""The facts of a cut: what they say makes the same again, and nothing of the machine is in them."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from surgery import formats
from surgery.formats import Source
from surgery.plans import from_json
from surgery.report import as_json, described, render_html, render_markdown
from surgery.survey import survey
from tests.report.digits import DATA, DIGITS, FILES, MANY, compressed, report, run


@pytest.mark.parametrize(
    "options",
    [
        MANY,
        (*DATA, "--layer", "conv2=svd-spatial:rank=20", "--seed", "3"),
        ("--method", "none"),
        ("--rank", "6", "--phase", "TRAIN", "--stage", "it's", "--level", "2"),
    ],
)
def test_the_command_makes_the_same_files_again(
    options: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    found = compressed(first, *options)
    for file in (*FILES, first / "plan.json", DIGITS / "calibration.npz"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    run(*shlex.split(found["command"])[1:])
    names = {path.name for path in first.iterdir()}
    assert names == set(found["files"]) == {path.name for path in (tmp_path / "DIR").iterdir()}
    for name in names - {"timings.json"}:
        assert (tmp_path / "DIR" / name).read_bytes() == (first / name).read_bytes(), name


def test_no_folder_of_the_machine_is_told(tmp_path: Path) -> None:
    compressed(tmp_path / "out", *MANY)
    for name in ("report.json", "report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert str(DIGITS.parent) not in text


def test_lists_of_numbers_take_one_line_and_read_the_same(tmp_path: Path) -> None:
    found = compressed(tmp_path / "out", *MANY)
    text = as_json({**found, "strange": "[\n1, 2\n]"})
    assert '"rank": [12, 9]' in text
    assert json.loads(text) == {**found, "strange": "[\n1, 2\n]"}


def test_a_network_as_it_is_found_is_described_with_and_without_its_plan(tmp_path: Path) -> None:
    compressed(tmp_path / "out", "--macs", "0.3", "--layer", "conv2", "--layer", "ip1", "--method", "svd,tucker2")
    files = (tmp_path / "out" / "deploy.prototxt", tmp_path / "out" / "deploy.caffemodel")
    surveyed = survey(formats.load(files), ())
    plan = from_json((tmp_path / "out" / "plan.json").read_text(), "plan.json")
    told, cut = described(surveyed, plan, ["a"], Source(files)), report(tmp_path / "out")
    assert {name: told["totals"][when][name] for when in ("before", "after") for name in ("params", "macs")} == {
        name: cut["totals"][when][name] for when in ("before", "after") for name in ("params", "macs")
    }
    same = ("layer", "method", "rank", "params", "macs")
    assert [[row[name] for name in same] for row in told["layers"]] == [
        [row[name] for name in same] for row in cut["layers"]
    ]
    alone = described(surveyed, None, ["a"], Source(files))
    assert alone["totals"]["before"] == {"params": None, "macs": None, "weight_bytes": None}
    for facts in (told, alone):
        assert f"{surveyed.params:,}" in render_html(facts)
        assert f"{surveyed.params:,}" in render_markdown(facts)
