"""Options that several verbs take, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from surgery.errors import PlanError

if TYPE_CHECKING:
    from surgery.choose import Amount, Request
    from surgery.formats import Source
    from surgery.model import Shape

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def stacked(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return one decorator for several, the first the outermost."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def network_options(command: Command) -> Command:
    """Add the options that say how a network is to be read."""
    return stacked(
        click.option(
            "--shape", "shapes", multiple=True, metavar="BLOB=N,C,H,W", help="Shape of an input that the file lacks."
        ),
        click.option("--phase", type=click.Choice(["TEST", "TRAIN"]), default="TEST", show_default=True),
        click.option("--level", type=int, help="Level for min_level and max_level rules."),
        click.option("--stage", "stages", multiple=True, help="Stage for stage and not_stage rules; repeatable."),
    )(command)


def cut_options(command: Command) -> Command:
    """Add the options that say where and by which method to cut."""
    from surgery.factor import METHODS

    return stacked(
        click.option(
            "--layer",
            "layers",
            multiple=True,
            metavar="NAME[=METHOD[:AMOUNT]]",
            help="Layers to cut: a name, a glob like 'fc*', or 'fc6=svd:rank=256'. Quote odd names: '\"a=b\"'. "
            "Repeatable; the last that matches counts. Default: all that can be cut.",
        ),
        click.option(
            "--method",
            metavar="NAME[,NAME]",
            help=f"Methods ({', '.join(METHODS)}): a knapsack weighs all of them, elsewhere the first that can cut a "
            "layer counts; 'none' cuts nothing.",
        ),
        click.option("--algorithm", metavar="NAME", help="The same as --option algorithm=NAME."),
        click.option(
            "--option", "options", multiple=True, metavar="NAME=VALUE", help=f"Option of a method. {_told_options()}"
        ),
        click.option(
            "--share",
            is_flag=True,
            help="Layers that read the same blob and can be cut as one share all factors but the last.",
        ),
        click.option("--force", is_flag=True, help="Cut also where the layer does not get smaller."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="BLAS threads."),
    )(command)


def _told_options() -> str:
    """Return which options the methods have, for the help."""
    from surgery.factor import METHODS, choices

    told = []
    for method in METHODS.values():
        given = [f"{name}={'|'.join(values) or 'SHARE'}" for name, values in choices(method).items()]
        told += [f"{method.name}: {', '.join(given)}"] if given else []
    return "; ".join(told) + "." if told else ""


def source(
    files: tuple[Path, ...], shapes: tuple[str, ...], phase: str, level: int | None, stages: tuple[str, ...]
) -> Source:
    """Return the model that the command line names."""
    from surgery.formats import Source

    return Source(files, phase, level, stages, tuple(parse_shape(text) for text in shapes))


def parse_shape(text: str) -> tuple[str, Shape]:
    """Read `data=1,3,224,224`; raises PlanError."""
    name, equals, dims = text.rpartition("=")
    parts = dims.replace("x", ",").split(",")
    if not (equals and name and all(re.fullmatch("[0-9]{1,9}", part.strip()) and int(part) for part in parts)):
        raise PlanError(f"--shape {text[:60]}: expected like data=1,3,224,224")
    return name, tuple(int(part) for part in parts)


def request(asked: dict[str, Any], amount: Amount) -> Request:
    """Return what the command line asks for; raises PlanError."""
    from surgery.choose import Request, parse_selector
    from surgery.choose.request import DEFAULT_METHODS, parse_methods, parse_options

    algorithm = [] if asked["algorithm"] is None else [f"algorithm={asked['algorithm']}"]
    return Request(
        selectors=tuple(parse_selector(text) for text in asked["layers"]),
        methods=parse_methods(asked["method"]) if asked["method"] else DEFAULT_METHODS,
        amount=amount,
        force=asked["force"],
        threads=asked["threads"],
        seed=asked["seed"],
        options=parse_options([*asked["options"], *algorithm]),
        share=asked["share"],
        policy=asked["policy"] or "",
        multiple=asked["multiple"],
    )
