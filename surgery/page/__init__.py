"""Pages of one file: they open from a mail, ask for nothing over the network, and take names from files as text."""

from __future__ import annotations

from surgery.page.html import Child, Markup, data, element, fragment, page, visible

__all__ = ["Child", "Markup", "data", "element", "fragment", "page", "visible"]
