"""Image ZIPs and folders by property: formats become RGB, caches are checked, and bad files are one line."""

import os
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data import decode as _images
from harness.data import image_files as _files
from harness.data import pixel_cache as _cache
from harness.datasets import image_zip
from harness.errors import UserError
from harness.experiment.spec import Plugin
from harness.trial.preflight import preflight
from tests import tiny
from tests.image_files import ZIP, noise, one_line, png, pngs, write_zip


def test_channels_and_formats_become_rgb(tmp_path: Path) -> None:
    grey, rgb = noise(0, channels=1), noise(1)
    rgba = np.dstack([rgb, np.full((16, 16), 51, np.uint8)])
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16)
    files = {
        "a.png": png(grey),
        "b.png": png(rgb),
        "c.png": png(rgba),
        "d.webp": png(rgb, format="WEBP", lossless=True),
        "e.png": png(deep),
        "f.png": png(rgb, "P"),
        "g.jpg": png(np.full((16, 16, 3), 200, np.uint8), format="JPEG"),
        "h.jpeg": png(np.full((16, 16), 100, np.uint8), format="JPEG"),
    }
    images = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", files))).images[:].transpose(0, 2, 3, 1)
    assert np.array_equal(images[0], np.dstack([grey] * 3))
    assert np.array_equal(images[1], rgb) and np.array_equal(images[3], rgb)
    over_white = rgb * 0.2 + 255 * 0.8
    assert np.abs(images[2] - over_white).max() <= 1
    assert np.array_equal(images[4][..., 0], np.arange(256).reshape(16, 16))
    assert (images[6] == 200).all() and (images[7] == 100).all()


def test_zip_and_folder_give_the_same(tmp_path: Path) -> None:
    files, labels = pngs(12), [[f"00000/img{i:08d}.png", i % 3] for i in range(12)]
    packed = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", files, labels)))
    folder = tmp_path / "folder"
    with zipfile.ZipFile(tmp_path / "a.zip") as z:
        z.extractall(folder)
    loose = image_zip.load(image_zip.Options(folder))
    assert packed.fingerprint == loose.fingerprint and packed.num_classes == 3
    assert loose.labels is not None and loose.labels.tolist() == [i % 3 for i in range(12)]
    assert np.array_equal(packed.images[7].transpose(1, 2, 0), noise(7))
    relabelled = image_zip.load(image_zip.Options(write_zip(tmp_path / "b.zip", files, [[n, 0] for n, _ in labels])))
    assert relabelled.fingerprint != packed.fingerprint


def test_resize_is_recorded_only_where_it_happens(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", pngs(3))
    same = image_zip.load(image_zip.Options(path, resolution=16, filter="box"))
    half = image_zip.load(image_zip.Options(path, resolution=8, filter="box"))
    sharp = image_zip.load(image_zip.Options(path, resolution=8))
    assert same.about["filter"] == "none" and half.about["filter"] == "box" and sharp.about["filter"] == "lanczos"
    means = noise(0).reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(half.images[0].transpose(1, 2, 0) - means).max() <= 1
    assert len({same.fingerprint, half.fingerprint, sharp.fingerprint}) == 3


def test_holdout_and_max_images_partition(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", pngs(40))
    everything = {i.tobytes() for i in image_zip.load(image_zip.Options(path)).images}
    options = image_zip.Options(path, holdout=10)
    train, test = ({i.tobytes() for i in image_zip.load(options, s).images} for s in ("train", "test"))
    assert len(train) == 30 and len(test) == 10 and train | test == everything
    few = image_zip.load(image_zip.Options(path, holdout=10, max_images=5))
    assert len(few) == 5 and {i.tobytes() for i in few.images} < train
    assert not image_zip.has_test(image_zip.Options(path)) and image_zip.has_test(options)


def test_a_large_set_is_cached_verified_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    path = write_zip(tmp_path / "a.zip", pngs(30), [[n, 1] for n in pngs(30)])
    small = image_zip.load(image_zip.Options(path))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 1000)
    large = image_zip.load(image_zip.Options(path))
    assert isinstance(large.images, np.memmap) and np.array_equal(large.images, small.images)
    assert large.fingerprint == small.fingerprint and large.about == small.about

    monkeypatch.setattr(_cache, "store", lambda *_: pytest.fail("decoded again"))
    assert image_zip.load(image_zip.Options(path)).fingerprint == small.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 1000)
    (pixels,) = (tmp_path / "cache" / "images").glob("*.u8")
    good = pixels.read_bytes()
    for broken in (good[:-1], bytes([good[0] ^ 1]) + good[1:], b""):
        pixels.unlink()
        pixels.write_bytes(broken)
        assert np.array_equal(image_zip.load(image_zip.Options(path)).images, small.images)
    # Other content under the same path is another entry.
    write_zip(path, {n: png(noise(99)) for n in pngs(30)})
    assert image_zip.load(image_zip.Options(path)).fingerprint != small.fingerprint
    assert not list((tmp_path / "cache" / "images").glob("*.part"))


def test_pixels_of_a_folder_are_kept_by_what_its_files_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 0)
    options = image_zip.Options(tmp_path / "set")
    options.path.mkdir()
    file = options.path / "a.png"
    for image in (noise(0), np.ascontiguousarray(noise(0)[::-1])):
        file.write_bytes(png(image, compress_level=0))
        os.utime(file, ns=(10**18, 10**18))
        assert file.stat().st_size == len(png(noise(0), compress_level=0))
        assert np.array_equal(image_zip.load(options).images[0].transpose(1, 2, 0), image)
    shutil.copytree(options.path, tmp_path / "copy")
    monkeypatch.setattr(_cache, "store", lambda *_: pytest.fail("decoded again"))
    assert len(image_zip.load(image_zip.Options(tmp_path / "copy"))) == 1


def test_a_set_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 0)
    path = write_zip(tmp_path / "a.zip", pngs(2))
    found = iter(["before", "after"])
    monkeypatch.setattr(image_zip, "identity", lambda options: next(found))
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path))
    one_line(error, "a.zip", "changed while it was read")
    assert [p.suffix for p in (tmp_path / "cache" / "images").iterdir()] == [".lock"]


def test_what_is_left_out_is_counted_and_said(tmp_path: Path) -> None:
    names = [*pngs(4), "a.svg", "b.SVG", "c.0001", "README", ".hidden", ".git/config", "__MACOSX/a.png"]
    files = {**dict.fromkeys(names, b"x"), **pngs(4)}
    kinds = {".svg file": 2, "hidden file": 3, "other file": 2}
    options = image_zip.Options(write_zip(tmp_path / "a.zip", files, [[n, 0] for n in pngs(4)]))
    assert image_zip.load(options).about["skipped"] == kinds
    folder = tmp_path / "set"
    with zipfile.ZipFile(options.path) as z:
        z.extractall(folder)
    for link, to in (("gone.png", "nowhere.png"), (".gone.png", "nowhere.png"), ("up", ".."), ("self", "self")):
        (folder / link).symlink_to(to)
    data = image_zip.load(image_zip.Options(folder))
    assert data.about["skipped"] == {**kinds, "hidden file": 4, "broken link": 2, "upward link": 1}
    assert "skipped" not in image_zip.load(image_zip.Options(write_zip(tmp_path / "b.zip", pngs(2)))).about
    trial = tiny.trial(eval={"metrics": {"disequilibrium": {"n": 4}}})
    trial = replace(trial, dataset=Plugin("image_zip", image_zip.Options(folder, resolution=32)))
    left = "4 hidden files, 2 .svg files, 2 broken links, 2 other files, 1 upward link"
    assert preflight([trial, trial], "here") == (f"dataset.path: {folder}: left out: {left}",)
    for name in pngs(4):
        (folder / name).unlink()
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(folder))
    one_line(error, "no images", "2 .svg files")


def test_a_broken_image_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 1000)
    path = write_zip(tmp_path / "a.zip", {**pngs(5), "z.png": b"no image"})
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path))
    one_line(error, "z.png")
    assert [p.suffix for p in (tmp_path / "cache" / "images").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 1000)
    path = write_zip(tmp_path / "a.zip", pngs(3))
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path))
    one_line(error, "NASHBOARD_CACHE")
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache.shutil, "disk_usage", lambda _: _Full())
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path))
    one_line(error, "GiB free", "max_images")


class _Full:
    free = 10


def bomb() -> bytes:
    """A few bytes of PNG that claim 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _zip(files: dict[str, bytes], labels: object = None, **raw: bytes) -> Callable[[Path], Path]:
    return lambda folder: write_zip(folder / "a.zip", {**files, **raw}, labels)


def _cut(folder: Path) -> Path:
    path = write_zip(folder / "a.zip", pngs(4))
    path.write_bytes(path.read_bytes()[:900])
    return path


def _no_zip(folder: Path) -> Path:
    (folder / "a.zip").write_bytes(b"hello")
    return folder / "a.zip"


def _flipped(folder: Path) -> Path:
    path = write_zip(folder / "a.zip", pngs(4))
    data = bytearray(path.read_bytes())
    data[500] ^= 255
    path.write_bytes(data)
    return path


def _twice(folder: Path) -> Path:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as z, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z.writestr("a.png", png(noise(0)))
        z.writestr("a.png", png(noise(1)))
    return path


ONE = {"a.png": png(noise(0))}
BAD_ZIPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "no.zip", "does not exist"),
    "missing folder": (lambda folder: folder / "no" / "folder", "does not exist"),
    "empty folder": (lambda folder: folder, "no images"),
    "no zip": (_no_zip, "ZIP"),
    "cut": (_cut, "ZIP"),
    "flipped bit": (_flipped, "img00000000.png"),
    "zero images": (_zip({"readme.txt": b"hello"}), "no images"),
    "not square": (_zip({"a.png": png(noise(0)[:8])}), "a.png: 16x8: must be square"),
    "broken image": (_zip({**ONE, "b.png": png(noise(0))[:300]}), "b.png"),
    "not an image": (_zip({**ONE, "b.png": b"hello"}), "b.png"),
    "an icon": (_zip({**ONE, "b.png": png(noise(0), format="ICO")}), "b.png"),
    "two sizes": (_zip({**ONE, "b.png": png(noise(0, 8))}), "dataset.resolution"),
    "bomb": (_zip({**ONE, "b.png": bomb()}), "pixels"),
    "leaves upwards": (_zip({**ONE, "../b.png": png(noise(1))}), "stay inside"),
    "absolute": (_zip({**ONE, "/etc/b.png": png(noise(1))}), "stay inside"),
    "windows path": (_zip({**ONE, "..\\b.png": png(noise(1))}), "stay inside"),
    "same name twice": (_twice, "one name"),
    "json broken": (_zip({**ONE, "dataset.json": b"{"}), "dataset.json"),
    "json not text": (_zip({**ONE, "dataset.json": b"\xff\xfe\x00"}), "dataset.json"),
    "json deep": (_zip({**ONE, "dataset.json": b"[" * 200_000}), "dataset.json"),
    "json a list": (_zip({**ONE, "dataset.json": b"[]"}), "mapping"),
    "label of missing file": (_zip(ONE, [["a.png", 0], ["b.png", 1]]), "'b.png' has a label"),
    "file without label": (_zip({**ONE, "b.png": png(noise(1))}, [["a.png", 0]]), "'b.png' has no label"),
    "labels flat": (_zip(ONE, [1, 2, 3]), "labels"),
    "label twice": (_zip(ONE, [["a.png", 0], ["a.png", 1]]), "once"),
    "label negative": (_zip(ONE, [["a.png", -1]]), "class number"),
    "label text": (_zip(ONE, [["a.png", "cat"]]), "class number"),
    "label vector": (_zip(ONE, [["a.png", [0.5, 0.5]]]), "class number"),
    "label huge": (_zip(ONE, [["a.png", 10**12]]), "class number"),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips_are_one_line(case: str, tmp_path: Path) -> None:
    write, words = BAD_ZIPS[case]
    path = write(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path))
    one_line(error, "dataset.path", words)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_holdout_leaves_something_to_train_on(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ONE)
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path, holdout=1))
    one_line(error, "holdout")
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(path), "test")
    one_line(error, "holdout")


def test_unreadable_folder_is_one_line(tmp_path: Path) -> None:
    """An image that is a broken link, and one that is a folder, are no files: ignored; a lone one is not."""
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(tmp_path))
    one_line(error, "no images")


def test_a_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MAX_FILE_BYTES", 1000)
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", {"a.png": bytes(1001)})))
    one_line(error, "a.png", "at most 1000")


def test_decode_bounds_before_it_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_images, "MAX_PIXELS", 255)
    with pytest.raises(UserError) as error:
        _images.decode(png(noise(0)), "here")
    one_line(error, "here: 16x16")


@pytest.mark.slow
@pytest.mark.skipif(not ZIP.exists(), reason=f"{ZIP} is not here")
def test_the_real_zip() -> None:
    data = image_zip.load(image_zip.Options(ZIP))
    assert data.images.shape == (3786, 3, 64, 64) and data.num_classes == 10 and data.labels is not None
    assert np.bincount(data.labels).tolist() == [169, 2261, 5, 159, 131, 218, 85, 264, 224, 270]
