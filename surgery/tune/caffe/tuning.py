"""The flow of a tuning in Caffe: write its files, run it where it is, put what it learnt into the model's own files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from surgery.calibrate.passes import Progress
from surgery.errors import EngineError, VerificationError
from surgery.formats import Source, stem_of
from surgery.model import Model, Overwrite
from surgery.output import check_destination, staged
from surgery.runtime import Caffe
from surgery.tune.asked import Asked
from surgery.tune.caffe import data_layers
from surgery.tune.caffe.asking import Order, order_of
from surgery.tune.caffe.feeds import Stored
from surgery.tune.caffe.reading import trained_blobs
from surgery.tune.caffe.running import Training, run
from surgery.tune.caffe.solver import NETWORK
from surgery.tune.caffe.task import Task
from surgery.tune.caffe.telling import facts_of, write_report
from surgery.tune.caffe.writing import LOG, SOLVER, Files, write
from surgery.tune.results import Outcome, write_ternary, write_texts
from surgery.verify import TOLERANCE, Verdict, verify

TRAINING = "caffe"  # what the folder of Caffe's own files in the output is called


def tune(
    asked: Asked, folder: Path, engines: Sequence[str] | None, progress: Progress = lambda text, share: None
) -> Outcome:
    """Train a cut Caffe model in real Caffe and put its files, the plan, the facts and the report into `folder`.

    Where Caffe is not there, or lacks the data layer, `folder` gets the files to train with, and the facts' notes say
    how. The first of `engines` that runs the written files must compute what Caffe's own snapshot does; None verifies
    nothing. A run that was killed goes on from its last snapshot, beside `folder`. Raises PlanError, ModelError and
    DataError for what Caffe cannot do, EngineError, VerificationError; then nothing is written.
    """
    check_destination(folder, asked.files)
    order = order_of(asked)
    if reason := Caffe().missing():
        return _files_alone(order, folder, reason, progress)
    work = _work(folder)
    files = _written(order, work, progress, fresh=asked.fresh)
    try:
        training = run(files, threads=asked.threads, progress=progress)
    except EngineError as error:
        if error.layer != data_layers.NAME or isinstance(order.feed, Stored):
            raise
        shutil.rmtree(work)  # Not every build has every data layer; the user's may.
        return _files_alone(order, folder, str(error), progress)
    with staged(folder) as staging:
        progress("writing", 1.0)
        paths, model = _tuned(order, files, training, staging)
        verdict = None if engines is None else _checked(asked.cut, training, paths, engines)
        beside = write_ternary(model, order.placements, paths[0])
        (staging / TRAINING).mkdir()
        for name in (NETWORK, SOLVER, LOG):
            shutil.copyfile(work / name, staging / TRAINING / name)
        found = facts_of(order, files, training, model, verdict)
        found = write_texts(staging, [*(path.name for path in (*paths, *beside)), TRAINING], found, asked.plan)
    shutil.rmtree(work)
    return Outcome(tuple(folder / path.name for path in (*paths, *beside)), found)


def _work(folder: Path) -> Path:
    """Return where Caffe runs: beside the output, its name tells of which."""
    real = Path(os.path.realpath(folder))
    return real.parent / f".{real.name}.caffe"


def _written(order: Order, folder: Path, progress: Progress, *, fresh: bool) -> Files:
    asked = order.asked
    task = Task(
        asked.cut,
        order.feed,
        order.goal,
        order.solver,
        teacher=asked.teacher,
        frozen=order.frozen,
        batchnorm=asked.recipe.batchnorm,
    )
    return write(task, folder, threads=asked.threads, progress=progress, fresh=fresh)


def _files_alone(order: Order, folder: Path, reason: str, progress: Progress) -> Outcome:
    with staged(folder) as staging:
        files = _written(order, staging, progress, fresh=True)
        names = sorted(path.name for path in staging.iterdir())
        how = f"to train: {replace(files, folder=folder).command}"
        behind = f"its snapshots are weights for {order.asked.cut.files[0].name} as they are"
        facts = write_report(staging, order, names, [how, behind], Verdict("none", (), reason))
    return Outcome(tuple(folder / name for name in names), facts)


def _tuned(order: Order, files: Files, training: Training, folder: Path) -> tuple[tuple[Path, ...], Model]:
    """Write the model with what was learnt, everything else of its files as it was."""
    blobs = trained_blobs(training.weights, order.cut, files.kept) if training.weights else {}
    model = order.cut.edit(*(Overwrite(key, numbers) for key, numbers in blobs.items()))
    paths = model.format.save(model, folder, stem_of(order.asked.cut.files))
    return paths, replace(order.asked.cut, files=paths).load()


def _checked(cut: Source, training: Training, paths: Sequence[Path], engines: Sequence[str]) -> Verdict:
    """Compare the written files with Caffe's own snapshot, in Caffe; raises VerificationError where they differ."""
    first = replace(cut, files=(cut.files[0], training.weights or cut.files[1]))
    second = replace(cut, files=tuple(paths))
    pairs = [("caffe", engine) for engine in engines]
    try:
        verdict = verify((first.load(), second.load()), (first.files, second.files), pairs, None, layers=True)
    except EngineError as error:
        return Verdict("none", (), str(error))
    if not verdict.worst.rel_l2 <= TOLERANCE:
        worst = verdict.worst
        found = f"'{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from Caffe's snapshot, in {verdict.runtime}"
        raise VerificationError(f"{found}; at most {TOLERANCE:g} is float32 rounding")
    return verdict
