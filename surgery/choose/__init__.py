"""How much to cut: from what a person asks for to one rank for each layer."""

from surgery.choose.request import Amount, Request, Selector, parse_options, parse_selector
from surgery.choose.uniform import choose, rank_for

__all__ = ["Amount", "Request", "Selector", "choose", "parse_options", "parse_selector", "rank_for"]
