"""Operations that read the same value as one, and a chain made for that one as a common stem with a head for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np

from surgery.ops.array import FloatArray
from surgery.ops.chain import Chain, Op
from surgery.ops.conv2d import Conv2d


def stack(ops: Sequence[Op]) -> Op:
    """Return the operation whose outputs are those of `ops`, one behind the other; it has a bias where any has.

    Raises:
        ValueError: there is none, or they are not alike in all but their outputs, with what differs.
    """
    if not ops:
        raise ValueError("stack: no operations, expected at least one")
    for op in ops:
        for name, found in _alike(op).items():
            wanted = _alike(ops[0]).get(name)
            if found != wanted:
                raise ValueError(f"stack: {name} {found} beside {wanted}, expected the same")
        if isinstance(op, Conv2d) and op.groups > 1:
            raise ValueError(f"stack: a convolution of {op.groups} groups, whose outputs do not all see every input")
    if len(ops) == 1:
        return ops[0]
    weight = np.concatenate([op.weight for op in ops])
    return replace(ops[0], weight=weight, bias=_biases(ops))


def unstack(chain: Chain, ops: Sequence[Op]) -> tuple[Chain, tuple[Chain, ...]]:
    """Return what all of `ops` share of a chain made for `stack(ops)`, and for each of them what follows.

    The stem is all stages but the last; each head is the last with the rows that make the operation's outputs. An
    operation without a bias gets none where its part of the chain's is zero.

    Raises:
        ValueError: the chain is not one of several stages for as many outputs, its last works in groups, or the stage
            before that is a scale.
    """
    last = chain.last
    rows = [0, *accumulate(op.out_channels for op in ops)]
    if len(chain.ops) < 2 or last.out_channels != rows[-1]:
        found = f"{len(chain.ops)} stages for {last.out_channels} outputs"
        raise ValueError(f"unstack: a chain of {found}, expected at least 2 for {rows[-1]}")
    if isinstance(last, Conv2d) and last.groups > 1:
        raise ValueError(f"unstack: the last stage works in {last.groups} groups, whose rows see not all of the stem")
    heads = [_rows(last, slice(*ends), op) for ends, op in zip(pairwise(rows), ops, strict=True)]
    return Chain(chain.ops[:-1]), tuple(Chain((head,)) for head in heads)


def _alike(op: Op) -> dict[str, object]:
    """Return what must be the same for operations to be stacked, by the words that messages use."""
    facts: dict[str, object] = {"kind": type(op).__name__, "inputs": op.in_channels}
    if isinstance(op, Conv2d):
        facts |= {"kernel": op.kernel, "stride": op.stride, "padding": op.padding, "dilation": op.dilation}
    return facts


def _biases(ops: Sequence[Op]) -> FloatArray | None:
    if all(op.bias is None for op in ops):
        return None
    return np.concatenate([np.zeros(op.out_channels, op.weight.dtype) if op.bias is None else op.bias for op in ops])


def _rows(last: Op, rows: slice, op: Op) -> Op:
    bias = None if last.bias is None else last.bias[rows]
    if bias is not None and op.bias is None and not bias.any():
        bias = None
    return replace(last, weight=last.weight[rows], bias=bias)
