"""What a parcel's MANIFEST.json says of the network and of how it was made ready; docs/package.md has each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surgery.formats import Source, digest, named
from surgery.model import Model
from surgery.output import TOOL
from surgery.package.archive import chunks_of, measured
from surgery.package.golden import Golden
from surgery.runtime.opencv import producers
from surgery.survey import Survey
from surgery.targets import Prepared
from surgery.version import __version__

FORMAT = 1
MANIFEST, SUMS = "MANIFEST.json", "SHA256SUMS"


def facts_of(target: str, source: Source, surveyed: Survey, ready: Prepared, golden: Golden) -> dict[str, Any]:
    """Return the facts of the networks, as given and as surveyed in the parcel, as JSON values."""
    files = [{"name": name, **_sized(path)} for name, path in named(source.files).items()]
    return {
        "tool": TOOL,
        "format": FORMAT,
        "version": __version__,
        "target": target,
        "source": {"files": files, "digest": digest(source.files)},
        "model": {
            "files": list(named(ready.files)),
            "inputs": {name: {"shape": list(array.shape)} for name, array in golden.inputs[0].items()},
            "outputs": _outputs(target, surveyed.model, golden),
        },
        "changes": list(ready.changes),
        "rewrites": list(ready.rewrites),
        "notes": list(ready.notes),
        "sizes": _sizes(surveyed),
    }


def _outputs(target: str, model: Model, golden: Golden) -> dict[str, Any]:
    outputs: dict[str, Any] = {name: {"shape": list(array.shape)} for name, array in golden.outputs[0].items()}
    if target != "opencv":
        return outputs
    made = producers((node.key.partition("#")[0], node.type, node.outputs) for node in model.nodes)
    return {name: {**blob, "opencv": list(made[name])} for name, blob in outputs.items()}


def _sized(path: Path) -> dict[str, Any]:
    found = measured(chunks_of(path))
    return {"bytes": found.size, "sha256": found.sha256}


def _sizes(surveyed: Survey) -> Mapping[str, Any]:
    memory = surveyed.model.format.memory(surveyed.model)
    return {
        "params": surveyed.params,
        "macs": surveyed.macs,
        "weight_bytes": None if surveyed.params is None else 4 * surveyed.params,
        "memory": None if memory is None else {**asdict(memory), "total": memory.total},
    }
