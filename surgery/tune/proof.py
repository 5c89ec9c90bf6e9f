"""The proof that a runtime computes from the written files what was trained in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from surgery.errors import EngineError, ModelError, VerificationError
from surgery.model import Model
from surgery.runtime import ENGINES, Array, Inputs, job_of
from surgery.tune.network import Network
from surgery.verify import TOLERANCE, Verdict, compare, random_inputs


def checked_against(network: Network, model: Model, files: Sequence[Path], engines: Sequence[str]) -> Verdict:
    """Return how near the written files' values are to the network's own, in the first engine that runs them.

    Raises VerificationError where one is farther than float32 rounding takes it.
    """
    run = model.format.runnable(model)
    reasons = [run.unready] if run.unready else []
    for engine in engines if not run.unready else ():
        if missing := ENGINES[engine].missing():
            reasons.append(missing)
            continue
        inputs = random_inputs(run.inputs, 0)
        (found,) = ENGINES[engine].run_jobs([job_of(model, files, inputs, all_blobs=True)])
        if isinstance(found, EngineError):
            reasons.append(str(found))
            continue
        names = _comparable(network, model, found[0])
        verdict = Verdict(ENGINES[engine].version(), compare(_computed(network, inputs, names), found, names))
        if not verdict.worst.rel_l2 <= TOLERANCE:
            worst = verdict.worst
            raise VerificationError(
                f"'{worst.blob}' is {worst.rel_l2:.2e} (relative L2) from what was trained, in {verdict.runtime}; at "
                f"most {TOLERANCE:g} is float32 rounding"
            )
        return verdict
    return Verdict("none", (), "; ".join(reasons) or "no runtime was asked for")


def _comparable(network: Network, model: Model, found: Mapping[str, Array]) -> list[str]:
    """Return the values that both have, without those of a Softmax, which hide differences."""
    names = []
    for node in model.nodes:
        for name in node.outputs if node.inputs and node.type != "Softmax" else ():
            with suppress(ModelError):  # A value that the network's own form does without.
                network.ask([name])
                names += [name] if name in found and name not in names else []
    return names


@torch.no_grad()
def _computed(network: Network, inputs: Sequence[Inputs], names: Sequence[str]) -> list[dict[str, Array]]:
    network.eval()
    network.ask(names)
    device = next(iter(network.parameters())).device
    made = [network({name: torch.from_numpy(array).to(device) for name, array in each.items()}) for each in inputs]
    return [{name: value.cpu().numpy() for name, value in each.items()} for each in made]
