"""Sizes that a Caffe network does not fix: the batch, where it may vary, and how many items a layer keeps or finds.

A prime that divides no size of the network stands for each, so that every shape rule works as it is, and what is a
multiple of such a size can be told by dividing. A size that depends on it in another way, such as the batch less one,
cannot; it shows where the same network with other primes has another symbolic shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from surgery.convert.to_onnx.site import InexpressibleError
from surgery.formats.caffe.net import CaffeNet
from surgery.formats.caffe.network import Layer, Shape
from surgery.formats.caffe.shapes import LayerShapes
from surgery.formats.onnx.encode import Dim

BATCH = "batch"  # the symbol of a batch that may vary
MAX_NUMBERS, MAX_AXES = 2**31 - 1, 32
_DEEPEST = 32  # Filters behind Filters that are followed
_COUNTED = frozenset({"DetectionOutput", "Filter"})  # types that put out as many items as the data have


@dataclass(frozen=True, eq=False)
class Sized:
    """A network with primes in its shapes, and the symbol that each of them stands for."""

    net: CaffeNet
    symbols: Mapping[int, str] = field(default_factory=dict)

    def bottoms(self, layer: Layer) -> tuple[tuple[Dim, ...] | None, ...]:
        """Return the symbolic shapes of a layer's bottoms."""
        return self._symbolic(self.net.inferred[id(layer)].bottoms)

    def results(self, layer: Layer) -> tuple[tuple[Dim, ...] | None, ...]:
        """Return the symbolic shapes of a layer's tops and blobs."""
        found = self.net.inferred[id(layer)]
        return self._symbolic((*found.tops, *(found.blobs or ())))

    def _symbolic(self, shapes: Sequence[Shape | None]) -> tuple[tuple[Dim, ...] | None, ...]:
        return tuple(None if shape is None else symbolic(shape, self.symbols) for shape in shapes)


def check(found: LayerShapes) -> None:
    """Raise InexpressibleError for a top or a parameter that is more than a blob of Caffe's holds."""
    for shape in (*found.tops, *(found.blobs or ())):
        if shape is not None and (prod(shape) > MAX_NUMBERS or len(shape) > MAX_AXES):
            sides = "x".join(map(str, shape[:MAX_AXES]))
            raise InexpressibleError(
                f"a blob of {sides} is more than Caffe's hold: {MAX_NUMBERS} numbers along {MAX_AXES} axes"
            )


def sized(net: CaffeNet, batch: Mapping[str, Shape | None] | None, taken: Iterable[int] = ()) -> Sized:
    """Return the network with primes, none of `taken`, for what its layers count, and for the batch of these inputs.

    The batch is the first axis of the first input, and of the others where that has the same size; None leaves it.
    """
    result = Sized(net)
    if batch is not None:
        known = {name: shape for name, shape in batch.items() if shape}
        first = next((shape[0] for shape in known.values()), None)
        prime = next(_primes(net, taken))
        shapes = {name: (prime, *shape[1:]) if shape[0] == first else shape for name, shape in known.items()}
        result = Sized(replace(net, shapes=shapes), {prime: BATCH})
    for _ in range(_DEEPEST):
        more = _with_counts(result, taken)
        if more is result:
            break
        result = more
    return result


def _with_counts(known: Sized, taken: Iterable[int]) -> Sized:
    """Return the network with primes for what those layers keep or find whose bottoms are known."""
    net, symbols = known.net, dict(known.symbols)
    primes = _primes(net, {*taken, *symbols})
    shapes: dict[str, Shape] = {}
    for layer in net.active:
        found = net.inferred[id(layer)]
        if found.is_invalid or None in found.bottoms or layer.type not in _COUNTED or layer.tops[0] in net.shapes:
            continue
        prime = next(primes)
        symbols[prime] = f"{layer.name}_items"
        if layer.type == "DetectionOutput":  # Its rule states one row, which holds until it has run.
            shapes[layer.tops[0]] = (1, 1, prime, 7)
        else:
            shapes.update((top, (prime, *(s or ())[1:])) for top, s in zip(layer.tops, found.bottoms, strict=False))
    return Sized(replace(net, shapes={**net.shapes, **shapes}), symbols) if shapes else known


def _primes(net: CaffeNet, taken: Iterable[int]) -> Iterator[int]:
    """Yield primes that divide no size in the network."""
    sizes = {size for found in net.inferred.values() for shape in found.tops if shape for size in shape}
    sizes |= {size for found in net.inferred.values() for shape in found.blobs or () for size in shape}
    for n in range(4099, 1 << 20, 2):
        is_prime = all(n % d for d in range(3, 1025, 2) if d * d <= n)
        if is_prime and n not in taken and all(size % n for size in sizes if size):
            yield n


def depends(shape: Sequence[int], symbols: Mapping[int, str]) -> bool:
    """Return whether any axis of `shape` is a multiple of one of the primes."""
    return any(size and size % prime == 0 for prime in symbols for size in shape)


def symbolic(shape: Shape, symbols: Mapping[int, str]) -> tuple[Dim, ...]:
    """Return the shape with symbols in place of primes."""
    return tuple(_symbolic(size, symbols) for size in shape)


def _symbolic(size: int, symbols: Mapping[int, str]) -> Dim:
    found = [prime for prime in symbols if size and size % prime == 0]
    factor = size // prod(found)
    return "*".join([*([str(factor)] if factor != 1 else []), *(symbols[prime] for prime in found)]) if found else size
