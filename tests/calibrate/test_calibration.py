from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import calibration, replayed
from surgery.calibrate.gathering import SAMPLES, SAMPLES_HELD_OUT, bytes_of, is_held_out
from surgery.convert.to_onnx import to_onnx
from surgery.errors import DataError, PlanError
from surgery.factor import METHODS
from surgery.factor.statistics import Samples, Statistics
from surgery.formats import Source
from surgery.model import Splice
from surgery.ops import Chain, Linear, Op
from tests.calibrate.nets import BOTTOMS, KEYS, blobs_of, columns, images, net, op_of, outputs, saved
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.shared import REPOSITORY

EVERYWHERE = 1000  # positions: more than any map here has
COUNT = 23  # images: a last batch that is not full, and five held out
# Two runs of float32 convolutions, summed in other orders, through five layers.
ROUNDING = {"rtol": 2e-4, "atol": 2e-4}


def brute(op: Op, x: list[np.ndarray], y: list[np.ndarray], *, held: bool) -> Samples:
    kept = [i for i in range(len(x)) if is_held_out(i, len(x)) == held]
    return Samples(np.concatenate([columns(op, x[i]) for i in kept]), np.concatenate([outputs(op, y[i]) for i in kept]))


def assert_equal(found: Statistics, op: Op, x: list[np.ndarray], y: list[np.ndarray]) -> None:
    fit = brute(op, x, y, held=False)
    dx, dy = fit.x - fit.x.mean(axis=0), fit.y - fit.y.mean(axis=0)
    groups = dx.shape[1]
    xx = np.stack([dx[:, g].T @ dx[:, g] for g in range(groups)]) / len(fit)
    yx = np.concatenate([part.T @ dx[:, g] for g, part in enumerate(np.split(dy, groups, axis=1))]) / len(fit)
    moments = found.moments
    assert moments.count == len(fit)
    for mine, other in (
        (moments.mean_x, fit.x.mean(axis=0)),
        (moments.mean_y, fit.y.mean(axis=0)),
        (moments.xx, xx),
        (moments.yx, yx),
    ):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-4 * np.abs(other).max())
    held = brute(op, x, y, held=True)
    assert len(found.held_out) == len(held)
    np.testing.assert_allclose(found.held_out.y.sum(axis=0), held.y.sum(axis=0), rtol=1e-3, atol=1e-2 * len(held))


def halves(op: Op) -> Chain:
    """A cut that changes what the layer computes."""
    method = METHODS["svd" if isinstance(op, Linear) else "svd-channel"]
    return method.factor(op, (2,)).chain


def test_symmetric_statistics_are_those_of_all_patches_of_the_original_network(tmp_path: Path) -> None:
    source, data = net(tmp_path), images(COUNT)
    model, blobs = source.load(), blobs_of(source.files, data)
    with calibration(source.load(), saved(tmp_path, data), KEYS, positions=EVERYWHERE, symmetric=True) as found:
        assert found.keys == KEYS
        for key in KEYS:
            x = [image[BOTTOMS[key]] for image in blobs]
            statistics = found.statistics_for((key,), {"conv1": halves(op_of(model, "conv1"))})
            assert statistics.is_symmetric
            assert_equal(statistics, op_of(model, key), x, x)


def test_asymmetric_inputs_are_those_of_the_really_cut_network_and_outputs_the_originals(tmp_path: Path) -> None:
    source, data = net(tmp_path), images(COUNT)
    model, blobs = source.load(), blobs_of(source.files, data)
    done: dict[str, Chain] = {}
    with calibration(source.load(), saved(tmp_path, data), KEYS, positions=EVERYWHERE) as found:
        for key in KEYS:
            folder = tmp_path / key
            folder.mkdir()
            cut = model.edit(*(Splice(name, chain) for name, chain in done.items()))
            halfway = blobs_of(model.format.save(cut, folder, "cut"), data)
            statistics = found.statistics_for((key,), done)
            assert statistics.is_symmetric == (key == "conv1")
            x, y = ([image[BOTTOMS[key]] for image in each] for each in (halfway, blobs))
            assert_equal(statistics, op_of(model, key), x, y)
            if key != "left":  # One that is left alone among those cut.
                done[key] = halves(op_of(model, key))


def test_what_follows_a_layer_is_told(tmp_path: Path) -> None:
    source, data = net(tmp_path), images(6)
    blobs = blobs_of(source.files, data)
    with calibration(source.load(), saved(tmp_path, data), KEYS, symmetric=True) as found:
        told = {key: found.statistics_for((key,), {}) for key in KEYS}
    assert {key: each.relu for key, each in told.items()} == dict.fromkeys(KEYS, False) | {"conv1": True, "left": True}
    assert [key for key, each in told.items() if each.scale is not None] == ["conv1"]
    op, scale = op_of(source.load(), "conv1"), told["conv1"].scale
    assert scale is not None
    expected = np.maximum(scale.apply(op.apply(blobs[0]["data"])), 0)
    np.testing.assert_allclose(blobs[0]["conv1"], expected, **ROUNDING)


def test_layers_that_read_one_value_are_told_side_by_side(tmp_path: Path) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 6 }'
    for name in ("a", "b"):
        text += f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}"'
        text += " convolution_param { num_output: 4 kernel_size: 3 } }"
    text += 'layer { name: "relu" type: "ReLU" bottom: "b" top: "b" }'
    text += 'layer { name: "bn" type: "Power" bottom: "a" top: "pow" power_param { scale: 3 } }'
    source = Source(write_net(tmp_path, text, {"a": conv_blobs(4, 3, 3, 3, seed=1), "b": conv_blobs(4, 3, 3, 3)}))
    data = saved(tmp_path, np.random.default_rng(0).standard_normal((7, 3, 6, 6)).astype("f"))
    with calibration(source.load(), data, ("a", "b"), symmetric=True) as found:
        both = found.statistics_for(("b", "a"), {})
    with calibration(source.load(), data, ("a", "b"), symmetric=True) as found:
        alone = found.statistics_for(("b",), {})
    assert both.moments.yx.shape == (8, 27)
    np.testing.assert_array_equal(both.samples.x, alone.samples.x)
    np.testing.assert_allclose(both.moments.yx[:4], alone.moments.yx, rtol=1e-6, atol=1e-6)
    assert not both.relu


def test_a_cut_branch_that_leads_to_no_later_layer_changes_nothing(tmp_path: Path) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 6 }'
    for name, bottom in (("trunk", "data"), ("side", "trunk"), ("end", "trunk")):
        text += f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"'
        text += " inner_product_param { num_output: 6 } }"
    names = ("trunk", "side", "end")
    source = Source(write_net(tmp_path, text, {name: dense_blobs(6, 6, seed=i) for i, name in enumerate(names)}))
    data = np.random.default_rng(0).standard_normal((9, 6)).astype("f")
    model = source.load()
    for cut in ("side", "trunk"):
        with calibration(source.load(), saved(tmp_path, data), names) as found:
            found.statistics_for(("trunk",), {})
            inputs = found.statistics_for(("end",), {cut: halves(op_of(model, cut))}).samples.x
        trunk = op_of(model, "trunk") if cut == "side" else halves(op_of(model, "trunk"))
        kept = [i for i in range(9) if not is_held_out(i, 9)]
        np.testing.assert_allclose(inputs[:, 0], trunk.apply(data)[kept], rtol=1e-4, atol=1e-4)


def test_what_is_read_once_more_later_is_kept_until_then(tmp_path: Path) -> None:
    text = """
    input: "data" input_shape { dim: 1 dim: 6 }
    layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 6 } }
    layer { name: "relu" type: "ReLU" bottom: "a" top: "relu" }
    layer { name: "b" type: "InnerProduct" bottom: "relu" top: "b" inner_product_param { num_output: 6 } }
    layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 6 } }
    layer { name: "all" type: "Concat" bottom: "c" bottom: "a" bottom: "data" top: "all" }
    layer { name: "d" type: "InnerProduct" bottom: "all" top: "d" inner_product_param { num_output: 6 } }
    """
    blobs = {name: dense_blobs(6, 18 if name == "d" else 6, seed=i) for i, name in enumerate("abcd")}
    source = Source(write_net(tmp_path, text, blobs))
    data = np.random.default_rng(0).standard_normal((9, 6)).astype("f")
    with calibration(source.load(), saved(tmp_path, data), tuple("abcd"), symmetric=True) as found:
        told = {key: found.statistics_for((key,), {}) for key in found.keys}
    kept = [i for i in range(9) if not is_held_out(i, 9)]
    wanted = np.stack([blobs["all"][0] for blobs in blobs_of(source.files, data[kept])])
    np.testing.assert_allclose(told["d"].samples.x[:, 0], wanted, rtol=1e-5, atol=1e-5)
    assert not told["a"].relu  # What it makes is read as it is, too.


def test_a_training_network_is_calibrated_as_it_is_deployed(tmp_path: Path) -> None:
    folder = REPOSITORY / "models" / "digits"
    data = saved(tmp_path, np.load(folder / "heldback.npz")["images"][:10, None] / np.float32(16))
    found = []
    for file in ("deploy.prototxt", "train_val.prototxt"):
        source = Source((folder / file, folder / "digits.caffemodel"), shapes=(("data", (1, 1, 8, 8)),))
        with calibration(source.load(), data, ("ip1", "ip2"), symmetric=True) as each:
            found.append(each.statistics_for(("ip2",), {}))
    np.testing.assert_array_equal(found[0].samples.x, found[1].samples.x)


def test_an_onnx_model_is_calibrated_as_the_caffe_model_it_was_made_from(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(COUNT))
    for batch in ("fixed", "dynamic"):
        path = tmp_path / f"{batch}.onnx"
        to_onnx(source.load(), batch=batch).save(path)
        done = {"conv1": halves(op_of(source.load(), "conv1"))}
        with (
            calibration(source.load(), data, KEYS) as caffe,
            calibration(Source((path,)).load(), data, KEYS) as onnx,
        ):
            assert onnx.keys == caffe.keys
            for key in KEYS[1:]:
                one, other = (each.statistics_for((key,), done) for each in (caffe, onnx))
                np.testing.assert_allclose(one.moments.mean_x, other.moments.mean_x, **ROUNDING)
                assert one.relu == other.relu


def test_a_network_whose_shapes_hang_on_its_batch_runs_with_that_batch(tmp_path: Path) -> None:
    text = """
    input: "data" input_shape { dim: 2 dim: 6 }
    layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" inner_product_param { num_output: 6 } }
    layer { name: "fixed" type: "Reshape" bottom: "one" top: "fixed" reshape_param { shape { dim: 2 dim: 2 dim: 3 } } }
    layer { name: "two" type: "InnerProduct" bottom: "fixed" top: "two" inner_product_param { num_output: 6 } }
    """
    source = Source(write_net(tmp_path, text, {"one": dense_blobs(6, 6), "two": dense_blobs(6, 6, seed=1)}))
    data = np.random.default_rng(0).standard_normal((7, 6)).astype("f")
    with calibration(source.load(), saved(tmp_path, data), ("one", "two"), symmetric=True) as found:
        statistics = found.statistics_for(("two",), {})
    kept = [i for i in range(7) if not is_held_out(i, 7)]
    x = op_of(source.load(), "one").apply(data)
    np.testing.assert_allclose(statistics.moments.mean_x[0], x[kept].mean(axis=0), rtol=1e-5, atol=1e-5)
    assert statistics.moments.count == len(kept)


def test_the_same_seed_gives_the_same_positions_whatever_other_layers_there_are(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(6))
    found = []
    for keys, seed in ((KEYS, 0), (("right",), 0), (("right",), 1)):
        with calibration(source.load(), data, keys, positions=5, seed=seed, symmetric=True) as each:
            found.append(each.statistics_for(("right",), {}).samples.x)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_samples_stay_within_their_bounds_and_come_from_all_images(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(150))
    with calibration(source.load(), data, ("conv1",), positions=EVERYWHERE, symmetric=True) as found:
        statistics = found.statistics_for(("conv1",), {})
    assert len(statistics.samples) == SAMPLES
    assert len(statistics.held_out) == SAMPLES_HELD_OUT
    assert statistics.moments.count == 120 * 72
    arrays = [statistics.moments.xx, statistics.moments.yx, statistics.samples.x, statistics.samples.y]
    arrays += [statistics.held_out.x, statistics.held_out.y]
    assert sum(array.nbytes for array in arrays) == bytes_of(op_of(source.load(), "conv1"), 150, EVERYWHERE)


def test_no_scratch_is_left_behind_and_no_more_is_spooled_than_two_networks_need(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(COUNT))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with calibration(source.load(), data, KEYS, scratch=scratch) as found:
        done = {key: halves(op_of(source.load(), key)) for key in KEYS}
        for key in KEYS:
            found.statistics_for((key,), done)
            spooled = sum(path.stat().st_size - 128 for path in scratch.rglob("*.npy"))
            # The largest cut between layers has conv1's and left's maps, in either network.
            assert spooled <= 2 * COUNT * 4 * (8 + 6 + 8) * 9 * 8
    assert not list(scratch.iterdir())


def test_layers_are_asked_for_in_running_order(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(2))
    with calibration(source.load(), data, KEYS) as found:
        found.statistics_for(("left",), {})
        found.statistics_for(("left",), {})
        with pytest.raises(ValueError, match="running order"):
            found.statistics_for(("conv1",), {})


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(2))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with (
        calibration(source.load(), data, KEYS) as found,
        pytest.raises(DataError, match=r"0\.0 GB are free.*--scratch"),
    ):
        found.statistics_for(("ip",), {})


def test_what_cannot_be_calibrated_is_said_in_one_line(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(2))
    for keys, words in ((("nothing",), "no layer is named 'nothing'"), (("relu1",), "no part of the network")):
        with pytest.raises(PlanError, match=words), calibration(source.load(), data, keys):
            pass
    with (
        pytest.raises(DataError, match="no such folder"),
        calibration(source.load(), data, KEYS, scratch=tmp_path / "no"),
    ):
        pass
    with pytest.raises(PlanError, match="positions is 0"), calibration(source.load(), data, KEYS, positions=0):
        pass


def test_a_plan_finds_the_same_data_again_and_notices_others(tmp_path: Path) -> None:
    source, data = net(tmp_path), saved(tmp_path, images(6))
    with calibration(source.load(), data, ("ip",), positions=3, seed=4, images=5) as first:
        record = dict(first.record)
        wanted = first.statistics_for(("ip",), {})
    with replayed(source.load(), data, ("ip",), record) as again:
        assert again.mismatch(record) is None
        np.testing.assert_array_equal(again.statistics_for(("ip",), {}).samples.x, wanted.samples.x)
    saved(tmp_path, images(6, seed=1))
    with replayed(source.load(), data, ("ip",), record) as other:
        assert "digest" in str(other.mismatch(record))
    with calibration(source.load(), data, ("ip",), symmetric=True) as other:
        assert "--calibrate" in str(other.mismatch(record))
    with pytest.raises(PlanError, match="seed is 'x'"), replayed(source.load(), data, ("ip",), record | {"seed": "x"}):
        pass
