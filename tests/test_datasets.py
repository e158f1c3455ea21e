"""Datasets by property: the genuine formats are read exactly, and bad files are one line."""

import io
import json
import os
import pickle
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.datasets import _batches, _cache, _files, _images, cifar10, image_zip, synthetic
from harness.errors import UserError
from tests import cifar_files

ZIP = Path("../shared/data/noto-emoji-64.zip")


def png(array: np.ndarray, mode: str | None = None, **save: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, **{"format": "PNG", **save})  # type: ignore[arg-type]
    return out.getvalue()


def noise(seed: int, side: int = 16, channels: int = 3) -> np.ndarray:
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_zip(path: Path, files: dict[str, bytes], labels: object = None) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name, data in files.items():
            z.writestr(name, data)
        if labels is not None:
            z.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def pngs(count: int, side: int = 16) -> dict[str, bytes]:
    return {f"00000/img{i:08d}.png": png(noise(i, side)) for i in range(count)}


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text and ":" in text and len(text) < 600
    for word in words:
        assert word in text


# ── cifar10 ──────────────────────────────────────────────────────────────────


def test_genuine_archive_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    content = cifar_files.write_archive(path, 300)
    train = cifar10.load(cifar10.Options(path, expect_full=False))
    test = cifar10.load(cifar10.Options(path, expect_full=False), "test")
    expected = np.concatenate([content[n][0] for n in cifar_files.BATCHES[:5]])
    assert np.array_equal(train.images.reshape(-1, 3072), expected)
    assert train.labels is not None and train.labels.tolist() == sum(
        (content[n][1] for n in cifar_files.BATCHES[:5]), []
    )
    assert len(test) == 300 and np.array_equal(test.images.reshape(-1, 3072), content["test_batch"][0])
    assert train.fingerprint != test.fingerprint

    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        assert cifar10.load(cifar10.Options(folder, expect_full=False)).fingerprint == train.fingerprint


def test_the_hand_written_format_is_what_python_2_pickles_are() -> None:
    """The writer of these tests against an independent reader: Python's own."""
    images, labels = noise(0, 64).reshape(-1, 3072)[:2], [3, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core is an old name for numpy._core
        read = pickle.loads(cifar_files.batch(images, labels), encoding="latin1")
    assert sorted(read) == ["batch_label", "data", "filenames", "labels"]
    assert np.array_equal(read["data"], images) and read["labels"] == labels


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_batches_pickled_again_by_python_3_are_read(protocol: int) -> None:
    images = noise(1, 64).reshape(-1, 3072)
    batch = {b"data": images, b"labels": [0, 5, 9, 1], b"filenames": [b"a", b"b", b"c", b"d"], "extra": (1, None, True)}
    read = _batches.read(pickle.dumps(batch, protocol))
    assert np.array_equal(read["data"], images) and read["labels"] == [0, 5, 9, 1] and read["extra"] == (1, None, True)


def test_labels_as_numpy_numbers_are_read() -> None:
    labels = np.array([7, 0, 3], ">i4")
    assert _batches.read(pickle.dumps({"labels": labels}, 2))["labels"].tolist() == [7, 0, 3]


def test_a_short_archive_needs_expect_full_off(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    cifar_files.write_archive(path, 20)
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path))
    one_line(error, "5 x 10000", "expect_full")


class Evil:
    """Pickles as a call of os.system."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def _with_batch(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "cifar-10-python.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in cifar_files.BATCHES:
                cifar_files.add(archive, f"cifar-10-batches-py/{name}", data)
        return path

    return write


def _truncated(folder: Path) -> Path:
    path = folder / "cifar-10-python.tar.gz"
    cifar_files.write_archive(path, 20)
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def _bytes(data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "cifar-10-python.tar.gz"
        path.write_bytes(data)
        return path

    return write


GOOD = noise(0, 32).reshape(1, 3072)
BAD_ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "truncated": _truncated,
    "empty file": _bytes(b""),
    "no tar": _bytes(b"hello" * 1000),
    "gzip of rubbish": _bytes(bytes.fromhex("1f8b0800") + os.urandom(600)),
    "no batch": lambda folder: write_zip(folder / "cifar-10-python.tar.gz", {}),
    "empty folder": lambda folder: folder,
    "missing folder": lambda folder: folder / "cifar-10-batches-py",
    "not a pickle": _with_batch(b"no pickle"),
    "empty batch": _with_batch(b""),
    "cut batch": _with_batch(cifar_files.batch(GOOD, [1])[:-500]),
    "no images": _with_batch(cifar_files.batch(GOOD[:0], [])),
    "label 10": _with_batch(cifar_files.batch(GOOD, [10])),
    "label missing": _with_batch(cifar_files.batch(GOOD, [])),
    "wrong width": _with_batch(cifar_files.batch(GOOD[:, :300], [1])),
    "a list": _with_batch(pickle.dumps([1, 2], 2)),
    "no data": _with_batch(pickle.dumps({"labels": [1]}, 2)),
    "floats": _with_batch(pickle.dumps({"labels": [1], "data": GOOD.astype(float)}, 2)),
    "objects": _with_batch(pickle.dumps({"labels": [1], "data": np.array([{}])}, 2)),
    "labels as text": _with_batch(pickle.dumps({"labels": "7", "data": GOOD}, 2)),
    "memo before put": _with_batch(b"\x80\x02h\x05."),
    "empty stack": _with_batch(b"\x80\x02tR."),
    "negative length": _with_batch(b"\x80\x02T\xff\xff\xff\xff."),
    "length beyond file": _with_batch(b"\x80\x02T\xff\xff\xff\x7fabc."),
    "deep lists": _with_batch(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "deep tuple as a key": _with_batch(b"\x80\x02})" + b"\x85" * 10**5 + b"K\x01s."),
    "deep tuple as a name": _with_batch(b"\x80\x04)" + b"\x85" * 10**5 + b"U\x01a\x93."),
    "doubling": _with_batch(b"\x80\x02}q\x00" + b"}q\x01(U\x01ah\x00U\x01bh\x00uq\x00" * 60 + b"."),
    "holds itself": _with_batch(b"\x80\x02}q\x00U\x04datah\x00s."),
    "unhashable key": _with_batch(b"\x80\x02}]K\x01s."),
    "instance": _with_batch(b"(ios\nsystem\n."),
    "persistent id": _with_batch(b"Pevil\n."),
    "extension": _with_batch(b"\x80\x02\x82\x01."),
    "numpy load": _with_batch(b"\x80\x02cnumpy\nload\nU\x01a\x85R."),
    "dtype of objects": _with_batch(b"\x80\x02cnumpy\ndtype\nU\x01O\x85R."),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives_are_one_line(case: str, tmp_path: Path) -> None:
    path = BAD_ARCHIVES[case](tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path, expect_full=False))
    one_line(error, "dataset.path", str(path))
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_sizes_are_bounded_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "MAX_BATCH_BYTES", 1000)
    monkeypatch.setattr(_files, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(_batches, "MAX_STEPS", 30)
    path = tmp_path / "cifar-10-python.tar.gz"
    cifar_files.write_archive(path, 2)
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path))
    one_line(error, "data_batch_1", "at most 1000")
    with pytest.raises(UserError) as error:
        image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", {"a.png": bytes(1001)})))
    one_line(error, "a.png", "at most 1000")
    with pytest.raises(_batches.Refused, match="more than 30 steps"):
        _batches.read(cifar_files.batch(GOOD, [1]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = _with_batch(pickle.dumps({"data": Evil(mark), "labels": [1]}, protocol))(tmp_path)
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path, expect_full=False))
    one_line(error, "system", "not run")
    assert not mark.exists()


def test_any_single_broken_byte_is_read_or_refused() -> None:
    """Fuzz: the reader ends in data or Refused, never in another exception."""
    good = cifar_files.batch(GOOD, [1])
    structure = [i for i in range(len(good)) if not 250 < i < 250 + 2900]
    rng = np.random.default_rng(0)
    for _ in range(1500):
        broken = bytearray(good)
        broken[int(rng.choice(structure))] = int(rng.integers(256))
        try:
            _batches.read(bytes(broken))
        except _batches.Refused as e:
            assert "\n" not in str(e)


class _Server(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def test_download_checks_the_sum_and_leaves_nothing_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    cifar_files.write_archive(tmp_path / "served", 10)
    _Server.body = (tmp_path / "served").read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    try:
        with pytest.raises(UserError) as error:
            cifar10.download(path)
        one_line(error, "checksum", str(path))
        assert not list(path.parent.iterdir())
        monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(_Server.body).hexdigest())
        seen: list[int] = []
        cifar10.download(path, lambda done, total: seen.append(done))
        assert path.read_bytes() == _Server.body and seen[-1] == len(_Server.body)
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    finally:
        server.shutdown()
        server.server_close()


def test_missing_and_offline_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    path = tmp_path / "data" / "cifar-10-python.tar.gz"
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path))
    one_line(error, "put cifar-10-python.tar.gz (170498071 bytes", f"at {path}")
    assert not path.parent.exists()


# ── image_zip ────────────────────────────────────────────────────────────────


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
    images = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", files))).images.transpose(0, 2, 3, 1)
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


def _bomb() -> bytes:
    """A few bytes of PNG that claim 60,000 x 60,000 pixels."""
    import struct
    import zlib

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
    "no zip": (lambda folder: _bytes(b"hello")(folder), "ZIP"),
    "cut": (_cut, "ZIP"),
    "flipped bit": (_flipped, "img00000000.png"),
    "zero images": (_zip({"readme.txt": b"hello"}), "no images"),
    "not square": (_zip({"a.png": png(noise(0)[:8])}), "a.png: 16x8: must be square"),
    "broken image": (_zip({**ONE, "b.png": png(noise(0))[:300]}), "b.png"),
    "not an image": (_zip({**ONE, "b.png": b"hello"}), "b.png"),
    "a gif": (_zip({**ONE, "b.png": png(noise(0, channels=1), format="GIF")}), "b.png"),
    "two sizes": (_zip({**ONE, "b.png": png(noise(0, 8))}), "dataset.resolution"),
    "bomb": (_zip({**ONE, "b.png": _bomb()}), "pixels"),
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


# ── synthetic ────────────────────────────────────────────────────────────────


def test_a_scene_depends_on_nothing_but_seed_split_and_index() -> None:
    few, many = (synthetic.load(synthetic.Options(num_images=n)) for n in (70, 1100))
    assert np.array_equal(few.images, many.images[:70])
    again = synthetic.load(synthetic.Options(num_images=70))
    assert again.fingerprint == few.fingerprint != many.fingerprint
    others = [
        synthetic.load(synthetic.Options(num_images=70, seed=1)),
        synthetic.load(synthetic.Options(num_images=70), "test"),
    ]
    assert len({few.fingerprint, *(o.fingerprint for o in others)}) == 3


def test_a_scene_is_the_same_at_every_resolution() -> None:
    small, large = (synthetic.load(synthetic.Options(resolution=r, num_images=100)) for r in (32, 128))
    shrunk = large.images.reshape(100, 3, 32, 4, 32, 4).mean((3, 5))
    assert np.abs(shrunk - small.images).mean() < 2
    assert small.boxes is not None and large.boxes is not None
    assert np.abs(small.boxes - large.boxes / 4).max() <= 1.5


def test_boxes_enclose_the_object_and_nothing_else() -> None:
    """Against the same scenes drawn without an object: what changed is the object."""
    labels = np.arange(200) % 10
    draws = np.random.default_rng(0).random((200, synthetic._NUM_DRAWS))
    images, boxes = synthetic.draw(labels, draws, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_DISTANCE", dict.fromkeys(synthetic.SHAPES, lambda x, y: 0 * x + 9))
        empty, _ = synthetic.draw(labels, draws, 64)
    changed = (images != empty).any(1)
    for label, mask, (x0, y0, x1, y1) in zip(labels, changed, boxes, strict=True):
        ys, xs = np.nonzero(mask)
        beyond = np.array([x0 - xs.min(), y0 - ys.min(), xs.max() + 1 - x1, ys.max() + 1 - y1])
        sharp = synthetic.SHAPES[label] in ("triangle", "star", "heart", "crescent", "hourglass")
        assert (beyond >= 0).all() and (beyond <= (4 if sharp else 2)).all()  # a thin tip covers no half pixel
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= 64).all()


def test_objects_stand_out_of_their_background() -> None:
    data = synthetic.load(synthetic.Options(num_images=500))
    draws = np.random.default_rng(0).random((500, synthetic._NUM_DRAWS))
    images, boxes = synthetic.draw(np.full(500, 1), draws, 64)  # squares: a box's middle is the object
    cx, cy = ((boxes[:, i] + boxes[:, i + 2]) / 2 for i in (0, 1))
    body = images[np.arange(500), :, cy.astype(int), cx.astype(int)].astype(float)
    corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(-1)
    assert np.quantile(np.abs(body - corners).max(1), 0.02) > 40
    assert np.bincount(data.labels).tolist() == [50] * 10  # type: ignore[arg-type]


def test_signed_distances_are_one_inside_the_unit_disc_and_no_steeper() -> None:
    """No shape leaves the disc that keeps it in the image; a slope over 1 would harden its edge."""
    axis = np.linspace(-1.3, 1.3, 521)
    x, y = np.meshgrid(axis, axis)
    step = axis[1] - axis[0]
    for name in synthetic.SHAPES:
        distance = synthetic._DISTANCE[name](x, y)
        assert (distance[np.hypot(x, y) > 1.02] > 0).all(), name
        assert max(np.abs(np.diff(distance, axis=i)).max() for i in (0, 1)) <= step * 1.01, name
        assert 0.15 < (distance < 0).mean() * 2.6**2 < 3, name


@pytest.mark.parametrize("raw", [{"resolution": 48}, {"resolution": 1024, "num_images": 10**6}])
def test_impossible_scenes_are_refused(raw: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"resolution: 48|num_images"):
        synthetic.Options(**raw)
