"""A difference as one page that opens anywhere: both graphs side by side, and what became of every layer."""

from __future__ import annotations

from surgery.diff.page.writing import rendered, write

__all__ = ["rendered", "write"]
