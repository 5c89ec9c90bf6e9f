"""Caffe networks of absurd sizes are converted in bounded time and memory, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import complaints, end_children, run

HUGE = 2147483647
DATA = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n'
BATCH = 'input: "data" input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }\n'


def layer(kind: str, parameters: str = "", bottoms: str = "data", tops: str = "top") -> str:
    links = "".join(f' bottom: "{name}"' for name in bottoms.split())
    links += "".join(f' top: "{name}"' for name in tops.split())
    return f'layer {{ name: "{(tops or kind)[:20]}" type: "{kind}"{links} {parameters} }}\n'


def net(kind: str, parameters: str = "", bottoms: str = "data", tops: str = "top") -> str:
    return DATA + layer(kind, parameters, bottoms, tops)


def filled(kind: str) -> str:
    return f'weight_filler {{ type: "{kind}" value: 1 }} bias_filler {{ type: "{kind}" value: 1 }}'


CONSTANT = filled("constant")
PRIOR = "prior_box_param { min_size: 1 max_size: 2 aspect_ratio: 2 }"
FOUND = "num_classes: 2 nms_param { nms_threshold: 0.5 }"


def detection(parameters: str, priors: int = 4, classes: int = 2) -> str:
    inputs = {"loc": (1, 4 * priors), "conf": (1, classes * priors), "prior": (1, 2, 4 * priors)}
    text = "".join(
        f'input: "{name}" input_shape {{ {" ".join(f"dim: {n}" for n in shape)} }}\n' for name, shape in inputs.items()
    )
    return text + layer("DetectionOutput", f"detection_output_param {{ {parameters} }}", "loc conf prior")


def sequence(steps: int, *, hidden: int = 4) -> str:
    text = f'input: "data" input_shape {{ dim: {steps} dim: 1 dim: 3 }}\n'
    text += f'input: "cont" input_shape {{ dim: {steps} dim: 1 }}\n'
    param = f"recurrent_param {{ num_output: {hidden} {CONSTANT} }}"
    return text + layer("LSTM", param, "data cont")


NETS: dict[str, str] = {
    "an InnerProduct of 2^31": net("InnerProduct", f"inner_product_param {{ num_output: {HUGE} {CONSTANT} }}"),
    "an InnerProduct of 2^32": net("InnerProduct", f"inner_product_param {{ num_output: 4294967295 {CONSTANT} }}"),
    "an InnerProduct of 0": net("InnerProduct", f"inner_product_param {{ num_output: 0 {CONSTANT} }}"),
    "a convolution of 2^31": net(
        "Convolution", f"convolution_param {{ num_output: {HUGE} kernel_size: 1 {CONSTANT} }}"
    ),
    "a kernel of 2^31": net("Convolution", f"convolution_param {{ num_output: 1 kernel_size: {HUGE} {CONSTANT} }}"),
    "a kernel of 20000, padded": net(
        "Convolution", f"convolution_param {{ num_output: 1 kernel_size: 20000 pad: 20000 {CONSTANT} }}"
    ),
    "a pad of 2^31": net("Convolution", f"convolution_param {{ num_output: 1 kernel_size: 1 pad: {HUGE} {CONSTANT} }}"),
    "a deconvolution by 2^31": net(
        "Deconvolution", f"convolution_param {{ num_output: 1 kernel_size: 1 stride: {HUGE} {CONSTANT} }}"
    ),
    "a bilinear deconvolution of 20000": net(
        "Deconvolution",
        'convolution_param { num_output: 1 kernel_size: 20000 stride: 2 weight_filler { type: "bilinear" } }',
    ),
    "an Im2col of 2^31": net("Im2col", f"convolution_param {{ kernel_size: {HUGE} pad: {HUGE} }}"),
    "an Im2col of 20000": net("Im2col", "convolution_param { kernel_size: 20000 pad: 20000 }"),
    "a pool of 2^31": net("Pooling", f"pooling_param {{ kernel_size: {HUGE} pad: {HUGE - 1} }}"),
    "an average of 2^31": net("Pooling", f"pooling_param {{ pool: AVE kernel_size: {HUGE} pad: {HUGE - 1} }}"),
    "an average of 30000": net("Pooling", "pooling_param { pool: AVE kernel_size: 30000 pad: 29999 stride: 1 }"),
    "a pool and mask of 30000": net(
        "Pooling", "pooling_param { pool: MAX kernel_size: 30000 pad: 29999 stride: 1 }", tops="top mask"
    ),
    "a pool with a stride of 0": net("Pooling", "pooling_param { kernel_size: 2 stride: 0 }"),
    "an SPP of 30": net("SPP", "spp_param { pyramid_height: 30 }"),
    "an SPP of 2^31": net("SPP", f"spp_param {{ pyramid_height: {HUGE} }}"),
    "an SPP of 0": net("SPP", "spp_param { pyramid_height: 0 }"),
    "tiles of 2^30": net("Tile", "tile_param { tiles: 1073741824 }"),
    "tiles of 0": net("Tile", "tile_param { tiles: 0 }"),
    "a reshape to 2^62": net("Reshape", "reshape_param { shape { dim: 4611686018427387904 dim: -1 } }"),
    "a reshape to -2^62": net("Reshape", "reshape_param { shape { dim: -4611686018427387904 } }"),
    "a reshape to 1000 axes": net("Reshape", "reshape_param { shape { " + "dim: 1 " * 1000 + "dim: 192 } }"),
    "prior boxes of a huge map": DATA
    + 'input: "map" input_shape { dim: 1 dim: 1 dim: 100000 dim: 100000 }\n'
    + layer("PriorBox", PRIOR, "map data"),
    "prior boxes of a large map": DATA
    + 'input: "map" input_shape { dim: 1 dim: 1 dim: 3000 dim: 3000 }\n'
    + layer("PriorBox", PRIOR, "map data"),
    "many prior boxes": net("PriorBox", "prior_box_param { " + "min_size: 1 " * 200_000 + "}", "data data"),
    "prior boxes of no size": net("PriorBox", "prior_box_param { }", "data data"),
    "prior boxes of sizes beyond a number": net("PriorBox", "prior_box_param { min_size: 1e38 }", "data data"),
    "prior boxes of NaN": net("PriorBox", "prior_box_param { min_size: nan step: nan }", "data data"),
    "detection of 2^31 classes": detection(FOUND.replace("2 nms", f"{HUGE} nms") + " keep_top_k: 5"),
    "detection of 0 classes": detection(FOUND.replace("2 nms", "0 nms") + " keep_top_k: 5"),
    "detection that keeps 2^31": detection(f"{FOUND} keep_top_k: {HUGE}"),
    "detection of 10^8 boxes": detection(f"{FOUND} keep_top_k: 5", 10**8),
    "detection of a million classes": detection(FOUND.replace("2 nms", "1000000 nms") + " keep_top_k: 5", 2, 1_000_000),
    "dummy data of 2^40": layer("DummyData", "dummy_data_param { shape { dim: 1048576 dim: 1048576 } }", "")
    + layer("ReLU", "", "top", "relu"),
    "dummy data of 10^9": layer(
        "DummyData",
        'dummy_data_param { shape { dim: 1000 dim: 1000000 } data_filler { type: "constant" value: 1 } }',
        "",
    )
    + layer("ReLU", "", "top", "relu"),
    "a parameter of 2^40": layer("Parameter", "parameter_param { shape { dim: 1048576 dim: 1048576 } }", ""),
    "an LSTM of a million steps": sequence(10**6),
    "an LSTM of 2^31 steps": sequence(HUGE),
    "an LSTM of 2^31 outputs": sequence(2, hidden=HUGE),
    "an Interp to 2^31": net("Interp", f"interp_param {{ height: {HUGE} width: {HUGE} }}"),
    "an Interp by 2^31": net("Interp", f"interp_param {{ zoom_factor: {HUGE} }}"),
    "an Upsample by 10^9": net("Upsample", "upsample_param { scale: 1000000000 }"),
    "an Upsample by 1e38": net("Upsample", "upsample_param { scale: 1e38 }"),
    "an Upsample by NaN": net("Upsample", "upsample_param { scale: nan }"),
    "an Upsample by infinity": net("Upsample", "upsample_param { scale: inf }"),
    "a Pad of 2^31": net("Pad", f"pad_param {{ pad_u: {HUGE} pad_d: {HUGE} pad_l: {HUGE} pad_r: {HUGE} }}"),
    "a PixelShuffle by 2^31": net("PixelShuffle", f"pixelshuffle_param {{ upscale_factor: {HUGE} }}"),
    "a PixelShuffle by 0": net("PixelShuffle", "pixelshuffle_param { upscale_factor: 0 }"),
    "a ShuffleChannel of 0": net("ShuffleChannel", "shuffle_channel_param { group: 0 }"),
    "an ROIPooling of 2^31": net(
        "ROIPooling", f"roi_pooling_param {{ pooled_h: {HUGE} pooled_w: {HUGE} }}", "data data"
    ),
    "an Embed of 2^31": net("Embed", f"embed_param {{ input_dim: {HUGE} num_output: {HUGE} {CONSTANT} }}"),
    "an ArgMax of 2^31": net("ArgMax", f"argmax_param {{ top_k: {HUGE} }}"),
    "an LRN of 2^31": net("LRN", f"lrn_param {{ local_size: {HUGE} }}"),
    "an LRN of 2^31 within channels": net("LRN", f"lrn_param {{ local_size: {HUGE} norm_region: WITHIN_CHANNEL }}"),
    "an LRN of 0": net("LRN", "lrn_param { local_size: 0 }"),
    "a Softmax of axis 2^31": net("Softmax", f"softmax_param {{ axis: {HUGE} }}"),
    "a Slice at 2^32": net("Slice", "slice_param { slice_point: 4294967295 }", tops="a b"),
    "a Slice into 10000": net("Slice", "", tops=" ".join(f"t{i}" for i in range(10_000))),
    "a Crop far out": net("Crop", "crop_param { axis: 2 offset: 4294967295 }", "data data"),
    "a Power of NaN": net("Power", "power_param { power: nan scale: inf shift: 1e39 }"),
    "a Scale along axis 99": net("Scale", "scale_param { axis: 99 filler { value: 1 } }"),
    "an Eltwise of 50000": net("Eltwise", "", "data " * 50_000),
    "a batch of 2^31": f'input: "data" input_shape {{ dim: {HUGE} dim: 3 dim: 8 dim: 8 }}\n' + layer("ReLU"),
    "a batch of 0": 'input: "data" input_shape { dim: 0 dim: 3 dim: 8 dim: 8 }\n' + layer("ReLU"),
    "an input of 10^12 pixels": 'input: "data" input_shape { dim: 1 dim: 3 dim: 1000000 dim: 1000000 }\n'
    + layer("InnerProduct", f"inner_product_param {{ num_output: 2 {CONSTANT} }}"),
    "an input without axes": 'input: "data" input_shape { }\n' + layer("ReLU"),
    "an input of 33 axes": 'input: "data" input_shape { ' + "dim: 1 " * 33 + "}\n" + layer("ReLU"),
    "only an input": DATA,
    "names with line ends": DATA + layer("ReLU", tops=r"a\n\033[31m") + layer("Nobody", "", r"a\n\033[31m", r"b\n\tc"),
    "a training network without an end": 'layer { name: "d" type: "Data" top: "data" top: "label" }\n' + layer("ReLU"),
    "a training network that reads a missing label": 'layer { name: "d" type: "Data" top: "data" }\n'
    + layer("SoftmaxWithLoss", "", "data label", "loss"),
    "only a loss": 'layer { name: "d" type: "Data" top: "data" top: "label" }\n'
    + layer("SoftmaxWithLoss", "", "data label", "loss"),
    "a Python layer": net("Python", 'python_param { module: "os" layer: "system" param_str: "id" }'),
    "two thousand layers in place": DATA + layer("ReLU", "", "data", "data") * 2000,
    "nine thousand layers": DATA
    + "".join(layer("ReLU", "", f"r{i - 1}" if i else "data", f"r{i}") for i in range(9000)),
}
SHAPES = ["1,3,1000000,1000000", "999999999,999999999,999999999,999999999", "1", "1,1", ",".join(["1"] * 40), "1,3,1,1"]
FINE = DATA + layer("Convolution", f"convolution_param {{ num_output: 2 kernel_size: 3 {CONSTANT} }}")
FINE += layer("InnerProduct", f"inner_product_param {{ num_output: 2 {CONSTANT} }}", "top", "ip")


@pytest.fixture(scope="module", autouse=True)
def _children_end() -> Iterator[None]:
    yield
    end_children()


@pytest.mark.parametrize("batch", ["fixed", "dynamic"])
def test_an_absurd_network_ends_in_an_answer(batch: str, tmp_path: Path) -> None:
    commands = []
    for i, text in enumerate(NETS.values()):
        (tmp_path / f"{i}.prototxt").write_text(text)
        commands.append(
            ["convert", str(tmp_path / f"{i}.prototxt"), "-o", str(tmp_path / f"{i}.onnx"), "--batch", batch]
        )
    wrong = []
    for name, command, ran in zip(NETS, commands, run(commands, "--measured"), strict=True):
        wrong += [f"{name}: {complaint}" for complaint in complaints(ran, {0, 2}, command[1:2])]
        if ran.code and Path(command[3]).exists():
            wrong.append(f"{name}: left a file")
    assert not wrong, f"{len(wrong)} of {len(NETS)}:\n" + "\n".join(wrong)
    left = {path.suffix for path in tmp_path.iterdir()}
    assert left <= {".prototxt", ".onnx"}, f"staging files are left: {left}"


@pytest.mark.parametrize("batch", ["fixed", "dynamic"])
def test_an_absurd_shape_ends_in_an_answer(batch: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(FINE)
    command = ["convert", str(tmp_path / "net.prototxt"), "-o", str(tmp_path / "out.onnx"), "--batch", batch]
    wrong = []
    for shape, ran in zip(SHAPES, run([[*command, "--shape", f"data={s}"] for s in SHAPES], "--measured"), strict=True):
        wrong += [f"{shape[:60]}: {complaint}" for complaint in complaints(ran, {0, 2})]
    assert not wrong, "\n".join(wrong)
