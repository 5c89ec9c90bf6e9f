"""Runs of real Caffe: they learn, they can be taken up again, and only blobs change."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import EngineError, PlanError
from surgery.formats import Source
from surgery.model import Overwrite
from surgery.tune.caffe import Goal, Point, Solver, Task, run, trained_blobs, write
from surgery.tune.caffe.history import Log, accuracy_of, best_of
from surgery.verify import AUTO_ENGINES, engine_pairs, verify
from tests.engines import require_caffe
from tests.tune.caffe.digits import ORIGINAL, cut_digits, samples

# Caffe and ONNX Runtime, float32, five layers deep: sums of up to a thousand products in different orders.
FLOAT32 = 1e-5


@pytest.mark.parametrize("goal", [Goal(labels=1), Goal(distil=1)], ids=["labels", "distil"])
def test_some_hundred_iterations_bring_a_cut_network_back(goal: Goal, tmp_path: Path) -> None:
    require_caffe()
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path)
    solver = Solver(epochs=30, rate=0.01, batch=64)
    training = run(write(Task(cut, feed, goal, solver, teacher=ORIGINAL), tmp_path / "run"))
    tests = [point.test for point in training.points if point.test]
    assert training.iterations == 30 * 7
    assert min(test["loss"] for test in tests) < tests[0]["loss"] / 2
    assert max(test["tune_accuracy"] for test in tests) > tests[0]["tune_accuracy"] + 0.1
    assert training.weights is not None
    assert len(list((tmp_path / "run").glob("*.solverstate"))) <= 3
    model = cut.load()
    changed = trained_blobs(training.weights, model)
    tuned = model.edit(*(Overwrite(key, blobs) for key, blobs in changed.items()))
    (tmp_path / "tuned").mkdir()
    written = Source(tuned.format.save(tuned, tmp_path / "tuned", "digits"))
    assert written.files[0].read_bytes() == cut.files[0].read_bytes()
    assert_only_blobs_changed(cut, written)
    models, files = (written.load(),) * 2, (written.files,) * 2
    pairs = [("caffe", "onnxruntime")]
    verdict = verify(models, files, pairs, None, layers=True)
    assert verdict.worst.rel_l2 < FLOAT32
    assert engine_pairs(models, (None, None))[0] == (AUTO_ENGINES[0],) * 2
    snapshot = Source((cut.files[0], training.weights))
    same = verify((snapshot.load(), models[0]), (snapshot.files, written.files), [("caffe", "caffe")], None)
    assert same.worst.max_abs == 0


def assert_only_blobs_changed(before: Source, after: Source) -> None:
    """Outside the numbers the files are the same, byte for byte."""
    old, new = (source.load().native.weights.model for source in (before, after))
    first, second = (np.frombuffer(model.buffer, np.uint8) for model in (old, new))
    assert first.shape == second.shape
    inside = np.zeros(first.shape, bool)
    for numbers in (each for layer in old.layers for blob in layer.blobs for each in blob.runs):
        inside[numbers.offset : numbers.offset + numbers.stride * numbers.count] = True
    np.testing.assert_array_equal(first[~inside], second[~inside])
    assert np.any(first[inside] != second[inside])


def test_a_run_that_ended_early_goes_on_to_the_weights_of_one_that_did_not(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1, distil=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 100)
    solver = Solver(epochs=4, rate=0.01, batch=32)
    whole = write(Task(cut, feed, goal, solver, teacher=ORIGINAL), tmp_path / "whole")
    run(whole)
    broken = write(Task(cut, feed, goal, solver, teacher=ORIGINAL), tmp_path / "broken")

    def stop(text: str, share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, progress=stop)
    assert not (broken.folder / "tuned_iter_12.caffemodel").exists()
    again = write(Task(cut, feed, goal, solver, teacher=ORIGINAL), tmp_path / "broken")
    training = run(again)
    assert training.resumed == 6
    ends = [(files.folder / "tuned_iter_12.caffemodel").read_bytes() for files in (whole, broken)]
    assert ends[0] == ends[1]
    assert [p.test for p in training.points if p.test] == [p.test for p in run(whole).points if p.test]


def test_the_command_that_is_told_trains_as_this_program_does(tmp_path: Path) -> None:
    build = require_caffe()._folder()
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files = write(Task(cut, feed, Goal(labels=1), Solver(epochs=1, batch=27)), tmp_path / "run")
    told = {**os.environ, "PATH": f"{build / 'bin'}:{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(files.command, shell=True, check=True, capture_output=True, env=told)
    weights = files.folder / "tuned_iter_2.caffemodel"
    alone = weights.read_bytes()
    weights.unlink()
    run(files)
    assert weights.read_bytes() == alone


def test_a_solver_state_that_was_being_written_is_not_gone_on_from(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files = write(Task(cut, feed, goal, Solver(epochs=3, batch=27)), tmp_path / "run")
    run(files)
    log = files.folder / "train.log"
    lines = log.read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if "Snapshotting solver state" in line)
    log.write_text("".join(lines[: last + 1]))
    state = files.folder / "tuned_iter_6.solverstate"
    whole = (files.folder / "tuned_iter_6.caffemodel").read_bytes()
    state.write_bytes(state.read_bytes()[:1000])
    assert run(files).resumed == 4
    assert (files.folder / "tuned_iter_6.caffemodel").read_bytes() == whole


def test_another_request_begins_anew_in_the_same_folder(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    solver = Solver(epochs=1, batch=27)
    run(write(Task(cut, feed, goal, solver), tmp_path / "run"))
    assert list((tmp_path / "run").glob("*.solverstate"))
    write(Task(cut, feed, goal, replace(solver, rate=0.002)), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.solverstate"))
    assert not (tmp_path / "run" / "train.log").exists()


def test_a_rate_that_is_too_high_is_named(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files = write(Task(cut, feed, goal, Solver(iterations=200, rate=1e30, batch=54, policy="fixed")), tmp_path / "run")
    with pytest.raises(EngineError, match="lower the learning rate"):
        run(files)


def test_a_run_that_gets_no_better_ends_when_patience_is_over(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    training = run(write(Task(cut, feed, goal, Solver(epochs=50, rate=0, batch=54, patience=3)), tmp_path / "run"))
    assert training.iterations == 3
    assert (training.weights, training.best) == (None, 0)


def test_what_caffe_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    require_caffe()
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    files = write(Task(cut, feed, goal, Solver(epochs=1)), tmp_path / "run")
    path = files.folder / "train_val.prototxt"
    path.write_text(path.read_text().replace('type: "Pooling"', 'type: "Paling"'))
    with pytest.raises(EngineError, match=r"^caffe: layer 'pool2': .*Paling") as caught:
        run(files)
    assert "\n" not in str(caught.value)


def test_nothing_is_trained_where_all_is_frozen(tmp_path: Path) -> None:
    goal = Goal(labels=1)
    cut, feed = cut_digits(tmp_path / "cut"), samples(tmp_path, 60)
    names = {node.key for node in cut.load().nodes}
    with pytest.raises(PlanError, match="nothing to train"):
        write(Task(cut, feed, goal, Solver(), frozen=names), tmp_path / "run")


def test_the_best_test_is_the_first_with_the_lowest_loss() -> None:
    points = [Point(i, None, {"loss": loss}) for i, loss in enumerate((1.0, 0.8, float("nan"), 0.8, 0.9))]
    found = best_of(points)
    assert found is not None
    assert found.iteration == 1
    assert best_of([Point(3, 0.5)]) is None


def test_a_log_tells_losses_tests_and_the_snapshots_that_were_finished() -> None:
    record = "I20261121 17:42:37.3 1136 solver.cpp:1] "
    lines = [
        f"{record}Iteration 0, Testing net (#0)",
        f"{record}Test loss: 3",
        f"{record}    Test net output #0: tune_accuracy = 0.25",
        f"{record}Iteration 0 (-4e-3 iter/s, 0.1s/20 iters), loss = 2.5",
        "  a line of a prototxt",
        f"{record}Snapshotting solver state to binary proto file tuned_iter_7.solverstate",
        f"{record}Iteration 7, loss = -nan",
        f"{record}Snapshotting solver state to binary proto file tuned_iter_14.solverstate",
    ]
    log = Log(lines)
    assert log.snapshots == ["tuned_iter_7.solverstate"]
    assert log.points[0] == Point(0, 2.5, {"loss": 3.0, "tune_accuracy": 0.25})
    assert accuracy_of(log.points[0]) == 0.25
    assert np.isnan(log.points[1].loss)
