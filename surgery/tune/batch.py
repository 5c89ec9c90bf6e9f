"""Whether a network whose file states a size of batch computes the same for each sample in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from surgery.model import Shape

if TYPE_CHECKING:
    from torch import Tensor

    from surgery.tune.network import Network

CLOSE = 1e-3  # relative L2: far above what another order of float32 sums makes, far below what other numbers would


def is_any_batch(network: Network, stated: int, shapes: Mapping[str, Shape | None]) -> bool:
    """Return whether a batch twice as large gives, at every output, what its halves give one after the other."""
    known = {name: shape for name, shape in shapes.items() if shape is not None}
    if len(known) < len(shapes) or any(shape[:1] != (stated,) for shape in known.values()):
        return False
    generator = torch.Generator().manual_seed(0)
    both = {name: torch.randn((2 * stated, *shape[1:]), generator=generator) for name, shape in known.items()}
    asked, training = network.asked, network.training
    network.eval()
    network.ask(network.outputs)
    try:
        with torch.no_grad():
            halves = [_run(network, {name: x[start:][:stated] for name, x in both.items()}) for start in (0, stated)]
            whole = _run(network, both)
    except (RuntimeError, IndexError):  # What torch raises for shapes that do not fit.
        return False
    finally:
        network.train(training)
        network.ask(asked)
    return all(_agree(whole[name], torch.cat([half[name] for half in halves])) for name in whole)


def _run(network: Network, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    place = next(network.parameters(), torch.zeros(()))
    return {name: x.double().cpu() for name, x in network({n: x.to(place) for n, x in inputs.items()}).items()}


def _agree(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).norm() <= CLOSE * expected.norm())
