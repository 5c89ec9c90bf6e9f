"""Steps move what is free and nothing else, downhill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from surgery.errors import PlanError
from surgery.formats import Source
from surgery.plans import Cut
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.tune.cases import NET, asked, cut, data
from tests.tune.extra import require_torch

require_torch()

import torch  # noqa: E402

from surgery.tune.asked import Asked  # noqa: E402
from surgery.tune.learner import Learner  # noqa: E402
from surgery.tune.parts import placed  # noqa: E402
from surgery.tune.recipe import Recipe  # noqa: E402
from surgery.tune.run import Run  # noqa: E402
from surgery.tune.stepping import learner_of  # noqa: E402

FREE = (Cut("conv", "svd-spatial", (2,)), Cut("fc", "svd", (3,)))
PRUNED = (Cut("conv", "nmtf", (4, 2), (("density", "0.5"),)), Cut("fc", "nmtf", (6, 6), (("density", "0.3"),)))
SIGNED = (Cut("fc", "nmtf", (6, 6), (("algorithm", "semi"),)), Cut("score", "semi-nmf", (3,), (("side", "last"),)))
TERNARY = (Cut("conv", "sdd", (8,)), Cut("fc", "sdd", (10,), (("form", "folded"),)))


def learner(folder: Path, cuts: tuple[Cut, ...], **more: object) -> tuple[Run, Learner]:
    run = Run.of(asked(folder, cuts, **more))
    return run, learner_of(run, run.cut, placed(run.original, cuts, run.cut))


def weights(learner: Learner) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in learner.network.named_parameters()}


def stepped(run: Run, learner: Learner, rate: float = 0.05) -> list[float]:
    return [learner.step(batch, rate) for turn in range(4) for batch in run.samples.epoch(turn)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("cuts", [FREE, PRUNED, SIGNED, TERNARY])
def test_steps_of_rate_zero_change_nothing(tmp_path: Path, cuts: tuple[Cut, ...], optimizer: str) -> None:
    run, made = learner(tmp_path, cuts, recipe=Recipe(optimizer=optimizer, batch=18, rate=0.0, decay=0.1))
    before = weights(made)
    stepped(run, made, 0.0)
    for name, now in weights(made).items():
        np.testing.assert_array_equal(now, before[name], name)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("target", ["labels", "distil", "responses", "mixed"])
def test_the_loss_falls_on_every_target(tmp_path: Path, target: str, optimizer: str) -> None:
    recipe = Recipe(optimizer=optimizer, batch=18)
    run, made = learner(tmp_path, FREE, target=target, recipe=recipe)
    before = made.score(run.samples.plain()).loss
    stepped(run, made, 0.02 if optimizer == "sgd" else 0.003)
    assert made.score(run.samples.plain()).loss < before


def test_zeros_of_pruned_factors_stay_and_all_else_of_them_moves(tmp_path: Path) -> None:
    run, made = learner(tmp_path, PRUNED)
    before = weights(made)
    stepped(run, made)
    for placement in placed(run.original, PRUNED, run.cut):
        for part in placement.parts:
            old, now = before[f"{part.key}/0"], weights(made)[f"{part.key}/0"]
            assert (old == 0).mean() > 0.3
            assert (now[old == 0] == 0).all()
            assert (now[old != 0] != old[old != 0]).mean() > 0.9


def test_signs_are_kept(tmp_path: Path) -> None:
    run, made = learner(tmp_path, SIGNED)
    before = weights(made)
    stepped(run, made)
    now = weights(made)
    first, _, last = [part.key for part in placed(run.original, SIGNED[:1], run.cut)[0].parts]
    second = placed(run.original, SIGNED[1:], run.cut)[0].parts[1].key
    for key in (first, last, second):
        assert before[f"{key}/0"].min() >= 0
        assert now[f"{key}/0"].min() >= 0
        assert (now[f"{key}/0"] != before[f"{key}/0"]).any()


def test_ternary_weights_are_so_after_every_step_and_some_have_changed(tmp_path: Path) -> None:
    run, made = learner(tmp_path, TERNARY, recipe=Recipe(batch=18, decay=0.1))
    before = weights(made)
    for turn in range(12):
        for batch in run.samples.epoch(turn):
            made.step(batch, 0.1)
            scaled, folded = placed(run.original, TERNARY, run.cut)
            for part in (scaled.parts[0], scaled.parts[2], folded.parts[0]):
                assert np.isin(weights(made)[f"{part.key}/0"], (-1, 0, 1)).all()
            columns = np.abs(weights(made)[f"{folded.parts[1].key}/0"])
            assert ((columns == 0) | (columns == columns.max(axis=0))).all()
    changed = [np.any(now != before[name]) for name, now in weights(made).items() if name.endswith("_1/0")]
    assert all(changed)


def test_responses_alone_move_only_what_was_cut_each_by_its_own(tmp_path: Path) -> None:
    run, made = learner(tmp_path, FREE, target="responses")
    before = weights(made)
    batch = next(iter(run.samples.epoch(0)))
    made.step(batch, 0.05)
    moved = {name.rpartition("/")[0] for name, now in weights(made).items() if (now != before[name]).any()}
    assert moved == {part.key for each in placed(run.original, FREE, run.cut) for part in each.parts}
    # What the first cut layer learns does not depend on whether the second is looked at.
    alone = replace(made.at, responses=made.at.responses[:1])
    run, other = learner(tmp_path, FREE, target="responses")
    other.at = alone
    other.goal = replace(other.goal, responses=other.goal.responses / 2)  # It is shared by the responses.
    other.step(batch, 0.05)
    for key in alone.responses[0].keys:
        np.testing.assert_array_equal(weights(other)[f"{key}/0"], weights(made)[f"{key}/0"])


def test_a_state_brings_back_the_next_steps_bit_for_bit(tmp_path: Path) -> None:
    run, made = learner(tmp_path, TERNARY)
    batches = list(run.samples.epoch(0))
    made.step(batches[0], 0.05)
    state = made.state()
    made.step(batches[1], 0.05)
    wanted = weights(made)
    stepped(run, made)
    made.restore(state)
    made.step(batches[1], 0.05)
    for name, now in weights(made).items():
        np.testing.assert_array_equal(now, wanted[name], name)


def test_only_the_layers_that_are_named_move(tmp_path: Path) -> None:
    run, made = learner(tmp_path, FREE, layers=("sco*",))
    before = weights(made)
    stepped(run, made)
    assert {n for n, now in weights(made).items() if (now != before[n]).any()} == {"score/0", "score/1"}
    with pytest.raises(PlanError, match="--layer pool"):
        learner(tmp_path, FREE, layers=("pool",))


def test_a_plan_that_did_not_make_the_network_is_refused(tmp_path: Path) -> None:
    run = Run.of(asked(tmp_path, FREE))
    wrong = placed(run.original, (Cut("fc", "semi-nmf", (3,)),), run.cut)
    with pytest.raises(PlanError, match="negative numbers"):
        learner_of(run, run.cut, wrong)
    with pytest.raises(PlanError, match="does not have"):
        placed(run.original, (Cut("score", "svd", (2,)),), run.cut)


def test_the_gradient_of_folded_scales_is_that_of_the_loss(tmp_path: Path) -> None:
    from surgery.tune.bounds import Ternary

    run, made = learner(tmp_path, TERNARY)
    bound = next(each for each in made.bounds if isinstance(each, Ternary) and each.scale is not None)
    assert bound.scale is not None
    batch = next(iter(run.samples.epoch(0)))
    made.step(batch, 0.0)
    gradient, place = bound.scale.grad, int(torch.argmax(bound.scale.grad.abs()))  # type: ignore[union-attr]
    losses = []
    for offset in (1e-2, -1e-2):
        with torch.no_grad():
            bound.scale[place] += offset
            bound.push()
        losses.append(made.step(batch, 0.0))
        with torch.no_grad():
            bound.scale[place] -= offset
            bound.push()
    assert gradient is not None
    # Central differences in float32, over a step in which the ReLU behind may bend.
    assert (losses[0] - losses[1]) / 2e-2 == pytest.approx(float(gradient[place]), rel=0.05)


def test_layers_that_share_factors_are_bound_and_moved_as_one_cut(tmp_path: Path) -> None:
    beside = """
layer { name: "other" type: "InnerProduct" bottom: "fc" top: "other" inner_product_param { num_output: 4 } }
layer { name: "sum" type: "Eltwise" bottom: "score" bottom: "other" top: "sum" }
layer { name: "prob" type: "Softmax" bottom: "sum" top: "prob" }
"""
    text = NET.replace(NET.splitlines()[-1], "") + beside
    scores = {"score": dense_blobs(4, 12, seed=2), "other": dense_blobs(4, 12, seed=3)}
    files = write_net(tmp_path, text, {"conv": conv_blobs(8, 3, 3, 3), "fc": dense_blobs(12, 128, seed=1), **scores})
    cuts = (Cut("score", "sdd", (5,), (("form", "folded"),), ("other",)),)
    own, plan = cut(Source(files), cuts, tmp_path / "cut")
    recipe = Recipe(batch=18, decay=0.1)
    run = Run.of(Asked(own, Source(files), data(tmp_path)[0], plan, target="responses", recipe=recipe))
    (placement,) = placed(run.original, cuts, run.cut)
    assert {key: [part.stage for part in chain] for key, chain in placement.chains.items()} == {
        "score": [0, 1],
        "other": [0, 1],
    }
    made = learner_of(run, run.cut, (placement,))
    before = weights(made)
    stepped(run, made, 0.1)
    stem, *heads = (part.key for part in placement.parts)
    assert np.isin(weights(made)[f"{stem}/0"], (-1, 0, 1)).all()
    for head in heads:
        columns = np.abs(weights(made)[f"{head}/0"])
        assert ((columns == 0) | (columns == columns.max(axis=0))).all()
        assert (weights(made)[f"{head}/0"] != before[f"{head}/0"]).any()
