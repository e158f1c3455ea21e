"""A dataset's identity is its content: not where it lies, not when it was written."""

import os
import shutil
import zipfile

import pytest

from harness.data import identity as _identity
from harness.data import image_files as _files
from harness.datasets import image_zip
from harness.errors import UserError
from tests.image_files import noise, png, pngs, write_zip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def folder_of(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def changed_by_a_byte(path):
    """One byte of a file is another, its size and its times of change as they were."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_size == before.st_size


def test_a_zip_is_what_its_directory_holds(tmp_path):
    files = pngs(3)
    first = _identity.of(write_zip(tmp_path / "a.zip", files))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in reversed([*files.items(), ("README.txt", b"not an image")]):
            z.writestr(name, data)
    assert _identity.of(tmp_path / "b.zip") == first
    name = next(iter(files))
    others = [
        {**files, name: png(noise(99))}, {k: v for k, v in files.items() if k != name},
        {f"x{k}": v for k, v in files.items()},
    ]  # fmt: skip
    labels = [[n, 0] for n in files]
    zips = [write_zip(tmp_path / f"{i}.zip", f) for i, f in enumerate(others)]
    found = [_identity.of(p) for p in [*zips, write_zip(tmp_path / "l.zip", files, labels)]]
    assert len({first, *found}) == 5


def test_a_copied_folder_is_the_same_and_a_changed_byte_is_not(tmp_path):
    folder = folder_of(tmp_path / "a", pngs(3))
    first = _identity.of(folder)
    shutil.copytree(folder, tmp_path / "b", copy_function=shutil.copy)
    assert _identity.of(tmp_path / "b") == first
    changed_by_a_byte(next(folder.rglob("*.png")))
    assert _identity.of(folder) != first == _identity.of(tmp_path / "b")


def test_links_are_followed_as_they_are_when_images_are_loaded(tmp_path):
    folder_of(tmp_path / "store" / "cats", {"c.png": png(noise(1)), "d.png": png(noise(2))})
    folder_of(tmp_path / "set" / "dogs", {"d.png": png(noise(3))})
    alone = _identity.of(tmp_path / "set")
    (tmp_path / "set" / "cats").symlink_to("../store/cats")
    for loop in (tmp_path / "store" / "cats" / "again", tmp_path / "set" / "all", tmp_path / "set" / "dogs" / "up"):
        loop.symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set" / "above").symlink_to("..")
    (tmp_path / "set" / "self").symlink_to("self")
    assert len(image_zip.load(image_zip.Options(tmp_path / "set"))) == 3
    linked = _identity.of(tmp_path / "set")
    changed_by_a_byte(tmp_path / "store" / "cats" / "c.png")
    assert len({alone, linked, _identity.of(tmp_path / "set")}) == 3


def test_what_was_read_once_is_remembered_until_a_file_changes(tmp_path, monkeypatch, cache):
    folder = folder_of(tmp_path / "a", pngs(3))
    _identity.of(folder)
    assert not cache.exists(), "a file so new may change again within the same tick of the clock"
    monkeypatch.setattr(_identity, "FRESH_S", -1.0)
    first = _identity.of(folder)
    with monkeypatch.context() as m:
        m.setattr(_identity, "_read", lambda *_: pytest.fail("read again"))
        assert _identity.of(folder) == first
    changed_by_a_byte(next(folder.rglob("*.png")))
    assert _identity.of(folder) != first


def test_two_ways_of_counting_a_zip_share_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(_identity, "FRESH_S", -1.0)
    path = write_zip(tmp_path / "a.zip", {**pngs(2), "notes.txt": b"more"})
    first = next(iter(pngs(1)))
    found = [_identity.of(path), _identity.of(path, [first]), _identity.of(path, [first, "notes.txt"])]
    assert len(set(found)) == 3 and _identity.of(path, [first]) == found[1]
    monkeypatch.setattr(_identity, "VERSION", 2)
    monkeypatch.setattr(_identity, "_read", lambda *_: "found anew")
    assert _identity.of(path) == "found anew"


def test_a_stamp_changes_with_a_file_below(tmp_path):
    folder = folder_of(tmp_path / "a", pngs(2))
    stamps = [_identity.stamp(folder)]
    changed_by_a_byte(next(folder.rglob("*.png")))
    stamps.append(_identity.stamp(folder))
    (folder / "more.png").write_bytes(png(noise(5)))
    stamps += [_identity.stamp(folder), _identity.stamp(tmp_path / "gone")]
    assert len(set(stamps)) == 4 and _identity.stamp(folder) == stamps[2]


def test_nothing_there_is_none_and_a_broken_zip_is_one_line(tmp_path):
    assert _identity.of(tmp_path / "gone.zip") is None
    (tmp_path / "broken.zip").write_bytes(write_zip(tmp_path / "a.zip", pngs(2)).read_bytes()[:-30] + bytes(30))
    options = image_zip.Options(tmp_path / "broken.zip")
    with pytest.raises(UserError, match="not a readable ZIP"):
        image_zip.load(options)
    assert _files.counts("x/a.PNG") and not _files.counts("__MACOSX/a.png") and not _files.counts("notes.txt")
