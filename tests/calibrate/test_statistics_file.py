from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import calibration, from_file, save
from surgery.calibrate.statistics_file import REST, truncated
from surgery.errors import DataError, PlanError
from surgery.factor import METHODS
from surgery.factor.statistics import Statistics
from surgery.formats import Source
from surgery.ops import collapse
from tests.calibrate.nets import KEYS, images, net, op_of, saved
from tests.shared import REPOSITORY

DIGITS = REPOSITORY / "models" / "digits"


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Source, Path, dict[str, Statistics]]:
    """A network, the file of its statistics, and these as they were gathered."""
    source, data, path = net(tmp_path), saved(tmp_path, images(12)), tmp_path / "net.statistics"
    with calibration(source.load(), data, KEYS, symmetric=True) as found:
        size = save(found, KEYS, path)
    assert size == path.stat().st_size
    with calibration(source.load(), data, KEYS, symmetric=True) as found:
        return source, path, {key: found.statistics_for((key,), {}) for key in KEYS}


def test_a_file_gives_the_statistics_that_were_gathered(kept: tuple[Source, Path, dict[str, Statistics]]) -> None:
    source, path, gathered = kept
    found = from_file(path, source.load())
    assert found.keys == KEYS
    for key in reversed(KEYS):
        mine, own = found.statistics_for((key,), {}), gathered[key]
        assert (mine.relu, mine.scale is None, mine.is_symmetric) == (own.relu, own.scale is None, True)
        np.testing.assert_array_equal(mine.samples.x, own.samples.x)
        np.testing.assert_array_equal(mine.held_out.x, own.held_out.x)
        # The same sums of some hundred float32 terms, perhaps in another order.
        np.testing.assert_allclose(mine.samples.y, own.samples.y, rtol=0, atol=1e-5 * np.abs(own.samples.y).max())
        for name in ("mean_x", "xx", "mean_y", "yx"):
            one, other = getattr(mine.moments, name), getattr(own.moments, name)
            # The eigenvectors left out, with a little float32 rounding.
            np.testing.assert_allclose(one, other, rtol=0, atol=4 * REST * max(np.abs(other).max(), 1))


def test_layers_that_read_one_value_are_told_side_by_side(kept: tuple[Source, Path, dict[str, Statistics]]) -> None:
    source, path, _ = kept
    found = from_file(path, source.load())
    one = found.statistics_for(("conv1",), {})
    both = found.statistics_for(("conv1", "conv1"), {})
    np.testing.assert_array_equal(both.moments.yx, np.concatenate([one.moments.yx] * 2))
    assert one.scale is not None
    assert both.scale is not None
    np.testing.assert_array_equal(both.scale.factor, np.tile(one.scale.factor, 2))


def test_fits_from_the_file_are_as_good_as_from_the_data(tmp_path: Path) -> None:
    source = Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
    data = saved(tmp_path, np.load(DIGITS / "heldback.npz")["images"][:60, None] / 16)
    with calibration(source.load(), data, ("conv2", "ip1"), symmetric=True) as found:
        save(found, ("conv2", "ip1"), tmp_path / "s")
    stored = from_file(tmp_path / "s", source.load())
    with calibration(source.load(), data, ("conv2", "ip1"), symmetric=True) as found:
        for key, name in (("conv2", "svd-channel"), ("ip1", "svd")):
            op = op_of(source.load(), key)
            pair = [each.statistics_for((key,), {}).moments for each in (found, stored)]
            truth = pair[0].metric(1e-4)
            errors = []
            for moments in pair:
                fit = METHODS[name].factor(op, (12,), metric=moments.metric(1e-4))
                errors.append(truth.squared(collapse(fit.chain).weight - op.weight))
            assert errors[1] <= errors[0] * (1 + 1e-5)


def test_truncation_keeps_the_trace_and_leaves_out_no_more_than_it_says() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((40, 40)) * np.logspace(0, -4, 40)
    moment = base @ base.T
    rows, rest = truncated(moment)
    assert len(rows) < 40
    again = rows.T.astype(float) @ rows + np.diag(rest)
    # float32's own rounding comes on top.
    assert again.trace() == pytest.approx(moment.trace(), rel=1e-6)
    assert np.abs(again - moment).max() <= (REST + 1e-6) * moment.trace()
    rows, rest = truncated(np.zeros((3, 3)))
    assert rows.shape == (0, 3)
    assert not rest.any()


def test_the_same_statistics_are_the_same_bytes(
    kept: tuple[Source, Path, dict[str, Statistics]], tmp_path: Path
) -> None:
    source, path, _ = kept
    with calibration(source.load(), tmp_path / "images.npy", KEYS, symmetric=True) as found:
        save(found, KEYS, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_only_symmetric_statistics_are_kept(tmp_path: Path) -> None:
    with (
        calibration(net(tmp_path).load(), saved(tmp_path, images(3)), KEYS) as found,
        pytest.raises(PlanError, match="cannot be kept"),
    ):
        save(found, KEYS, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_another_model_other_data_and_asymmetric_plans_are_told(
    kept: tuple[Source, Path, dict[str, Statistics]],
) -> None:
    source, path, _ = kept
    found = from_file(path, source.load())
    assert found.mismatch(found.record) is None
    assert "takes the images" in str(found.mismatch({**found.record, "symmetric": False}))
    assert "seed is 9" in str(found.mismatch({**found.record, "seed": 9}))
    with pytest.raises(DataError, match="has no statistics of 'prob'"):
        found.statistics_for(("prob",), {})
    digits = Source((DIGITS / "deploy.prototxt", DIGITS / "digits.caffemodel"))
    with pytest.raises(DataError, match="another model"):
        from_file(path, digits.load())


def test_what_is_no_file_of_statistics_is_told_in_one_line(
    kept: tuple[Source, Path, dict[str, Statistics]], tmp_path: Path
) -> None:
    source, path, _ = kept
    model, good = source.load(), path.read_bytes()
    for content in (b"", b"text", good[:1000], good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is no file of statistics"):
            from_file(path, model)
    np.savez(tmp_path / "a.npz", header=np.zeros(3))
    with pytest.raises(DataError, match="is no file of statistics"):
        from_file(tmp_path / "a.npz", model)
    with pytest.raises(DataError, match="no such file"):
        from_file(tmp_path / "absent", model)
    place = good.index(b"NUMPY", len(good) // 3)
    path.write_bytes(good[:place] + b"XXXXX" + good[place + 5 :])
    damaged = from_file(path, model)
    reached = 0
    for key in KEYS:
        try:
            damaged.statistics_for((key,), {})
        except DataError as error:
            assert "cannot be read" in str(error)
            reached += 1
    assert reached == 1
