"""Find layers that read the same value and can be cut as one: they then share all factors but the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from surgery.formats.wiring import Wiring
from surgery.model import Facts, Model
from surgery.ops import Conv2d
from surgery.ops.stack import stack
from surgery.survey import Site, total


def together(model: Model, sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Return the sites in groups that can be cut as one, in the order of their first members; most are alone."""
    places = {node.key: i for i, node in enumerate(model.nodes)}
    sources = Wiring(model.nodes).sources
    found: dict[object, list[Site]] = {}
    for site in sites:
        place = places[site.key]
        value = sources[place][0] or site.node.inputs[0]
        found.setdefault((value, *_geometry(site, place)), []).append(site)
    return [tuple(members) for members in found.values()]


def joined(members: Sequence[Site]) -> Site:
    """Return the one site that sites which can be cut as one make."""
    first, facts = members[0], [site.facts for site in members]
    others = tuple(site.key for site in members[1:])
    return replace(first, op=stack([site.op for site in members]), facts=_sum(facts), others=others)


def _geometry(site: Site, place: int) -> tuple[object, ...]:
    """Return what must be equal for layers to be stacked; a layer that cannot be is like no other."""
    op = site.op
    if not isinstance(op, Conv2d):
        return (site.node.type, op.in_channels)
    if op.groups > 1:
        return (site.node.type, place)
    return (site.node.type, op.weight.shape[1:], op.stride, op.padding, op.dilation)


def _sum(facts: Sequence[Facts]) -> Facts:
    params, macs = total([each.params for each in facts]), total([each.macs for each in facts])
    return replace(facts[0], params=params, macs=macs)
