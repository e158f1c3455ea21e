"""CIFAR-10 by property: the genuine format is read exactly, and bad files are one line."""

import hashlib
import os
import pickle
import tarfile
import threading
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from harness.data import cifar_batches as _batches
from harness.datasets import cifar10
from harness.errors import UserError
from tests import cifar_files
from tests.image_files import noise, one_line, write_zip


def test_genuine_archive_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    content = cifar_files.write_archive(path, 300)
    train = cifar10.load(cifar10.Options(path, expect_full=False))
    test = cifar10.load(cifar10.Options(path, expect_full=False), "test")
    expected = np.concatenate([content[n][0] for n in cifar_files.BATCHES[:5]])
    assert np.array_equal(train.images[:].reshape(-1, 3072), expected)
    assert train.labels is not None and train.labels.tolist() == sum(
        (content[n][1] for n in cifar_files.BATCHES[:5]), []
    )
    assert len(test) == 300 and np.array_equal(test.images[:].reshape(-1, 3072), content["test_batch"][0])
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


def with_batch(data: bytes) -> Callable[[Path], Path]:
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


def holding(data: bytes) -> Callable[[Path], Path]:
    """Writes an archive of that content."""

    def write(folder: Path) -> Path:
        path = folder / "cifar-10-python.tar.gz"
        path.write_bytes(data)
        return path

    return write


GOOD = noise(0, 32).reshape(1, 3072)
BAD_ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "truncated": _truncated,
    "empty file": holding(b""),
    "no tar": holding(b"hello" * 1000),
    "gzip of rubbish": holding(bytes.fromhex("1f8b0800") + os.urandom(600)),
    "no batch": lambda folder: write_zip(folder / "cifar-10-python.tar.gz", {}),
    "empty folder": lambda folder: folder,
    "missing folder": lambda folder: folder / "cifar-10-batches-py",
    "not a pickle": with_batch(b"no pickle"),
    "empty batch": with_batch(b""),
    "cut batch": with_batch(cifar_files.batch(GOOD, [1])[:-500]),
    "no images": with_batch(cifar_files.batch(GOOD[:0], [])),
    "label 10": with_batch(cifar_files.batch(GOOD, [10])),
    "label missing": with_batch(cifar_files.batch(GOOD, [])),
    "wrong width": with_batch(cifar_files.batch(GOOD[:, :300], [1])),
    "a list": with_batch(pickle.dumps([1, 2], 2)),
    "no data": with_batch(pickle.dumps({"labels": [1]}, 2)),
    "floats": with_batch(pickle.dumps({"labels": [1], "data": GOOD.astype(float)}, 2)),
    "objects": with_batch(pickle.dumps({"labels": [1], "data": np.array([{}])}, 2)),
    "labels as text": with_batch(pickle.dumps({"labels": "7", "data": GOOD}, 2)),
    "memo before put": with_batch(b"\x80\x02h\x05."),
    "empty stack": with_batch(b"\x80\x02tR."),
    "negative length": with_batch(b"\x80\x02T\xff\xff\xff\xff."),
    "length beyond file": with_batch(b"\x80\x02T\xff\xff\xff\x7fabc."),
    "deep lists": with_batch(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."),
    "deep tuple as a key": with_batch(b"\x80\x02})" + b"\x85" * 10**5 + b"K\x01s."),
    "deep tuple as a name": with_batch(b"\x80\x04)" + b"\x85" * 10**5 + b"U\x01a\x93."),
    "doubling": with_batch(b"\x80\x02}q\x00" + b"}q\x01(U\x01ah\x00U\x01bh\x00uq\x00" * 60 + b"."),
    "holds itself": with_batch(b"\x80\x02}q\x00U\x04datah\x00s."),
    "unhashable key": with_batch(b"\x80\x02}]K\x01s."),
    "instance": with_batch(b"(ios\nsystem\n."),
    "persistent id": with_batch(b"Pevil\n."),
    "extension": with_batch(b"\x80\x02\x82\x01."),
    "numpy load": with_batch(b"\x80\x02cnumpy\nload\nU\x01a\x85R."),
    "dtype of objects": with_batch(b"\x80\x02cnumpy\ndtype\nU\x01O\x85R."),
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
    monkeypatch.setattr(_batches, "MAX_STEPS", 30)
    path = tmp_path / "cifar-10-python.tar.gz"
    cifar_files.write_archive(path, 2)
    with pytest.raises(UserError) as error:
        cifar10.load(cifar10.Options(path))
    one_line(error, "data_batch_1", "at most 1000")
    with pytest.raises(_batches.Refused, match="more than 30 steps"):
        _batches.read(cifar_files.batch(GOOD, [1]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = with_batch(pickle.dumps({"data": Evil(mark), "labels": [1]}, protocol))(tmp_path)
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


def test_batches_that_are_not_there_are_named(tmp_path: Path) -> None:
    cifar_files.write_archive(tmp_path / "cifar-10-python.tar.gz", 4)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert cifar10.load(cifar10.Options(tmp_path, expect_full=False)).about["notes"] == []
    for name in ("data_batch_2", "data_batch_5"):
        (tmp_path / "cifar-10-batches-py" / name).unlink()
    data = cifar10.load(cifar10.Options(tmp_path, expect_full=False))
    assert len(data) == 12 and data.about["notes"] == ["not there: data_batch_2, data_batch_5"]
