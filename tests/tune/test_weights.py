"""What training changes comes back into the original files: those numbers, and not one byte beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from surgery import formats
from surgery.convert.to_onnx import to_onnx
from surgery.errors import EngineError, ModelError
from surgery.formats.caffe import weights as caffe_weights
from surgery.model import Model, Overwrite
from surgery.runtime import Array, Job
from surgery.verify import random_inputs
from tests.conformance.test_golden_onnx import CLOSE, distance
from tests.conformance.test_targets import pairs
from tests.engines import require_caffe, require_onnxruntime
from tests.onnx_nets import filled, node, tiny
from tests.runtime.golden import golden_cases
from tests.shared import shared
from tests.tune.extra import require_torch

require_torch()

import torch  # noqa: E402

from surgery.tune.network import Network  # noqa: E402

# V2, V1, a BatchNorm with its factor, weights of twins that were pruned, HDF5.
ZOO = ("cifar10_quick_Simshang", "cifar10_quick_v1_everpeace", "squeezenet_v1.0", "lenet_JachinShen")

# Files that hold their numbers in every way there is, each behind its tag or as float64 among them.
SPELLINGS = ("blob_double", "blob_legacy4d", "blob_unpacked", "blob_with_diff", "legacy_v1_net", "model_extra_layers")


def saved(model: Model, folder: Path) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    return model.format.save(model, folder, "net")


def moved(network: Network, seed: int = 0) -> Network:
    """The network with all its parameters somewhat elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return network


def outputs(network: Network, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with torch.no_grad():
        fed = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in inputs.items()}
        return {name: value.numpy() for name, value in network(fed).items()}


def changed_bytes(old: Path, new: Path) -> np.ndarray:
    """The offsets at which two files of one length differ."""
    before, after = (np.frombuffer(path.read_bytes(), np.uint8) for path in (old, new))
    assert before.shape == after.shape
    return np.flatnonzero(before != after)


def number_bytes(path: Path, blobs: Sequence[tuple[str, int]]) -> np.ndarray:
    """The offsets at which a caffemodel has the numbers of these blobs."""
    found = caffe_weights.read(path)
    assert isinstance(found, caffe_weights.BinaryWeights)
    offsets = []
    for layer in found.layers:
        for number, blob in enumerate(layer.blobs):
            if (layer.name, number) in blobs:
                size = 8 if blob.double else 4
                for run in blob.runs:
                    starts = run.offset + run.stride * np.arange(run.count)
                    offsets.append((starts[:, None] + np.arange(size)).reshape(-1))
    return np.concatenate(offsets)


def test_what_did_not_change_is_written_byte_for_byte(tmp_path: Path) -> None:
    for case in golden_cases():
        model = formats.load(case.job.files, stages=case.job.stages)
        if model.native.notes:  # V0, which is upgraded when it is read.
            continue
        paths = saved(Network.of(model).written(model), tmp_path / case.name)
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in case.job.files], case.name


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_changed_blob_changes_its_numbers_alone_however_they_are_spelt(name: str, tmp_path: Path) -> None:
    files = (shared(f"golden/{name}/net.prototxt"), shared(f"golden/{name}/net.caffemodel"))
    model = formats.load(files)
    network = Network.of(model)
    first = next(key for key, _ in network.named_parameters()).removesuffix("/0")
    with torch.no_grad():
        dict(network.named_parameters())[f"{first}/0"].mul_(-1.5)
    definition, weights = saved(network.written(model), tmp_path)
    assert definition.read_bytes() == files[0].read_bytes()
    differ = changed_bytes(files[1], weights)
    assert differ.size
    assert np.isin(differ, number_bytes(files[1], [(first, 0)])).all()
    written = dict(Network.of(formats.load([definition, weights])).named_parameters())
    torch.testing.assert_close(written[f"{first}/0"], dict(network.named_parameters())[f"{first}/0"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ZOO)
def test_trained_networks_of_the_zoo_run_as_in_torch_with_their_blobs_changed_alone(name: str, tmp_path: Path) -> None:
    files = pairs()[name][0]
    model = formats.load(files)
    network = moved(Network.of(model))
    definition, weights = saved(network.written(model), tmp_path)
    assert definition.read_bytes() == files[0].read_bytes()
    blobs = [(key.rpartition("/")[0], int(key.rpartition("/")[2])) for key, _ in network.named_parameters()]
    assert np.isin(changed_bytes(files[1], weights), number_bytes(files[1], blobs)).all()
    written = formats.load([definition, weights])
    to_onnx(written).save(tmp_path / "net.onnx")
    inputs = random_inputs(model.format.runnable(model).inputs, seed=1)[:1]
    expected = outputs(network, inputs[0])
    for engine, paths in ((require_onnxruntime(), [tmp_path / "net.onnx"]), (require_caffe(), [definition, weights])):
        (result,) = engine.run_jobs([Job(paths, inputs)])
        assert not isinstance(result, EngineError), result
        assert max(distance(result[0][blob], value) for blob, value in expected.items()) <= CLOSE, engine.name


def test_hdf5_weights_come_back_as_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    files = (shared("golden/model_hdf5/net.prototxt"), next(shared("golden/model_hdf5").glob("*.h5")))
    model = formats.load(files)
    network = Network.of(model)
    name, parameter = next(network.named_parameters())
    with torch.no_grad():
        parameter.add_(1)
    written = formats.load(saved(network.written(model), tmp_path))
    assert written.native.files[1].suffix == ".h5"
    found = dict(Network.of(written).named_parameters())
    for key, value in network.named_parameters():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0)
    assert not torch.equal(found[name], dict(Network.of(model).named_parameters())[name])


def test_statistics_are_stored_as_they_are_and_their_factor_becomes_one(tmp_path: Path) -> None:
    files = (shared("golden/bn_2d/net.prototxt"), shared("golden/bn_2d/net.caffemodel"))
    model = formats.load(files)
    network = Network.of(model)
    ((name, shape),) = model.format.runnable(model).inputs.items()
    generator = torch.Generator().manual_seed(1)
    network.refresh_batchnorm([{name: 3 + torch.randn((64, *shape[1:]), generator=generator)}])
    written = network.written(model)
    paths = saved(written, tmp_path)
    found = formats.load(paths)
    blobs = found.native.weights.arrays(found.native.entries(found.nodes[-1].key)[-1])
    assert blobs[2].reshape(-1).tolist() == [1.0]
    np.testing.assert_allclose(blobs[0], 3, atol=0.5)  # Means of 64 numbers of deviation one.
    inputs = random_inputs({name: shape}, seed=1)[0]
    again = outputs(Network.of(found), inputs)
    for blob, value in outputs(network, inputs).items():
        np.testing.assert_array_equal(again[blob], value)


NODES = [
    node("Conv", "x w b", "c", "conv", kernel_shape=[3, 3]),
    node("BatchNormalization", "c scale shift mean variance", "n", "bn"),
    node("Relu", "n", "r", "relu"),
    node("Flatten", "r", "f", "flat"),
    node("Transpose", "m", "t", "turned"),
    node("MatMul", "f t", "y", "fc"),
]


def numbers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "scale": (4,), "shift": (4,), "mean": (4,), "m": (5, 64)}
    drawn = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {"variance": np.ones(4, np.float32)}


def onnx_net(folder: Path, form: str) -> Path:
    """The network with its weights as raw bytes, one by one, or in a data file."""
    path = tiny(folder, NODES, inputs={"x": (1, 3, 6, 6)}, outputs=["y"], weights=numbers())
    model = onnx.load(str(path))
    if form == "typed":
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array.reshape(-1).tolist()))
    elif form == "Constant":
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
        rest = [onnx.NodeProto.FromString(each.SerializeToString()) for each in model.graph.node]
        model.graph.ClearField("node")
        model.graph.ClearField("initializer")
        model.graph.node.extend([*nodes, *rest])
    external = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, str(path), **(external if form == "external" else {}))
    return path


@pytest.mark.parametrize("form", ["raw", "typed", "external", "Constant"])
def test_onnx_files_change_in_their_numbers_alone_and_run_as_in_torch(form: str, tmp_path: Path) -> None:
    path = onnx_net(tmp_path, form)
    model = formats.load([path])
    network = Network.of(model)
    assert network.written(model) is model
    assert [name for name, _ in network.named_parameters()] == ["conv/0", "conv/1", "bn/0", "bn/1", "fc/0"]
    written = saved(moved(network).written(model), tmp_path / "tuned")
    old, new = (path, path.with_name("weights.bin")), written
    assert len(new) == (2 if form == "external" else 1)
    changed = [changed_bytes(a, b).size for a, b in zip(old, new, strict=False)]
    total = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert 0 < sum(changed) <= total
    assert form != "external" or changed[0] == 0
    for tensor in ("mean", "variance"):
        found = formats.load([written[0]]).native.graph
        maker = found.initializers.get(tensor)
        array = maker.array() if maker is not None else found.makers[tensor].attributes["value"].array()
        np.testing.assert_array_equal(array, numbers()[tensor])
    inputs = random_inputs({"x": (1, 3, 6, 6)}, seed=1)[:1]
    (result,) = require_onnxruntime().run_jobs([Job([written[0]], inputs)])
    assert not isinstance(result, EngineError), result
    assert distance(result[0]["y"], outputs(network, inputs[0])["y"]) <= CLOSE


@pytest.mark.parametrize("spelling", ["raw", "typed"])
@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.FLOAT16, torch.float16), (TensorProto.BFLOAT16, torch.bfloat16)]
)
def test_half_precision_comes_back_as_half_precision(
    kind: int, dtype: torch.dtype, spelling: str, tmp_path: Path
) -> None:
    nodes = [node("Cast", "x", "h", "half", to=kind), node("MatMul", "h w", "y", "fc")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3)}, outputs=["y"], weights={"w": np.eye(3, dtype=np.float32)})
    whole = onnx.load(str(path))
    tensor = helper.make_tensor("w", kind, [3, 3], np.eye(3).reshape(-1).tolist())
    if spelling == "raw":
        bits = np.array(tensor.int32_data, "<u2")
        tensor = helper.make_tensor("w", kind, [3, 3], bits.tobytes(), raw=True)
    whole.graph.initializer[0].CopyFrom(tensor)
    onnx.save(whole, str(path))
    model = formats.load([path])
    network = Network.of(model)
    with torch.no_grad():
        next(network.parameters()).fill_(1 / 3)
    (written,) = saved(network.written(model), tmp_path / "tuned")
    found = formats.load([written]).native.graph.initializers["w"]
    assert found.data_type == kind
    expected = torch.full((3, 3), 1 / 3).to(dtype).float().numpy()
    np.testing.assert_array_equal(found.array().astype(np.float32), expected)


def test_a_light_network_changes_in_the_weights_of_the_layer_trained(tmp_path: Path) -> None:
    path = filled("squeezenet", tmp_path)
    model = formats.load([path])
    network = Network.of(model)
    name, parameter = next(network.named_parameters())
    with torch.no_grad():
        parameter.mul_(2)
    (written,) = saved(network.written(model), tmp_path / "tuned")
    first = model.nodes[0]
    assert name == f"{first.key}/0"
    record = model.native.graph.initializers[first.inputs[1]].record
    differ = changed_bytes(path, written)
    assert differ.size
    assert record.start <= differ.min()
    assert differ.max() < record.end


def test_blobs_of_another_size_or_number_are_refused(tmp_path: Path) -> None:
    onnx_model = formats.load([onnx_net(tmp_path, "raw")])
    caffe_model = formats.load(pairs()["lenet_JachinShen"][0])
    for model, key in ((onnx_model, "conv"), (caffe_model, "conv1")):
        for blobs in ({0: np.zeros(7, np.float32)}, {9: np.zeros(1, np.float32)}):
            with pytest.raises(ModelError, match=f"{key}: .*no blob"):
                model.edit(Overwrite(key, blobs))


def test_a_tensor_that_another_node_reads_is_not_overwritten(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a", "first"), node("MatMul", "a w", "y", "second")]
    path = tiny(tmp_path, nodes, inputs={"x": (1, 3)}, outputs=["y"], weights={"w": np.eye(3, dtype=np.float32)})
    with pytest.raises(ModelError, match="first: its blob 0 is another node's as well"):
        formats.load([path]).edit(Overwrite("first", {0: np.zeros((3, 3), np.float32)}))
