"""What a cut had to choose from: the singular values of a layer's weight, and where in them the rank is."""

from __future__ import annotations

from typing import Any

import numpy as np

from surgery.factor import Method, tail_energy
from surgery.factor.base import joint_spectrum
from surgery.factor.matrix_method import MatrixMethod
from surgery.model import Model, Refusal
from surgery.ops import Float64Array, Op, Scale
from surgery.ops.stack import stack
from surgery.plans import Cut
from surgery.rewriting import Made

POINTS = 64  # of a spectrum that are kept
DIGITS = 6  # significant ones of each
# Multiply-adds of the smaller side's Gram matrix up to which all singular values are looked for: 0.15 s. Those of a
# 4096 x 4096 weight take 6 s, and its cut at rank 256 takes 1.5.
WORK = 2**32
TRUNCATED = frozenset({"exact", "gram", "krylov"})  # Solvers whose factors are the leading singular vectors.

_OF = {
    "tucker2": ("output channels", "input channels"),
    "nmtf": ("output channels", "input channels"),
    "response-3d": ("kernel columns against rows", "output channels"),
    "svd-spatial": ("kernel columns against rows",),
    "cp": ("orthogonal terms",),
    "cp4": ("orthogonal terms",),
}


def spectra(model: Model, made: Made, *, has_data: bool) -> dict[str, Any]:
    """Return the spectra of a cut layer, one for each number of its rank, and why they are not whole; JSON values.

    Each has the number of values, how many of them are known, the rank, the share of all squares that the values up to
    the rank hold, and up to `POINTS` pairs of index (from 1) and value, relative to the largest.
    """
    cut, op = made.cut, _op(model, made.cut)
    method, size = cut.configured, "x".join(map(str, op.weight.shape))
    if _work(method, op) <= WORK:
        found = zip(_OF.get(cut.method, ("weight",)), method.spectrum(op), cut.rank, strict=True)
        rows = [_row(of, values, rank, len(values)) for of, values, rank in found]
        return {"spectra": rows, "spectra_reason": None}
    # Fitted to data, the factors are no longer the weight's own singular vectors.
    if has_data or not isinstance(method, MatrixMethod) or made.fitted.fit.solver not in TRUNCATED:
        return {"spectra": [], "spectra_reason": f"a weight of {size} takes too long to look at whole"}
    of, reason = _OF.get(cut.method, ("weight",))[0], f"of a weight of {size} only those that the cut found are known"
    row = _row(of, _leading(made, method.shape(op)[0]), cut.rank[0], method.max_rank(op)[0])
    return {"spectra": [row | {"kept": _rounded(1 - made.fitted.fit.relative_error**2)}], "spectra_reason": reason}


def _op(model: Model, cut: Cut) -> Op:
    """Return the layer, or the layers as one, that was cut."""
    ops = [op for key in cut.keys if not isinstance(op := model.format.lift(model, model.node(key)), Refusal)]
    return stack(ops) if cut.others else ops[0]


def _work(method: Method, op: Op) -> int:
    """Return about how many multiply-adds all singular values take."""
    groups, m, n = method.shape(op) if isinstance(method, MatrixMethod) else (1, len(op.weight), op.weight[0].size)
    return groups * m * n * min(m, n)


def _leading(made: Made, groups: int) -> Float64Array:
    """Return the singular values that the two factors of a truncation hold: the products of the norms of each pair."""
    first, last = made.fitted.fit.chain.ops
    assert not isinstance(first, Scale)
    assert not isinstance(last, Scale)
    rank = len(first.weight) // groups
    rights = np.linalg.norm(first.weight.reshape(groups, rank, -1), axis=2)
    lefts = np.linalg.norm(last.weight.reshape(groups, len(last.weight) // groups, rank, -1), axis=(1, 3))
    return joint_spectrum((rights * lefts).astype(np.float64))


def _row(of: str, values: Float64Array, rank: int, size: int) -> dict[str, Any]:
    largest, energy = float(values[0]) or 1.0, tail_energy(values, 0) or 1.0
    places = sorted(
        {*np.linspace(0, len(values) - 1, POINTS - 1).round().astype(int).tolist(), min(rank, len(values)) - 1}
    )
    return {
        "of": of,
        "size": size,
        "known": len(values),
        "rank": rank,
        "kept": _rounded(1 - tail_energy(values, rank) / energy),
        "points": [[place + 1, _rounded(values[place] / largest)] for place in places],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
