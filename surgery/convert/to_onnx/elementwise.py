"""Layers that compute each number from the numbers at its place: activations, powers, sums."""

from __future__ import annotations

import numpy as np

from surgery.convert.to_onnx.graph import Graph, float32
from surgery.convert.to_onnx.site import InexpressibleError, Site
from surgery.formats.caffe.text import Message

_NATURAL = -1.0  # the `base` of Exp and Log that means e
_ELTWISE = {"SUM": "Sum", "PROD": "Mul", "MAX": "Max"}


def absval(site: Site, graph: Graph) -> tuple[str, ...]:
    """|x|."""
    return (graph.op("Abs", site.inputs[0]),)


def bnll(site: Site, graph: Graph) -> tuple[str, ...]:
    """log(1 + e^x)."""
    return (graph.op("Softplus", site.inputs[0]),)


def clip(site: Site, graph: Graph) -> tuple[str, ...]:
    """max(min, min(x, max)), which is `min` where the two are the wrong way round."""
    param = site.param("clip_param")
    for name in ("min", "max"):
        if not param.has(name):
            raise InexpressibleError(f"clip_param has no {name}; Caffe requires it")
    low, high = param.float("min"), param.float("max")
    if low > high:
        return (constant_like(site, graph, low),)
    return (graph.op("Clip", site.inputs[0], graph.constant(low, name="min"), graph.constant(high, name="max")),)


def dropout(site: Site, graph: Graph) -> tuple[str, ...]:
    """Return the bottom itself, as in phase TEST."""
    site.refuse_foreign("dropout_param", "scale_train", "sample_weights_test")
    if not site.is_test:
        raise InexpressibleError("it drops at random in phase TRAIN; convert phase TEST")
    return (site.inputs[0],)


def elu(site: Site, graph: Graph) -> tuple[str, ...]:
    """X where x > 0, else alpha (e^x - 1)."""
    return (graph.op("Elu", site.inputs[0], alpha=site.param("elu_param").float("alpha")),)


def eltwise(site: Site, graph: Graph) -> tuple[str, ...]:
    """Sum, product or maximum of all bottoms.

    Caffe starts SUM at 0 and MAX at the lowest number in the top itself, so what the top shares memory with is lost.
    """
    param = site.param("eltwise_param")
    operation = param.str("operation")
    factors = [float(value) for value in param.all("coeff")] if operation == "SUM" else []
    terms = [*zip(site.inputs, factors or [1.0] * len(site.inputs), strict=True)]
    if operation != "PROD":
        terms = [term for i, term in enumerate(terms) if i not in site.overwritten]
        if not terms:
            start = 0.0 if operation == "SUM" else float(np.finfo(np.float32).min)
            return (constant_like(site, graph, start),)
    if len(terms) == 2 and terms[0][1] == 1 and terms[1][1] == -1:
        return (graph.op("Sub", terms[0][0], terms[1][0]),)
    values = [graph.scaled(value, factor) for value, factor in terms]
    if operation == "PROD":
        return (_chained(graph, "Mul", values),)
    if operation == "MAX":
        return (graph.op("Max", *values) if len(values) > 1 else values[0],)
    if len(values) == 1:
        return (values[0],)
    return (graph.op("Add" if len(values) == 2 else "Sum", *values),)


def _chained(graph: Graph, op_type: str, values: list[str]) -> str:
    """Return the values joined from the left by an operator of two inputs."""
    result = values[0]
    for value in values[1:]:
        result = graph.op(op_type, result, value)
    return result


def exp(site: Site, graph: Graph) -> tuple[str, ...]:
    """base^(shift + scale x), computed as Caffe does: base^shift e^(scale log(base) x)."""
    param = site.param("exp_param")
    logarithm = _log_base(param)
    with np.errstate(all="ignore"):
        inner = logarithm * np.float32(param.float("scale"))
        outer = np.exp(logarithm * np.float32(param.float("shift")))
    return (graph.scaled(graph.op("Exp", graph.scaled(site.inputs[0], float(inner))), float(outer)),)


def log(site: Site, graph: Graph) -> tuple[str, ...]:
    """Logarithm to `base` of shift + scale x."""
    param = site.param("log_param")
    logarithm = _log_base(param)
    if logarithm == 0:
        raise InexpressibleError("base is 1, to which no number has a logarithm; Caffe refuses it")
    inside = graph.scaled(site.inputs[0], param.float("scale"), param.float("shift"))
    return (graph.scaled(graph.op("Log", inside), float(1 / logarithm)),)


def _log_base(param: Message) -> np.float32:
    base = float32(param.float("base"))
    if base == _NATURAL:
        return np.float32(1)
    if not 0 < base < np.inf:
        raise InexpressibleError(f"base is {base:g}; Caffe takes a number above 0, or -1 for e")
    return np.float32(np.log(np.float32(base)))


def power(site: Site, graph: Graph) -> tuple[str, ...]:
    """(shift + scale x)^power; a constant where scale or power is 0, whatever x is."""
    param = site.param("power_param")
    with np.errstate(all="ignore"):
        exponent, scale, shift = (np.float32(param.float(name)) for name in ("power", "scale", "shift"))
        is_constant, start = scale * exponent == 0, shift**exponent
    if is_constant:
        return (constant_like(site, graph, 1.0 if exponent == 0 else float(start)),)
    value = graph.scaled(site.inputs[0], float(scale), float(shift))
    if exponent != 1:
        value = graph.op("Pow", value, graph.constant(float(exponent), name="exponent"))
    return (value,)


def constant_like(site: Site, graph: Graph, number: float) -> str:
    """Return a tensor of bottom 0's shape full of `number`."""
    shape = site.bottoms[0]
    if shape is None or graph.depends(shape):
        return graph.op("ConstantOfShape", graph.op("Shape", site.inputs[0]), value=np.array([number], np.float32))
    return graph.op("ConstantOfShape", graph.integers(shape), value=np.array([number], np.float32))


def relu(site: Site, graph: Graph) -> tuple[str, ...]:
    """max(0, x) + negative_slope min(0, x)."""
    slope = site.param("relu_param").float("negative_slope")
    if slope:
        return (graph.op("LeakyRelu", site.inputs[0], alpha=slope),)
    return (graph.op("Relu", site.inputs[0]),)


def sigmoid(site: Site, graph: Graph) -> tuple[str, ...]:
    """1 / (1 + e^-x)."""
    return (graph.op("Sigmoid", site.inputs[0]),)


def softmax(site: Site, graph: Graph) -> tuple[str, ...]:
    """Softmax along one axis."""
    return (graph.op("Softmax", site.inputs[0], axis=site.param("softmax_param").int("axis")),)


def swish(site: Site, graph: Graph) -> tuple[str, ...]:
    """X / (1 + e^(-beta x))."""
    gate = graph.op("Sigmoid", graph.scaled(site.inputs[0], site.param("swish_param").float("beta")))
    return (graph.op("Mul", site.inputs[0], gate),)


def tanh(site: Site, graph: Graph) -> tuple[str, ...]:
    """Hyperbolic tangent."""
    return (graph.op("Tanh", site.inputs[0]),)


def threshold(site: Site, graph: Graph) -> tuple[str, ...]:
    """1 where x > threshold, else 0."""
    limit = graph.constant(site.param("threshold_param").float("threshold"), name="threshold")
    return (graph.cast(graph.op("Greater", site.inputs[0], limit), "float32"),)
