"""Options that say which data cuts are fitted to, and that data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from surgery.cli.options import FILE, Command, stacked
from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.model import Model
    from surgery.pipeline import Calibration
    from surgery.plans import Plan

Progress = Callable[[str, float], None]

_CALIBRATE = click.option(
    "--calibrate",
    type=FILE,
    metavar="PATH",
    help="Fit the cuts to what the network sees: a folder of images, .npy or .npz, or a Caffe list file.",
)
_STATISTICS = click.option(
    "--statistics", type=FILE, metavar="FILE", help="Fit to statistics that `surgery calibrate` kept."
)
_SCRATCH = click.option(
    "--scratch", type=FILE, metavar="DIR", help="Folder for intermediate maps; default: the system's."
)
_READING = (
    click.option(
        "--preprocess",
        type=FILE,
        metavar="FILE",
        help="JSON that says how images become inputs; default: the network's own transform_param.",
    ),
    click.option("--images", type=click.IntRange(min=1), metavar="N", help="Read only N samples, spread over all."),
    click.option(
        "--positions",
        type=click.IntRange(min=1),
        default=64,
        show_default=True,
        metavar="N",
        help="Positions of every map that are looked at, in each sample.",
    ),
)
_FITTING = (
    click.option(
        "--symmetric",
        is_flag=True,
        help="Fit each layer to the original network's inputs, not to those that the cuts before it leave.",
    ),
    click.option(
        "--refit/--no-refit",
        default=True,
        show_default=True,
        help="With data, fit the factors of every method to it, where that helps on samples held out.",
    ),
)


def data_options(command: Command) -> Command:
    """Add the options that say which data cuts are fitted to, and how."""
    return stacked(_CALIBRATE, _STATISTICS, *_READING, *_FITTING, _SCRATCH)(command)


def reading_options(command: Command) -> Command:
    """Add the options that say which data is read, and how."""
    return stacked(*_READING, _SCRATCH)(command)


def again_options(command: Command) -> Command:
    """Add the options that name data again whose reading a plan remembers."""
    return stacked(_CALIBRATE, _STATISTICS, _SCRATCH)(command)


@contextmanager
def calibration(
    model: Model,
    keys: tuple[str, ...],
    asked: dict[str, Any],
    seed: int,
    progress: Progress = lambda text, share: None,
) -> Iterator[Calibration | None]:
    """Give the data that the command line names for the layers `keys`, None without any."""
    _check_one(asked)
    if asked["statistics"]:
        from surgery.calibrate import from_file

        yield from_file(asked["statistics"], model)
    elif asked["calibrate"]:
        from surgery.calibrate import calibration as gathered

        names = ("preprocess", "images", "positions", "symmetric", "scratch")
        settings = {name: asked[name] for name in names}
        with gathered(model, asked["calibrate"], keys, seed=seed, progress=progress, **settings) as data:
            yield data
    else:
        yield None


@contextmanager
def recorded(
    model: Model, plan: Plan, asked: dict[str, Any], progress: Progress = lambda text, share: None
) -> Iterator[Calibration | None]:
    """Give the data that the command line names, read as the plan remembers it; None without any."""
    _check_one(asked)
    if plan.calibration is None or not (asked["calibrate"] or asked["statistics"]):
        yield None
    elif asked["statistics"]:
        from surgery.calibrate import from_file

        yield from_file(asked["statistics"], model)
    else:
        from surgery.calibrate import replayed

        keys = tuple(key for cut in plan.cuts for key in cut.keys)
        with replayed(
            model, asked["calibrate"], keys, plan.calibration, scratch=asked["scratch"], progress=progress
        ) as data:
            yield data


def files(asked: dict[str, Any]) -> list[Path]:
    """Return the files of data that the command line names."""
    return [asked[name] for name in ("calibrate", "statistics", "preprocess") if asked.get(name)]


def check_none(asked: dict[str, Any], why: str) -> None:
    """Raise PlanError, which says `why`, where the command line names data."""
    if named := files(asked):
        raise PlanError(f"{named[0]}: {why}, so no data is read; leave it out")


def _check_one(asked: dict[str, Any]) -> None:
    if asked["calibrate"] and asked["statistics"]:
        raise PlanError("--calibrate and --statistics exclude each other; give one")
    idle = [name for name in ("preprocess", "images", "positions", "symmetric", "scratch") if _is_given(name)]
    if idle and not asked["calibrate"]:
        raise PlanError(f"--{idle[0]} says how the data of --calibrate is read; give that too, or leave it out")
    if _is_given("refit") and not (asked["calibrate"] or asked["statistics"]):
        raise PlanError("--refit and --no-refit say how cuts are fitted to data; give --calibrate too, or leave it out")


def _is_given(name: str) -> bool:
    """Whether the command line says it: some have a value even where it does not."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE
