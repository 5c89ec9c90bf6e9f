"""Options that say how much is to remain of a network, by which policy, and what that is measured with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from surgery.cli.options import FILE, Command, stacked
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.choose import Amount
    from surgery.choose.latency import LatencyTable
    from surgery.planning import Means

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_MILLISECONDS = {"": 1, "MS": 1, "S": 1000, "US": 0.001}
_PARTS = {"": 1, "%": 0.01}
RUNTIMES = ("onnxruntime", "caffe", "opencv")


def budget_options(command: Command) -> Command:
    """Add the options that bound what remains of the network, and say by which policy."""
    return stacked(
        click.option("--rank", metavar="N|NxM|full", help="Rank of every chosen layer, at most its own."),
        click.option("--energy", type=float, metavar="E", help="Share of squared singular values kept, in each layer."),
        click.option("--params", type=float, metavar="P", help="Share of the network's parameters that may remain."),
        click.option("--macs", type=float, metavar="M", help="Share of the network's MACs that may remain."),
        click.option("--size", metavar="20MB", help="What the weights may take; 1 MB is 10^6 bytes."),
        click.option(
            "--activations",
            type=float,
            metavar="A",
            help="Bytes of all maps, as a share of the network's now.",
        ),
        click.option("--speedup", type=float, metavar="S", help="How many times faster; measured, see --runtime."),
        click.option("--latency", metavar="15ms", help="What a forward pass may take; measured, see --runtime."),
        click.option(
            "--max-drop",
            metavar="1%",
            help="Samples of --calibrate by which the accuracy may fall, without --labels the agreement with the "
            "original; measured on those that no fit sees, or on --evaluate.",
        ),
        click.option(
            "--policy",
            type=click.Choice(["fixed", "energy", "vbmf", "uniform", "energies", "knapsack"]),
            help="How ranks are chosen. knapsack, for budgets: the least predicted error, exactly, over layers, "
            "methods and ranks. energies: Zhang's greedy product of energies. uniform: every layer keeps the same "
            "share. vbmf: what is not noise. fixed and energy: --rank and --energy.",
        ),
        click.option(
            "--multiple",
            type=click.IntRange(1, 1024),
            default=4,
            show_default=True,
            help="Ranks are multiples of it, for the hardware.",
        ),
    )(command)


def timing_options(command: Command) -> Command:
    """Add the options that say where times are from."""
    return stacked(
        click.option(
            "--runtime",
            type=click.Choice(RUNTIMES),
            default=RUNTIMES[0],
            show_default=True,
            help="Where --speedup and --latency are measured, with --threads.",
        ),
        click.option(
            "--table", type=FILE, metavar="CSV", help="Milliseconds of layers from `surgery bench`, in place of that."
        ),
    )(command)


def measuring_options(command: Command) -> Command:
    """Add the options that say what budgets are measured with."""
    return stacked(
        timing_options,
        click.option("--labels", type=FILE, metavar="FILE", help="Labels of the samples, one line each."),
        click.option("--evaluate", type=FILE, metavar="PATH", help="Other samples to measure --max-drop on."),
    )(command)


def amount(asked: dict[str, Any]) -> Amount:
    """Return how much is to remain; raises PlanError."""
    from surgery.choose import Amount
    from surgery.choose.request import parse_rank

    return Amount(
        parse_rank(asked["rank"]) if asked["rank"] else (),
        asked["energy"],
        asked["params"],
        asked["macs"],
        _measured(asked, "size", _BYTES, "like 20MB"),
        asked["activations"],
        asked["speedup"],
        _measured(asked, "latency", _MILLISECONDS, "like 15ms"),
        _measured(asked, "max_drop", _PARTS, "like 1% or 0.01"),
    )


def means(asked: dict[str, Any]) -> Means:
    """Return what the command line gives to measure with; raises PlanError."""
    from surgery.planning import Means

    if asked["labels"] is not None and asked["calibrate"] is None and asked["evaluate"] is None:
        raise PlanError("--labels are of samples, and none are given; give --calibrate or --evaluate too, or no labels")
    if asked["table"] is not None and asked["speedup"] is None and asked["latency"] is None:
        raise PlanError("--table has times, and none is asked for; give --speedup or --latency, or leave it out")
    reading = {name: asked[name] for name in ("preprocess", "images", "positions", "scratch")}
    return Means(
        asked["calibrate"],
        reading,
        asked["symmetric"],
        asked["refit"],
        asked["labels"],
        asked["evaluate"],
        table(asked),
        asked["runtime"],
    )


def table(asked: dict[str, Any]) -> LatencyTable | None:
    """Return the times of layers that the command line names; raises PlanError."""
    from surgery.choose.latency_csv import from_csv

    path = asked["table"]
    if path is None:
        return None
    if not path.is_file():
        raise PlanError(f"{path}: no such file; `surgery bench` writes tables")
    return from_csv(path.read_text(encoding="utf-8", errors="replace"), path)


def files(asked: dict[str, Any]) -> list[Path]:
    """Return the files that the command line names to measure with."""
    return [asked[name] for name in ("table", "labels", "evaluate") if asked.get(name)]


def _measured(asked: dict[str, Any], name: str, units: Mapping[str, float], example: str) -> float | None:
    text = asked[name]
    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*", text)
    if found is None or found.group(2).upper() not in units:
        raise PlanError(f"--{name.replace('_', '-')} is '{text[:40]}'; expected a number with its unit, {example}")
    return float(found.group(1)) * units[found.group(2).upper()]
