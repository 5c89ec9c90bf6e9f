"""What a person asks for: which layers, by which methods, and how much is to remain."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from surgery.errors import PlanError
from surgery.factor import METHODS, Method, Rank, choices, options_of, with_options
from surgery.plans import Cut

# For a layer that more than one method can cut, unless the request says otherwise.
DEFAULT_METHODS = ("svd", "tucker2", "svd-channel", "svd-spatial")
BUDGETS = ("params", "macs", "size", "activations", "speedup", "latency", "max_drop")


@dataclass(frozen=True)
class Amount:
    """How much of a layer or a network remains. At most one of `rank` and `energy`, or budgets, which combine.

    `rank` is () for none and (0,) for the full one; one number serves all of a method's ranks. `params` and `macs` are
    the shares of weights and of multiply-accumulates that may remain, above 0 and at most 1. The rest is for a whole
    network only.

    Attributes:
        size: bytes of all weights.
        activations: bytes of all that layers put out, as a share of the uncut network's; cuts add inner maps.
        speedup: how many times faster a forward pass is to be, as measured.
        latency: milliseconds that it may take, as measured.
        max_drop: share of samples by which the accuracy, without labels the agreement with the original, may fall.
    """

    rank: Rank = ()
    energy: float | None = None
    params: float | None = None
    macs: float | None = None
    size: float | None = None
    activations: float | None = None
    speedup: float | None = None
    latency: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if bool(self.rank) + (self.energy is not None) + bool(self.budgets) > 1:
            raise PlanError("rank, energy and budgets (params, macs, ...) exclude each other; give one kind")
        for name in ("energy", "params", "macs", "max_drop"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise PlanError(f"{name} is {value}; expected a share above 0 and at most 1")
        for name in ("size", "activations", "latency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise PlanError(f"{name} is {value}; expected a number above 0")
        if self.speedup is not None and not 1 < self.speedup < float("inf"):
            raise PlanError(f"speedup is {self.speedup}; expected a number above 1, like 2 for twice as fast")
        if self.speedup is not None and self.latency is not None:
            raise PlanError("speedup and latency both bound the time of a forward pass; give one")

    @property
    def ratios(self) -> dict[str, float]:
        """The ratios that were given, by measure."""
        return {name: value for name, value in (("params", self.params), ("macs", self.macs)) if value is not None}

    @property
    def budgets(self) -> dict[str, float]:
        """All budgets that were given, by name."""
        given = {name: getattr(self, name) for name in BUDGETS}
        return {name: value for name, value in given.items() if value is not None}

    def __bool__(self) -> bool:
        return bool(self.rank) or self.energy is not None or bool(self.budgets)


@dataclass(frozen=True)
class Selector:
    """Layers by name: `pattern` is a glob unless it was quoted. Empty methods or amount mean the request's own.

    `options` are set on every method named here.
    """

    pattern: str
    literal: bool = False
    methods: tuple[str, ...] = ()
    amount: Amount = field(default_factory=Amount)
    options: tuple[tuple[str, str], ...] = ()

    def matches(self, name: str) -> bool:
        """Return whether the selector means the layer `name`."""
        return name == self.pattern or (not self.literal and fnmatch.fnmatchcase(name, self.pattern))


@dataclass(frozen=True)
class Request:
    """All of it. Without selectors every layer that can be cut is meant. `force` also cuts what gains nothing.

    `options` are set on those methods that have them. With `share`, layers that read the same value and can be cut as
    one are.

    Attributes:
        policy: how an amount for the whole network becomes ranks, one of POLICIES; "" for what suits the amount.
        multiple: of what every rank is a multiple where the policy is a knapsack; a layer's whole width is one too.
        pinned: cuts that are kept as they are.
        forbidden: layers that are not to be cut.
    """

    selectors: tuple[Selector, ...] = ()
    methods: tuple[str, ...] = DEFAULT_METHODS
    amount: Amount = field(default_factory=Amount)
    force: bool = False
    threads: int = 1
    seed: int = 0
    options: tuple[tuple[str, str], ...] = ()
    share: bool = False
    policy: str = ""
    multiple: int = 4
    pinned: tuple[Cut, ...] = ()
    forbidden: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        named = {*self.methods, *(name for selector in self.selectors for name in selector.methods)}
        for name, _ in self.options:
            able = [method for method in METHODS if name in choices(METHODS[method])]
            if not named & {*able}:
                whose = f"it belongs to {', '.join(able)}" if able else "no method has it"
                raise PlanError(f"option '{name}': none of the methods asked for has it; {whose}")

    def method(self, name: str, selector: Selector | None = None) -> Method:
        """Return a method with the options that the request, and the selector, give it."""
        method = METHODS[name]
        own = {key: value for key, value in self.options if key in choices(method)}
        return with_options(method, own | dict(selector.options if selector else ()))


_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def parse_selector(text: str) -> Selector:
    """Read `NAME`, `NAME=METHOD` or `NAME=METHOD:rank=N,OPTION=VALUE,...`; a name in double quotes is taken as it is.

    Raises PlanError with an example of what was expected.
    """
    quoted = _QUOTED.match(text)
    if quoted:
        pattern, rest = re.sub(r"\\(.)", r"\1", quoted.group(1)), text[quoted.end() :]
    else:
        pattern, equals, tail = text.partition("=")
        rest = equals + tail
    if not pattern or (rest and not rest.startswith("=")):
        raise PlanError(f"--layer {text}: expected a name, or like 'fc6=svd:rank=256' or '\"odd=name\"=svd:rank=8'")
    if not rest:
        return Selector(pattern, bool(quoted))
    method, _, amount = rest[1:].partition(":")
    methods = parse_methods(method)
    amounts, options = _sorted_out(amount)
    for name in methods:
        with_options(METHODS[name], dict(options))
    return Selector(pattern, bool(quoted), methods, parse_amount(amounts, text), options)


def _sorted_out(text: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what of `rank=8,algorithm=tpm` is an amount, and the options of methods."""
    known = {name for method in METHODS.values() for name in choices(method)}
    parts = [part for part in text.split(",") if part]
    options = [part.partition("=") for part in parts if part.partition("=")[0] in known]
    _check_once([name for name, _, _ in options])
    amounts = ",".join(part for part in parts if part.partition("=")[0] not in known)
    return amounts, tuple(sorted((name, value) for name, _, value in options))


def parse_options(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read options of methods, each `NAME=VALUE`; raises PlanError for one that no method takes."""
    pairs = [text.partition("=") for text in texts]
    _check_once([name for name, _, _ in pairs])
    for name, _, value in pairs:
        able = [method for method in METHODS.values() if name in choices(method)]
        if not able:
            known = sorted({option for method in METHODS.values() for option in choices(method)})
            raise PlanError(f"option '{name}' is not known; methods have {', '.join(known)}")
        reasons = [reason for method in able if (reason := _rejection(method, name, value))]
        if len(reasons) == len(able):
            raise PlanError("; ".join(reasons))
    return tuple(sorted((name, value) for name, _, value in pairs))


def _check_once(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError(f"option '{twice}' is given twice; keep one")


def _rejection(method: Method, name: str, value: str) -> str | None:
    """Return why a method does not take a value for one of its options, None where it does."""
    try:
        with_options(method, {name: value})
    except PlanError as error:
        return error.message
    return None


def stored_options(method: Method) -> tuple[tuple[str, str], ...]:
    """Return a configured method's options as a plan holds them."""
    return tuple(sorted(options_of(method).items()))


def parse_methods(text: str) -> tuple[str, ...]:
    """Read method names joined by commas; raises PlanError for one that does not exist."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in METHODS:
            raise PlanError(f"method '{name}' is not known; choose from {', '.join(METHODS)}")
    if text and not names:
        raise PlanError(f"'{text}' names no method; choose from {', '.join(METHODS)}")
    return names


def parse_rank(text: str) -> Rank:
    """Read a rank: `256`, `64x32` (output x input) or `full`."""
    if text == "full":
        return (0,)
    parts = text.split("x")
    if not all(re.fullmatch(r"[0-9]{1,9}", part) and int(part) for part in parts):
        raise PlanError(f"rank is '{text}'; expected a whole number above 0, two joined by 'x', or 'full'")
    return tuple(int(part) for part in parts)


def parse_amount(text: str, origin: str) -> Amount:
    """Read `rank=N` or `energy=E` or `params=P,macs=M`; raises PlanError."""
    values: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in ("rank", "energy", "params", "macs") or name in values:
            raise PlanError(
                f"--layer {origin}: '{part}' is not understood; expected rank=, energy=, params=, macs= or an option"
            )
        values[name] = value
    numbers = {name: parse_share(value, name) for name, value in values.items() if name != "rank"}
    return Amount(parse_rank(values["rank"]) if "rank" in values else (), **numbers)


def parse_share(text: str, name: str) -> float:
    """Read a share such as 0.5; raises PlanError."""
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"{name} is '{text}'; expected a share above 0 and at most 1, like 0.5") from None
