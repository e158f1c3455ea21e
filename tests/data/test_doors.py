"""One folder of pictures means the same through every door: read as it is, or by `data prepare` first; and pixels that
use hardly any of their range, and what else a file holds and is not used, are said at both."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import cli
from harness.data import levels
from harness.data.prepare import prepare
from harness.datasets import image_zip
from harness.trial.preflight import preflight
from tests import tiny
from tests.image_files import noise, png, write_zip


def encoded(image: Image.Image, format: str = "PNG", **save: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **save)
    return out.getvalue()


def turned(orientation: int, format: str) -> bytes:
    image = Image.fromarray(noise(orientation))
    exif = image.getexif()
    exif[274] = orientation
    more = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    return encoded(image, format, exif=exif, **more)


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


RGB, ALPHA = noise(1), np.dstack([noise(2), noise(3, channels=1)])
DEEP = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 257).astype(np.uint16)
PICTURES = {
    **{f"turned {i} {kind}": (turned(i, kind), kind.lower()) for i in range(1, 9) for kind in ("PNG", "JPEG", "WEBP")},
    "grey": (png(noise(0, channels=1)), "png"),
    "one bit": (encoded(Image.fromarray(noise(0)).convert("1")), "png"),
    "palette": (png(RGB, "P"), "png"),
    "transparent palette": (encoded(Image.fromarray(RGB).convert("P"), transparency=3), "png"),
    "alpha": (png(ALPHA), "png"),
    "grey and alpha": (encoded(Image.fromarray(ALPHA).convert("LA")), "png"),
    "sixteen bits": (png(DEEP), "png"),
    "CMYK": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "jpg"),
    "a profile": (encoded(Image.fromarray(RGB), icc_profile=profile("LAB")), "png"),
    "sRGB": (encoded(Image.fromarray(RGB), icc_profile=profile("sRGB")), "png"),
}


@pytest.mark.parametrize("resolution", [None, 8])
def test_a_folder_read_as_it_is_and_prepared_gives_the_same_pixels(resolution: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for i, (data, suffix) in enumerate(PICTURES.values()):
        (folder / f"{i:03d}.{suffix}").write_bytes(data)
    made = prepare("folder", folder, tmp_path / "out.zip", resolution=resolution, workers=1)
    direct = image_zip.load(image_zip.Options(folder, resolution=resolution))
    through = image_zip.load(image_zip.Options(made.out))
    assert np.array_equal(direct.images, through.images) and len(direct) == len(PICTURES)
    said = ["21 of 34 images are turned upright, as their orientation tag says"]
    said.insert(0, "1 of 34 images are of a colour profile other than sRGB, which is not applied")
    assert list(made.notes) == direct.about["notes"] == said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pictures_stand_as_a_viewer_shows_them(kind: str, tmp_path: Path) -> None:
    """Orientation 6 is to be turned by a quarter, clockwise."""
    rows = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[:, None], 16, 1)
    image = Image.fromarray(np.dstack([rows] * 3))
    exif = image.getexif()
    exif[274] = 6
    data = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    seen = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", {f"a.{kind.lower()}": data}))).images[0, 0]
    assert np.abs(seen.astype(int) - np.rot90(rows, -1)).max() <= 2


def test_the_first_of_several_frames_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    images = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", {"a.png": data, "b.png": png(noise(5))})))
    assert np.array_equal(images.images[0].transpose(1, 2, 0), noise(0))
    assert images.about["notes"] == ["1 of 2 images are of several frames, the first of which is taken"]


def deep(bits: int, seed: int = 0) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 2**bits, (32, 32)).astype(np.uint16))


def grey(low: int, high: int) -> bytes:
    return png(np.linspace(low, high, 32 * 32).astype(np.uint8).reshape(32, 32))


RANGES: dict[str, tuple[list[bytes], str]] = {
    "twelve bits in sixteen": ([deep(12), deep(12, 1)], "brightest pixel 15 of 255"),
    "ten bits in sixteen": ([deep(10)], "brightest pixel 3 of 255"),
    "fourteen bits in sixteen": ([deep(14)], "brightest pixel 63 of 255"),
    "eight bits in sixteen": ([deep(8)], "brightest pixel 0 of 255"),
    "classes of a mask": ([png(noise(0, 32, 1) % 3)], "brightest pixel 2 of 255"),
    "zero to one": ([grey(0, 1)], "brightest pixel 1 of 255"),
    "black": ([grey(0, 0)], "brightest pixel 0 of 255"),
    "white": ([grey(250, 255)], "darkest pixel 250 of 255"),
    "no contrast": ([grey(110, 150)], "no pixel below 110 or above 150 of 255"),
    "deep ones among others": ([deep(12), grey(0, 255)], "brightest pixel 15 of 255 in the 16-bit files"),
    "some of the deep ones": ([deep(12), deep(16)], "1 of 2 images use fewer than 32 of the 256 levels"),
    "all bits": ([deep(16)], ""),
    "eight bits": ([grey(0, 255)], ""),
    "a dark set": ([grey(0, 140)], ""),
}


@pytest.mark.parametrize("case", RANGES)
def test_a_range_that_is_hardly_used_is_said(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    pictures, words = RANGES[case]
    path = write_zip(tmp_path / "a.zip", {f"{i}.png": data for i, data in enumerate(pictures)})
    data = image_zip.load(image_zip.Options(path))
    (said,) = data.about["notes"] or [""]
    assert said.startswith(words) and bool(said) == bool(words)
    assert ("16 bits" in said) == ("brightest" in words and "bits in" in case or case == "deep ones among others")
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 0)
    for _ in range(2):  # decoded into the cache, and read back from there
        assert image_zip.load(image_zip.Options(path)).about["notes"] == data.about["notes"]


def test_the_range_of_a_set_whose_reader_says_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny.trial()
    assert preflight([trial], "here") == ()
    images = np.full((3000, 3, 4, 4), 7, np.uint8)
    images[1, 0] = 200  # one that the sample of every third misses
    assert levels.of_sample(images) == ["brightest pixel 7 of 255"]


def test_preparing_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, data in {"a.png": png(RGB), "b.svg": b"x", ".c.png": b"x", "labels.csv": b"a,0"}.items():
        (folder / name).write_bytes(data)
    (folder / "gone.png").symlink_to("nowhere")
    out = tmp_path / "out.zip"
    assert cli.main(["data", "prepare", "folder", "--source", str(folder), "--out", str(out), "--workers", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 1 .csv file, 1 .svg file, 1 broken link, 1 hidden file" in said
    assert "not used: labels.csv" in said and "1 images of 16x16" in said
