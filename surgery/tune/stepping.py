"""Go through a schedule: cut what is next, train, keep the model, go on; a killed run goes on where it was."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from surgery.calibrate import calibration
from surgery.errors import PlanError
from surgery.formats import Source, stem_of
from surgery.model import Model
from surgery.output import staged
from surgery.tune.bounds import bounds
from surgery.tune.checkpoints import Checkpoint
from surgery.tune.learner import Learner
from surgery.tune.network import Network
from surgery.tune.parts import Placed, placed
from surgery.tune.run import Run
from surgery.tune.schedules import Step, cut_step, rechosen, told
from surgery.tune.targets import matched
from surgery.tune.training import Trained, train, trained_from


@dataclass(frozen=True, eq=False)
class Done:
    """The end of a schedule.

    Attributes:
        model: the network of the last step, as it was before its training.
        learner: what trained it.
        placements: where all cuts lie in it.
        steps: the cuts of each step, as they were made.
        trained: how each training went.
    """

    model: Model
    learner: Learner
    placements: tuple[Placed, ...]
    steps: tuple[Step, ...]
    trained: tuple[Trained, ...]


def all_steps(run: Run, checkpoint: Checkpoint) -> Done:
    """Cut and train step by step, from where the checkpoint is."""
    kept: dict[str, Any] = checkpoint.state or {"done": [], "state": None}
    done, state = kept["done"], kept["state"]
    while True:
        end = _one_step(run, checkpoint, done, state)
        if len(end.steps) == len(run.steps):
            return end
        tuned = end.learner.network.written(end.model)
        names = _written(run, tuned, checkpoint.folder / f"step{len(end.steps)}")
        done.append({"trained": asdict(end.trained[-1]), "ranks": _ranks(end.steps[-1]), "files": names})
        state = None
        checkpoint.keep({"done": done, "state": state})


def _one_step(run: Run, checkpoint: Checkpoint, done: Sequence[dict[str, Any]], state: Any) -> Done:
    """Make the step behind those that are done, from its training's `state` where there is any."""
    number = len(done)
    before = tuple(_with_ranks(step, row["ranks"]) for step, row in zip(run.steps, done, strict=False))
    step, model = run.steps[number], run.cut
    if not run.is_whole:
        run.progress(f"cutting {told(step)}", number / len(run.steps))
        last = _loaded(run, checkpoint.folder / f"step{number}", done[-1]["files"]) if done else run.original
        step = tuple(rechosen(cut, run.original, last) for cut in step) if run.asked.rechoose else step
        folder = checkpoint.folder / f"step{number + 1}-cut"
        model = _loaded(run, folder, _written(run, _cut(run, last, step), folder))
    placements = tuple(found for each in (*before, step) for found in placed(run.original, each, model))
    learner = learner_of(run, model, placements)
    trained = train(
        learner,
        run.samples,
        number,
        saved=state,
        keep=lambda now: checkpoint.keep({"done": list(done), "state": now}),
        progress=lambda text, share: run.progress(f"{told(step)}: {text}", (number + share) / len(run.steps)),
    )
    return Done(model, learner, placements, (*before, step), (*(trained_from(row["trained"]) for row in done), trained))


def _cut(run: Run, model: Model, step: Step) -> Model:
    """Return a model with a step's cuts made; a plan that was fitted to data is fitted to as many of the run's own."""
    plan = run.asked.plan
    assert plan is not None  # Without one there is a single step, and nothing to cut.
    if plan.calibration is None:
        return cut_step(model, step, plan)
    keys = tuple(key for cut in step for key in cut.keys)
    own = plan.calibration
    images = min(own["images"], run.samples.data.count)
    reading = {"preprocess": run.samples.data.preprocess, "images": images, "positions": own["positions"]}
    with calibration(
        model, run.asked.data, keys, symmetric=own["symmetric"], seed=plan.seed, threads=plan.threads, **reading
    ) as data:
        return cut_step(model, step, plan, data.statistics_for)


def learner_of(run: Run, model: Model, placements: Sequence[Placed]) -> Learner:
    """Return what trains a model in which the cuts lie at `placements`; raises PlanError where they do not."""
    network = Network.of(model, _trainable(run, model, placements)).to(run.device)
    at = matched(run.teacher, network, (run.original, model), placements)
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    bound = bounds(parameters, placements, model, run.original)
    return Learner(network, run.teacher, run.goal, at, bound, run.asked.recipe, run.device)


def _trainable(run: Run, model: Model, placements: Sequence[Placed]) -> set[str] | None:
    """Return the layers whose weights may change, None for all; a local goal is for the layers that cuts made."""
    keys = {node.key for node in model.nodes}
    if run.goal.is_local:
        keys = {part.key for each in placements for part in each.parts}
    elif not run.asked.layers:
        return None
    chosen = set[str]()
    for pattern in run.asked.layers or ("*",):
        named = {key for key in keys if key == pattern or fnmatch.fnmatchcase(key, pattern)}
        if not named:
            raise PlanError(f"--layer {pattern[:60]}: no layer that can be trained so has that name")
        chosen |= named
    return chosen


def _written(run: Run, model: Model, folder: Path) -> list[str]:
    """Write a model into a folder of the checkpoint, whole or not at all, and return its files' names."""
    shutil.rmtree(folder, ignore_errors=True)
    with staged(folder) as staging:
        paths = model.format.save(model, staging, stem_of(run.asked.cut.files))
    return [str(path.relative_to(staging)) for path in paths]


def _loaded(run: Run, folder: Path, names: Sequence[str]) -> Model:
    source: Source = replace(run.asked.teacher, files=tuple(folder / name for name in names))
    return source.load()


def _ranks(step: Step) -> list[list[int]]:
    return [list(cut.rank) for cut in step]


def _with_ranks(step: Step, ranks: Sequence[Sequence[int]]) -> Step:
    return tuple(replace(cut, rank=tuple(rank)) for cut, rank in zip(step, ranks, strict=True))
