"""How long layers take: their shapes, and a table of the times that were measured of shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from surgery.errors import PlanError
from surgery.ops import Chain, Conv2d, Linear, Op, Stage
from surgery.survey import Site

CONVOLUTION, FULLY_CONNECTED, SCALE = KINDS = ("convolution", "fully connected", "scale")

# Between two measured shapes a third is guessed where the larger has at most so many times the smaller's MACs. Time
# rises with every width: the guess is never further off than the two are from each other.
FARTHEST = 8

Pair = tuple[int, int]  # (vertical, horizontal)


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a layer that its time depends on; what a kind does not have is 1, a padding 0.

    Attributes:
        kind: one of KINDS.
        batch: images, or rows of a fully connected layer's input.
        input: (height, width) of the input map.
    """

    kind: str
    batch: int
    in_channels: int
    out_channels: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    input: Pair = (1, 1)
    has_bias: bool = False

    @property
    def params(self) -> int:
        """Count of the weights, bias excluded."""
        (height, width), inputs = self.kernel, 1 if self.kind == SCALE else self.in_channels // self.groups
        return self.out_channels * inputs * height * width

    @property
    def output(self) -> Pair:
        """(height, width) of the output map."""
        axes = zip(self.input, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in axes)
        return height, width

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        height, width = self.output
        return self.batch * height * width * self.params


def shapes_of(layer: Op | Chain, batch: int, input_size: Pair) -> tuple[Shape, ...]:
    """Return the shapes of a layer's stages in running order, for an input map (h, w) of the first."""
    shapes = []
    for stage in layer.ops if isinstance(layer, Chain) else (layer,):
        shapes.append(_shape(stage, batch, input_size))
        input_size = stage.output_size(input_size)
    return tuple(shapes)


def shapes_at(site: Site, layer: Op | Chain) -> tuple[Shape, ...]:
    """Return the shapes of the stages of `layer` in the place of a site; raises PlanError where none is known."""
    if site.facts.macs is None:
        raise PlanError(f"how long it takes depends on its shape: {site.facts.reason}", site.key)
    size = site.facts.input_size or (1, 1)
    return shapes_of(layer, site.facts.macs // site.op.macs(size), size)


def _shape(stage: Stage, batch: int, size: Pair) -> Shape:
    widths = batch, stage.in_channels, stage.out_channels
    if isinstance(stage, Linear):
        return Shape(FULLY_CONNECTED, *widths, has_bias=stage.bias is not None)
    if not isinstance(stage, Conv2d):
        return Shape(SCALE, *widths, input=size)
    window = stage.kernel, stage.stride, stage.padding, stage.dilation
    return Shape(CONVOLUTION, *widths, *window, stage.groups, size, stage.bias is not None)


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of a forward pass of single layers, by shape.

    Attributes:
        runtime: the runtime's name.
        threads: with how many it ran.
        machine: what it ran on, in words.
        rows: what was measured.
    """

    runtime: str
    threads: int
    machine: str
    rows: Mapping[Shape, float]

    def milliseconds(self, shape: Shape) -> float | None:
        """Return the time that was measured of a shape, or one between those of two neighbours, or None.

        The neighbours differ from the shape in their channels only (and in groups where each channel is by itself):
        one has none more and one none fewer. Time is taken to be a straight line over MACs between them, as that of
        products of matrices is but for the rounding up to whole vectors. Beyond what was measured nothing is guessed.
        """
        if shape in self.rows:
            return self.rows[shape]
        rows = self._families.get(_family(shape), [])
        below = [row for row in rows if row.in_channels <= shape.in_channels and row.out_channels <= shape.out_channels]
        above = [row for row in rows if row.in_channels >= shape.in_channels and row.out_channels >= shape.out_channels]
        if not (below and above):
            return None
        # The fewer widths differ, the better; then the nearer.
        low = min(below, key=lambda row: (_differing(row, shape), -row.macs))
        high = min(above, key=lambda row: (_differing(row, shape), row.macs))
        if high.macs > FARTHEST * low.macs:
            return None
        share = (shape.macs - low.macs) / (high.macs - low.macs)
        return self.rows[low] + share * (self.rows[high] - self.rows[low])

    def of(self, layer: Op | Chain, batch: int, input_size: Pair) -> float | None:
        """Return the sum over a layer's stages, None where the table does not tell one of them."""
        return self.total(shapes_of(layer, batch, input_size))

    def total(self, shapes: tuple[Shape, ...]) -> float | None:
        """Return the sum over shapes, None where the table does not tell one of them."""
        times = [self.milliseconds(shape) for shape in shapes]
        return None if None in times else sum(time for time in times if time is not None)

    @cached_property
    def _families(self) -> dict[Shape, list[Shape]]:
        """The rows' shapes, together those that differ in their channels only."""
        families: dict[Shape, list[Shape]] = {}
        for shape in self.rows:
            families.setdefault(_family(shape), []).append(shape)
        return families


def _family(shape: Shape) -> Shape:
    """Return the shape without its channels."""
    is_depthwise = 1 < shape.groups == shape.in_channels == shape.out_channels
    return replace(shape, in_channels=0, out_channels=0, groups=0 if is_depthwise else shape.groups)


def _differing(one: Shape, other: Shape) -> int:
    """Return in how many of their channels two shapes differ."""
    return (one.in_channels != other.in_channels) + (one.out_channels != other.out_channels)
