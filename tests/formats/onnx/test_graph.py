"""The index of an ONNX file: what is where, numbers as the onnx package reads them, and hostile files refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from surgery.errors import ModelError, ParseError
from surgery.formats.onnx import attribute, graph
from surgery.formats.onnx.graph import Graph
from surgery.formats.wire import encode_bytes, encode_tag, encode_varint
from tests.onnx_nets import LIGHT, light, node, tiny

X = {"x": (1, 3)}


def net(folder: Path, *tensors: onnx.TensorProto, **changes: object) -> Path:
    """A file with these initializers and one node that uses none of them."""
    path = tiny(folder, [node("Relu", "x", "y")], inputs=X, outputs=["y"])
    model = onnx.load(path)
    model.graph.initializer.extend(tensors)
    for name, value in changes.items():
        setattr(model, name, value)
    path.write_bytes(model.SerializeToString())
    return path


def only(path: Path) -> graph.Tensor:
    (tensor,) = graph.read(path).initializers.values()
    return tensor


@pytest.mark.parametrize("name", LIGHT)
def test_every_node_and_tensor_is_as_the_onnx_package_reads_it(name: str, tmp_path: Path) -> None:
    model = light(name)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    found = graph.read(path)
    assert found.ir_version == model.ir_version
    assert dict(found.opsets) == {entry.domain: entry.version for entry in model.opset_import}
    for mine, theirs in zip(found.nodes, model.graph.node, strict=True):
        assert (mine.name, mine.op_type, mine.domain) == (theirs.name, theirs.op_type, theirs.domain)
        assert (mine.inputs, mine.outputs) == (tuple(theirs.input), tuple(theirs.output))
        for entry in theirs.attribute:
            wanted = helper.get_attribute_value(entry)
            value = mine.attributes[entry.name]
            if isinstance(value, graph.Tensor):
                np.testing.assert_array_equal(value.array(), numpy_helper.to_array(wanted))
            else:
                assert value == (tuple(wanted) if isinstance(wanted, list) else wanted)
    for theirs in model.graph.initializer:
        np.testing.assert_array_equal(found.initializers[theirs.name].array(), numpy_helper.to_array(theirs))
    fed = {info.name for info in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    assert {info.name for info in found.inputs} == fed


ARRAYS = {
    TensorProto.FLOAT: np.array([[1.5, -2.0, 3e-20]], np.float32),
    TensorProto.DOUBLE: np.array([[1.5, -2.0, 3e-200]]),
    TensorProto.FLOAT16: np.array([[1.5, -2.0, 6e-5]], np.float16),
    TensorProto.INT64: np.array([[1, -1, 2**40]]),
    TensorProto.INT32: np.array([[1, -1, 2**30]], np.int32),
    TensorProto.INT16: np.array([[1, -1, 300]], np.int16),
    TensorProto.INT8: np.array([[1, -1, 100]], np.int8),
    TensorProto.UINT8: np.array([[1, 255, 100]], np.uint8),
    TensorProto.UINT64: np.array([[1, 2**63, 100]], np.uint64),
    TensorProto.BOOL: np.array([[True, False, True]]),
    TensorProto.COMPLEX64: np.array([[1 + 2j, -1j, 0]], np.complex64),
}


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("kind", ARRAYS, ids=TensorProto.DataType.Name)
def test_numbers_of_every_type_are_read_in_both_forms(kind: TensorProto.DataType, raw: bool, tmp_path: Path) -> None:
    array = ARRAYS[kind]
    values = array.tobytes() if raw else array.reshape(-1)
    tensor = helper.make_tensor("w", kind, array.shape, values, raw=raw)
    found = only(net(tmp_path, tensor)).array()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_bfloat16_comes_as_the_float32_it_is_the_upper_half_of(raw: bool, tmp_path: Path) -> None:
    bits = np.array([0x3FC0, 0xC000], np.uint16)
    tensor = TensorProto(name="w", dims=[2], data_type=TensorProto.BFLOAT16)
    if raw:
        tensor.raw_data = bits.tobytes()
    else:
        tensor.int32_data.extend(bits.tolist())
    np.testing.assert_array_equal(only(net(tmp_path, tensor)).array(), np.array([1.5, -2.0], np.float32))


def test_numbers_that_stand_one_by_one_are_read_as_packed_ones_are(tmp_path: Path) -> None:
    dims = encode_tag(1, 0) + encode_varint(2)
    floats = b"".join(encode_tag(4, 5) + struct.pack("<f", value) for value in (1.5, -2.0))
    wholes = b"".join(encode_tag(7, 0) + encode_varint(value & (1 << 64) - 1) for value in (7, -7))
    for body, kind, wanted in ((floats, 1, [1.5, -2.0]), (wholes, 7, [7, -7])):
        tensor = dims + encode_tag(2, 0) + encode_varint(kind) + body + encode_bytes(8, b"w")
        path = net(tmp_path)
        model = path.read_bytes()
        path.write_bytes(with_initializer(path, model, tensor))
        assert only(path).array().tolist() == wanted


def with_initializer(path: Path, model: bytes, tensor: bytes) -> bytes:
    """`model` with the bytes of a TensorProto added to its graph."""
    path.write_bytes(model)
    record = graph.read(path).record
    body = model[record.value : record.end] + encode_bytes(5, tensor)
    return model[: record.start] + encode_bytes(7, body) + model[record.end :]


def test_a_raw_tensor_is_a_view_of_the_file(tmp_path: Path) -> None:
    array = only(net(tmp_path, numpy_helper.from_array(np.ones((4, 5), np.float32), "w"))).array()
    assert array.base is not None
    assert not array.flags.owndata


def external(folder: Path, location: str, *, offset: str = "0", length: str = "16", size: str = "16") -> Path:
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=value)
    data = folder / "w.bin"
    data.write_bytes(np.arange(int(size) // 4, dtype=np.float32).tobytes())
    return net(folder, tensor)


def test_external_data_is_mapped(tmp_path: Path) -> None:
    array = only(external(tmp_path, "w.bin", offset="16", size="32")).array()
    assert array.tolist() == [4, 5, 6, 7]
    assert not array.flags.owndata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "../w.bin"}, "expected a path inside the model's folder"),
        ({"location": "a/../../w.bin"}, "expected a path inside the model's folder"),
        ({"location": "/etc/hostname"}, "expected a path inside the model's folder"),
        ({"location": ""}, "expected a path inside the model's folder"),
        ({"location": "link.bin"}, "a link that leads out of the model's folder"),
        ({"location": "absent.bin"}, "which is not there; put it beside the model"),
        ({"location": "folder"}, "which is not a regular file"),
        ({"location": "w.bin", "offset": "8"}, "is said to lie at bytes 8 to 24 of 'w.bin', which has 16"),
        ({"location": "w.bin", "offset": "99999999999999"}, "which has 16"),
        ({"location": "w.bin", "offset": "-4"}, "has the offset '-4'; expected a number of bytes"),
        ({"location": "w.bin", "offset": "1e3"}, "has the offset '1e3'"),
        ({"location": "w.bin", "length": "8"}, "has 8 bytes in 'w.bin', but 4 of float32 takes 16"),
    ],
)
def test_external_data_that_lies_or_leads_out_is_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "folder").mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(ModelError, match=r"tensor 'w'") as caught:
        graph.read(external(folder, **changes))
    assert message in str(caught.value)


def tensor(dims: list[int], data_type: int = TensorProto.FLOAT, raw: bytes = bytes(16)) -> onnx.TensorProto:
    return TensorProto(name="w", dims=dims, data_type=data_type, raw_data=raw)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (tensor([5]), "holds 16 bytes, but 5 of float32 takes 20"),
        (tensor([2**62, 2**62]), "holds 16 bytes, but"),
        (tensor([-4]), "has the shape [-4]; expected sizes from 0"),
        (TensorProto(name="w", dims=[3], data_type=1, float_data=[1, 2]), "holds 2 numbers, but 3 of float32 takes 3"),
        (TensorProto(name="w", dims=[3], data_type=1), "holds 0 numbers"),
    ],
)
def test_a_tensor_whose_numbers_do_not_fill_its_shape_is_refused(
    made: onnx.TensorProto, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        graph.read(net(tmp_path, made))
    assert message in str(caught.value)


def test_a_type_that_is_not_read_is_refused_only_when_its_numbers_are_asked_for(tmp_path: Path) -> None:
    found = only(net(tmp_path, tensor([4], TensorProto.FLOAT8E4M3FN, bytes(4))))
    with pytest.raises(ModelError, match="tensor 'w' holds float8e4m3fn, which is not read"):
        found.array()


FLOWS = {
    "dangling": ([node("Add", "x z", "y")], "reads 'z', which nothing makes"),
    "circle": ([node("Add", "x b", "a", "n"), node("Relu", "a", "b"), node("Relu", "a", "y")], "form a circle"),
    "itself": ([node("Add", "x y", "y")], "form a circle"),
    "twice": ([node("Relu", "x", "y"), node("Relu", "x", "y", "second")], "node 'second' makes 'y', which is there"),
    "over the input": ([node("Relu", "x", "x"), node("Relu", "x", "y")], "makes 'x', which is there"),
    "no output": ([node("Relu", "x", "z")], "the output 'y' is made by no node"),
}


@pytest.mark.parametrize("case", FLOWS)
def test_a_graph_that_does_not_flow_is_refused(case: str, tmp_path: Path) -> None:
    nodes, message = FLOWS[case]
    with pytest.raises(ModelError) as caught:
        graph.read(tiny(tmp_path, nodes, inputs=X, outputs=["y"]))
    assert message in str(caught.value)


def test_two_initializers_or_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two initializers are called 'w'"):
        graph.read(net(tmp_path, tensor([4]), tensor([4])))
    path = tiny(tmp_path, [node("Relu", "x", "y")], inputs=X, outputs=["y"])
    model = onnx.load(path)
    model.graph.input.append(model.graph.input[0])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="two inputs are called 'x'"):
        graph.read(path)


def nested(depth: int) -> onnx.NodeProto:
    """An If in an If and so on; the innermost node reads `outer`."""
    inner = helper.make_node("Relu", ["outer"], [f"v{depth}"])
    for level in range(depth, 0, -1):
        out = helper.make_tensor_value_info(f"v{level}", TensorProto.FLOAT, None)
        branch = helper.make_graph([inner], f"g{level}", [], [out])
        inner = helper.make_node("If", ["c"], [f"v{level - 1}"], then_branch=branch, else_branch=branch)
        if depth > 10:  # Twice as many with each level.
            inner = helper.make_node("If", ["c"], [f"v{level - 1}"], then_branch=branch)
    return inner


def test_what_a_subgraph_reads_of_the_outer_graph_counts_as_read_by_its_node(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "outer"), node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "c", to=9)]
    found = graph.read(tiny(tmp_path, [*nodes, nested(3)], inputs=X, outputs=["v0"]))
    assert found.nodes[3].reads == {"c", "outer"}
    assert found.users["outer"] == (found.nodes[3],)
    assert isinstance(found.nodes[3].attributes["then_branch"], graph.Subgraph)
    with pytest.raises(ModelError, match="reads 'outer', which nothing makes"):
        graph.read(tiny(tmp_path, [*nodes[1:], nested(3)], inputs=X, outputs=["v0"]))


def test_graphs_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "outer"), node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "c", to=9)]
    path = tmp_path / "deep.onnx"
    body = b"".join(encode_bytes(1, n.SerializeToString()) for n in [*nodes, nested(attribute.MAX_DEPTH + 1)])
    path.write_bytes(encode_bytes(7, body))
    with pytest.raises(ParseError, match="graphs inside each other"):
        graph.read(path)


def test_a_file_without_a_graph_or_with_two_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="holds no graph; expected an ONNX model"):
        graph.read(path)
    path.write_bytes(net(tmp_path).read_bytes() * 2)
    with pytest.raises(ParseError, match="holds a second graph"):
        graph.read(path)


def read_wholly(path: Path) -> Graph | None:
    """Read a file and every number in it; None where it is refused."""
    try:
        found = graph.read(path)
        for item in (*found.initializers.values(), *found.nested):
            item.array()
    except (ParseError, ModelError) as error:
        assert "\n" not in str(error)
        return None
    return found


def varied(folder: Path) -> bytes:
    """A small file with every kind of field."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "g", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    nodes = [
        node("Constant", "", "k", value=numpy_helper.from_array(np.ones(3, np.float32))),
        node("Add", "x w", "a", "add"),
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        node("Sum", "a k i s", "y", strings=["a", "b"], floats=[1.0], f=0.5, ints=[1, 2]),
    ]
    weights = {"w": np.ones(3, np.float32), "c": np.array(True), "s": np.ones((1, 3), np.float32)}
    path = tiny(folder, nodes, inputs={"x": ("n", 3)}, outputs=["y"], weights=weights)
    model = onnx.load(path)
    model.metadata_props.add(key="k", value="v")
    model.graph.initializer[0].CopyFrom(helper.make_tensor("w", 1, [3], [1.0, 2.0, 3.0]))
    return bytes(model.SerializeToString())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_either_reads_or_is_one_clear_line(data: st.DataObject, tmp_path: Path) -> None:
    whole = varied(tmp_path)
    path = tmp_path / "damaged.onnx"
    path.write_bytes(whole)
    assert read_wholly(path) is not None
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    for _ in range(data.draw(st.integers(0, 6)) if damaged else 0):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(damaged))
    read_wholly(path)
