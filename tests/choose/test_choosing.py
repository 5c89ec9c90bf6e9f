"""Plans from budgets: what holds whatever the policy, and what measurements change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from surgery.choose import POLICIES, Amount, Evidence, Request, choose
from surgery.choose.candidates import ranks_of
from surgery.choose.prediction import measure_of, predictor, tried_ranks
from surgery.choose.tables import Loss, Probe, Sensitivity
from surgery.errors import PlanError
from surgery.factor import METHODS
from surgery.formats import Source
from surgery.ops import Chain, Op
from surgery.plans import Plan, from_json, to_json
from surgery.survey import Site, Survey, survey

DIGITS = Path(__file__).parents[2] / "models" / "digits"


@pytest.fixture(scope="module")
def digits() -> Survey:
    return survey(Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel")).load())


def came_to(plan: Plan, measure: str) -> float:
    assert plan.predicted is not None
    before, after = plan.predicted[measure]
    return float(after / before)


@pytest.mark.parametrize("policy", ["knapsack", "energies", "uniform"])
@pytest.mark.parametrize("measure", ["macs", "params"])
@pytest.mark.parametrize("share", [0.7, 0.4, 0.2])
def test_what_a_policy_leaves_is_within_the_budget_and_near_it(
    digits: Survey, policy: str, measure: str, share: float
) -> None:
    plan = choose(digits, Request(amount=Amount(**{measure: share}), policy=policy), "")
    assert 0.8 * share < came_to(plan, measure) <= share


def test_budgets_combine(digits: Survey) -> None:
    amount = Amount(macs=0.5, params=0.4, size=600_000, activations=1.15)
    plan = choose(digits, Request(amount=amount), "")
    assert plan.predicted is not None
    assert came_to(plan, "macs") <= 0.5
    assert came_to(plan, "params") <= 0.4
    assert plan.predicted["bytes"][1] <= 600_000
    assert came_to(plan, "activations") <= 1.15


def test_the_knapsack_predicts_no_more_error_than_any_other_policy(digits: Survey) -> None:
    """Over all methods; the others take the first that can cut a layer, here the only one."""
    for share in (0.6, 0.4, 0.2):
        request = Request(methods=("svd-channel", "svd"), amount=Amount(macs=share), multiple=1)
        best = choose(digits, request, "")
        for policy in ("energies", "uniform"):
            other = choose(digits, replace(request, policy=policy), "")
            sites = {site.key: site for site in digits.sites}
            error = sum(predictor(sites[c.key], c.configured, None, 0)(c.rank) for c in other.cuts)
            assert best.predicted is not None
            assert best.predicted["error"] <= error * (1 + 1e-6)


def test_a_budget_that_cannot_be_met_says_what_can(digits: Survey) -> None:
    with pytest.raises(PlanError, match=r"--macs cannot be met: 0\.0\d+ of the network remains at the least$"):
        choose(digits, Request(amount=Amount(macs=1e-4)), "")
    with pytest.raises(
        PlanError, match=r"--size cannot be met: 0\.0\d+ of the network remains at the least, 0\.0\d+ MB"
    ):
        choose(digits, Request(amount=Amount(size=10)), "")
    with pytest.raises(PlanError, match="--activations cannot be met"):
        choose(digits, Request(amount=Amount(macs=0.3, activations=0.9)), "")


def test_a_network_within_its_budget_is_not_cut(digits: Survey) -> None:
    plan = choose(digits, Request(amount=Amount(size=1e9)), "")
    assert not plan.cuts
    assert {left.reason for left in plan.left} == {"the network meets the budget as it is"}


def test_pinned_cuts_stay_and_forbidden_layers_are_left(digits: Survey) -> None:
    first = choose(digits, Request(amount=Amount(macs=0.4)), "digest")
    pinned = replace(first.cuts[0], rank=(8,), pinned=True)
    request = Request(amount=Amount(macs=0.4, params=0.5), pinned=(pinned,), forbidden=("ip1",))
    with pytest.raises(PlanError, match="--params cannot be met"):
        choose(digits, request, "")
    again = choose(digits, replace(request, amount=Amount(macs=0.4)), "")
    kept = next(cut for cut in again.cuts if cut.key == pinned.key)
    assert (kept.rank, kept.pinned) == ((8,), True)
    assert dict(kept.price_by_measure)["macs"][1] < dict(first.cuts[0].price_by_measure)["macs"][1]
    assert any(left.key == "ip1" and left.forbidden for left in again.left)
    assert came_to(again, "macs") <= 0.4
    assert from_json(to_json(again), "plan.json") == again


@pytest.mark.parametrize("multiple", [1, 4, 8, 32])
def test_ranks_are_multiples_inside_the_choice(digits: Survey, multiple: int) -> None:
    plan = choose(digits, Request(amount=Amount(macs=0.4), multiple=multiple), "")
    largest = {site.key: site for site in digits.sites}
    for cut in plan.cuts:
        most = cut.configured.max_rank(largest[cut.key].op)
        assert all(n % multiple == 0 or n < multiple or n == whole for n, whole in zip(cut.rank, most, strict=True))
    assert came_to(plan, "macs") <= 0.4


@pytest.mark.parametrize("method", ["svd-channel", "svd-spatial", "tucker2", "cp"])
def test_ranks_run_from_the_smallest_to_the_largest(digits: Survey, method: str) -> None:
    site = next(site for site in digits.sites if site.key == "conv2")
    ranks = list(ranks_of(site, METHODS[method], 4))
    assert ranks[-1] == METHODS[method].max_rank(site.op)
    assert max(ranks[0]) == 1
    assert len(set(ranks)) == len(ranks)


def test_a_cut_that_saves_macs_and_takes_longer_is_left(digits: Survey) -> None:
    def slow_where_it_is_cut(site: Site, layer: Op | Chain) -> float:
        return site.macs(layer) * (10.0 if isinstance(layer, Chain) and site.key == "conv2" else 1.0)

    whole = float(sum(site.facts.macs or 0 for site in digits.sites))
    evidence = Evidence(milliseconds=slow_where_it_is_cut, whole_ms=whole, limit_ms=0.9 * whole)
    plan = choose(
        digits, Request(amount=Amount(speedup=1.1), methods=("svd", "svd-channel", "svd-spatial")), "", evidence
    )
    assert "conv2" not in {cut.key for cut in plan.cuts} or all(
        after < before for cut in plan.cuts for name, before, after in cut.price if name == "ms"
    )
    assert plan.predicted is not None
    assert plan.predicted["ms"][1] <= 0.9 * whole


def test_no_cut_adds_to_what_the_layer_takes_unless_forced(digits: Survey) -> None:
    for force in (False, True):
        plan = choose(digits, Request(amount=Amount(params=0.9), force=force), "")
        for cut in plan.cuts:
            assert force or all(a < b for name, b, a in cut.price if name in ("macs", "bytes"))


def measured(digits: Survey, worse: str) -> Sensitivity:
    """Every layer alike, but for one whose errors reach the output a hundred times."""
    methods = [METHODS[name] for name in ("svd", "svd-channel", "svd-spatial", "tucker2")]
    losses, probes = {}, {}
    for site in digits.sites:
        able = [method for method in methods if method.refusal(site.op) is None]
        losses[site.key] = tuple(
            Loss(method.name, (), rank, 0.3 / (1 + i) ** 3)
            for method in able
            for i, rank in enumerate(tried_ranks(site, method))
        )
        gain = 100.0 if site.key == worse else 1.0
        probes[site.key] = tuple(Probe(e, gain * e, gain * e, 1.0) for e in (0.01, 0.1))
    return Sensitivity(losses, probes)


def test_the_layer_that_harms_the_output_keeps_more(digits: Survey) -> None:
    plans = {
        worse: choose(digits, Request(amount=Amount(params=0.3)), "", Evidence(measured(digits, worse)))
        for worse in ("conv2", "ip1")
    }
    kept = {
        worse: {cut.key: dict(cut.price_by_measure)["params"][1] for cut in plan.cuts} for worse, plan in plans.items()
    }
    assert kept["ip1"]["ip1"] > kept["conv2"]["ip1"]
    assert {plan.predicted["of"] for plan in plans.values() if plan.predicted} == {"divergence"}


def test_what_is_predicted_falls_with_rank_and_follows_the_measurements(digits: Survey) -> None:
    table = measured(digits, "conv2")
    assert measure_of(table) == "divergence"
    assert measure_of(None) == "log energy"
    for site in digits.sites:
        method = METHODS["svd" if site.key.startswith("ip") else "svd-spatial"]
        predict = predictor(site, method, table, 0)
        errors = [predict(rank) for rank in ranks_of(site, method, 4)]
        assert all(a >= b * (1 - 1e-9) for a, b in pairwise(errors))
        gain = 100.0 if site.key == "conv2" else 1.0
        for i, rank in enumerate(tried_ranks(site, method)):
            assert predict(rank) == pytest.approx(gain * 0.3 / (1 + i) ** 3, rel=1e-6)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(amount=Amount(macs=0.5), policy="vbmf"), "policy vbmf takes no amount, found --macs"),
        (Request(amount=Amount(rank=(4,)), policy="knapsack"), "policy knapsack takes --params or --macs or"),
        (
            Request(amount=Amount(energy=0.9), policy="uniform"),
            "policy uniform takes --macs or --params, found --energy",
        ),
        (Request(amount=Amount(macs=0.5, params=0.5), policy="energies"), "policy energies takes --macs or --params"),
        (Request(amount=Amount(macs=0.5), policy="best"), "policy 'best' is not known"),
        (Request(amount=Amount(speedup=2.0)), "a time is asked for and none was measured"),
        (Request(policy="uniform"), "how much is to remain"),
        (Request(amount=Amount(macs=0.5), forbidden=("no",)), "no layer is named 'no'"),
    ],
)
def test_what_does_not_go_together_is_named(digits: Survey, request_: Request, said: str) -> None:
    with pytest.raises(PlanError, match=said.replace("(", r"\(")):
        choose(digits, request_, "")


def test_every_policy_makes_a_plan(digits: Survey) -> None:
    amounts = {"fixed": Amount(rank=(4,)), "energy": Amount(energy=0.9), "vbmf": Amount()}
    for policy in POLICIES:
        plan = choose(digits, Request(amount=amounts.get(policy, Amount(macs=0.5)), policy=policy), "")
        assert plan.cuts
        assert plan.asked is not None
        assert plan.asked["policy"] == policy
        assert from_json(to_json(plan), "plan.json") == plan
