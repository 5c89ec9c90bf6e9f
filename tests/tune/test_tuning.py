"""A tuning from files to files: what it leaves, and that a killed one ends as any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from surgery import ternary
from surgery.cli import main
from surgery.errors import DataError, ModelError, PlanError
from surgery.formats import Source, load
from surgery.plans import Cut, from_json, to_json
from tests.engines import require_onnxruntime
from tests.shared import REPOSITORY
from tests.tune.cases import DIGITS_CUTS, DIGITS_SOURCE, asked, cut, digits
from tests.tune.extra import require_torch

require_torch()

from surgery.tune import stepping  # noqa: E402
from surgery.tune.asked import Asked  # noqa: E402
from surgery.tune.checkpoints import Checkpoint  # noqa: E402
from surgery.tune.recipe import Recipe  # noqa: E402
from surgery.tune.tuning import tune  # noqa: E402

CUTS = (Cut("conv", "svd-spatial", (2,)), Cut("fc", "sdd", (8,)))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_blobs_change_and_all_that_the_report_lists_is_there(tmp_path: Path) -> None:
    require_onnxruntime()
    given = asked(tmp_path, CUTS, labels=None)
    outcome = tune(given, tmp_path / "out", ["onnxruntime"])
    made, before = contents(tmp_path / "out"), contents(tmp_path / "cut")
    assert set(json.loads(made["report.json"])["files"]) == set(made)
    assert made["cut.prototxt"] == before["cut.prototxt"]
    assert made["cut.caffemodel"] != before["cut.caffemodel"]
    assert len(made["cut.caffemodel"]) == len(before["cut.caffemodel"])
    assert from_json(made["plan.json"].decode(), "plan.json") == given.plan
    assert outcome.facts["verified"]["worst_rel_l2"] < 1e-5
    assert json.loads(made["tune.json"]) == json.loads(json.dumps(outcome.facts))
    assert not list(tmp_path.glob(".*")), "nothing is left beside"


def test_ternary_weights_are_exported_as_such_and_their_file_is_written_anew(tmp_path: Path) -> None:
    tune(asked(tmp_path, CUTS, recipe=Recipe(epochs=4, rate=0.2, batch=18)), tmp_path / "out", None)
    model = load([tmp_path / "out" / "cut.prototxt", tmp_path / "out" / "cut.caffemodel"])
    layers, _ = ternary.read(tmp_path / "out" / "cut.ternary")
    assert len(layers) == 2
    for name, layer in layers.items():
        op = model.format.lift(model, model.node(name))
        assert np.isin(op.weight, (-1, 0, 1)).all()  # type: ignore[union-attr]
        assert (layer.values == op.weight).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("schedule", ["one-shot", "iterative", "hybrid"])
def test_every_schedule_ends_in_the_cut_networks_own_definition(tmp_path: Path, schedule: str) -> None:
    cuts = (Cut("conv", "cp", (3,)), Cut("fc", "svd", (4,)), Cut("score", "svd", (2,)))
    outcome = tune(asked(tmp_path, cuts, schedule=schedule), tmp_path / "out", None)
    wanted = {"one-shot": ["1 by cp, 2 by svd"], "iterative": ["conv", "fc", "score"], "hybrid": ["conv", "2 by svd"]}
    assert [step["cut"] for step in outcome.facts["steps"]] == wanted[schedule]
    assert (tmp_path / "out" / "cut.prototxt").read_bytes() == (tmp_path / "cut" / "cut.prototxt").read_bytes()


class KilledError(Exception):
    """Stands for the end of the process."""


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run end behind a state that it keeps."""
    keep, kept = Checkpoint.keep, []

    def counted(self: Checkpoint, state: Any) -> None:
        keep(self, state)
        kept.append(1)
        if len(kept) == number:
            raise KilledError

    monkeypatch.setattr(Checkpoint, "keep", counted)


@pytest.mark.parametrize("number", [1, 2, 4, 5, 7])
def test_a_run_that_was_killed_goes_on_to_the_same_files(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asked(tmp_path, CUTS, schedule="iterative", recipe=Recipe(epochs=2, batch=18, rate=0.05, optimizer="adam"))
    tune(given, tmp_path / "whole", None)
    with monkeypatch.context() as patch:
        killed_at(number, patch)
        with pytest.raises(KilledError):
            tune(given, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
    steps: list[int] = []
    real: Callable[..., Any] = stepping.train
    monkeypatch.setattr(stepping, "train", lambda *a, **k: steps.append(a[2]) or real(*a, **k))
    tune(given, tmp_path / "out", None)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert steps == ([0, 1] if number < 4 else [1]), "what was done is not done again"


def test_a_process_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    own, plan = cut(DIGITS_SOURCE, DIGITS_CUTS, tmp_path / "cut")
    path, labels = digits(tmp_path, 200)
    (tmp_path / "cut" / "plan.json").write_text(to_json(plan))
    files = [*map(str, own.files), "--teacher", *map(str, DIGITS_SOURCE.files), "--data", str(path)]
    more = ["--labels", str(labels), "--epochs", "3", "--rate", "0.01", "--threads", "1", "--verify", "none"]
    command = [sys.executable, "-m", "surgery", "tune", *files, *more]
    with subprocess.Popen([*command, "-o", str(tmp_path / "out")], cwd=REPOSITORY) as process:
        state = tmp_path / ".out.tuning" / "state.pt"
        while process.poll() is None and not state.exists():
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    for name in ("out", "whole"):
        result = CliRunner().invoke(main, [*command[3:], "-o", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_run_does_not_go_on_there_and_fresh_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asked(tmp_path, CUTS)
    with monkeypatch.context() as patch:
        killed_at(2, patch)
        with pytest.raises(KilledError):
            tune(given, tmp_path / "out", None)
    other = replace(given, recipe=replace(given.recipe, seed=1))
    with pytest.raises(PlanError, match=r"another recipe .*--fresh"):
        tune(other, tmp_path / "out", None)
    tune(replace(other, fresh=True), tmp_path / "out", None)
    (tmp_path / "whole").mkdir()
    tune(other, tmp_path / "whole", None)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_tuned_network_is_better_than_the_cut_one_on_digits_that_it_has_not_seen(tmp_path: Path) -> None:
    own, plan = cut(DIGITS_SOURCE, DIGITS_CUTS, tmp_path / "cut")
    path, labels = digits(tmp_path)
    with np.load(REPOSITORY / "models" / "digits" / "calibration.npz") as found:
        np.savez(tmp_path / "test.npz", data=found["data"])
    recipe = Recipe(epochs=10, rate=0.03, batch=32)
    given = Asked(own, DIGITS_SOURCE, path, plan, labels=labels, recipe=recipe, test=tmp_path / "test.npz")
    scores = tune(given, tmp_path / "out", None).facts["scores"]
    assert scores["test"]["original"]["agreement"] == 1
    assert scores["test"]["tuned"]["agreement"] > scores["test"]["cut"]["agreement"]
    assert scores["held back"]["tuned"]["loss"] < scores["held back"]["cut"]["loss"]


def test_a_plan_that_was_fitted_to_pictures_is_fitted_anew_in_each_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pictures.npz", images=rng.integers(0, 255, (40, 6, 6, 3), dtype=np.uint8))
    given = asked(tmp_path, CUTS, labels=None, schedule="iterative")
    record = {
        "data": "other.npz",
        "images": 20,
        "digest": "",
        "preprocess": {"scale": 0.01, "channels": "rgb"},
        "positions": 4,
        "seed": 0,
        "symmetric": False,
    }
    assert given.plan is not None
    plan = replace(given.plan, calibration=record, refit=True)
    outcome = tune(replace(given, plan=plan, data=tmp_path / "pictures.npz"), tmp_path / "out", None)
    assert outcome.facts["data"]["preprocess"] == record["preprocess"]
    assert [step["cut"] for step in outcome.facts["steps"]] == ["conv", "fc"]


def test_without_labels_the_teacher_is_enough(tmp_path: Path) -> None:
    outcome = tune(asked(tmp_path, CUTS[:1], labels=None), tmp_path / "out", None)
    assert outcome.facts["goal"]["distil"] == 1
    scores = outcome.facts["scores"]["held back"]
    assert scores["original"]["accuracy"] is None
    assert scores["tuned"]["loss"] <= scores["cut"]["loss"]


def test_weights_are_no_worse_on_held_back_samples_whatever_the_rate(tmp_path: Path) -> None:
    outcome = tune(asked(tmp_path, CUTS, recipe=Recipe(epochs=2, rate=0.9, batch=18)), tmp_path / "out", None)
    (step,) = outcome.facts["steps"]
    assert step["after"]["loss"] <= step["before"]["loss"]
    assert step["best"] == int(np.argmin([step["before"]["loss"], *(e["held_back"]["loss"] for e in step["epochs"])]))


def test_a_batch_of_fixed_size_is_filled_up_and_only_samples_count(tmp_path: Path) -> None:
    from surgery.tune.data import open_samples

    given = asked(tmp_path, CUTS)
    samples = open_samples(given.data, given.cut.load(), size=7, fixed=True)
    batches = list(samples.held_back())
    assert [batch.count for batch in batches] == [6]
    assert [len(batch.inputs["data"]) for batch in batches] == [7]


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        (lambda a: {"plan": None, "schedule": "iterative"}, PlanError, "--plan"),
        (lambda a: {"rechoose": True}, PlanError, "--schedule iterative"),
        (lambda a: {"teacher": a.cut}, PlanError, "other files"),
        (lambda a: {"teacher": Source(a.teacher.files[:1]), "plan": None}, ModelError, "weights"),
        (lambda a: {"data": a.data.with_name("none.npy")}, DataError, "no such file"),
        (lambda a: {"recipe": replace(a.recipe, rate=1e9, momentum=0.99)}, PlanError, "smaller --rate"),
        (lambda a: {"labels": a.labels.with_name("many.txt")}, PlanError, "a label is 9; the network has 4 classes"),
        (lambda a: {"device": "cuda"}, PlanError, "--device"),
    ],
)
def test_what_does_not_go_together_is_said_and_nothing_is_left(
    tmp_path: Path, change: Callable[[Asked], dict[str, Any]], kind: type[Exception], told: str
) -> None:
    import torch

    given = asked(tmp_path, CUTS[:1])
    (tmp_path / "many.txt").write_text("9\n" * 60)
    if change(given).get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    before = contents_of_all(tmp_path)
    with pytest.raises(kind, match=told):
        tune(replace(given, **change(given)), tmp_path / "out", None)
    assert contents_of_all(tmp_path) == before


def contents_of_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
