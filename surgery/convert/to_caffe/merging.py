"""Layers that say in two what one can say, joined; layers that nothing needs, dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from surgery.convert.to_caffe.layers import Layer, Param
from surgery.convert.to_caffe.values import Array

_ROUNDING = 1e-6  # a ratio and its inverse, both rounded to float32, make 1 up to this


def needed(layers: Sequence[Layer], outputs: Collection[str]) -> list[Layer]:
    """Return the layers that outputs depend on, and all inputs."""
    wanted = set(outputs)
    kept = []
    for layer in reversed(layers):
        if layer.type == "Input" or wanted.intersection(layer.tops):
            wanted.update(layer.bottoms)
            kept.append(layer)
    return kept[::-1]


def merged(layers: Sequence[Layer], outputs: Collection[str]) -> list[Layer]:
    """Return the layers with every pair joined that can be; the second's top stays."""
    readers = Counter(bottom for layer in layers for bottom in layer.bottoms)
    result: list[Layer] = []
    makers: dict[str, int] = {}
    for layer in layers:
        joined, place = layer, len(result)
        if len(layer.bottoms) == 1 and len(layer.tops) == 1:
            blob = layer.bottoms[0]
            first = result[makers[blob]] if blob in makers else None
            if first is not None and readers[blob] == 1 and blob not in outputs and len(first.tops) == 1:
                found = _joined(first, layer)
                if found is not None:
                    # The earlier place is as good: nothing but the later layer reads what stood there.
                    joined, place = found, makers[blob]
        if place == len(result):
            result.append(joined)
        else:
            result[place] = joined
        makers.update(dict.fromkeys(joined.tops, place))
    return result


def outward(layers: Sequence[Layer], outputs: Collection[str], taken: Collection[str]) -> list[Layer]:
    """Return the layers so that each output is read by none of them: to Caffe only such blobs are outputs.

    An output that layers do read is made under another name and handed on, without a copy, by a Split of one top.
    """
    made = {top for layer in layers if layer.type != "Input" for top in layer.tops}
    inner: dict[str, str] = {}
    for name in sorted(made.intersection(outputs, (bottom for layer in layers for bottom in layer.bottoms))):
        number = 1
        while f"{name}_inner{number}" in taken:
            number += 1
        inner[name] = f"{name}_inner{number}"
    result = []
    for layer in layers:
        links = (tuple(inner.get(blob, blob) for blob in blobs) for blobs in (layer.bottoms, layer.tops))
        bottoms, tops = links
        result.append(replace(layer, bottoms=bottoms, tops=tops))
        result += [Layer(top, "Split", (inner[top],), (top,)) for top in layer.tops if top in inner]
    return result


def silenced(layers: Sequence[Layer], outputs: Collection[str]) -> list[Layer]:
    """Return the layers with a Silence that takes what nothing reads, which else would be outputs."""
    read = {bottom for layer in layers for bottom in layer.bottoms}
    left = [top for layer in layers for top in layer.tops if top not in read and top not in outputs]
    if not left:
        return list(layers)
    return [*layers, Layer("silence", "Silence", tuple(left), ())]


def portable(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with constants added by a Scale, which runtimes know that have no Bias."""
    return [_as_scale(layer) if layer.type == "Bias" and layer.blobs else layer for layer in layers]


def _as_scale(layer: Layer) -> Layer:
    ones = np.ones_like(layer.blobs[0])
    return replace(layer, type="Scale", params={**layer.params, "bias_term": True}, blobs=(ones, *layer.blobs))


def uniquely_named(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with names of their own: weights go by them."""
    taken = {layer.name for layer in layers}
    seen: set[str] = set()
    result = []
    for layer in layers:
        name, number = layer.name, 1
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{layer.name}_layer{number}"
        seen.add(name)
        result.append(replace(layer, name=name))
    return result


def _joined(first: Layer, second: Layer) -> Layer | None:
    if second.type == "Power" and not second.params and first.type != "Input":
        return replace(first, tops=second.tops)
    rule = _RULES.get((first.type, second.type))
    return rule(first, second) if rule else None


def _with_bias(first: Layer, second: Layer) -> Layer | None:
    """Join a Bias to the layer with weights before it."""
    has_none = first.params.get("bias_term", True) is False
    if not has_none or len(second.blobs) != 1 or _span(second) != (first.params.get("axis", 1), 1):
        return None
    params = {key: value for key, value in first.params.items() if key != "bias_term"}
    return replace(first, tops=second.tops, params=params, blobs=(*first.blobs, second.blobs[0]))


def _scale_with_bias(first: Layer, second: Layer) -> Layer | None:
    """Join a Bias to a Scale without one."""
    is_open = len(first.blobs) == len(second.blobs) == 1 and "bias_term" not in first.params
    if not is_open or _span(first) != _span(second):
        return None
    return replace(
        first, tops=second.tops, params={**first.params, "bias_term": True}, blobs=(*first.blobs, *second.blobs)
    )


def _scale_twice(first: Layer, second: Layer) -> Layer | None:
    """Join two Scales without biases."""
    are_open = len(first.blobs) == len(second.blobs) == 1 and "bias_term" not in {**first.params, **second.params}
    if not are_open or _span(first) != _span(second):
        return None
    return replace(first, tops=second.tops, blobs=(first.blobs[0] * second.blobs[0],))


def _undone(first: Layer, second: Layer) -> Layer | None:
    """Join to a pool, or whatever it is, a Scale that changes nothing."""
    if len(second.blobs) != 1 or "bias_term" in second.params or not _is_one(second.blobs[0]):
        return None
    return replace(first, tops=second.tops)


def _power_twice(first: Layer, second: Layer) -> Layer | None:
    """Join two Power layers of which the first is linear."""
    a, b, exponent = (_number(first.params, key, default) for key, default in _POWER)
    c, d, power = (_number(second.params, key, default) for key, default in _POWER)
    if exponent != 1 or a * c == 0:
        return None
    values = {"power": (power, 1.0), "scale": (a * c, 1.0), "shift": (b * c + d, 0.0)}
    params: dict[str, Param] = {key: value for key, (value, default) in values.items() if value != default}
    return replace(second, bottoms=first.bottoms, params=params)


_POWER = (("scale", 1.0), ("shift", 0.0), ("power", 1.0))


def _number(params: Mapping[str, Param], key: str, default: float) -> float:
    value = params.get(key, default)
    assert isinstance(value, (int, float))
    return float(value)


def _span(layer: Layer) -> tuple[Param, Param]:
    """Return the first axis that a Scale's or a Bias's blob covers, and how many."""
    return layer.params.get("axis", 1), layer.params.get("num_axes", 1)


def _is_one(array: Array) -> bool:
    return bool(np.all(np.abs(array - 1) <= _ROUNDING))


_RULES: Mapping[tuple[str, str], Callable[[Layer, Layer], Layer | None]] = {
    ("Convolution", "Bias"): _with_bias,
    ("Deconvolution", "Bias"): _with_bias,
    ("InnerProduct", "Bias"): _with_bias,
    ("Scale", "Bias"): _scale_with_bias,
    ("Scale", "Scale"): _scale_twice,
    ("Pooling", "Scale"): _undone,
    ("Power", "Power"): _power_twice,
}
