from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from surgery.calibrate import Preprocess
from surgery.calibrate.data import Data, open_data
from surgery.calibrate.spread import taken
from surgery.errors import DataError, EngineMissingError

cv2 = pytest.importorskip("cv2")

INPUT = {"data": (1, 3, 4, 5)}
PLAIN = Preprocess()


def picture(seed: int) -> np.ndarray:
    """Pixels (4, 5, 3), blue first."""
    return np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8)


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(seed))


def opened(
    path: Path,
    inputs: Mapping[str, tuple[int, ...]] = INPUT,
    preprocess: Preprocess | None = PLAIN,
    limit: int | None = None,
) -> Data:
    return open_data(path, inputs, preprocess, lambda: None, limit)


def all_of(data: Data, size: int = 3) -> np.ndarray:
    return np.concatenate([batch["data"] for batch in data.batches(size)])


def expected(*seeds: int) -> np.ndarray:
    return np.stack([picture(seed).transpose(2, 0, 1).astype(np.float32) for seed in seeds])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in (("b/a.png", 3), ("a.png", 1), ("a/z.PNG", 2), ("c.bmp", 4)):
        write(tmp_path / "pictures" / name, seed)
    (tmp_path / "pictures" / "notes.txt").write_text("none")
    return tmp_path / "pictures"


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(folder: Path) -> None:
    np.testing.assert_array_equal(all_of(opened(folder)), expected(1, 2, 3, 4))
    np.testing.assert_array_equal(all_of(opened(folder, limit=2)), expected(*(1 + i for i in taken(4, 2))))
    assert [len(batch["data"]) for batch in opened(folder).batches(3)] == [3, 1]


def test_a_list_gives_its_pictures_in_its_own_order_and_labels_do_not_count(folder: Path) -> None:
    write(folder / "with space.png", 7)
    (folder / "list.txt").write_text("c.bmp 3\nb/a.png 0\n\nwith space.png 12\na.png\nwith space.png\n")
    np.testing.assert_array_equal(all_of(opened(folder / "list.txt")), expected(4, 3, 7, 1, 7))


def test_channels_come_in_the_order_asked_for(folder: Path) -> None:
    np.testing.assert_array_equal(
        all_of(opened(folder, preprocess=Preprocess(channels="rgb"))), expected(1, 2, 3, 4)[:, ::-1]
    )
    grey = all_of(opened(folder, {"data": (1, 1, 4, 5)}, Preprocess(channels="grey")))
    np.testing.assert_array_equal(grey[0, 0], cv2.imread(str(folder / "a.png"), cv2.IMREAD_GRAYSCALE))


def test_arrays_of_bytes_with_red_first_are_pictures(folder: Path, tmp_path: Path) -> None:
    red_first = np.stack([picture(seed)[:, :, ::-1] for seed in (1, 2, 3, 4)])
    np.savez(tmp_path / "a.npz", images=red_first, labels=np.arange(4))
    for channels in ("bgr", "rgb"):
        how = Preprocess(channels=channels, mean=(1, 2, 3))
        np.testing.assert_array_equal(
            all_of(opened(tmp_path / "a.npz", preprocess=how)), all_of(opened(folder, preprocess=how))
        )


def test_arrays_of_an_inputs_shape_are_taken_as_they_are(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((5, 3, 4, 5))
    np.save(tmp_path / "a.npy", data)
    np.savez(tmp_path / "a.npz", data=data, info=np.ones((5, 2)), other=np.zeros(3))
    np.testing.assert_array_equal(all_of(opened(tmp_path / "a.npy", preprocess=None)), data.astype(np.float32))
    both = next(opened(tmp_path / "a.npz", {**INPUT, "info": (1, 2)}, None).batches(5))
    assert {name: array.shape for name, array in both.items()} == {"data": (5, 3, 4, 5), "info": (5, 2)}


def test_a_preprocess_is_never_ignored(tmp_path: Path) -> None:
    np.save(tmp_path / "ready.npy", np.zeros((2, 3, 4, 5), np.float32))
    with pytest.raises(DataError, match="leave out --preprocess"):
        opened(tmp_path / "ready.npy")
    # Bytes with channels last, for a network that has them last: inputs, unless something is said of pictures.
    np.save(tmp_path / "either.npy", np.ones((2, 4, 5, 3), np.uint8))
    last = {"data": (1, 4, 5, 3)}
    assert all_of(opened(tmp_path / "either.npy", last, None)).max() == 1
    assert all_of(opened(tmp_path / "either.npy", last, Preprocess(scale=3))).max() == 3


def test_the_default_is_asked_for_pictures_only(folder: Path, tmp_path: Path) -> None:
    asked = []

    def default() -> Preprocess:
        asked.append(1)
        return PLAIN

    np.save(tmp_path / "ready.npy", np.zeros((2, 3, 4, 5), np.float32))
    open_data(tmp_path / "ready.npy", INPUT, None, default)
    assert not asked
    np.testing.assert_array_equal(all_of(open_data(folder, INPUT, None, default)), expected(1, 2, 3, 4))


def test_a_network_with_channels_last_gets_them_last(folder: Path) -> None:
    last = all_of(opened(folder, {"data": (1, 4, 5, 3)}))
    np.testing.assert_array_equal(last, expected(1, 2, 3, 4).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("is_picture", [True, False])
def test_a_limited_reading_of_arrays_is_that_of_a_file_of_these_alone(is_picture: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 256, (9, 4, 5, 3), np.uint8) if is_picture else rng.standard_normal((9, 3, 4, 5))
    np.save(tmp_path / "all.npy", arrays)
    np.save(tmp_path / "few.npy", arrays[list(taken(9, 4))])
    how = PLAIN if is_picture else None
    few = opened(tmp_path / "few.npy", preprocess=how)
    found = opened(tmp_path / "all.npy", preprocess=how, limit=4)
    np.testing.assert_array_equal(all_of(found), all_of(few))
    assert (found.count, found.digest, list(found.numbers or ())) == (4, few.digest, list(taken(9, 4)))


def test_some_of_the_images_know_where_they_were(folder: Path) -> None:
    found = opened(folder, preprocess=Preprocess(crop=(4, 5)))
    some = found.only([3, 1]).only([1])
    assert (some.count, some.numbers) == (1, [1])
    assert some.cropped is not None
    for read in (some.read(0), some.cropped(0, lambda spare: 0)):
        np.testing.assert_array_equal(read["data"], expected(2)[0])


def test_the_digest_is_of_what_the_network_gets_wherever_it_lies(folder: Path, tmp_path: Path) -> None:
    digests = [
        opened(folder).digest,
        opened(folder, limit=3).digest,
        opened(folder, preprocess=Preprocess(scale=2)).digest,
    ]
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert opened(moved).digest == digests[0]
    write(moved / "a.png", 9)
    assert len({*digests, opened(moved).digest}) == 4


def bad_arrays(path: Path) -> dict[str, np.ndarray]:
    path.mkdir()
    cases = {
        "nan": np.full((2, 3, 4, 5), np.nan),
        "shape": np.zeros((2, 3, 4, 6)),
        "bytes": np.zeros((2, 4, 6, 3), np.uint8),
        "grey": np.zeros((2, 4, 5), np.uint8),
        "text": np.array(["a", "b"]),
        "none": np.zeros((0, 3, 4, 5)),
        "scalar": np.zeros(()),
    }
    for name, array in cases.items():
        np.save(path / f"{name}.npy", array)
    np.save(path / "ragged.npy", np.array([np.zeros(1), np.zeros(2)], dtype=object), allow_pickle=True)
    np.savez(path / "unnamed.npz", a=np.zeros(1), b=np.zeros(1))
    np.savez(path / "counts.npz", data=np.zeros((2, 3, 4, 5)), info=np.zeros((3, 2)))
    (path / "broken.npz").write_bytes(b"PK\x03\x04 no zip")
    (path / "broken.npy").write_bytes(b"no numbers")
    (path / "empty.npy").write_bytes(b"")
    return cases


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nan.npy", "image 0 of 'data' holds NaN"),
        ("shape.npy", r"'data' is float64 of shape \(2, 3, 4, 6\); expected \(2, 3, 4, 5\)"),
        ("bytes.npy", "image 0: becomes 3x4x6 where the network takes 3x4x5"),
        ("grey.npy", "its pictures have 1 channels; channels is bgr"),
        ("text.npy", "it holds <U1"),
        ("none.npy", "holds no images"),
        ("scalar.npy", "expected numbers, image by image"),
        ("ragged.npy", "ragged"),
        ("unnamed.npz", "holds 'a', 'b'; expected an array for each input: data"),
        ("broken.npz", "cannot be read"),
        ("broken.npy", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("absent", "no such file or folder"),
    ],
)
def test_wrong_arrays_are_told_in_one_line(tmp_path: Path, name: str, words: str) -> None:
    bad_arrays(tmp_path / "bad")
    preprocess = None if name == "nan.npy" else PLAIN
    with pytest.raises(DataError, match=words) as caught:
        list(opened(tmp_path / "bad" / name, preprocess=preprocess).batches(2))
    assert "\n" not in str(caught.value)


def test_arrays_of_different_counts_are_told(tmp_path: Path) -> None:
    bad_arrays(tmp_path / "bad")
    with pytest.raises(DataError, match="its arrays have 2 and 3 images"):
        opened(tmp_path / "bad" / "counts.npz", {**INPUT, "info": (1, 2)})


def test_wrong_pictures_are_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "list.txt").write_text("pictures/a.png 1\npictures/lost.png 2\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").write_text("\n")
    cases = {
        "none": "holds no pictures",
        "list.txt": r"list\.txt:2: no such picture: .*lost\.png",
        "bytes.txt": "is neither text nor an array",
        "empty.txt": "holds no pictures",
    }
    for name, words in cases.items():
        with pytest.raises(DataError, match=words):
            opened(tmp_path / name)
    for seed, content in enumerate((b"", b"no picture")):
        (folder / f"{seed}.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"{seed}\.png: cannot be read as a picture"):
            all_of(opened(folder))
        (folder / f"{seed}.png").unlink()


def test_without_opencv_pictures_are_refused_and_arrays_are_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.runtime.images.find_spec", lambda name: None)
    with pytest.raises(EngineMissingError, match=r"pip install surgery\[opencv\]"):
        opened(folder)
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 5, 3), np.uint8))
    assert all_of(opened(tmp_path / "a.npy", preprocess=Preprocess(crop=(4, 5)))).shape == (2, 3, 4, 5)


def test_pictures_need_a_statement_of_how_they_become_the_input(folder: Path) -> None:
    with pytest.raises(DataError, match="give --preprocess"):
        opened(folder, preprocess=None)
    with pytest.raises(DataError, match="becomes 3x4x5 where the network takes 3x8x8; see resize"):
        all_of(opened(folder, {"data": (1, 3, 8, 8)}))
    with pytest.raises(DataError, match=r"several inputs; give an \.npz with an array for each: data, info"):
        opened(folder, {**INPUT, "info": (1, 2)})
    with pytest.raises(DataError, match="no picture; give an array"):
        opened(folder, {"data": (1, 10)})
    with pytest.raises(DataError, match="limit is 0"):
        opened(folder, limit=0)
