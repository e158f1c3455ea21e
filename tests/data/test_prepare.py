"""Preparation by property: exact pixels, order and labels; a stopped run continues to the same bytes."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from harness.data import archive as _archive
from harness.data.prepare import prepare
from harness.datasets import image_zip
from harness.errors import UserError
from tests.image_files import ZIP, noise, one_line, png, pngs, write_zip

TARBALL = Path(os.environ.get("EMOJI_TARBALL", "data/emoji-datasource-google-16.0.0.tgz"))


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_lmdb(folder: Path, count: int, width: int = 40, height: int = 30) -> Path:
    """As LSUN ships: keys are hashes, values lossy WebP, here of smooth pictures."""
    folder.mkdir()
    with lmdb.open(str(folder), map_size=2**24) as database, database.begin(write=True) as transaction:
        for i in range(count):
            small = Image.fromarray(noise(i, 4)).resize((width, height), Image.Resampling.BICUBIC)
            data = io.BytesIO()
            small.save(data, "WEBP", quality=90)
            transaction.put(hashlib.sha1(str(i).encode()).hexdigest().encode(), data.getvalue())
    return folder


def emoji_tarball(path: Path, change: dict[str, bytes | None] | None = None) -> Path:
    """A package of five images: out of order, one with skin tones, one that Google doesn't draw."""

    def entry(image: str, order: int, group: str, drawn: bool = True) -> dict[str, object]:
        return {"image": image, "sort_order": order, "category": group, "has_img_google": drawn}

    wave = entry("b.png", 3, "People")
    wave["skin_variations"] = {"1F3FB": {"image": "b1.png", "has_img_google": True}}
    index = [entry("d.png", 9, "Flags"), wave, entry("a.png", 1, "Smileys"), entry("x.png", 2, "None", drawn=False)]
    index.append(entry("c.png", 4, "Smileys"))
    files: dict[str, bytes | None] = {"emoji.json": json.dumps(index).encode(), "README.md": b"text"}
    for i, name in enumerate(["d", "b", "b1", "a", "c"]):
        files[f"img/google/64/{name}.png"] = png(np.dstack([noise(i, 64), noise(9, 64, 1)]))
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**files, **(change or {})}.items():
            if data is not None:
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def test_emoji_come_in_unicode_order_with_groups_as_classes(tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    made = prepare("noto_emoji", emoji_tarball(tmp_path / "e.tgz"), out, workers=1)
    assert made.notes == ("left out: 1 of 6 emoji, which Google does not draw",)
    data = image_zip.load(image_zip.Options(out))
    assert data.labels is not None and data.labels.tolist() == [0, 1, 1, 0, 2]
    alpha = noise(9, 64, 1)[..., None] / 255
    for image, seed in zip(data.images, [3, 1, 2, 4, 0], strict=True):
        assert np.abs(image.transpose(1, 2, 0) - (noise(seed, 64) * alpha + 255 * (1 - alpha))).max() <= 1
    names = zipfile.ZipFile(out).namelist()
    assert names[0] == "00000/img00000000.png" and names[-1] == "dataset.json"


@pytest.mark.slow
@pytest.mark.skipif(not (TARBALL.exists() and ZIP.exists()), reason=f"{TARBALL} or {ZIP} is not here")
def test_the_real_emoji_are_the_shared_ones(tmp_path: Path) -> None:
    prepare("noto_emoji", TARBALL, tmp_path / "out.zip")
    ours, theirs = (image_zip.load(image_zip.Options(p)) for p in (tmp_path / "out.zip", ZIP))
    assert np.array_equal(ours.images, theirs.images) and ours.fingerprint == theirs.fingerprint


def test_lsun_is_cropped_and_resized_in_key_order(tmp_path: Path) -> None:
    source = write_lmdb(tmp_path / "cat_lmdb", 12)
    seen: list[tuple[int, int]] = []
    done = prepare(
        "lsun_cat", source, tmp_path / "out.zip", resolution=16, max_images=10, workers=1,
        progress=lambda *p: seen.append(p),
    )  # fmt: skip
    data = image_zip.load(image_zip.Options(tmp_path / "out.zip"))
    assert done.images == len(data) == 10 and data.labels is None and seen == [(i + 1, 10) for i in range(10)]
    with lmdb.open(str(source), readonly=True, lock=False) as database, database.begin() as transaction:
        values = [value for _, value in transaction.cursor()][:10]
    for image, value in zip(data.images, values, strict=True):
        square = Image.open(io.BytesIO(value)).convert("RGB").crop((5, 0, 35, 30))
        assert np.array_equal(image.transpose(1, 2, 0), np.asarray(square.resize((16, 16), Image.Resampling.LANCZOS)))
    how = {"resolution": 16, "filter": "lanczos", "crop": "centre"}
    assert data.about["prepared"] == {"recipe": "lsun_cat", "source": "cat_lmdb", "images": 10, **how}


def test_ffhq_and_folder_keep_name_order_and_labels(tmp_path: Path) -> None:
    files = {f"{i // 4:02d}000/{i:05d}.png": png(noise(i, 32)) for i in range(8)}
    source = write_folder(tmp_path / "images", files)
    (source / "dataset.json").write_text(json.dumps({"labels": [[n, i % 2] for i, n in enumerate(files)]}))
    prepare("ffhq", source, tmp_path / "ffhq.zip", resolution=8, workers=1)
    data = image_zip.load(image_zip.Options(tmp_path / "ffhq.zip"))
    assert np.abs(data.images[5].transpose(1, 2, 0) - noise(5, 32).reshape(8, 4, 8, 4, 3).mean((1, 3))).max() <= 1
    assert data.about["prepared"]["filter"] == "box"
    assert data.labels is not None and data.labels.tolist() == [0, 1] * 4
    same = prepare("folder", source, tmp_path / "same.zip", workers=1)
    data = image_zip.load(image_zip.Options(tmp_path / "same.zip"))
    assert same.resolution == 32 and np.array_equal(data.images[5].transpose(1, 2, 0), noise(5, 32))
    assert data.about["prepared"]["filter"] == "none"
    again = prepare("folder", tmp_path / "same.zip", tmp_path / "again.zip", workers=1)  # a ZIP is a source too
    assert again.images == 8


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(noise(0, 16))
    exif = image.getexif()
    exif[274] = 6  # rotate by 270 degrees to view
    image.save(tmp_path / "a.png", exif=exif)
    prepare("folder", tmp_path, tmp_path / "out.zip", workers=1)
    data = image_zip.load(image_zip.Options(tmp_path / "out.zip"))
    assert np.array_equal(data.images[0].transpose(1, 2, 0), np.rot90(noise(0, 16), -1))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_range_that_is_hardly_used_is_said_with_its_cure(workers: int, tmp_path: Path) -> None:
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 15  # values of 12 bits in files of 16
    source = write_folder(tmp_path / "deep", {f"{i}.png": png(deep + i) for i in range(3)})
    made = prepare("folder", source, tmp_path / "deep.zip", workers=workers)
    assert made.notes == (
        "brightest pixel 14 of 255: 16 bits are scaled as such; if yours are fewer, scale the files up",
    )
    for note, grey in (
        ("brightest pixel", noise(0, 16) // 3), ("darkest pixel", 255 - noise(0, 16) // 3),
        ("no pixel below", 100 + noise(0, 16) // 6),
    ):  # fmt: skip
        source = write_folder(tmp_path / note, {"a.png": png(grey)})
        (said,) = prepare("folder", source, tmp_path / f"{note}.zip", workers=workers).notes
        assert said.startswith(note) and "16 bits" not in said
    source = write_folder(tmp_path / "some", {"a.png": png(noise(0, 16)), "b.png": png(noise(0, 16) // 16)})
    assert prepare("folder", source, tmp_path / "some.zip", workers=workers).notes == (
        "1 of 2 images use fewer than 32 of the 256 levels from black to white",
    )


def test_a_run_that_goes_on_says_of_which_images_its_range_is(tmp_path: Path) -> None:
    dark = {f"{i}.png": png(noise(i, 16) // 16) for i in range(2, 6)}
    source = write_folder(tmp_path / "images", {"0.png": png(noise(0, 16)), "1.png": png(noise(1, 16)), **dark})

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("folder", source, tmp_path / "out.zip", workers=1, progress=stop)
    made = prepare("folder", source, tmp_path / "out.zip", workers=1)
    assert made.notes == ("brightest pixel 15 of 255 (the 4 images of this call)",)


def test_several_processes_write_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", pngs(40))
    for workers in (1, 2):
        prepare("folder", source, tmp_path / f"{workers}.zip", resolution=8, workers=workers)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize("cut", [0, 1, 37, None])
def test_a_stopped_run_continues_to_the_same_bytes(cut: int | None, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", pngs(20))
    prepare("folder", source, tmp_path / "whole.zip", workers=1)
    out, made = tmp_path / "out.zip", []

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        made.append(done)
        if len(made) == 9:
            raise Stop

    with pytest.raises(Stop):
        prepare("folder", source, out, workers=1, progress=stop)
    assert not out.exists()
    part = tmp_path / "out.zip.part"
    if cut is not None:  # as a kill inside a write leaves it, or with rubbish behind it
        part.write_bytes(part.read_bytes()[:-cut] if cut else part.read_bytes() + bytes(100))
    prepare("folder", source, out, workers=1, progress=lambda done, _: made.append(done))
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert made[9] == (9 if cut else 10)  # only a cut image is made again
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.zip", "whole.zip"]
    assert zipfile.ZipFile(out).testzip() is None


def test_a_killed_process_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", pngs(600, 8))
    prepare("folder", source, tmp_path / "whole.zip", workers=1)
    out = tmp_path / "out.zip"
    code = (
        "import sys, time; from pathlib import Path; from harness.data.prepare import prepare\n"
        "prepare('folder', Path(sys.argv[1]), Path(sys.argv[2]), workers=1, progress=lambda *_: time.sleep(0.002))"
    )
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(source), str(out)])
        deadline = time.monotonic() + 20
        begun = out.with_name("out.zip.part").stat().st_size if out.with_name("out.zip.part").exists() else 0
        while time.monotonic() < deadline:
            part = out.with_name("out.zip.part")
            if part.exists() and part.stat().st_size > begun + 20_000:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    prepare("folder", source, out, workers=1)
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.slow
def test_many_entries_and_bytes_resume_too(tmp_path: Path) -> None:
    """More entries than the old ZIP directory can count."""
    job = {"a": 1}
    for stops in ([70_000], [65_000, 70_000]):
        out = tmp_path / f"{len(stops)}.zip"
        for stop in stops:
            try:
                with _archive.ResumableZip(out, job) as archive:
                    while archive.written < stop:
                        archive.add(b"%d" % archive.written)
                    if stop < 70_000:
                        raise KeyboardInterrupt
                    archive.finish({"labels": None})
            except KeyboardInterrupt:
                pass
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "2.zip") as z:
        assert len(z.namelist()) == 70_001 and z.read("00069/img00069999.png") == b"69999"


def test_what_another_job_left_over_is_begun_anew_and_said(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", {**pngs(5), "z.png": b"broken"})
    out = tmp_path / "out.zip"
    with pytest.raises(UserError) as error:
        prepare("folder", source, out, workers=1)
    one_line(error, "z.png")
    (source / "z.png").unlink()
    assert (tmp_path / "out.zip.part").stat().st_size and not out.exists()
    made = prepare("folder", source, out, resolution=8, workers=1)
    assert made.images == 5 and any("out.zip.part: was begun with other options" in note for note in made.notes)
    prepare("folder", source, tmp_path / "again.zip", resolution=8, workers=1)
    assert out.read_bytes() == (tmp_path / "again.zip").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"images", "out.zip", "again.zip"}


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with _archive.ResumableZip(tmp_path / "a.zip", {}) as first:
        first.add(b"x")
        with pytest.raises(UserError) as error, _archive.ResumableZip(tmp_path / "a.zip", {}):
            pass
        one_line(error, "another process")
        first.finish({})


def _corrupt_lmdb(folder: Path) -> Path:
    write_folder(folder / "cat", {"data.mdb": b"no database" * 1000})
    return folder / "cat"


def _lmdb_of(folder: Path, value: bytes | None) -> Path:
    with lmdb.open(str(folder / "cat"), map_size=2**20) as database, database.begin(write=True) as transaction:
        if value is not None:
            transaction.put(b"deadbeef", value)
    return folder / "cat"


def _cut_tarball(folder: Path) -> Path:
    path = emoji_tarball(folder / "e.tgz")
    path.write_bytes(path.read_bytes()[:2000])
    return path


GOOGLE_A = "img/google/64/a.png"
BAD: dict[str, tuple[str, Callable[[Path], Path], dict[str, Any], str]] = {
    "unknown name": ("lsun_cats", lambda f: f, {}, "did you mean 'lsun_cat'"),
    "no source": ("ffhq", lambda f: f / "no", {}, "does not exist"),
    "no images": ("folder", lambda f: f, {}, "no images"),
    "broken lmdb": ("lsun_cat", _corrupt_lmdb, {}, "LMDB"),
    "empty lmdb": ("lsun_cat", lambda f: _lmdb_of(f, None), {}, "no images"),
    "lmdb without images": ("lsun_cat", lambda f: _lmdb_of(f, b"hello"), {}, "deadbeef"),
    "not square": ("folder", lambda f: write_folder(f / "i", {"a.png": png(noise(0)[:8])}), {}, "must be square"),
    "two sizes": ("folder", lambda f: write_folder(f, {**pngs(2), "z.png": png(noise(0, 8))}), {}, "--resolution"),
    "broken zip": ("folder", lambda f: write_folder(f, {"a.zip": b"PK"}) / "a.zip", {}, "ZIP"),
    "climbing zip": ("folder", lambda f: write_zip(f / "a.zip", {"../a.png": png(noise(0))}), {}, "stay inside"),
    "cut tarball": ("noto_emoji", _cut_tarball, {}, "not a whole"),
    "no tarball": ("noto_emoji", lambda f: f, {}, "not a whole"),
    "no index": ("noto_emoji", lambda f: emoji_tarball(f / "e.tgz", {"emoji.json": None}), {}, "16.0.0"),
    "odd index": ("noto_emoji", lambda f: emoji_tarball(f / "e.tgz", {"emoji.json": b"[1]"}), {}, "16.0.0"),
    "image gone": ("noto_emoji", lambda f: emoji_tarball(f / "e.tgz", {GOOGLE_A: None}), {}, "a.png"),
    "image broken": ("noto_emoji", lambda f: emoji_tarball(f / "e.tgz", {GOOGLE_A: b"x"}), {}, "a.png"),
    "image large": ("noto_emoji", lambda f: emoji_tarball(f / "e.tgz", {GOOGLE_A: bytes(2**21)}), {}, "large"),
    "bad filter": ("folder", lambda f: f, {"filter": "lanczoss"}, "did you mean 'lanczos'"),
    "bad crop": ("folder", lambda f: f, {"crop": "left"}, "--crop"),
    "bad size": ("folder", lambda f: f, {"resolution": 0}, "--resolution"),
    "bad count": ("folder", lambda f: f, {"max_images": 0}, "--max-images"),
    "bad workers": ("folder", lambda f: f, {"workers": 0}, "--workers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, tmp_path: Path) -> None:
    name, write, options, words = BAD[case]
    (tmp_path / "source").mkdir()
    source = write(tmp_path / "source")
    with pytest.raises(UserError) as error:
        prepare(name, source, tmp_path / "out.zip", **{"workers": 1, **options})
    one_line(error, words)
    left = {p.name for p in tmp_path.iterdir()}
    assert left <= {"source", "out.zip.part", "out.zip.part.json"} and "out.zip" not in left


def test_out_must_be_new_and_writable(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", pngs(2))
    (tmp_path / "file").write_text("kept")
    for out, words in ((tmp_path / "file", "exists already"), (tmp_path / "file" / "a.zip", "can't be written")):
        with pytest.raises(UserError) as error:
            prepare("folder", source, out, workers=1)
        one_line(error, "--out", words)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_one_line_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_folder(tmp_path / "images", pngs(6))
    prepare("folder", source, tmp_path / "whole.zip", workers=1)
    add = _archive.ResumableZip.add

    def full(self: _archive.ResumableZip, data: bytes) -> None:
        if self.written == 4:
            raise OSError(28, "No space left on device")
        add(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(_archive.ResumableZip, "add", full)
        with pytest.raises(UserError) as error:
            prepare("folder", source, tmp_path / "out.zip", workers=1)
    one_line(error, "No space left")
    prepare("folder", source, tmp_path / "out.zip", workers=1)
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
