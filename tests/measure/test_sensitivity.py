from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import calibration, passes
from surgery.choose.tables import Sensitivity
from surgery.errors import DataError, PlanError
from surgery.factor import METHODS, Method, Rank, with_options
from surgery.factor.losses import energy_lost
from surgery.factor.responses import responses
from surgery.factor.statistics import Statistics, centred
from surgery.formats import Source
from surgery.measure import sensitivity as module
from surgery.measure.kept import Ask
from surgery.measure.sensitivity import sensitivity
from surgery.measure.suffix import spread
from surgery.model import Splice
from surgery.ops import Chain, Op
from surgery.runtime import Job, OnnxRuntime
from tests.calibrate.nets import KEYS, images, net, op_of, saved
from tests.nets import conv_blobs, dense_blobs, write_net
from tests.onnx_nets import node, tiny

COUNT = 23  # images: a last batch that is not full, and four of them held out
CHANNEL, SVD, TUCKER = METHODS["svd-channel"], METHODS["svd"], METHODS["tucker2"]
ASKS: Mapping[str, Sequence[Ask]] = {
    "conv1": [(CHANNEL, (1,)), (CHANNEL, (4,)), (TUCKER, (4, 2))],
    "left": [(CHANNEL, (1,)), (CHANNEL, (3,))],
    "right": [(CHANNEL, (2,)), (TUCKER, (2, 2))],
    "joined": [(METHODS["svd-spatial"], (3,)), (with_options(METHODS["cp"], {"algorithm": "tpm"}), (4,))],
    "ip": [(SVD, (1,)), (SVD, (9,))],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "surgery" / "tables"


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return net(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return saved(tmp_path, images(COUNT))


def assert_same(found: Sensitivity, wanted: Sensitivity) -> None:
    assert found.losses == wanted.losses
    assert found.probes == wanted.probes


def whole_network(source: Source, folder: Path, key: str, chain: Chain | None, x: np.ndarray, end: str) -> np.ndarray:
    """What the network makes of images one by one, all of it run, where `chain` stands for a layer."""
    folder.mkdir()
    model = source.load()
    name = next(iter(model.format.runnable(model).inputs))
    files = model.format.save(model.edit(Splice(key, chain)) if chain else model, folder, "cut")
    job = Job(files, [{name: image[None]} for image in x], all_blobs=True)
    return np.stack([blobs[end] for blobs in OnnxRuntime().run(job)]).astype(np.float64)


def chain_of(source: Source, data: Path, key: str, ask: tuple[Method, Rank]) -> tuple[Chain, float]:
    """The cut that the network is run with, and what it loses of the responses held out about the mean of the rest."""
    method, rank = ask
    with calibration(source.load(), data, (key,), symmetric=True) as found:
        statistics = found.statistics_for((key,), {})
    metric = statistics.moments.metric(module.RIDGE) if method.uses_metric else None
    op, held = op_of(source.load(), key), statistics.held_out
    chain = centred(method.factor(op, rank, metric=metric).chain, statistics.moments)
    mean = responses(op, statistics.moments.mean_x[None].astype(np.float32))
    missed, varies = held.y - responses(chain, held.x), held.y - mean
    return chain, float(np.vdot(missed, missed) / np.vdot(varies, varies))


def assert_probes_are_those_of_whole_networks(
    source: Source, data: Path, found: Sensitivity, asks: Mapping[str, Sequence[Ask]], end: str, folder: Path
) -> None:
    x = np.load(data)[spread(COUNT, 32)]
    original = whole_network(source, folder / "original", "", None, x, end)
    for key, own in asks.items():
        made = [chain_of(source, data, key, ask) for ask in own]
        for loss, (_, response) in zip(found.losses[key], made, strict=True):
            # How near others are foretold without a cut is for tests/factor/test_losses.py.
            if loss.method in ("svd", "svd-channel"):
                assert loss.response == pytest.approx(response, rel=1e-3, abs=1e-9)
        assert found.probes[key]
        for each in found.probes[key]:
            i = [loss.response for loss in found.losses[key]].index(each.response)
            cut = whole_network(source, folder / f"{key}{i}", key, made[i][0], x, end)
            output = np.sum((cut - original) ** 2) / np.sum(original**2)
            # Both differ by the rounding of float32 sums; their squared difference, by that of each once more.
            assert each.output == pytest.approx(output, rel=1e-5, abs=1e-11)
            if each.agreement is not None:
                best, best_cut = (y.reshape(len(x), -1).argmax(axis=1) for y in (original, cut))
                assert each.agreement == np.mean(best == best_cut)


def test_probes_are_what_the_whole_cut_network_gives_and_losses_what_the_fits_do(
    source: Source, data: Path, tmp_path: Path
) -> None:
    found = sensitivity(source.load(), data, ASKS)
    assert tuple(found.losses) == tuple(found.probes) == KEYS
    for key, asks in ASKS.items():
        assert [(loss.method, loss.rank) for loss in found.losses[key]] == [(m.name, rank) for m, rank in asks]
    assert found.losses["joined"][1].options == (("algorithm", "tpm"),)
    assert_probes_are_those_of_whole_networks(source, data, found, ASKS, "ip", tmp_path)


def residual(folder: Path) -> Source:
    """Two branches that meet in a sum, one of them read once more at the end, and an output before the last layer."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((4, 4, 3, 3), dtype=np.float32) / 4 for name in ("w1", "w2", "w3")}
    nodes = [
        node("Conv", "x w1", "a", "one", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Conv", "b w2", "c", "two", pads=[1, 1, 1, 1]),
        node("Add", "b c", "d"),
        node("Conv", "d w3", "e", "three", pads=[1, 1, 1, 1]),
        node("Mul", "e b", "y"),
    ]
    inputs = {"x": ("N", 4, 6, 6)}
    return Source((tiny(folder, nodes, inputs=inputs, outputs=["y", "c"], weights=weights),))


def test_what_runs_beside_a_cut_layer_stays_the_originals(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    source = residual(tmp_path / "net")
    x = np.random.default_rng(1).standard_normal((COUNT, 4, 6, 6), dtype=np.float32)
    data, asks = saved(tmp_path, x), {key: [(CHANNEL, (2,)), (CHANNEL, (3,))] for key in ("one", "two", "three")}
    found = sensitivity(source.load(), data, asks)
    for name in ("y", "c"):
        (tmp_path / name).mkdir()
    x = x[spread(COUNT, 32)]
    originals = {end: whole_network(source, tmp_path / end / "o", "", None, x, end) for end in ("y", "c")}
    for key, own in asks.items():
        for each in found.probes[key]:
            i = [loss.response for loss in found.losses[key]].index(each.response)
            chain, _ = chain_of(source, data, key, own[i])
            lost = []
            for end, original in originals.items():
                cut = whole_network(source, tmp_path / end / f"{key}{i}", key, chain, x, end)
                lost.append(np.sum((cut - original) ** 2) / np.sum(original**2))
            assert each.output == pytest.approx(np.mean(lost), rel=1e-5)
            assert each.divergence is each.agreement is None


def test_a_network_whose_shapes_hang_on_its_batch_is_run_with_that_batch(tmp_path: Path) -> None:
    text = """
    input: "data" input_shape { dim: 2 dim: 6 }
    layer { name: "one" type: "InnerProduct" bottom: "data" top: "one" inner_product_param { num_output: 6 } }
    layer { name: "fixed" type: "Reshape" bottom: "one" top: "fixed" reshape_param { shape { dim: 2 dim: 2 dim: 3 } } }
    layer { name: "two" type: "InnerProduct" bottom: "fixed" top: "two" inner_product_param { num_output: 6 } }
    """
    blobs = {"one": dense_blobs(6, 6), "two": dense_blobs(6, 6, seed=1)}
    source = Source(write_net(tmp_path, text, blobs))
    x = np.random.default_rng(0).standard_normal((7, 6), dtype=np.float32)
    found = sensitivity(source.load(), saved(tmp_path, x), {"one": [(SVD, (3,))], "two": [(SVD, (3,))]})
    chosen = x[spread(7, 32)].astype(np.float64)
    (w1, b1), (w2, b2) = blobs["one"], blobs["two"]
    chain, _ = chain_of(source, tmp_path / "images.npy", "one", (SVD, (3,)))
    wanted, made = (y @ w2.T + b2 for y in (chosen @ w1.T + b1, chain.apply(chosen)))
    (only,) = found.probes["one"]
    assert only.output == pytest.approx(np.sum((wanted - made) ** 2) / np.sum(wanted**2), rel=1e-5)
    assert only.agreement == np.mean(wanted.argmax(axis=1) == made.argmax(axis=1))


def test_cuts_at_full_rank_lose_nothing(source: Source, data: Path) -> None:
    asks = {"conv1": [(CHANNEL, CHANNEL.max_rank(op_of(source.load(), "conv1")))], "ip": [(SVD, (12,))]}
    found = sensitivity(source.load(), data, asks)
    for key in asks:
        # The squares of what float32 rounds off in a sum of some hundred terms, one layer after the other.
        assert found.losses[key][0].response < 1e-11
        assert found.probes[key][0].output < 1e-11
        assert found.probes[key][0].agreement == 1.0


def test_classes_are_compared_with_labels_of_the_same_images(source: Source, tmp_path: Path, data: Path) -> None:
    chosen = spread(COUNT, 5)
    original = whole_network(source, tmp_path / "o", "", None, np.load(data), "ip").reshape(COUNT, -1).argmax(axis=1)
    labels = (original + 1) % 12
    labels[chosen[:3]] = original[chosen[:3]]
    found = sensitivity(source.load(), data, {"ip": ASKS["ip"]}, labels=labels, probe_images=5)
    assert {probe.original for probe in found.probes["ip"]} == {3 / 5}
    without = sensitivity(source.load(), data, {"ip": ASKS["ip"]}, probe_images=5)
    assert {(probe.original, probe.accuracy) for probe in without.probes["ip"]} == {(None, None)}


def refuse(*arguments: object, **settings: object) -> None:
    raise AssertionError("nothing was to be run")


def test_what_is_cached_is_not_run_again(source: Source, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sensitivity(source.load(), data, ASKS)
    monkeypatch.setattr(passes, "session", refuse)
    monkeypatch.setattr(module, "energy_lost", refuse)
    told: list[str] = []
    assert_same(sensitivity(source.load(), data, ASKS, progress=lambda text, share: told.append(text)), first)
    assert not told
    for other in ({"seed": 1}, {"positions": 3}, {"images": 20}, {"probe_images": 4}, {"labels": np.zeros(COUNT, int)}):
        with pytest.raises(AssertionError, match="nothing was to be run"):
            sensitivity(source.load(), data, ASKS, **other)


def test_what_is_known_is_not_run_again_without_a_cache(
    source: Source, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first = sensitivity(source.load(), data, ASKS)
    monkeypatch.setattr(passes, "session", refuse)
    assert_same(sensitivity(source.load(), data, ASKS, known=first), first)
    with pytest.raises(AssertionError, match="nothing was to be run"):
        sensitivity(source.load(), data, ASKS)


def test_other_ranks_are_measured_alone_and_the_result_hangs_on_what_is_asked_only(
    source: Source, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = {key: asks[:1] for key, asks in ASKS.items() if key != "left"}
    first = sensitivity(source.load(), data, few)
    fitted: list[Rank] = []

    def counted(method: Method, op: Op, statistics: Statistics, ridge: float, ranks: Sequence[Rank]) -> object:
        fitted.extend(ranks)
        return energy_lost(method, op, statistics, ridge, ranks)

    monkeypatch.setattr(module, "energy_lost", counted)
    all_of_them = sensitivity(source.load(), data, ASKS)
    assert sorted(fitted) == sorted([(4,), (4, 2), (1,), (3,), (2, 2), (4,), (9,)])
    assert_same(sensitivity(source.load(), data, few), first)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert_same(sensitivity(source.load(), data, ASKS), all_of_them)


@pytest.mark.parametrize("at", ["left: svd-channel", "running the network with right cut", "running up to ip"])
def test_a_run_that_was_stopped_goes_on_where_it_was(source: Source, data: Path, at: str, cache: Path) -> None:
    def stop(text: str, share: float) -> None:
        if text == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(source.load(), data, ASKS, progress=stop)
    done = {path: path.stat().st_mtime_ns for path in (cache / "probes").iterdir()}
    assert done
    told: list[str] = []
    found = sensitivity(source.load(), data, ASKS, progress=lambda text, share: told.append(text))
    assert not any("conv1:" in text for text in told)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for path in [*cache.rglob("*.json")]:
        path.unlink()
    assert_same(found, sensitivity(source.load(), data, ASKS))


def test_the_share_that_is_done_never_falls_and_no_scratch_stays(source: Source, data: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    shares: list[float] = []
    sensitivity(
        source.load(), data, ASKS, scratch=tmp_path / "scratch", progress=lambda text, share: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0.9 < shares[-1] < 1
    assert not list((tmp_path / "scratch").iterdir())


def test_images_that_no_fit_has_seen_come_first_and_are_spread() -> None:
    assert spread(200, 4) == [4, 54, 104, 154]
    assert spread(20, 32) == list(range(20))
    assert spread(20, 6) == [0, 4, 9, 10, 14, 19]
    assert spread(2, 1) == [1]


def test_what_cannot_be_measured_is_told_in_one_line(source: Source, tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match="holds 1 image"):
        sensitivity(source.load(), data, ASKS, images=1)
    with pytest.raises(DataError, match="states 20 labels for 23 samples"):
        sensitivity(source.load(), data, ASKS, labels=np.zeros(20, np.int64))
    with pytest.raises(PlanError, match=r"^ip: a label is 12; the network has 12 classes"):
        sensitivity(source.load(), data, {"ip": ASKS["ip"]}, labels=np.full(COUNT, 12))
    with pytest.raises(PlanError, match="run on 0 images"):
        sensitivity(source.load(), data, ASKS, probe_images=0)
    with pytest.raises(PlanError, match=r"^ip: .*rank 13"):
        sensitivity(source.load(), data, {"ip": [(SVD, (13,))]})
    with pytest.raises(PlanError, match="no layer is named 'nothing'"):
        sensitivity(source.load(), data, {"nothing": ASKS["ip"]})


def test_outputs_that_overflow_name_the_layer(tmp_path: Path) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 5 dim: 5 }'
    text += 'layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 4'
    text += ' kernel_size: 3 } } layer { name: "e" type: "Exp" bottom: "a" top: "e" exp_param { scale: 100 } }'
    source = Source(write_net(tmp_path, text, {"a": conv_blobs(4, 3, 3, 3)}))
    data = saved(tmp_path, np.random.default_rng(0).standard_normal((6, 3, 5, 5), dtype=np.float32))
    with pytest.raises(PlanError, match=r"^a: the output '.*' of the original network holds NaN or infinity"):
        sensitivity(source.load(), data, {"a": [(CHANNEL, (2,))]})
