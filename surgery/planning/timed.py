"""Plans for a network that is to take a given time: chosen by a table of layers' times, then timed as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from surgery.choose import Evidence, Request, choose
from surgery.choose.latency import LatencyTable, Shape, shapes_at
from surgery.choose.prediction import tried_ranks
from surgery.choose.selecting import Choice
from surgery.errors import PlanError
from surgery.measure.latency import measure_table, network_ms
from surgery.model import Splice
from surgery.ops import Chain, Op, Scale, Stage
from surgery.planning.case import Case
from surgery.plans import Cut, Plan
from surgery.survey import Site
from surgery.timing import Entrant, measure

ATTEMPTS = 5  # plans that are timed until one is as fast as asked
CLOSE = 0.03  # to the time asked for: two runs of one network differ by as much
TOLERATED = 0.1  # above the time asked for
ROUNDS, WARMUP = 20, 2
RANKS = 6  # of each method that are timed; between them time is nearly a straight line


def timed_planner(case: Case) -> Callable[[Request], Plan]:
    """Return what makes a plan for a request that bounds the time; the tables are made once."""
    table = case.means.table
    if table is not None:
        whole = sum(_known(table, site) for site in case.surveyed.sites)
        evidence = _evidence(case, table, whole)
        return lambda request: _chosen(case, evidence, request, _wanted(request, whole))
    table = table_of(case)
    times = network_ms(case.source, case.means.runtime, case.request.threads)
    # The table has the fastest turns of layers; what is asked for is the network's usual one.
    return partial(_as_timed, case, _evidence(case, table, times.median, times.median / times.smallest))


def _evidence(case: Case, table: LatencyTable, whole: float, slower: float = 1.0) -> Evidence:
    """Return the case's evidence with the network's time and its layers', so many times slower than in the table."""

    def milliseconds(site: Site, layer: Op | Chain) -> float | None:
        found = table.total(shapes_at(site, layer))
        return None if found is None else slower * found

    return replace(case.evidence, milliseconds=milliseconds, whole_ms=whole, menus={})


def _as_timed(case: Case, evidence: Evidence, request: Request) -> Plan:
    """Return a plan whose network takes the time asked for, as measured on this machine.

    The times of layers do not add up to the network's to the last: what they miss is taken off the limit, and the plan
    made anew.
    """
    whole = evidence.whole_ms
    wanted = limit = _wanted(request, whole)
    tried: list[tuple[float, Plan]] = []
    while len(tried) < ATTEMPTS:
        try:
            made = _chosen(case, evidence, request, limit)
        except PlanError:
            if not tried:
                raise
            break  # As fast as the tables say is possible, and not fast enough.
        if not made.cuts:
            return made
        took = _ratio(case, made) * whole
        tried.append((took, made))
        case.progress(f"timed at {took:.3g} ms, {wanted:.3g} ms asked", len(tried) / ATTEMPTS)
        if abs(took - wanted) <= CLOSE * wanted:
            break
        limit -= took - wanted
    found, best = min(tried, key=lambda each: abs(each[0] - wanted))
    if found > (1 + TOLERATED) * wanted:
        can = f"the best plan takes {found:.3g} ms of {whole:.3g}, {whole / found:.2f} times as fast"
        raise PlanError(f"{_option(request)} cannot be met as measured in {case.means.runtime}: {can}")
    return replace(best, predicted={**(best.predicted or {}), "timed": [round(whole, 4), round(found, 4)]})


def _option(request: Request) -> str:
    return "--latency" if request.amount.speedup is None else "--speedup"


def _chosen(case: Case, evidence: Evidence, request: Request, limit: float) -> Plan:
    return choose(case.surveyed, request, case.digest, replace(evidence, limit_ms=limit))


def _wanted(request: Request, whole: float) -> float:
    amount = request.amount
    return whole / amount.speedup if amount.speedup is not None else amount.latency or whole


def _known(table: LatencyTable, site: Site) -> float:
    """Return the time of a layer as it is; raises PlanError where the table does not tell it."""
    shapes = shapes_at(site, site.op)
    found = table.total(shapes)
    if found is None:
        raise PlanError(f"the table has no time for {shapes[0]}; measure it, or leave the layer out", site.key)
    return found


def table_of(case: Case) -> LatencyTable:
    """Return the times of the layers as they are, and of their cuts at some ranks."""
    shapes = dict.fromkeys(shape for choice in case.choices for shape in shapes_at_stake(choice))
    runtime, threads = case.means.runtime, case.request.threads
    return measure_table(list(shapes), runtime, threads=threads, progress=case.progress)


def shapes_at_stake(choice: Choice) -> list[Shape]:
    """Return the shapes of a layer as it is and of what its cuts become, at some ranks."""
    site = choice.site
    chains = [m.template(site.op, rank) for m in choice.methods for rank in tried_ranks(site, m, RANKS)]
    return [shape for layer in (site.op, *chains) for shape in shapes_at(site, layer)]


def _ratio(case: Case, plan: Plan) -> float:
    """Return how long the network that a plan makes takes against the original: any weights take as long."""
    sites = {site.key: site for site in case.surveyed.sites}
    edits = [Splice(cut.key, _drawn(cut, sites[cut.key].op)) for cut in plan.cuts]
    with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
        files = case.model.format.save(case.model.edit(*edits), Path(folder), "timed")
        pair = {"own": case.source, "cut": replace(case.source, files=files)}
        entrants = [Entrant(name, each.load(), each.files, case.means.runtime) for name, each in pair.items()]
        timings = measure(entrants, threads=case.request.threads, rounds=ROUNDS, warmup=WARMUP)
    return timings[1].ratio.median


def _drawn(cut: Cut, op: Op) -> Chain:
    """Return the chain of a cut with numbers drawn at random: zeros, and what they make, may take less time."""
    rng = np.random.default_rng(0)

    def filled(stage: Stage) -> Stage:
        if isinstance(stage, Scale):
            return stage
        drawn = rng.standard_normal(stage.weight.shape, np.float32) / np.float32(np.sqrt(stage.weight[0].size))
        return replace(stage, weight=drawn)

    return Chain(tuple(filled(stage) for stage in cut.configured.template(op, cut.rank).ops))
