"""Ways to write one layer as a chain of thinner ones."""

from surgery.factor.base import (
    Cost,
    Fit,
    Method,
    Rank,
    break_even,
    largest_size,
    rank_holding,
    tail_energy,
)
from surgery.factor.svd import Svd
from surgery.factor.svd_channel import SvdChannel
from surgery.factor.svd_spatial import SvdSpatial
from surgery.factor.tucker2 import Tucker2

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Svd(),
        SvdChannel(),
        SvdSpatial(),
        Tucker2(),
    )
}

__all__ = [
    "METHODS",
    "Cost",
    "Fit",
    "Method",
    "Rank",
    "break_even",
    "largest_size",
    "rank_holding",
    "tail_energy",
]
