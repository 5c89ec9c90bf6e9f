"""Cut layers of trained networks into thinner ones; everything else keeps its bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgery.version import __version__

if TYPE_CHECKING:
    from surgery.api import load, plan, rewrite, save, to_caffe, to_onnx

__all__ = ["__version__", "load", "plan", "rewrite", "save", "to_caffe", "to_onnx"]


def __getattr__(name: str) -> Any:
    """Import the API when it is first asked for: `surgery --help` needs none of it."""
    if name in __all__:
        from surgery import api

        return getattr(api, name)
    raise AttributeError(f"module 'surgery' has no attribute '{name}'")
