"""Where samples come from: what a path holds, how it is stored, and what Caffe's own data layers are told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.spread import taken
from surgery.errors import DataError, PlanError
from surgery.tune.caffe import Goal, Own, Solver, Stored, Task, feed_of, run, write
from surgery.tune.caffe import hdf5 as stored
from surgery.tune.caffe.batches import batches_of, parts_of
from surgery.tune.caffe.finding import augmented
from tests.engines import require_caffe
from tests.tune.caffe.digits import DIGITS, ORIGINAL, cut_digits, lmdb, samples

h5py = pytest.importorskip("h5py", reason="Caffe's samples are HDF5: h5py is not installed")
LABELS = Goal(labels=1)


def rows(folder: Path, stem: str, name: str) -> np.ndarray:  # type: ignore[type-arg]
    """Return a dataset of all files that a text names."""
    found = []
    for line in (folder / f"{stem}.txt").read_text().split():
        with h5py.File(folder / line) as file:
            found.append(file[name][...])
    return np.concatenate(found)


def test_stored_samples_are_the_ones_asked_for_in_whole_batches(tmp_path: Path) -> None:
    feed = samples(tmp_path, 60)
    write(Task(cut_digits(tmp_path / "cut"), feed, LABELS, Solver(batch=20)), tmp_path / "run")
    x, labels = (rows(tmp_path / "run", "train", name) for name in ("data", "tune_label"))
    assert len(x) == 60  # 54, and 6 of them again
    known = {feed.data.read(i)["data"].tobytes(): feed.labels[i] for i in feed.train}  # type: ignore[index]
    assert {each.tobytes() for each in x} == known.keys()
    assert [known[each.tobytes()] for each in x] == labels.tolist()
    held = rows(tmp_path / "run", "test", "data")
    assert [each.tobytes() for each in held] == [feed.data.read(i)["data"].tobytes() for i in feed.held]


def test_files_hold_no_more_than_their_share_and_all_rows_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "FILE_BYTES", 4 * 10 * 3)
    writer = stored.Writer(tmp_path, "train", 8)
    x = np.arange(80, dtype=np.float32).reshape(8, 10)
    for start in (0, 5):
        writer.add({"x": x[start : start + 5]})
    writer.close()
    assert len((tmp_path / "train.txt").read_text().split()) == 3
    np.testing.assert_array_equal(rows(tmp_path, "train", "x"), x)


@pytest.mark.parametrize("count", [2, 3, 19, 20, 64, 97, 450])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_every_sample_is_trained_on_and_few_of_those_held_back_are_left_out(count: int, batch: int) -> None:
    feed = Stored(None, None, list(range(count)), list(range(count, 2 * count)))  # type: ignore[arg-type]
    batches = batches_of(feed, Solver(batch=batch))
    train, test = parts_of(feed, LABELS, batches, seed=0)
    assert set(train.rows) == set(feed.train)
    assert len(train.rows) == batches.rounds.interval * batches.train
    assert len(train.rows) < count + batches.train
    assert len(test.rows) == batches.rounds.tests * batches.test
    assert list(test.rows) == list(feed.held)[: len(test.rows)]
    assert count - len(test.rows) < batches.test


def user_hdf5(folder: Path, count: int = 40) -> Path:
    """Write HDF5 files as a user of Caffe has them."""
    with np.load(DIGITS / "heldback.npz") as found:
        images, labels = found["images"][:count, None] / np.float32(16), found["labels"][:count]
    for i, part in enumerate((slice(0, 15), slice(15, count))):
        with h5py.File(folder / f"part{i}.h5", "w") as file:
            file["data"], file["label"] = images[part].astype(np.float32), labels[part].astype(np.float32)
    (folder / "list.txt").write_text("part0.h5\npart1.h5\n")
    return folder / "list.txt"


def test_hdf5_that_the_user_has_is_trained_on_where_it_lies(tmp_path: Path) -> None:
    require_caffe()
    path = user_hdf5(tmp_path)
    feed = feed_of(path, ORIGINAL.load())
    assert isinstance(feed, Own)
    assert (feed.type, feed.images) == ("HDF5Data", 40)
    files = write(Task(cut_digits(tmp_path / "cut"), feed, LABELS, Solver(epochs=2, batch=20)), tmp_path / "run")
    assert run(files).iterations == 4
    assert not list(files.folder.glob("*.h5"))


def test_hdf5_is_stored_anew_with_what_the_original_makes_of_it(tmp_path: Path) -> None:
    goal = Goal(distil=1)
    feed = feed_of(user_hdf5(tmp_path), ORIGINAL.load(), needs_teacher=True)
    assert isinstance(feed, Stored)
    assert feed.data.count == 40
    with np.load(DIGITS / "heldback.npz") as found:
        np.testing.assert_array_equal(feed.data.read(17)["data"][0] * 16, found["images"][17])
        np.testing.assert_array_equal(feed.labels, found["labels"][:40])
    write(Task(cut_digits(tmp_path / "cut"), feed, goal, Solver(batch=18), teacher=ORIGINAL), tmp_path / "run")
    np.testing.assert_allclose(rows(tmp_path / "run", "train", "tune_teacher").sum(axis=1), 1, rtol=1e-6)


def test_fewer_samples_of_hdf5_are_spread_over_it(tmp_path: Path) -> None:
    path = user_hdf5(tmp_path)
    feed = feed_of(path, ORIGINAL.load(), needs_teacher=True, images=10)
    assert isinstance(feed, Stored)
    numbers = list(taken(40, 10))
    with np.load(DIGITS / "heldback.npz") as found:
        np.testing.assert_array_equal(feed.labels, found["labels"][numbers])
        np.testing.assert_array_equal(feed.data.read(7)["data"][0] * 16, found["images"][numbers[7]])
    with pytest.raises(DataError, match="--images"):
        feed_of(path, ORIGINAL.load(), images=10)


def own_layer(tmp_path: Path, feed: Own, batch: int = 8) -> str:
    solver = Solver(iterations=10, batch=batch)
    write(Task(cut_digits(tmp_path / "cut"), feed, LABELS, solver), tmp_path / "run")
    text = (tmp_path / "run" / "train_val.prototxt").read_text()
    return " ".join(text[: text.index('name: "conv1"')].split())


def test_databases_and_lists_become_caffes_own_data_layers(tmp_path: Path) -> None:
    base = lmdb(tmp_path / "lmdb", (3, 17))
    how = Preprocess(crop=(8, 8), channels="grey", mean=(3.0,), scale=0.0625)
    feed = feed_of(base, ORIGINAL.load(), preprocess=how)
    assert isinstance(feed, Own)
    assert feed.images == 17
    found = own_layer(tmp_path, Own("Data", base, preprocess=how, mirror=True))
    transform = "crop_size: 8 {}mean_value: 3 scale: 0.0625 force_gray: true"
    assert f"transform_param {{ {transform.format('mirror: true ')} }}" in found
    assert f"transform_param {{ {transform.format('')} }}" in found
    assert found.count(f'data_param {{ source: "{base}" batch_size: 8 backend: LMDB }}') == 2
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").touch()
    (pictures / "list.txt").write_text("a.png 3\n")
    listed = feed_of(pictures / "list.txt", ORIGINAL.load(), preprocess=how, is_list_own=True)
    assert isinstance(listed, Own)
    assert listed.images == 1
    (tmp_path / "second").mkdir()
    found = own_layer(tmp_path / "second", listed)
    assert f'root_folder: "{pictures}/" shuffle: true is_color: false' in found


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (Preprocess(channels="rgb"), "red first"),
        (Preprocess(crop=(3, 4)), "no square"),
        (Preprocess(resize=9), "shorter side"),
    ],
)
def test_what_caffes_data_layers_cannot_do_is_refused(how: Preprocess, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=reason):
        own_layer(tmp_path, Own("ImageData", tmp_path / "list.txt", images=3, preprocess=how))


def damaged(folder: Path) -> Path:
    (folder / "x.h5").write_bytes(b"no HDF5")
    return folder / "x.h5"


def other(folder: Path) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        file["data"] = np.zeros((4, 1, 9, 9), np.float32)
    return folder / "x.h5"


def nothing(folder: Path) -> Path:
    (folder / "list.txt").write_text("gone.h5\n")
    return folder / "list.txt"


def database(folder: Path) -> Path:
    (folder / "CURRENT").touch()
    return folder


@pytest.mark.parametrize("content", [b"", b"x" * 8192])
def test_a_damaged_lmdb_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match="LMDB"):
        feed_of(tmp_path, ORIGINAL.load())


@pytest.mark.parametrize("make", [damaged, other, nothing, database])
def test_data_that_cannot_be_read_are_named(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as caught:
        feed_of(path, ORIGINAL.load(), needs_teacher=True)
    assert "\n" not in str(caught.value)


def test_samples_without_labels_cannot_be_learnt_by_them(tmp_path: Path) -> None:
    feed = feed_of(DIGITS / "calibration.npz", ORIGINAL.load())
    with pytest.raises(PlanError, match="no labels"):
        write(Task(ORIGINAL, feed, LABELS, Solver()), tmp_path / "run")


def test_where_an_epoch_has_no_known_length_the_iterations_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no length"):
        batches_of(Own("Data", tmp_path), Solver())
    assert batches_of(Own("Data", tmp_path), Solver(iterations=5)).rounds.iterations == 5


def test_samples_that_are_moved_are_stored_several_times_and_those_held_back_are_not(tmp_path: Path) -> None:
    feed = samples(tmp_path, 30)
    many = augmented(feed, 2, mirror=True, seed=3)
    assert isinstance(many, Stored)
    assert many.held == feed.held
    assert len(many.train) == 4 * len(feed.train)
    assert set(many.train).isdisjoint(many.held)
    assert many.labels is not None
    assert feed.labels is not None
    first = [many.data.read(i)["data"] for i in many.train]
    assert [x.tobytes() for x in first] == [many.data.read(i)["data"].tobytes() for i in many.train]
    assert len({x.tobytes() for x in first}) > 3 * len(feed.train)
    for i, x in zip(many.train, first, strict=True):
        assert many.labels[i] == feed.labels[i % 30]
        assert np.count_nonzero(x) <= np.count_nonzero(feed.data.read(i % 30)["data"])
    assert augmented(feed, 0, mirror=False, seed=3) is feed
