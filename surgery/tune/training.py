"""Train one step of a schedule: find the rate, run epochs, keep the best weights, go on where a killed run stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from math import inf, isfinite
from typing import Any

from surgery.tune.data import Batch, Samples
from surgery.tune.learner import Learner, State, checked
from surgery.tune.rates import JUDGED, TRIAL_STEPS, found_rate, rate_at
from surgery.tune.targets import Score

Keep = Callable[[State], None]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Epoch:
    """The mean loss of an epoch's steps, as they went, and how the network did on held-back samples behind it."""

    loss: float
    held_back: Score


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        rate: the learning rate's height.
        found: whether trials found it.
        before: how the network did before its first step.
        epochs: those that were run.
        best: the number of epochs behind which the held-back loss was least; 0 is before the first.
        after: how the network does as it is written.
        normed: whether BatchNorm's statistics were re-estimated: before the training, and behind it.
    """

    rate: float
    found: bool
    before: Score
    epochs: tuple[Epoch, ...]
    best: int
    after: Score
    normed: tuple[bool, bool]


def train(
    learner: Learner,
    samples: Samples,
    turn: int,
    *,
    saved: State | None = None,
    keep: Keep = lambda state: None,
    progress: Progress = lambda text, share: None,
) -> Trained:
    """Train the learner's network and leave it with the best weights.

    `turn` is the number of the schedule's step, which all that is drawn depends on. `keep` is given what the rest of
    the training depends on, before the first epoch and after each; `saved` is what it was given last, from which
    training goes on to the same end. Raises PlanError where the loss is not finite.
    """
    state = saved if saved is not None else _begun(learner, samples, turn, progress)
    if saved is None:
        keep(state)
    learner.restore(state["learner"])
    while not _is_over(state, learner):
        state = _epoch(learner, samples, turn, state, progress)
        keep(state)
    learner.network.load_state_dict(state["best_weights"])
    normed = learner.normed(samples.plain, samples.held_back)
    epochs = tuple(Epoch(loss, Score(*score)) for loss, score in state["epochs"])
    found = learner.recipe.rate is None
    after = learner.score(samples.held_back())
    return Trained(
        state["rate"], found, Score(*state["before"]), epochs, state["best"], after, (state["normed"], normed)
    )


def _begun(learner: Learner, samples: Samples, turn: int, progress: Progress) -> State:
    """Return the state before the first epoch."""
    before = learner.score(samples.held_back())
    checked(before.loss, "before training")
    normed = learner.normed(samples.plain, samples.held_back)
    best = learner.score(samples.held_back()).loss
    rate = learner.recipe.rate
    if rate is None:
        progress("finding the learning rate", 0.0)
        rate = _found(learner, samples, turn)
    return {
        "learner": learner.state(),
        "rate": rate,
        "before": _numbers(before),
        "normed": normed,
        "epochs": [],
        "best": 0,
        "best_loss": best,
        "best_weights": learner.weights(),
    }


def _found(learner: Learner, samples: Samples, turn: int) -> float:
    """Return the rate with the least loss of samples that come next, changed as in training.

    Held-back samples would mislead where the original was trained on them: what moves looks worse on them at first.
    """
    start = learner.state()

    def trial(rate: float) -> float:
        learner.restore(start)
        losses = []
        for i, batch in enumerate(islice(_endless(samples, turn), TRIAL_STEPS)):
            height = rate_at(i, TRIAL_STEPS, rate, course="cosine", warm_up=TRIAL_STEPS // 5)
            losses.append(learner.step(batch, height))
            if not isfinite(losses[-1]):
                return inf
        return sum(losses[-JUDGED:]) / JUDGED

    found = found_rate(trial)
    learner.restore(start)
    return found


def _endless(samples: Samples, turn: int) -> Iterator[Batch]:
    for again in count():
        yield from samples.epoch(turn, 0, again)


def _is_over(state: State, learner: Learner) -> bool:
    """Return whether all epochs are done, or the last so many have brought no new least loss of an epoch's end.

    What the network loses before its first step does not count: often training first worsens what it then mends.
    """
    losses = [score[0] for _, score in state["epochs"]]
    least = losses.index(min(losses)) if losses else 0
    return len(losses) >= learner.recipe.epochs or len(losses) - 1 - least >= learner.recipe.patience


def _epoch(learner: Learner, samples: Samples, turn: int, state: State, progress: Progress) -> State:
    """Return the state after one more epoch."""
    recipe, done, total = learner.recipe, len(state["epochs"]), 0.0
    steps, warm_up = recipe.epochs * samples.steps, round(recipe.warm_up * samples.steps)
    for i, batch in enumerate(samples.epoch(turn, 1 + done)):
        step = done * samples.steps + i
        rate = rate_at(step, steps, state["rate"], course=recipe.course, warm_up=warm_up)
        total += checked(learner.step(batch, rate), f"epoch {done + 1}, step {i + 1}")
        progress(f"epoch {done + 1}", (step + 1) / steps)
    score = learner.score(samples.held_back())
    checked(score.loss, f"behind epoch {done + 1}")
    after = state | {
        "learner": learner.state(),
        "epochs": [*state["epochs"], (total / samples.steps, _numbers(score))],
    }
    if score.loss < state["best_loss"]:
        after |= {"best": done + 1, "best_loss": score.loss, "best_weights": learner.weights()}
    return after


def _numbers(score: Score) -> tuple[float, float | None, float | None]:
    return score.loss, score.accuracy, score.agreement


def trained_from(facts: Mapping[str, Any]) -> Trained:
    """Return what `dataclasses.asdict` made of a Trained."""
    epochs = tuple(Epoch(epoch["loss"], Score(**epoch["held_back"])) for epoch in facts["epochs"])
    scores = {name: Score(**facts[name]) for name in ("before", "after")}
    return Trained(**{**facts, **scores, "epochs": epochs, "normed": (facts["normed"][0], facts["normed"][1])})
