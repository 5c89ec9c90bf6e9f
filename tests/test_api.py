"""The Python interface does what the command line does."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from surgery.errors import PlanError
from surgery.model import Model
from surgery.plans import from_json
from tests.cli.test_cut import DIGITS, FILES, run

DATA = DIGITS / "calibration.npz"
LAYERS = ("conv2=svd-spatial:macs=0.2", "ip1=semi-nmf:rank=12,side=last")


def saved(model: Model, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in surgery.save(model, folder, "deploy")]


@pytest.mark.parametrize("data", [None, DATA])
def test_a_plan_from_python_gives_the_files_of_the_command_line(data: Path | None, tmp_path: Path) -> None:
    model = surgery.load(*FILES)
    plan = surgery.plan(model, LAYERS)
    ours = saved(surgery.rewrite(model, plan, data, images=50 if data else None), tmp_path / "ours")
    words = [word for layer in LAYERS for word in ("--layer", layer)]
    more = ["--calibrate", data, "--images", "50"] if data else []
    assert run("compress", *FILES, "-o", tmp_path / "theirs", *words, *more).exit_code == 0
    theirs = [(tmp_path / "theirs" / name).read_bytes() for name in ("deploy.prototxt", "deploy.caffemodel")]
    assert ours == theirs


def test_a_plan_that_remembers_its_data_takes_no_other() -> None:
    words = [word for layer in LAYERS for word in ("--layer", layer)]
    written = run("plan", *FILES, *words, "--calibrate", DATA, "--images", "20")
    plan = from_json(written.stdout, "plan.json")
    model = surgery.load(*FILES)
    with pytest.raises(PlanError, match="fitted to calibration data"):
        surgery.rewrite(model, plan)
    assert surgery.rewrite(model, plan, DATA).nodes


def test_options_and_sharing_reach_the_plan() -> None:
    model = surgery.load(*FILES)
    plan = surgery.plan(model, "conv2", "cp", macs=0.5, options={"algorithm": "tpm"}, share=True)
    assert [(cut.key, cut.method, dict(cut.options)) for cut in plan.cuts] == [("conv2", "cp", {"algorithm": "tpm"})]
