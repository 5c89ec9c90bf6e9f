"""What a person asks of a tuning, as Caffe can do it: a goal, a solver, and the layers that must stay as they are."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery.errors import PlanError
from surgery.model import Model
from surgery.pipeline import check_source
from surgery.tune.asked import Asked
from surgery.tune.caffe.feeds import Feed, Own, Stored
from surgery.tune.caffe.finding import augmented, feed_of
from surgery.tune.caffe.settings import Goal, Policy, Solver
from surgery.tune.goal import goal_of
from surgery.tune.parts import Placed, placed
from surgery.tune.schedules import Step, steps, told

RATE = 0.001  # where none is given: small enough for most networks that were trained in Caffe
_POLICIES: dict[str, Policy] = {"cosine": "poly", "step": "step", "constant": "fixed"}
_KINDS = {"sgd": "Nesterov", "adam": "Adam"}


@dataclass(frozen=True, eq=False)
class Order:
    """What is asked for, as Caffe does it.

    Attributes:
        placements: where the cuts lie in the cut network; none without a plan.
        frozen: layers that keep their weights.
        step: names what was cut.
        notes: in what it is not as it was asked for.
    """

    asked: Asked
    cut: Model
    original: Model
    feed: Feed
    goal: Goal
    solver: Solver
    placements: tuple[Placed, ...]
    frozen: frozenset[str]
    step: str
    notes: tuple[str, ...]


def order_of(asked: Asked) -> Order:
    """Read all that is asked for; raises PlanError, ModelError and DataError for what Caffe cannot do."""
    cut, original = asked.cut.load(), asked.teacher.load()
    solver, notes = solver_for(asked)
    step: Step = ()
    if asked.plan is not None:
        check_source(asked.teacher.files, asked.plan)
        (step,) = steps(original, asked.plan, "one-shot")
    feed = feed_of(
        asked.data,
        original,
        needs_teacher=asked.target not in (None, "labels"),
        labels=asked.labels,
        preprocess=asked.preprocess,
        images=asked.images,
    )
    feed = augmented(feed, asked.augment.crop, mirror=asked.augment.mirror, seed=asked.recipe.seed)
    goal = goal_for(asked, feed, tuple(key for each in step for key in each.keys))
    placements = placed(original, step, cut)
    frozen, more = frozen_layers(asked, placements, cut)
    notes = (*notes, *more, *_tested(feed))
    return Order(asked, cut, original, feed, goal, solver, placements, frozen, told(step), notes)


def solver_for(asked: Asked) -> tuple[Solver, tuple[str, ...]]:
    """Return the solver, and in what it is not what was asked for; raises PlanError for what Caffe cannot do."""
    if asked.schedule != "one-shot" or asked.groups or asked.rechoose:
        raise PlanError("--engine caffe trains the cut network as it is, once; for steps take --engine torch")
    recipe = asked.recipe
    solver = Solver(
        epochs=recipe.epochs,
        rate=RATE if recipe.rate is None else recipe.rate,
        policy=_POLICIES[recipe.course],
        batch=recipe.batch,
        kind=_KINDS[recipe.optimizer],
        momentum=recipe.momentum,
        weight_decay=recipe.decay,
        seed=recipe.seed,
        patience=recipe.patience,
    )
    notes = {
        f"Caffe finds no learning rate; it was {RATE:g} (--rate)": recipe.rate is None,
        "Caffe has no cosine: the learning rate fell in a straight line": recipe.course == "cosine",
        "Caffe has no warm-up: the learning rate was whole from the first step": recipe.warm_up > 0,
    }
    return solver, tuple(note for note, is_so in notes.items() if is_so)


def goal_for(asked: Asked, feed: Feed, layers: Sequence[str]) -> Goal:
    """Return what is to be matched; `layers` are those that were cut. Raises PlanError for what cannot be had."""
    has_labels = not isinstance(feed, Stored) or feed.labels is not None
    return goal_of(
        asked.target, asked.weights, has_labels=has_labels, layers=tuple(layers), temperature=asked.temperature
    )


def frozen_layers(asked: Asked, placements: Sequence[Placed], cut: Model) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the layers that keep their weights, and why.

    Those are the ones that nobody named, where some were named, and those whose weights their cut binds to zeros, signs
    or -1, 0 and 1. Raises PlanError for a name that no layer has.
    """
    bound = {part.key for each in placements for part in each.parts if part.kinds}
    keys = [node.key for node in cut.nodes]
    for pattern in asked.layers:
        if not any(_is_named(key, pattern) for key in keys):
            raise PlanError(f"--layer {pattern[:60]}: the cut network has no layer of that name")
    others = {key for key in keys if asked.layers and not any(_is_named(key, each) for each in asked.layers)}
    return frozenset(bound | others), tuple(_notes(asked, bound - others))


def _notes(asked: Asked, bound: set[str]) -> Iterator[str]:
    if asked.plan is None:
        yield "no plan: every layer is free, whatever its cut bound it to"
    if bound:
        kept = ", ".join(sorted(bound))
        yield f"Caffe cannot keep zeros, signs or ternary weights in training, so these layers were not trained: {kept}"


def _tested(feed: Feed) -> Iterator[str]:
    if isinstance(feed, Own) and feed.test is None:
        yield f"no sample was held back: Caffe's {feed.type} layer reads them all, so tests are on what is trained on"


def _is_named(key: str, pattern: str) -> bool:
    return key == pattern or fnmatch.fnmatchcase(key, pattern)
