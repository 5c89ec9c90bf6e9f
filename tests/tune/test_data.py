"""Which samples are trained on, in which order, and how they are changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate.preprocess import Preprocess
from surgery.calibrate.spread import taken
from surgery.errors import DataError, PlanError
from surgery.tune.data import Augment, Samples, is_held_back, mirrored, moved, open_samples
from tests.tune.cases import SAMPLES, data, small


def samples(folder: Path, **more: object) -> Samples:
    path, labels = data(folder)
    return open_samples(path, small(folder).load(), labels=labels, size=18, **more)  # type: ignore[arg-type]


def test_one_sample_of_ten_is_held_back_and_of_few_the_last() -> None:
    held = [i for i in range(1000) if is_held_back(i, 1000)]
    assert [i // 10 for i in held] == list(range(100))
    assert [i for i in range(5) if is_held_back(i, 5)] == [4]


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_classes_that_take_turns_are_all_trained_and_all_held_back(classes: int) -> None:
    numbers = range(50 * classes)
    held = {i % classes for i in numbers if is_held_back(i, len(numbers))}
    trained = {i % classes for i in numbers if not is_held_back(i, len(numbers))}
    assert held == trained == set(range(classes))


def test_an_epoch_has_each_training_sample_once_and_none_that_is_held_back(tmp_path: Path) -> None:
    found = samples(tmp_path)
    every = np.load(tmp_path / "data.npy")
    batches = list(found.epoch(0, 1))
    assert [batch.count for batch in batches] == [18, 18, 18]
    seen = np.concatenate([batch.inputs["data"] for batch in batches])
    places = [int(np.flatnonzero((every == sample).all(axis=(1, 2, 3)))[0]) for sample in seen]
    assert sorted(places) == [i for i in range(SAMPLES) if not is_held_back(i, SAMPLES)]
    labels = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
    assert found.labels is not None
    assert (labels == found.labels[places]).all()


def test_an_epoch_follows_from_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    how = {"augment": Augment(crop=2, mirror=True)}
    first, second, other = samples(tmp_path, **how), samples(tmp_path, **how), samples(tmp_path, **how, seed=1)

    def drawn(source: Samples, turn: int) -> np.ndarray:
        return np.concatenate([batch.inputs["data"] for batch in source.epoch(0, turn)])

    assert (drawn(first, 3) == drawn(second, 3)).all()
    assert (drawn(first, 3) != drawn(first, 4)).any()
    assert (drawn(first, 3) != drawn(other, 3)).any()


def test_held_back_samples_are_never_changed(tmp_path: Path) -> None:
    found = samples(tmp_path, augment=Augment(crop=2, mirror=True))
    held = np.concatenate([batch.inputs["data"][: batch.count] for batch in found.held_back()])
    assert (held == np.load(tmp_path / "data.npy")[[i for i in range(SAMPLES) if is_held_back(i, SAMPLES)]]).all()


def test_moving_brings_in_zeros_and_mirroring_twice_is_nothing() -> None:
    picture = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4)
    assert (moved(picture, (1, -2)) == [[[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]]]).all()
    assert (moved(moved(picture, (0, 0)), (5, 9)) == 0).all()
    assert (mirrored(picture)[0, 0] == [4, 3, 2, 1]).all()
    assert (mirrored(mirrored(picture)) == picture).all()
    taller = np.arange(20, dtype=np.float32).reshape(1, 5, 4)
    assert (mirrored(taller.transpose(1, 2, 0)).transpose(2, 0, 1) == mirrored(taller)).all(), "channels may come last"


def test_a_crop_of_the_preprocessing_moves_within_the_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(1, 255, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "pictures.npz", images=pictures)
    how = Preprocess(crop=(6, 6), channels="rgb")
    model = small(tmp_path).load()
    found = open_samples(tmp_path / "pictures.npz", model, preprocess=how, size=18, augment=Augment(crop=1))
    seen = np.concatenate([batch.inputs["data"] for turn in range(8) for batch in found.epoch(0, turn)])
    assert (seen > 0).all(), "a zero came in from outside of the picture"
    windows = {(y, x): pictures[:, y : y + 6, x : x + 6].transpose(0, 3, 1, 2) for y in range(3) for x in range(3)}
    places = [place for sample in seen for place, each in windows.items() if (each == sample).all(axis=(1, 2, 3)).any()]
    assert len(places) == len(seen)
    assert set(places) == set(windows)


def test_fewer_samples_are_spread_over_the_data_and_keep_their_labels(tmp_path: Path) -> None:
    path, labels = data(tmp_path)
    labels.write_text("".join(f"{i // 15}\n" for i in range(60)))  # sorted by class
    found = open_samples(path, small(tmp_path).load(), labels=labels, images=12)
    assert found.data.count == 12
    assert sorted(set(found.labels.tolist())) == [0, 1, 2, 3]  # type: ignore[union-attr]
    for i, number in enumerate(taken(60, 12)):
        np.testing.assert_array_equal(found.data.read(i)["data"], np.load(path)[number])
        assert found.labels[i] == number // 15  # type: ignore[index]


def test_too_few_labels_and_samples_are_said_in_a_line(tmp_path: Path) -> None:
    path, labels = data(tmp_path)
    model = small(tmp_path).load()
    labels.write_text("1\n2\n")
    with pytest.raises(DataError, match="states 2 labels for 60 samples"):
        open_samples(path, model, labels=labels)
    with pytest.raises(DataError, match="one sample"):
        open_samples(path, model, images=1)
    with pytest.raises(DataError, match="takes 64 at a time"):
        open_samples(path, model, fixed=True)


def test_what_is_no_picture_is_not_moved(tmp_path: Path) -> None:
    from surgery.formats import load

    path = tmp_path / "flat.prototxt"
    path.write_text('layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 5 } } }')
    np.save(tmp_path / "flat.npy", np.ones((4, 5), np.float32))
    with pytest.raises(PlanError, match="no picture"):
        open_samples(tmp_path / "flat.npy", load([path]), augment=Augment(mirror=True))
