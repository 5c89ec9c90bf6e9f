"""solver.prototxt: how Caffe trains, each choice with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.formats.caffe.netstate import NetState
from surgery.formats.caffe.schema import quote
from surgery.tune.caffe.settings import Solver

NETWORK = "train_val.prototxt"
SNAPSHOT = "tuned"
DISPLAYS = 20  # lines of loss in each interval between two tests


@dataclass(frozen=True)
class Rounds:
    """How many batches make up what.

    Attributes:
        iterations: the whole run.
        interval: from one test to the next, an epoch where its length is known; there is a snapshot at each.
        tests: batches of a test.
    """

    iterations: int
    interval: int
    tests: int


def solver_text(solver: Solver, rounds: Rounds, state: NetState) -> str:
    """Return the solver's prototxt; `state` chooses layers beside the phase, as it did for the network that runs."""
    lines = [
        f'net: "{NETWORK}"',
        *_states(state),
        "# One test over the held-back samples after each epoch, and a snapshot with it: the best one is kept.",
        f"test_iter: {rounds.tests}",
        f"test_interval: {rounds.interval}",
        "test_compute_loss: true",
        f"snapshot: {rounds.interval}",
        f"snapshot_prefix: {quote(SNAPSHOT)}",
        f"max_iter: {rounds.iterations}",
        "# Small, as the weights are near a good place; from ten times as much on a cut network may forget it.",
        f"base_lr: {solver.rate:.9g}",
        *_policy(solver, rounds.iterations),
        f'type: "{solver.kind}"',
        *([] if solver.kind in ("AdaGrad", "RMSProp") else [f"momentum: {solver.momentum:.9g}"]),
        "# Of the weights; biases and scales state decay_mult: 0.",
        f"weight_decay: {solver.weight_decay:.9g}",
        f"display: {_display(rounds)}",
        f"average_loss: {_display(rounds)}",
        "# Dropout's masks; the order of stored samples is that of the file.",
        f"random_seed: {solver.seed}",
        "solver_mode: CPU",
    ]
    return "".join(f"{line}\n" for line in lines)


def _display(rounds: Rounds) -> int:
    return max(1, rounds.interval // DISPLAYS)


def _states(state: NetState) -> list[str]:
    fields = [f"level: {state.level}"] if state.level else []
    fields += [f"stage: {quote(stage)}" for stage in state.stages]
    return [f"{name} {{ {' '.join(fields)} }}" for name in ("train_state", "test_state")] if fields else []


def _policy(solver: Solver, iterations: int) -> list[str]:
    if solver.policy == "fixed":
        return ['lr_policy: "fixed"']
    if solver.policy == "poly":
        return ["# In a straight line to 0.", 'lr_policy: "poly"', "power: 1"]
    steps = [f"stepvalue: {max(1, iterations * quarters // 4)}" for quarters in (2, 3)]
    return [
        "# To a tenth after one half, and again after three quarters.",
        'lr_policy: "multistep"',
        *steps,
        "gamma: 0.1",
    ]
