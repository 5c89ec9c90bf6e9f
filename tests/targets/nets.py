"""Networks of one input and a few layers, to be made ready for targets."""

from __future__ import annotations

from pathlib import Path

from surgery.formats import Source
from tests.nets import Blobs, write_net

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 8 } } }\n'


def layer(kind: str, more: str = "", *, name: str = "a", bottom: str = "x", top: str = "y") -> str:
    bottoms = " ".join(f'bottom: "{blob}"' for blob in bottom.split())
    tops = " ".join(f'top: "{blob}"' for blob in top.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {more} }}\n'


def source(folder: Path, text: str, blobs: Blobs | None = None) -> Source:
    """Return the network with its weights, or its definition alone where there are none."""
    files = write_net(folder, text, blobs or {})
    return Source(files if blobs is not None else files[:1])
