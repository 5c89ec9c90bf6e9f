"""Cuts fitted to calibration data, from the command line, on the model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgery.runtime import Job, OnnxRuntime
from tests.cli.test_cut import DIGITS, FILES, report, run

DATA = DIGITS / "calibration.npz"
CUT = ("--layer", "conv2=svd-spatial:macs=0.06", "--layer", "ip1=svd:rank=5")


def compressed(output: Path, *more: str | Path) -> dict[str, Any]:
    result = run("compress", *FILES, "-o", output, *CUT, *more)
    assert result.exit_code == 0, result.output
    return report(output)


def right(folder: Path) -> int:
    """How many of the held-back digits a network gets right."""
    held_back = np.load(DIGITS / "heldback.npz")
    inputs = {"data": held_back["images"][:, None].astype(np.float32) / 16}
    (blobs,) = OnnxRuntime().run(Job((folder / "deploy.prototxt", folder / "deploy.caffemodel"), [inputs]))
    return int((blobs["prob"].reshape(-1, 10).argmax(1) == held_back["labels"]).sum())


def test_a_cut_fitted_to_data_is_better_on_images_that_it_never_saw(tmp_path: Path) -> None:
    compressed(tmp_path / "plain")
    fitted = compressed(tmp_path / "fitted", "--calibrate", DATA)
    assert right(tmp_path / "fitted") > right(tmp_path / "plain")
    for row in fitted["layers"]:
        assert 0 < row["response_error"] < row["weight_error"]
    assert fitted["calibration"]["images"] == 449
    assert fitted["verified"] is not None


def test_a_plan_fitted_to_data_replays_to_the_same_bytes_with_the_same_data_only(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    compressed(tmp_path / "once", "--calibrate", DATA, "--images", "100")
    assert run("plan", *FILES, "-o", plan, *CUT, "--calibrate", DATA, "--images", "100").exit_code == 0
    assert plan.read_text() == (tmp_path / "once" / "plan.json").read_text()
    result = run("apply", *FILES, plan, "-o", tmp_path / "again", "--calibrate", DATA)
    assert result.exit_code == 0, result.output
    for name in ("deploy.prototxt", "deploy.caffemodel", "report.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "once" / name).read_bytes(), name
    without = run("apply", *FILES, plan, "-o", tmp_path / "without")
    assert without.exit_code == 2
    assert "the plan is fitted to calibration data; give it with --calibrate" in without.stderr
    other = tmp_path / "other.npy"
    np.save(other, np.load(DATA)["data"][::-1])
    changed = run("apply", *FILES, plan, "-o", tmp_path / "changed", "--calibrate", other)
    assert changed.exit_code == 2
    assert "the plan is fitted to other calibration data" in changed.stderr
    assert not (tmp_path / "without").exists()
    assert not (tmp_path / "changed").exists()


def test_without_its_data_a_plan_is_carried_out_only_when_that_is_asked_for_and_told(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    run("plan", *FILES, "-o", plan, *CUT, "--calibrate", DATA)
    result = run("apply", *FILES, plan, "-o", tmp_path / "out", "--weights-only")
    assert result.exit_code == 0, result.output
    assert "note: fitted to the weights only" in result.stdout
    assert json.loads((tmp_path / "out" / "plan.json").read_text()).get("calibration") is None
    compressed(tmp_path / "plain")
    assert (tmp_path / "out" / "deploy.caffemodel").read_bytes() == (
        tmp_path / "plain" / "deploy.caffemodel"
    ).read_bytes()


def test_statistics_are_kept_and_used_without_the_images(tmp_path: Path) -> None:
    kept = tmp_path / "digits.statistics"
    result = run("calibrate", *FILES, "--data", DATA, "-o", kept)
    assert result.exit_code == 0, result.output
    assert "4 layers" in result.stdout
    compressed(tmp_path / "plain")
    fitted = compressed(tmp_path / "fitted", "--statistics", kept)
    from_images = compressed(tmp_path / "images", "--calibrate", DATA, "--symmetric")
    assert right(tmp_path / "fitted") > right(tmp_path / "plain")
    for stored, seen in zip(fitted["layers"], from_images["layers"], strict=True):
        assert stored["response_error"] == pytest.approx(seen["response_error"], rel=0.1)


def test_options_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", *CUT, "--calibrate", DATA, "--statistics", DATA)
    assert result.exit_code == 2
    assert "--calibrate and --statistics exclude each other" in result.stderr


@pytest.mark.parametrize(
    ("idle", "why"),
    [
        (("--positions", "8"), "--positions says how the data of --calibrate is read; give that too, or leave it out"),
        (("--symmetric",), "--symmetric says how the data of --calibrate is read; give that too, or leave it out"),
        (("--refit",), "--refit and --no-refit say how cuts are fitted to data; give --calibrate too, or leave it out"),
        (("--no-refit",), "--refit and --no-refit say how cuts are fitted to data"),
    ],
    ids=lambda case: case[0] if isinstance(case, tuple) else "",
)
def test_what_says_something_of_data_is_refused_where_there_are_none(
    tmp_path: Path, idle: tuple[str, ...], why: str
) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "out", *CUT, *idle)
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)
    assert why in result.stderr


def test_advise_tries_every_method_and_sorts_by_what_is_lost(tmp_path: Path) -> None:
    words = ("advise", *FILES, "--layer", "conv2", "--macs", "0.1")
    facts = json.loads(run(*words, "--calibrate", DATA, "--json").stdout)
    tried = [row for row in facts["methods"] if row["refusal"] is None]
    errors = [row["response_error"] for row in tried]
    assert errors == sorted(errors)
    assert all(row["macs"] <= 0.1 * facts["macs"] for row in tried)
    assert all(row["milliseconds"]["median"] > 0 for row in tried)
    assert {row["method"] for row in facts["methods"] if row["refusal"]} >= {"svd"}
    shown = run(*words).stdout
    assert "response error" in shown
    assert "not svd: not a fully connected layer" in shown


def test_merge_undoes_a_cut_at_full_rank(tmp_path: Path) -> None:
    result = run("compress", *FILES, "-o", tmp_path / "cut", "--rank", "full", "--force")
    assert result.exit_code == 0, result.output
    cut = [tmp_path / "cut" / name for name in ("deploy.prototxt", "deploy.caffemodel")]
    merged = run("merge", *cut, "-o", tmp_path / "whole")
    assert merged.exit_code == 0, merged.output
    whole = [tmp_path / "whole" / path.name for path in cut]
    assert run("verify", *FILES, *whole, "--layers").exit_code == 0
    again = run("merge", *whole, "-o", tmp_path / "twice")
    assert again.exit_code == 1
    assert "nothing to cut: no layers follow each other" in again.stderr
