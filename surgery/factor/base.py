"""What every way of cutting a layer promises, and what can be said of any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np

from surgery.errors import PlanError
from surgery.factor.metric import Metric
from surgery.factor.solver import stored_dtype
from surgery.ops import Chain, Conv2d, Float64Array, FloatArray, Linear, Op, Scale, Stage

Rank = tuple[int, ...]
Cost = Callable[[Op | Chain], int]

# A tail is compared with a rounded product of the total; without the slack, (9, 1) at energy 0.9 would keep both.
ENERGY_SLACK = 1e-12


@dataclass(frozen=True, eq=False, slots=True)
class Fit:
    """A layer cut at a rank.

    Attributes:
        chain: the thinner layers, in running order; biases only on the last, weights in C order.
        rank: the rank that was asked for.
        relative_error: ||W - W_r||_F / ||W||_F, where W_r is the product of the factors as stored; measured in
            float64, never inferred. 0 for a zero weight.
        solver: how the factors were found, as the method names it ("exact", "gram", "hooi").
        bound: which operations of the chain are bound by the method's own constraint (non-negative, ternary, pruned)
            and may not take other numbers; all others may be refitted to data.
    """

    chain: Chain
    rank: Rank
    relative_error: float
    solver: str
    bound: frozenset[int] = frozenset()


class Method(Protocol):
    """A way to write one layer as a chain of thinner ones.

    Methods hold no state but their options, which are dataclass fields made by `option` and `share`, and know no file
    format. A rank is a tuple of numbers, one for each inner width of the chain; for grouped convolutions it counts per
    group, and all groups share it.

    Laws:
        1. The chain has the layer's inputs and outputs, and the same map sizes for any input; nothing stands
           between its operations, and only the last one has a bias, the layer's own.
        2. At `max_rank` the chain equals the layer, to the rounding of the stored factors, where the method
           `is_exact`; elsewhere it is the largest rank worth asking for.
        3. `rank_at(op, 1)` has a 1 for every width that has a path of its own, `rank_at(op, max(max_rank))` is
           `max_rank`, and along the path no width, no cost and (but for the local optima of iterative methods) no
           error turns back: widths and costs rise, the error falls.
        4. `template(op, rank)` has the shapes, params and macs of `factor(op, rank).chain`, and holds no weights.
        5. `collapse(chain)` is the layer with its weight replaced by W_r.
        6. The same arguments give the same bytes, on one machine with one number of BLAS threads. Factors of a
           float64 weight are float64, all others float32; the sums are in float64 either way.
        7. Wherever `refusal` gives a reason, all else raises PlanError with it; weights with NaN or infinity and
           ranks outside 1 to `max_rank` raise PlanError too.
    """

    @property
    def name(self) -> str:
        """Name in plans and on the command line."""
        ...

    @property
    def summary(self) -> str:
        """One line for the command line's help."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether the chain at `max_rank` equals the layer."""
        ...

    @property
    def uses_metric(self) -> bool:
        """Whether `factor` itself heeds a metric; elsewhere it is for `refit` alone."""
        ...

    def refusal(self, op: Op) -> str | None:
        """Return why this method cannot cut `op` at any rank, or None if it can."""
        ...

    def max_rank(self, op: Op) -> Rank:
        """Return the smallest rank that reproduces any layer of this shape."""
        ...

    def rank_at(self, op: Op, size: int) -> Rank:
        """Return the rank at step `size`, 1 to max(max_rank), of the method's own path through its ranks."""
        ...

    def template(self, op: Op, rank: Rank) -> Chain:
        """Return the chain with placeholder weights that take no memory: its params and macs are the cost."""
        ...

    def spectrum(self, op: Op) -> tuple[Float64Array, ...]:
        """Return one array of singular values, largest first, for each number in a rank.

        For a grouped convolution value i is the root of the sum of squares of the groups' values i, so that
        squares of the tail still add up to the energy cut off. Values below 1.5e-8 of the largest may be noise.
        """
        ...

    def rank_for_energy(self, op: Op, energy: float, spectrum: tuple[Float64Array, ...] | None = None) -> Rank:
        """Return the smallest rank that keeps the share `energy` of the squared singular values, in each mode.

        `spectrum`, when the caller has it already, saves computing it again.
        """
        ...

    def factor(self, op: Op, rank: Rank, *, metric: Metric | None = None, seed: int = 0) -> Fit:
        """Cut `op` at `rank`; `seed` matters to methods that draw random numbers only.

        `metric` is what an error of the weight costs, by default its Frobenius norm. A method that does not use one
        takes none.
        """
        ...


def option(*choices: str) -> Any:
    """Declare an option of a method: a field that holds one of `choices`, by default the first."""
    return field(default=choices[0], metadata={"choices": choices})


def share(default: float) -> Any:
    """Declare an option of a method: a field that holds a number above 0 and at most 1."""
    return field(default=default, metadata={"choices": ()})


def choices(method: Method) -> dict[str, tuple[str, ...]]:
    """Return a method's options, each with what it may be, the default first; () stands for a share."""
    return {entry.name: entry.metadata["choices"] for entry in _options(method)}


def options_of(method: Method) -> dict[str, str]:
    """Return those of a method's options that are not the default, as text."""
    values = {entry.name: (getattr(method, entry.name), entry.default) for entry in _options(method)}
    return {name: str(value) for name, (value, default) in values.items() if value != default}


def with_options(method: Method, given: Mapping[str, str]) -> Method:
    """Return the method with some options set; raises PlanError for an option or a choice that it does not have."""
    known = choices(method)
    values: dict[str, object] = {}
    for name, text in given.items():
        if name not in known:
            raise PlanError(f"{method.name} has no option '{name}'; it has {', '.join(known) or 'none'}")
        if known[name] and text not in known[name]:
            raise PlanError(f"{method.name}: {name} is '{text}'; choose one of {', '.join(known[name])}")
        values[name] = text if known[name] else _share(method, name, text)
    changed: Method = replace(method, **values) if values else method  # type: ignore[type-var]
    return changed


def _share(method: Method, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 1:
        raise PlanError(f"{method.name}: {name} is '{text}'; expected a number above 0 and at most 1")
    return value


def _options(method: Any) -> list[Any]:
    return [entry for entry in fields(method) if "choices" in entry.metadata]


def break_even(method: Method, op: Op, cost: Cost = lambda op: op.weight_params) -> Rank | None:
    """Return the largest rank on the method's path at which the chain costs less than `op` itself.

    None if not even the first step does. `cost` is the count of weights unless told otherwise, for example
    `lambda op: op.macs((14, 14))`; it must not fall as ranks rise.
    """
    own = cost(op)
    size = largest_size(method, op, lambda chain: cost(chain) < own)
    return method.rank_at(op, size) if size else None


def largest_size(method: Method, op: Op, affordable: Callable[[Chain], bool]) -> int:
    """Return the last step of the method's path whose template is `affordable`, or 0 if none is.

    `affordable` must stay false once it is.
    """
    low, high = 0, max(method.max_rank(op))
    while low < high:
        middle = (low + high + 1) // 2
        if affordable(method.template(op, method.rank_at(op, middle))):
            low = middle
        else:
            high = middle - 1
    return low


def tail_energy(values: Float64Array, rank: int) -> float:
    """Return the squared Frobenius error of cutting singular values at `rank` (Eckart and Young, 1936).

    `values` is sorted, largest first. Zero when `rank >= len(values)`.
    """
    return float(np.sum(np.square(values[rank:])))


def rank_holding(values: Float64Array, energy: float) -> int:
    """Return the smallest rank, at least 1, whose tail holds at most 1 - `energy` of all squares of `values`.

    Raises:
        PlanError: `energy` is not above 0 and at most 1.
    """
    if not 0 < energy <= 1:
        raise PlanError(f"energy is {energy}, expected a number above 0 and at most 1")
    # Summed from the small end, so that the tail of a decaying spectrum keeps its digits.
    tails = np.cumsum(np.square(values[::-1]))[::-1]
    return max(1, int(np.count_nonzero(tails > (1 - energy + ENERGY_SLACK) * tails[0])))


def joint_spectrum(spectra: Sequence[Float64Array]) -> Float64Array:
    """Return the root of the sum of squares over groups, value by value: see `Method.spectrum`."""
    result: Float64Array = np.sqrt(np.sum(np.square(spectra), axis=0))
    return result


def check_rank(method: Method, op: Op, rank: Rank, origin: str) -> None:
    """Raise PlanError unless every number of `rank` is from 1 to that of `method.max_rank(op)`.

    `origin` says in numbers where the largest rank comes from.
    """
    largest = method.max_rank(op)
    if len(rank) != len(largest):
        raise PlanError(f"{method.name}: rank {_shown(rank)} has {len(rank)} numbers, expected {len(largest)}")
    if all(1 <= given <= limit for given, limit in zip(rank, largest, strict=True)):
        return
    lowest = _shown((1,) * len(largest))
    side = "below the smallest rank" if min(rank) < 1 else "above the largest useful rank"
    limit = lowest if min(rank) < 1 else f"{_shown(largest)} (= {origin})"
    raise PlanError(f"{method.name}: rank {_shown(rank)} is {side} {limit}; choose {lowest} to {_shown(largest)}")


def check_size(method: Method, op: Op, size: int) -> None:
    """Raise PlanError unless `size` is a step of the method's path, 1 to max(max_rank)."""
    last = max(method.max_rank(op))
    if not 1 <= size <= last:
        raise PlanError(f"{method.name}: size {size} is outside the ranks of this layer; choose 1 to {last}")


def as_conv2d(method: Method, op: Op) -> Conv2d:
    """Return `op` as the convolution it is, or raise PlanError with the method's reason to refuse it."""
    reason = method.refusal(op)
    if reason is not None or not isinstance(op, Conv2d):
        raise PlanError(f"{method.name}: {reason or 'not a convolution'}")
    return op


def as_linear(method: Method, op: Op) -> Linear:
    """Return `op` as the fully connected layer it is, or raise PlanError with the method's reason to refuse it."""
    reason = method.refusal(op)
    if reason is not None or not isinstance(op, Linear):
        raise PlanError(f"{method.name}: {reason or 'not a fully connected layer'}")
    return op


def contiguous(chain: Chain) -> Chain:
    """Return `chain` with every weight in C order, the order files hold; only those that are not are copied."""
    return Chain(tuple(_in_order(op) for op in chain.ops))


def _in_order(op: Stage) -> Stage:
    return op if isinstance(op, Scale) else replace(op, weight=np.ascontiguousarray(op.weight))


def stacked(parts: Sequence[FloatArray]) -> FloatArray:
    """Return one array of the groups' (groups, ...): a view of the only one, as layers large enough to matter have."""
    return parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts)


def placeholder(shape: tuple[int, ...], weight: FloatArray) -> FloatArray:
    """Return zeros of `shape`, in the precision factors of `weight` have, that take no memory."""
    return np.broadcast_to(np.zeros((), dtype=stored_dtype(weight)), shape)


def _shown(rank: Rank) -> str:
    return str(rank[0]) if len(rank) == 1 else str(tuple(rank))
