"""How much to cut: from what a person asks for to one rank for each layer."""

from surgery.choose.choosing import choose
from surgery.choose.policies import POLICIES, Evidence
from surgery.choose.prediction import ERROR_NAMES
from surgery.choose.ranks import rank_for
from surgery.choose.request import Amount, Request, Selector, parse_options, parse_selector

__all__ = [
    "ERROR_NAMES",
    "POLICIES",
    "Amount",
    "Evidence",
    "Request",
    "Selector",
    "choose",
    "parse_options",
    "parse_selector",
    "rank_for",
]
