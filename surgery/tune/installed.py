"""Whether PyTorch is there, asked before anything that imports it."""

from __future__ import annotations

from importlib.util import find_spec

from surgery.errors import EngineMissingError


def require_torch() -> None:
    """Raise EngineMissingError, which says what to install, where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise EngineMissingError("torch", "PyTorch is not installed; install it with: pip install 'surgery[torch]'")
