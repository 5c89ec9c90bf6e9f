"""Chains for tests of what is written for them: at full rank, with a scale between their factors, with another bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from surgery.factor import METHODS
from surgery.ops import Chain, Linear, Op, Scale


def full(op: Op) -> Chain:
    """Return two factors that compute what the operation does."""
    method = METHODS["svd" if isinstance(op, Linear) else "svd-channel"]
    return method.factor(op, method.max_rank(op)).chain


def scaled(chain: Chain) -> Chain:
    """Return a chain that computes the same, with a scale behind its first operation."""
    first, *rest = chain.ops
    assert not isinstance(first, Scale)
    factor = np.exp2(np.arange(first.out_channels) % 5 - 2.0)  # Powers of two: nothing is rounded.
    weight = (first.weight / factor.reshape(-1, *[1] * (first.weight.ndim - 1))).astype(first.weight.dtype)
    return Chain((replace(first, weight=weight), Scale.of(factor), *rest))


def corrected(chain: Chain) -> Chain:
    """Return the chain with another bias, as a fit to data makes it."""
    bias = np.arange(chain.last.out_channels, dtype=chain.last.weight.dtype) - 3
    return Chain((*chain.ops[:-1], replace(chain.last, bias=bias)))
