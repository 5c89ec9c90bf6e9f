"""The flow of a tuning in PyTorch: load, cut and train step by step, write beside, verify, move into place."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from surgery.errors import DataError, SurgeryError
from surgery.formats import stem_of
from surgery.output import TOOL, check_destination, staged
from surgery.plans import Plan
from surgery.tune.asked import Asked, fingerprint
from surgery.tune.caffe.settings import Goal
from surgery.tune.checkpoints import Checkpoint
from surgery.tune.learner import score, teachers_score
from surgery.tune.network import Network
from surgery.tune.proof import checked_against
from surgery.tune.results import Outcome, Scores, facts, write_ternary, write_texts
from surgery.tune.run import Run
from surgery.tune.schedules import told
from surgery.tune.stepping import Done, all_steps
from surgery.tune.targets import matched
from surgery.version import __version__

Progress = Callable[[str, float], None]


def tune(
    asked: Asked, folder: Path, engines: Sequence[str] | None, progress: Progress = lambda text, share: None
) -> Outcome:
    """Train a cut network and put its files, the plan, the facts and the report into `folder`.

    The first of `engines` that runs the written files must compute what was trained; None verifies nothing. A run that
    was killed goes on where it kept its state last, beside `folder`, and ends with the same weights. Raises PlanError,
    ModelError and DataError for what cannot be tuned so, VerificationError; then nothing is written.
    """
    check_destination(folder, asked.files)
    with _repeatable(asked.threads):
        run = Run.of(asked, progress)
        versions = {TOOL: __version__, "torch": torch.__version__}
        known = fingerprint(asked, run.samples.data.digest, run.labels_digest, versions | {"device": run.device.type})
        checkpoint = Checkpoint(folder, known, fresh=asked.fresh)
        done = _trained(run, checkpoint)
        with staged(folder) as staging:
            progress("writing", 1.0)
            tuned = done.learner.network.written(done.model)
            paths = tuned.format.save(tuned, staging, stem_of(asked.cut.files))
            written = replace(asked.cut, files=paths).load()
            scores = _scores(run, done)
            verdict = None if engines is None else checked_against(done.learner.network, written, paths, engines)
            beside = write_ternary(written, done.placements, paths[0])
            told_steps = [(told(step), each) for step, each in zip(done.steps, done.trained, strict=True)]
            models = run.original, written
            names = [path.relative_to(staging).parts[0] for path in (*paths, *beside)]
            found = facts(asked, versions, models, run.told_goal, scores, told_steps, run.told_data, verdict, run.notes)
            whole = write_texts(staging, names, found, _plan(run, done))
    checkpoint.remove()
    return Outcome(tuple(folder / path.relative_to(staging) for path in (*paths, *beside)), whole)


def _trained(run: Run, checkpoint: Checkpoint) -> Done:
    """Go through all steps; where that cannot end well, nothing is kept that would be in the way of another try."""
    try:
        return all_steps(run, checkpoint)
    except DataError:  # A picture may come back.
        raise
    except SurgeryError:
        checkpoint.remove()
        raise


def _plan(run: Run, done: Done) -> Plan | None:
    """Return the plan with the ranks at which it was carried out."""
    if run.asked.plan is None:
        return None
    made = {cut.key: cut for step in done.steps for cut in step}
    return replace(run.asked.plan, cuts=tuple(made[cut.key] for cut in run.asked.plan.cuts))


def _scores(run: Run, done: Done) -> dict[str, Scores]:
    """Return how the original, the cut and the tuned network do on held-back samples and, where there are any, test."""
    cut = Network.of(run.cut, ()).to(run.device)
    tuned = done.learner.network
    found: dict[str, Scores] = {}
    for name, samples in (("held back", run.samples), ("test", run.test)):
        if samples is None:
            continue
        batches = samples.all if name == "test" else samples.held_back
        # Without labels of its own the test tells how far each is from the teacher.
        goal = run.goal if samples.labels is not None or not run.goal.labels else Goal(distil=1.0)
        at = matched(run.teacher, tuned, (run.original, done.model), done.placements)
        rows = {"original": teachers_score(run.teacher, goal, at, batches(), run.device)}
        at_cut = matched(run.teacher, cut, (run.original, run.cut), done.placements)
        rows["cut"] = score(cut, run.teacher, goal, at_cut, batches(), run.device)
        rows["tuned"] = score(tuned, run.teacher, goal, at, batches(), run.device)
        found[name] = rows
    return found


@contextmanager
def _repeatable(threads: int) -> Iterator[None]:
    """Let torch compute so that equal arguments give equal bits on a CPU, and be as it was behind that."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it before its first call.
    was = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    # On a GPU some operators, as the gradient of pooling, have no form that always adds up in the same order.
    torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(mode=was[0])
        torch.set_num_threads(was[1])
        torch.backends.cudnn.allow_tf32 = was[2]
