"""Two networks on the same inputs: how far each common blob of the second is from that of the first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.diff.difference import BlobError, Numeric
from surgery.model import Model
from surgery.runtime import Inputs
from surgery.verify import TOLERANCE, engine_pairs, verify


def numeric(
    models: tuple[Model, Model],
    files: tuple[Sequence[Path], Sequence[Path]],
    inputs: Sequence[Inputs] | None,
    *,
    seed: int = 0,
) -> Numeric:
    """Run both networks and compare the blobs of the same name before a Softmax; random inputs where none are given.

    Raises as `surgery.verify.verify`.
    """
    verdict = verify(models, files, engine_pairs(models, (None, None)), inputs, seed=seed, layers=True)
    makers = {top: node.key for node in models[0].nodes for top in node.outputs}
    blobs = tuple(BlobError(c.blob, makers.get(c.blob, ""), c.rel_l2, c.max_abs) for c in verdict.comparisons)
    return Numeric(blobs, verdict.comparisons[0].samples, verdict.runtime, TOLERANCE, verdict.notes)
