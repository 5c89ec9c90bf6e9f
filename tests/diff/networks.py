"""Known networks, thinned until a test is fast: LeNet, SqueezeNet, one like ResNet-50 and VGG-16, as Caffe or ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from surgery.convert.to_onnx import to_onnx
from surgery.formats import load
from surgery.model import Model
from tests.nets import write_net


def network(name: str, folder: Path, format_name: str = "caffe") -> Model:
    """The network with seeded weights, read from its files in `folder`, which are made where they are missing."""
    prototxt, onnx = folder / f"{name}.prototxt", folder / f"{name}.onnx"
    weights = prototxt.with_suffix(".caffemodel")
    if not prototxt.exists():
        prototxt.write_text("\n".join(NETWORKS[name]()) + "\n")
        weights.write_bytes(_weights(load([prototxt]), folder))
    model = load([prototxt, weights])
    if format_name == "caffe":
        return model
    if not onnx.exists():
        to_onnx(model).save(onnx)
    return load([onnx])


def written(model: Model, folder: Path, name: str = "cut") -> Model:
    """The model as its files give it back."""
    folder.mkdir(exist_ok=True)
    return load(model.format.save(model, folder, name))


def layer(kind: str, name: str, bottoms: str, param: str = "", *, top: str = "") -> str:
    """A layer's text; `bottoms` are names with blanks between."""
    links = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{name}" type: "{kind}" {links} top: "{top or name}" {param} }}'


def conv(name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1, extra: str = "") -> str:
    window = f"kernel_size: {kernel} stride: {stride} pad: {kernel // 2}"
    return layer("Convolution", name, bottom, f"convolution_param {{ num_output: {outputs} {window} {extra} }}")


def relu(blob: str) -> str:
    return layer("ReLU", f"{blob}_relu", blob, top=blob)


def dense(name: str, bottom: str, outputs: int) -> str:
    return layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} }}")


def pool(name: str, bottom: str, kernel: int = 2, kind: str = "MAX") -> str:
    return layer("Pooling", name, bottom, f"pooling_param {{ pool: {kind} kernel_size: {kernel} stride: 2 }}")


def data(*shape: int) -> str:
    sizes = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {sizes} }} }} }}'


def lenet() -> Iterator[str]:
    yield data(1, 1, 28, 28)
    yield conv("conv1", "data", 20, 5)
    yield pool("pool1", "conv1")
    yield conv("conv2", "pool1", 50, 5)
    yield pool("pool2", "conv2")
    yield dense("ip1", "pool2", 100)
    yield layer("ReLU", "relu1", "ip1", top="ip1")
    yield dense("ip2", "ip1", 10)
    yield layer("Softmax", "prob", "ip2")


def squeezenet() -> Iterator[str]:
    yield data(1, 3, 48, 48)
    yield from (conv("conv1", "data", 24, 7, 2), relu("conv1"), pool("pool1", "conv1", 3))
    bottom = "pool1"
    for i, squeeze in enumerate((8, 8, 12, 12), 2):
        name = f"fire{i}"
        yield from (conv(f"{name}/squeeze", bottom, squeeze), relu(f"{name}/squeeze"))
        for kernel in (1, 3):
            expand = f"{name}/expand{kernel}x{kernel}"
            yield from (conv(expand, f"{name}/squeeze", 4 * squeeze, kernel), relu(expand))
        yield layer("Concat", f"{name}/concat", f"{name}/expand1x1 {name}/expand3x3")
        bottom = f"{name}/concat"
    yield layer("Dropout", "drop", bottom, top=bottom)
    yield from (conv("conv10", bottom, 20), relu("conv10"))
    yield layer("Pooling", "pool10", "conv10", "pooling_param { pool: AVE global_pooling: true }")
    yield layer("Softmax", "prob", "pool10")


def resnet() -> Iterator[str]:
    yield data(1, 3, 32, 32)
    yield from (*_normal("conv1", "data", 12, 7, 2), relu("conv1"), pool("pool1", "conv1", 3))
    bottom, channels = "pool1", 12
    for stage, (width, blocks) in enumerate(((8, 3), (10, 4), (12, 2)), 2):
        for i in range(blocks):
            name, stride = f"res{stage}{'abcdef'[i]}", 2 if stage > 2 and i == 0 else 1
            short = bottom
            if channels != 4 * width:
                short = f"{name}_branch1"
                yield from _normal(short, bottom, 4 * width, 1, stride)
            yield from (*_normal(f"{name}_a", bottom, width, 1, stride), relu(f"{name}_a"))
            yield from (*_normal(f"{name}_b", f"{name}_a", width, 3), relu(f"{name}_b"))
            yield from _normal(f"{name}_c", f"{name}_b", 4 * width)
            yield from (layer("Eltwise", name, f"{short} {name}_c"), relu(name))
            bottom, channels = name, 4 * width
    yield layer("Pooling", "pool5", bottom, "pooling_param { pool: AVE global_pooling: true }")
    yield from (dense("fc", "pool5", 10), layer("Softmax", "prob", "fc"))


def _normal(name: str, bottom: str, outputs: int, kernel: int = 1, stride: int = 1) -> Iterator[str]:
    yield conv(name, bottom, outputs, kernel, stride, "bias_term: false")
    yield layer("BatchNorm", f"bn_{name}", name, "batch_norm_param { use_global_stats: true }", top=name)
    yield layer("Scale", f"scale_{name}", name, "scale_param { bias_term: true }", top=name)


def vgg() -> Iterator[str]:
    yield data(1, 3, 32, 32)
    bottom = "data"
    for stage, (outputs, count) in enumerate(((8, 2), (12, 2), (16, 3), (16, 3), (16, 3)), 1):
        for i in range(1, count + 1):
            yield from (conv(f"conv{stage}_{i}", bottom, outputs, 3), relu(f"conv{stage}_{i}"))
            bottom = f"conv{stage}_{i}"
        yield pool(f"pool{stage}", bottom)
        bottom = f"pool{stage}"
    for name, outputs in (("fc6", 40), ("fc7", 40), ("fc8", 20)):
        yield dense(name, bottom, outputs)
        if name != "fc8":
            yield from (relu(name), layer("Dropout", f"drop_{name}", name, top=name))
        bottom = name
    yield layer("Softmax", "prob", "fc8")


NETWORKS = {"lenet": lenet, "squeezenet": squeezenet, "resnet": resnet, "vgg": vgg}


def _weights(model: Model, folder: Path) -> bytes:
    """A caffemodel of positive and negative numbers; a BatchNorm's are positive throughout."""
    rng = np.random.default_rng(0)
    blobs = {}
    for node in model.nodes:
        shapes = model.native.inferred[id(node.native.layer)].blobs or ()
        draws = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        blobs[node.key] = [np.abs(draw) + np.float32(0.5) for draw in draws] if node.type == "BatchNorm" else draws
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return write_net(scratch, "", blobs)[1].read_bytes()
