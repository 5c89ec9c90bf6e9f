"""Ways to write one layer as a chain of thinner ones."""

from surgery.factor.base import (
    Cost,
    Fit,
    Method,
    Rank,
    break_even,
    choices,
    largest_size,
    options_of,
    rank_holding,
    tail_energy,
    with_options,
)
from surgery.factor.cp import Cp, Cp4
from surgery.factor.nmtf import Nmtf
from surgery.factor.response import Response
from surgery.factor.response_3d import Response3d
from surgery.factor.sdd import Sdd
from surgery.factor.semi_nmf import SemiNmf
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
        Cp(),
        Cp4(),
        SemiNmf(),
        Nmtf(),
        Sdd(),
        Response(),
        Response3d(),
    )
}

__all__ = [
    "METHODS",
    "Cost",
    "Fit",
    "Method",
    "Rank",
    "break_even",
    "choices",
    "largest_size",
    "options_of",
    "rank_holding",
    "tail_energy",
    "with_options",
]
