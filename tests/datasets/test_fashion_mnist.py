"""Fashion-MNIST and its stack of three: the recorded statistics of the genuine files; a bad file is one line."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from harness.data.imageset import ImageSet, Split
from harness.datasets import _fashion_files as files
from harness.datasets import fashion_mnist, stacked_fashion_mnist
from harness.errors import UserError
from tests import idx_files
from tests.golden._golden import Case, cases
from tests.image_files import one_line

genuine = pytest.mark.skipif(
    not all(p.exists() for p in fashion_mnist.lie_at(fashion_mnist.Options())),
    reason="needs the package dataset-fashion-mnist",
)
HALVES: list[tuple[Split, str]] = [("train", "train"), ("test", "t10k")]


@pytest.fixture(scope="module", params=["train", "test"])
def whole(request: pytest.FixtureRequest) -> tuple[Split, ImageSet]:
    return request.param, fashion_mnist.load(fashion_mnist.Options(channels=1), request.param)


@genuine
@pytest.mark.parametrize("case", cases("fashion_mnist*"))
def test_the_genuine_files_have_the_recorded_statistics(case: Case, whole: tuple[Split, ImageSet]) -> None:
    split, data = whole

    def out(name: str) -> np.ndarray:
        return case[f"out/{dict(HALVES)[split]}/{name}"].numpy()

    padded, labels = np.asarray(data.images)[:, 0], data.labels
    grey = padded[:, 2:30, 2:30]
    assert labels is not None and len(grey) == out("count") == files.COUNT[split]
    assert np.array_equal(grey[:8], out("images")) and np.array_equal(labels[:8], out("labels"))
    assert np.array_equal(np.bincount(labels), out("label_counts"))
    by_place = padded.sum(0, dtype=np.int64)  # [32, 32]: over all images
    of_image = padded.reshape(len(padded), -1).sum(1, dtype=np.int64)
    by_class = np.bincount(labels, of_image) / np.bincount(labels)
    assert np.allclose(by_class, out("mean_of_class_pixel_sums"), rtol=1e-12, atol=0)

    total = of_image.sum()
    squares = sum((some.astype(np.int32) ** 2).sum() for some in np.split(padded, 100))
    assert (total, squares) == (out("pixel_sum"), out("pixel_square_sum"))
    for name, count, of_it in (("", grey.size, by_place[2:30, 2:30]), ("pad32_", padded.size, by_place)):
        mean, deviation = total / count, np.sqrt(squares / count - (total / count) ** 2)
        assert of_it.sum() == out(f"{name}pixel_sum")
        assert mean / 255 == pytest.approx(float(out(f"{name}mean")), abs=1e-12)
        assert deviation / 255 == pytest.approx(float(out(f"{name}sd")), abs=1e-12)
    assert by_place.sum(1) @ np.arange(32) == out("pad32_row_weighted_sum")
    assert by_place.sum(0) @ np.arange(32) == out("pad32_column_weighted_sum")


@genuine
def test_the_published_checksums_are_those_of_the_package() -> None:
    for name, (content, packed, size) in files.FILES.items():
        data = (files.DEBIAN / f"{name}.gz").read_bytes()
        assert len(data) == size and hashlib.sha256(data).hexdigest() == packed
        assert hashlib.sha256(gzip.decompress(data)).hexdigest() == content


def test_packed_or_not_it_is_the_same_data(tmp_path: Path) -> None:
    folders = [idx_files.write(tmp_path / str(packed), packed) for packed in (True, False)]
    options = [fashion_mnist.Options(f, expect_full=False) for f in folders]
    assert len({fashion_mnist.identity(o) for o in options}) == 1
    assert len({fashion_mnist.load(o).fingerprint for o in options}) == 1
    (folders[1] / "train-labels-idx1-ubyte").write_bytes(idx_files.idx(np.zeros(40, np.uint8)))
    assert fashion_mnist.identity(options[0]) != fashion_mnist.identity(options[1])


@genuine
def test_what_would_be_downloaded_is_known_before(tmp_path: Path) -> None:
    assert fashion_mnist.identity(fashion_mnist.Options(tmp_path / "none")) == fashion_mnist.identity(
        fashion_mnist.Options()
    )


@pytest.mark.parametrize("dataset", [fashion_mnist, stacked_fashion_mnist])
def test_other_content_is_never_filled_up_with_the_published_one(
    dataset: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    options = dataset.Options(idx_files.write(tmp_path), expect_full=False)
    assert all(path.exists() for path in dataset.lie_at(options))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert dataset.identity(options) is None and not all(path.exists() for path in dataset.lie_at(options))
    with pytest.raises(UserError) as error:
        dataset.load(options, "test")
    one_line(error, "dataset.path", "t10k-labels-idx1-ubyte.gz: does not exist; put it there")


def test_each_resize_is_data_of_its_own(tmp_path: Path) -> None:
    folder = idx_files.write(tmp_path)
    padded = fashion_mnist.load(fashion_mnist.Options(folder, expect_full=False))
    smooth = fashion_mnist.load(fashion_mnist.Options(folder, expect_full=False, resize="bilinear"))
    assert padded.fingerprint != smooth.fingerprint
    assert (padded.about["filter"], smooth.about["filter"]) == ("pad2", "bilinear")
    grey, _ = idx_files.content("train")
    assert np.array_equal(padded.images[:][:, 0, 2:30, 2:30], grey) and not padded.images[:][:, :, :2].any()
    assert smooth.images[:][:, :, :2].any() and abs(smooth.images[:].mean() - grey.mean()) < 1


def test_a_triple_is_three_images_of_its_split_and_its_label_their_classes(tmp_path: Path) -> None:
    folder = idx_files.write(tmp_path)
    options = stacked_fashion_mnist.Options(folder, num_images=300, num_heldout=50, expect_full=False)
    for split, half in HALVES:
        grey, labels = idx_files.content(half)
        data = stacked_fashion_mnist.load(options, split)
        assert data.labels is not None and len(data) == (300 if split == "train" else 50)
        known = {x.tobytes(): int(y) for x, y in zip(grey, labels, strict=True)}
        for image, label in zip(data.images[:][:, :, 2:30, 2:30], data.labels, strict=True):
            red, green, blue = (known[channel.tobytes()] for channel in image)
            assert label == 100 * red + 10 * green + blue


def test_a_triple_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    folder = idx_files.write(tmp_path)

    def images(num_images: int, seed: int) -> np.ndarray:
        options = stacked_fashion_mnist.Options(folder, num_images=num_images, seed=seed, expect_full=False)
        return stacked_fashion_mnist.load(options).images[:]

    assert np.array_equal(images(100, 3)[:40], images(40, 3))
    assert not np.array_equal(images(40, 3), images(40, 4))
    train, test = (stacked_fashion_mnist.draw(60, 40, 3, split) for split, _ in HALVES)
    assert not np.array_equal(train, test)  # held-out triples are no shadow of those of training


def test_the_thousand_modes_are_equally_likely() -> None:
    rows = stacked_fashion_mnist.draw(60_000, 128_000, 0, "train")
    counts = np.bincount((rows * 10 // 60_000) @ np.array([100, 10, 1]), minlength=1000)
    chi2 = ((counts - 128) ** 2 / 128).sum()
    assert abs(chi2 - 999) < 4 * np.sqrt(2 * 999)


def _short(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))


def _cut(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-50])


def _text(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>404")


def _swapped(folder: Path) -> None:
    labels = (folder / "train-labels-idx1-ubyte.gz").read_bytes()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(labels)


def _few_labels(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_files.idx(np.zeros(39, np.uint8)))


def _label_ten(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx_files.idx(np.full(40, 10, np.uint8)))


def _other_size(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(idx_files.idx(np.zeros((40, 32, 32), np.uint8)))


@pytest.mark.parametrize(
    "spoil, words",
    [
        (_short, ["says 40 x 28 x 28"]),
        (_cut, ["not readable"]),
        (_text, ["an IDX file"]),
        (_swapped, ["2049", "2051"]),
        (_few_labels, ["40 labels"]),
        (_label_ten, ["0 to 9"]),
        (_other_size, ["28 x 28"]),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, spoil: Callable[[Path], None], words: list[str]) -> None:
    spoil(idx_files.write(tmp_path))
    with pytest.raises(UserError) as error:
        fashion_mnist.load(fashion_mnist.Options(tmp_path, expect_full=False))
    one_line(error, "dataset.path", "get the file", *words)


def test_other_images_than_the_published_ones_need_expect_full_off(tmp_path: Path) -> None:
    idx_files.write(tmp_path)
    with pytest.raises(UserError) as error:
        fashion_mnist.load(fashion_mnist.Options(tmp_path))
    one_line(error, "another checksum", "expect_full")


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"x")
    with pytest.raises(UserError) as error:
        fashion_mnist.load(fashion_mnist.Options(tmp_path / "a.gz"))
    one_line(error, "must be the folder")
