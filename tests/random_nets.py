"""Random networks of one layer each, over all that a layer's parameters can say, for runtimes to agree on.

A bottom's name says what its numbers are: "index" and the flags "cont" and "chosen" are not like the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from surgery.formats.caffe import binary
from surgery.runtime import Array, NetShapes

Shape = Sequence[int]

INDICES = 4  # what a bottom "index" may index
_BOTTOMS = ("data", "b", "c", "d")
_VALUES = {  # layer type -> what Power and the like compute; arguments of roots and logarithms stay positive
    "AbsVal": [""],
    "BNLL": [""],
    "Clip": ["clip_param { min: -0.2 max: 0.6 }"],
    "Dropout": [""],
    "ELU": ["elu_param { alpha: 0.7 }"],
    "Exp": ["exp_param { base: 3 scale: 0.5 shift: 0.2 }", "exp_param { shift: 0.5 scale: -1 }"],
    "Log": ["log_param { base: 3 scale: 0.1 shift: 4 }", "log_param { shift: 9 }"],
    "Power": [
        f"power_param {{ {param} }}"
        for param in (
            "power: 3 scale: -2 shift: 0.5",
            "power: 2",
            "power: 0 scale: 3",
            "scale: 0 shift: 2",
            "power: -1 shift: 9",
            "power: 0.5 shift: 9",
        )
    ],
    "ReLU": ["", "relu_param { negative_slope: -0.3 }"],
    "Sigmoid": [""],
    "Swish": ["swish_param { beta: 2 }"],
    "TanH": [""],
    "Threshold": ["threshold_param { threshold: 0.3 }"],
}


def net(kind: str, rng: Random) -> str:
    """The text of a random network of a kind that NETS names. Caffe refuses some of them."""
    return NETS[kind](rng)


def inputs(*shapes: Shape, names: Sequence[str] = _BOTTOMS) -> str:
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}"'
        f" input_param {{ shape {{ {' '.join(f'dim: {n}' for n in shape)} }} }} }}\n"
        for name, shape in zip(names, shapes, strict=False)
    )


def layer(kind: str, param: str = "", *, bottoms: Sequence[str] = ("data",), tops: Sequence[str] = ("out",)) -> str:
    links = [f'bottom: "{name}"' for name in bottoms] + [f'top: "{name}"' for name in tops]
    return f'layer {{ name: "the {kind} of {bottoms[0]}" type: "{kind}" {" ".join(links)} {param} }}\n'


def image(rng: Random) -> tuple[int, ...]:
    return (rng.randint(1, 3), rng.randint(1, 6), rng.randint(5, 13), rng.randint(5, 13))


def any_shape(rng: Random, axes: int = 1) -> list[int]:
    return [rng.randint(1, 5) for _ in range(rng.randint(axes, 5))]


def either(rng: Random, axis: int, shape: Shape) -> int:
    """The axis, counted from the front or from the back."""
    return rng.choice([axis, axis - len(shape)])


def field(rng: Random, name: str, least: int, most: int, square: str = "") -> str:
    """`name` for both directions, or `name_h` and `name_w`; a kernel has another name for both."""
    if rng.random() < 0.5:
        return f"{name}_h: {rng.randint(least, most)} {name}_w: {rng.randint(least, most)} "
    return f"{square or name}: {rng.randint(least, most)} "


def window(rng: Random, kernel: int) -> str:
    return (
        field(rng, "kernel", 1, kernel, "kernel_size") + field(rng, "stride", 1, 3) + field(rng, "pad", 0, kernel - 1)
    )


def convolution(rng: Random, kind: str = "Convolution") -> str:
    groups = rng.choice([1, 1, 1, 2, 3])
    shape = (rng.randint(1, 2), groups * rng.randint(1, 3), rng.randint(5, 13), rng.randint(5, 13))
    param = f"num_output: {groups * rng.randint(1, 3)} group: {groups} {window(rng, 4)}"
    param += rng.choice(["", "", f"dilation: {rng.randint(1, 2)} "]) + rng.choice(["", "bias_term: false"])
    return inputs(shape) + layer(kind, f"convolution_param {{ {param} }}")


def deconvolution(rng: Random) -> str:
    return convolution(rng, "Deconvolution")


def convolution_nd(rng: Random) -> str:
    axes = rng.randint(1, 3)
    shape = (rng.randint(1, 2), rng.randint(1, 4), *(rng.randint(5, 8) for _ in range(axes)))
    repeats = rng.choice([1, axes])
    param = f"num_output: {rng.randint(1, 4)} stride: {rng.randint(1, 2)} "
    param += " ".join(f"kernel_size: {rng.randint(1, 3)} pad: {rng.randint(0, 2)}" for _ in range(repeats))
    return inputs(shape) + layer(rng.choice(["Convolution", "Deconvolution"]), f"convolution_param {{ {param} }}")


def pooling(rng: Random) -> str:
    param = rng.choice(
        [f"{window(rng, 5)}", window(rng, 4) + "round_mode: FLOOR", window(rng, 3), "global_pooling: true"]
    )
    return inputs(image(rng)) + layer("Pooling", f"pooling_param {{ pool: {rng.choice(['MAX', 'AVE'])} {param} }}")


def pooling_mask(rng: Random) -> str:
    kernel = rng.randint(1, 3)
    param = f"pool: MAX kernel_size: {kernel} stride: {rng.randint(1, 3)} pad: {rng.randint(0, kernel - 1)}"
    return inputs(image(rng)) + layer("Pooling", f"pooling_param {{ {param} }}", tops=("out", "mask"))


def lrn(rng: Random) -> str:
    region = rng.choice(["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
    param = f"local_size: {rng.choice([1, 3, 5, 7])} alpha: {rng.choice([1, 0.1, 1e-4, 2])} norm_region: {region}"
    return inputs(image(rng)) + layer("LRN", f"lrn_param {{ {param} beta: {rng.choice([0.75, 0.5, 1])} k: 1.5 }}")


def scale(rng: Random) -> str:
    shape = any_shape(rng)
    axis = rng.randint(0, len(shape) - 1)
    count = rng.randint(-1, len(shape) - axis)
    kind = rng.choice(["Scale", "Bias"])
    param = f"axis: {either(rng, axis, shape)} "
    if kind == "Scale":
        param += f"bias_term: {rng.choice(['true', 'false'])} "
    if rng.random() < 0.4:
        second = shape[axis:] if count < 0 else shape[axis : axis + count]
        return inputs(shape, second) + layer(kind, f"{kind.lower()}_param {{ {param} }}", bottoms=("data", "b"))
    return inputs(shape) + layer(kind, f"{kind.lower()}_param {{ {param} num_axes: {count} }}")


def eltwise(rng: Random) -> str:
    shape, count = any_shape(rng), rng.randint(2, 4)
    operation = rng.choice(["SUM", "SUM", "PROD", "MAX"])
    coefficients = " ".join(f"coeff: {rng.choice([1, -1, 0.5, 2, 0])}" for _ in range(count))
    param = f"operation: {operation} " + (coefficients if operation == "SUM" and rng.random() < 0.6 else "")
    return inputs(*[shape] * count) + layer("Eltwise", f"eltwise_param {{ {param} }}", bottoms=_BOTTOMS[:count])


def concat(rng: Random) -> str:
    shape, count = any_shape(rng), rng.randint(1, 3)
    axis = rng.randint(0, len(shape) - 1)
    shapes = [[*shape[:axis], rng.randint(1, 4), *shape[axis + 1 :]] for _ in range(count)]
    param = f"concat_param {{ axis: {either(rng, axis, shape)} }}"
    return inputs(*shapes) + layer("Concat", param, bottoms=_BOTTOMS[:count])


def slices(rng: Random) -> str:
    shape, count = any_shape(rng), rng.randint(1, 3)
    axis = rng.randint(0, len(shape) - 1)
    shape[axis] = count * rng.randint(1, 3)
    param = f"axis: {either(rng, axis, shape)} "
    if rng.random() < 0.5:
        param += " ".join(f"slice_point: {n}" for n in sorted(rng.sample(range(1, shape[axis]), count - 1)))
    return inputs(shape) + layer("Slice", f"slice_param {{ {param} }}", tops=("o1", "o2", "o3")[:count])


def reshape(rng: Random) -> str:
    shape = any_shape(rng)
    axis = rng.randint(0, len(shape))
    count = rng.randint(-1, len(shape) - axis)
    left = int(np.prod(shape[axis:] if count < 0 else shape[axis : axis + count]))
    dims = []
    for _ in range(rng.randint(0, 3)):
        dims.append(rng.choice([n for n in range(1, left + 1) if left % n == 0]))
        left //= dims[-1]
    dims.append(left)
    if rng.random() < 0.5:
        dims[rng.randint(0, len(dims) - 1)] = -1
    dims = [0 if n == m and rng.random() < 0.5 else n for n, m in zip(dims, [*shape[axis:], *dims], strict=False)]
    start = rng.choice([axis, axis - len(shape) - 1])
    stated = " ".join(f"dim: {n}" for n in dims)
    return inputs(shape) + layer("Reshape", f"reshape_param {{ axis: {start} num_axes: {count} shape {{ {stated} }} }}")


def flatten(rng: Random) -> str:
    shape = any_shape(rng)
    first = rng.randint(0, len(shape) - 1)
    last = rng.randint(first, len(shape) - 1)
    param = f"axis: {either(rng, first, shape)} end_axis: {either(rng, last, shape)}"
    return inputs(shape) + layer("Flatten", f"flatten_param {{ {param} }}")


def crop(rng: Random) -> str:
    shape = any_shape(rng, axes=2)
    axis = rng.randint(0, len(shape) - 1)
    wanted = [rng.randint(1, n) if i >= axis else rng.randint(1, 4) for i, n in enumerate(shape)]
    room = [shape[i] - wanted[i] for i in range(axis, len(shape))]
    offsets = [rng.randint(0, min(room))] if rng.random() < 0.4 else [rng.randint(0, n) for n in room]
    param = f"axis: {either(rng, axis, shape)} " + " ".join(f"offset: {n}" for n in offsets)
    return inputs(shape, wanted) + layer("Crop", f"crop_param {{ {param} }}", bottoms=("data", "b"))


def reduction(rng: Random) -> str:
    shape = any_shape(rng)
    axis = either(rng, rng.randint(0, len(shape) - 1), shape)
    operation = rng.choice(["SUM", "ASUM", "SUMSQ", "MEAN"])
    param = f"operation: {operation} axis: {axis} coeff: {rng.choice([1, 2, -0.5])}"
    return inputs(shape) + layer("Reduction", f"reduction_param {{ {param} }}")


def tile(rng: Random) -> str:
    shape = any_shape(rng)
    axis = either(rng, rng.randint(0, len(shape) - 1), shape)
    return inputs(shape) + layer("Tile", f"tile_param {{ axis: {axis} tiles: {rng.randint(1, 4)} }}")


def argmax(rng: Random) -> str:
    shape = any_shape(rng, axes=2)
    param = f"out_max_val: {rng.choice(['true', 'false'])} "
    if rng.random() < 0.5:
        axis = rng.randint(0, len(shape) - 1)
        param += f"axis: {either(rng, axis, shape)} top_k: {rng.randint(1, shape[axis])}"
    else:
        param += f"top_k: {rng.randint(1, int(np.prod(shape[1:])))}"
    return inputs(shape) + layer("ArgMax", f"argmax_param {{ {param} }}")


def mvn(rng: Random) -> str:
    flags = [f"{name}: {rng.choice(['true', 'false'])}" for name in ("normalize_variance", "across_channels")]
    return inputs(image(rng)) + layer("MVN", f"mvn_param {{ {' '.join(flags)} eps: {rng.choice([1e-9, 0.1])} }}")


def spp(rng: Random) -> str:
    shape = (rng.randint(1, 2), rng.randint(1, 3), rng.randint(5, 14), rng.randint(5, 14))
    param = f"pyramid_height: {rng.randint(1, 3)} pool: {rng.choice(['MAX', 'AVE'])}"
    return inputs(shape) + layer("SPP", f"spp_param {{ {param} }}")


def recurrent(rng: Random) -> str:
    kind = rng.choice(["LSTM", "RNN"])
    steps, items, units = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 4)
    named: dict[str, Shape] = {"data": (steps, items, *any_shape(rng)[:2]), "cont": (steps, items)}
    if rng.random() < 0.4:
        named["b"] = (items, rng.randint(1, 4))
    tops = ["out"]
    expose = rng.random() < 0.4
    for state in ("h", "c")[: 2 if kind == "LSTM" else 1] if expose else ():
        named[state] = (1, items, units)
        tops.append(f"{state}_out")
    param = f"recurrent_param {{ num_output: {units} expose_hidden: {str(expose).lower()} }}"
    return inputs(*named.values(), names=list(named)) + layer(kind, param, bottoms=list(named), tops=tops)


def lstm_unit(rng: Random) -> str:
    items, units = rng.randint(1, 3), rng.randint(1, 4)
    shapes = ((1, items, units), (1, items, 4 * units), (1, items))
    names = ("data", "b", "cont")
    return inputs(*shapes, names=names) + layer("LSTMUnit", bottoms=names, tops=("o1", "o2"))


def inner_product(rng: Random) -> str:
    shape = any_shape(rng)
    axis = either(rng, rng.randint(0, len(shape) - 1), shape)
    flags = " ".join(f"{name}: {rng.choice(['true', 'false'])}" for name in ("transpose", "bias_term"))
    param = f"num_output: {rng.randint(1, 5)} axis: {axis} {flags}"
    return inputs(shape) + layer("InnerProduct", f"inner_product_param {{ {param} }}")


def value_by_value(rng: Random) -> str:
    kind = rng.choice(list(_VALUES))
    param = rng.choice(_VALUES[kind])
    if rng.random() < 0.5:
        return inputs(any_shape(rng)) + layer(kind, param)
    # In place, between readers.
    before, after = (f"power_param {{ {text} }}" for text in ("scale: 1.5", "shift: 1"))
    middle = layer(kind, param, bottoms=("out",))
    return (
        inputs(any_shape(rng)) + layer("Power", before) + middle + layer("Power", after, bottoms=("out",), tops=("e",))
    )


def prelu(rng: Random) -> str:
    return inputs(any_shape(rng, 2)) + layer(
        "PReLU", f"prelu_param {{ channel_shared: {rng.choice(['true', 'false'])} }}"
    )


def softmax(rng: Random) -> str:
    shape = any_shape(rng)
    return inputs(shape) + layer(
        "Softmax", f"softmax_param {{ axis: {either(rng, rng.randrange(len(shape)), shape)} }}"
    )


def batch_norm(rng: Random) -> str:
    param = f"use_global_stats: {rng.choice(['true', 'true', 'false'])} eps: {rng.choice([1e-5, 0.01])}"
    return inputs(any_shape(rng, 2)) + layer("BatchNorm", f"batch_norm_param {{ {param} }}")


def im2col(rng: Random) -> str:
    return inputs(image(rng)) + layer("Im2col", f"convolution_param {{ {window(rng, 3)} }}")


def batch_reindex(rng: Random) -> str:
    names = ("data", "index")
    return inputs([INDICES, *any_shape(rng)], [rng.randint(1, 5)], names=names) + layer("BatchReindex", bottoms=names)


def embed(rng: Random) -> str:
    param = f"num_output: {rng.randint(1, 4)} input_dim: {INDICES} bias_term: {rng.choice(['true', 'false'])}"
    return inputs(any_shape(rng), names=("index",)) + layer("Embed", f"embed_param {{ {param} }}", bottoms=("index",))


def filtered(rng: Random) -> str:
    count = rng.randint(2, 5)
    names = ("data", "chosen")
    return inputs([count, *any_shape(rng)], [count], names=names) + layer("Filter", bottoms=names)


NETS: dict[str, Callable[[Random], str]] = {
    made.__name__: made
    for made in (
        argmax,
        batch_norm,
        batch_reindex,
        concat,
        convolution,
        convolution_nd,
        crop,
        deconvolution,
        eltwise,
        embed,
        filtered,
        flatten,
        im2col,
        inner_product,
        lrn,
        lstm_unit,
        mvn,
        pooling,
        pooling_mask,
        prelu,
        recurrent,
        reduction,
        reshape,
        scale,
        slices,
        softmax,
        spp,
        tile,
        value_by_value,
    )
}


def arrays(shapes: NetShapes, rng: np.random.Generator) -> dict[str, Array]:
    """Values for a net's inputs."""
    return {name: _values(name, shapes.blobs[name], rng) for name in shapes.inputs}


def _values(name: str, shape: Shape, rng: np.random.Generator) -> Array:
    if name == "index":
        return rng.integers(0, INDICES, shape).astype(np.float32)
    if name in ("cont", "chosen"):
        flags = (rng.random(shape) < 0.6).astype(np.float32)
        flags.flat[0] = 1  # Caffe's Filter does not like to choose nothing.
        return flags
    return rng.standard_normal(shape).astype(np.float32)


def write_weights(shapes: NetShapes, path: Path, rng: np.random.Generator) -> Path:
    """Write random weights for every layer that has any; variances are positive."""
    with path.open("wb") as file:
        for entry in shapes.layers:
            blobs = [rng.standard_normal(shape).astype(np.float32) for shape in entry.params]
            if entry.type == "BatchNorm":
                blobs = [blobs[0], np.abs(blobs[1]) + np.float32(0.5), np.array([2.5], np.float32)]
            if blobs:
                head = binary.head(entry.name, entry.type, (), (), 2)
                for piece in binary.NewLayer(entry.name, head, 2, tuple(blobs)).encode():
                    file.write(piece if isinstance(piece, bytes) else piece.tobytes())
    return path
