"""Who makes what each node reads: names are labels, and a chain of in-place nodes gives one name several values."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from surgery.model import Node


class Value(NamedTuple):
    """Output number `slot` of node number `node`."""

    node: int
    slot: int


@dataclass(frozen=True, eq=False)
class Wiring:
    """The nodes of a model in running order, wired up; "" is the name of an input or output left out."""

    nodes: Sequence[Node]

    @cached_property
    def sources(self) -> Sequence[Sequence[Value | None]]:
        """For every input of every node the value it reads, None for one that comes from outside."""
        makers: dict[str, Value] = {}
        result = []
        for i, node in enumerate(self.nodes):
            result.append([makers.get(name) for name in node.inputs])
            makers.update({name: Value(i, slot) for slot, name in enumerate(node.outputs) if name})
        return result

    @cached_property
    def final(self) -> Mapping[str, Value]:
        """The value that each name has at the end."""
        tops = ((name, Value(i, k)) for i, node in enumerate(self.nodes) for k, name in enumerate(node.outputs))
        return {name: value for name, value in tops if name}

    @cached_property
    def readers(self) -> Mapping[Value, Sequence[int]]:
        """The nodes that read each value, in order, one that reads it twice twice."""
        found: dict[Value, list[int]] = {}
        for i, sources in enumerate(self.sources):
            for value in sources:
                if value is not None:
                    found.setdefault(value, []).append(i)
        return found

    def stranger(self, keys: Collection[str]) -> str | None:
        """Return the first node of those keys whose first input is not the same value as that of the others' first."""
        places = [i for i, node in enumerate(self.nodes) if node.key in keys]
        read = {i: self.sources[i][0] or self.nodes[i].inputs[0] for i in places}
        return next((self.nodes[i].key for i in places if read[i] != read[places[0]]), None)

    @property
    def loose(self) -> list[str]:
        """The names whose final value nothing reads, in the order in which they are made."""
        return [name for name, value in sorted(self.final.items(), key=lambda item: item[1]) if not self._read(value)]

    def _read(self, value: Value) -> bool:
        return value in self.readers

    def needed(self, roots: Collection[Value], given: Collection[Value] = ()) -> set[int]:
        """Return the nodes that `roots` are computed by; the values `given` come from outside."""
        pending, nodes = [value for value in roots if value not in given], set[int]()
        while pending:
            value = pending.pop()
            if value.node not in nodes:
                nodes.add(value.node)
                pending += [v for v in self.sources[value.node] if v is not None and v not in given]
        return nodes
