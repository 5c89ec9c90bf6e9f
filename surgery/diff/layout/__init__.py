"""Lay a network out top to bottom: what feeds a layer stands above it, few lines cross, and lines run straight."""

from __future__ import annotations

from surgery.diff.layout.graph import Graph
from surgery.diff.layout.layered import Layout, lay_out

__all__ = ["Graph", "Layout", "lay_out"]
