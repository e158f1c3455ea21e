"""Folders of images as people have them: what is in them, how it lies there, and what shape it is of. Every rule holds
for a folder, its ZIP, and what `data prepare folder` makes of it."""

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import cli
from harness.data import identity
from harness.data.decode import decode, square
from harness.data.image_files import open_files
from harness.data.imageset import ImageSet, fingerprint
from harness.data.prepare import prepare
from harness.datasets import image_zip
from harness.errors import UserError
from harness.experiment.spec import Plugin
from harness.training.arm import load_data
from harness.trial.preflight import preflight
from tests import tiny
from tests.image_files import noise, one_line, png, write_zip

RGB = noise(1)
PICTURE = Image.fromarray(RGB)
ALPHA = Image.fromarray(np.dstack([RGB, noise(2, channels=1)]))
ON_WHITE = np.asarray(Image.alpha_composite(Image.new("RGBA", (16, 16), (255,) * 4), ALPHA).convert("RGB"))
DEEP = np.arange(256, dtype=np.uint16).reshape(16, 16) * np.uint16(257)
RAMP = np.dstack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3)
PALETTE = PICTURE.convert("P")
COLOURS = np.asarray(PALETTE.convert("RGB"))
CLEAR = int(np.asarray(PALETTE)[0, 0])
ROW = Image.fromarray(RGB[:10])


def encoded(image: Image.Image, format: str, **save: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **save)
    return out.getvalue()


def deep_colour(order: str) -> bytes:
    """An RGB TIFF of 16 bits, which Pillow reads and does not write."""
    data = (RGB.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
    # fmt: off
    tags = [(256, 3, 16), (257, 3, 16), (258, 3, 0), (259, 3, 1), (262, 3, 2), (273, 4, 128), (277, 3, 3), (278, 3, 16),
            (279, 4, len(data))]
    # fmt: on
    out = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
    for tag, kind, value in tags:
        if tag == 258:  # three values, which lie behind
            out += struct.pack(f"{order}HHII", tag, kind, 3, 122)
        else:
            out += struct.pack(f"{order}HHI{'H2x' if kind == 3 else 'I'}", tag, kind, 1, value)
    return out + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + data


def negative(image: Image.Image) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0  # 0 is white
    return encoded(image, "TIFF", tiffinfo=tags)


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def whitened(mask: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], 255, pixels).astype(np.uint8)


FRAMES = {"save_all": True, "append_images": [Image.new("P", (16, 16)), PICTURE.transpose(Image.Transpose.ROTATE_90)]}
BITS, GREY, CMYK = PICTURE.convert("1"), PICTURE.convert("L"), PICTURE.convert("CMYK")
FORMATS: dict[str, tuple[str, bytes, np.ndarray]] = {
    **{
        f"tiff {name}": (f"{name}.tif", encoded(PICTURE, "TIFF", compression=name), RGB)
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    },
    "tiff grey": ("a.tiff", encoded(GREY, "TIFF"), rgb(GREY)),
    "tiff bits": ("a.TIF", encoded(BITS, "TIFF", compression="group4"), rgb(BITS)),
    "tiff palette": ("a.tif", encoded(PALETTE, "TIFF"), COLOURS),
    "tiff CMYK": ("a.tif", encoded(CMYK, "TIFF"), rgb(CMYK)),
    "tiff alpha": ("a.tif", encoded(ALPHA, "TIFF"), ON_WHITE),
    "tiff 16 bits": ("a.tif", encoded(Image.fromarray(DEEP), "TIFF"), RAMP),
    "tiff 16 bits packed": ("a.tif", encoded(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), RAMP),
    "tiff 16 bits, 0 is white": ("a.tif", negative(Image.fromarray(DEEP)), 255 - RAMP),
    "tiff 8 bits, written with 0 as white": ("a.tif", negative(GREY), rgb(GREY)),
    "tiff 16 bits of colour": ("a.tif", deep_colour("<"), RGB),
    "tiff 16 bits of colour, Motorola": ("a.tif", deep_colour(">"), RGB),
    "tiff pages": ("a.tif", encoded(PICTURE, "TIFF", **FRAMES), RGB),
    "bmp": ("a.bmp", encoded(PICTURE, "BMP"), RGB),
    "bmp palette": ("A.BMP", encoded(PALETTE, "BMP"), COLOURS),
    "bmp bits": ("a.bmp", encoded(BITS, "BMP"), rgb(BITS)),
    "bmp grey": ("a.bmp", encoded(GREY, "BMP"), rgb(GREY)),
    "gif": ("a.gif", encoded(PALETTE, "GIF"), COLOURS),
    "gif clear": (
        "a.gif",
        encoded(PALETTE, "GIF", transparency=CLEAR),
        whitened(np.asarray(PALETTE) == CLEAR, COLOURS),
    ),
    "gif frames": ("a.gif", encoded(PALETTE, "GIF", **FRAMES), COLOURS),
    "jpeg of another name": ("a.jfif", encoded(Image.new("RGB", (16, 16), (200,) * 3), "JPEG"), RAMP * 0 + 200),
    "bmp called png": ("a.png", encoded(PICTURE, "BMP"), RGB),
    "jpeg CMYK": ("a.jpg", encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 55)), "JPEG"), RAMP * 0 + 200),
    "png clear colour": (
        "a.png",
        encoded(PICTURE, "PNG", transparency=tuple(RGB[3, 5].tolist())),
        whitened((RGB[3, 5] == RGB).all(-1), RGB),
    ),
    "png 16 bits, clear value": (
        "a.png",
        encoded(Image.fromarray(DEEP), "PNG", transparency=7 * 257),
        whitened(RAMP[..., 0] == 7, RAMP),
    ),
    "png palette with alpha": (
        "a.png",
        encoded(PALETTE, "PNG", transparency=bytes([0] * 128 + [255] * 128)),
        whitened(np.asarray(PALETTE) < 128, COLOURS),
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_has_the_pixels_that_the_rules_say(case: str) -> None:
    name, data, expected = FORMATS[case]
    picture = decode(data, name)
    assert picture.image.mode == "RGB" and np.abs(np.asarray(picture.image).astype(int) - expected).max() <= 1
    assert any("several frames" in note for note in picture.notes) == ("pages" in case or "frames" in case)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stands_upright_as_a_png_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    expected = decode(encoded(ROW, "PNG", exif=exif), "a.png")
    for more in ({}, {"compression": "tiff_lzw"}):
        found = decode(encoded(ROW, "TIFF", exif=exif, **more), "a.tif")
        assert np.array_equal(np.asarray(found.image), np.asarray(expected.image)) and found.notes == expected.notes


def test_values_of_which_no_range_is_known_are_refused(tmp_path: Path) -> None:
    for image in (Image.fromarray(DEEP.astype(np.int32)), Image.fromarray(DEEP.astype(np.float32) / 65535)):
        path = write_zip(tmp_path / f"{image.mode}.zip", {"a/b.tif": encoded(image, "TIFF")})
        with pytest.raises(UserError) as error:
            image_zip.load(image_zip.Options(path))
        one_line(error, "dataset.path", "a/b.tif", "no range is known", "8 or 16 bits")


def every_door(files: Mapping[str, bytes], folder: Path, **options: object) -> list[ImageSet]:
    """The same files as a folder, as a ZIP, and prepared from the folder."""
    loose = folder / "loose"
    for name, data in files.items():
        (loose / name).parent.mkdir(parents=True, exist_ok=True)
        (loose / name).write_bytes(data)
    packed = write_zip(folder / "packed.zip", dict(files))
    made = prepare("folder", loose, folder / "made.zip", workers=1, **options).out  # type: ignore[arg-type]
    read = [image_zip.load(image_zip.Options(path, **options)) for path in (loose, packed)]  # type: ignore[arg-type]
    return [*read, image_zip.load(image_zip.Options(made))]


def test_all_formats_are_the_same_at_every_door(tmp_path: Path) -> None:
    files = {f"{i:02d}-{name}": data for i, (name, data, _) in enumerate(FORMATS.values())}
    first, *others = every_door(files, tmp_path)
    assert len(first) == len(FORMATS)
    for other in others:
        assert np.array_equal(first.images, other.images)


# ── how they lie there ───────────────────────────────────────────────────────


def photos(*names: str) -> dict[str, bytes]:
    return {name: png(noise(i)) for i, name in enumerate(names)}


CATS_DOGS = photos("cats/0.png", "cats/deep/er/1.png", "dogs/0.png")
LAYOUTS: dict[str, tuple[dict[str, bytes], list[int] | None, list[str], str]] = {
    "classes": (photos("b/0.png", "b/1.png", "a/0.png", "c/2.png"), [0, 1, 1, 2], ["a", "b", "c"], ""),
    "deep": (CATS_DOGS, [0, 0, 1], ["cats", "dogs"], ""),
    "inside of one folder": ({f"my photos/{n}": d for n, d in CATS_DOGS.items()}, [0, 0, 1], ["cats", "dogs"], ""),
    "with what others leave": (
        {**CATS_DOGS, ".DS_Store": b"", "cats/Thumbs.db": b"", "__MACOSX/cats/._0.png": b"", ".trash/0.png": b"",
         "notes/README.txt": b"", "cats/.thumbnails/0.png": b""},
        [0, 0, 1], ["cats", "dogs"], "",
    ),
    "numbers": (photos("0/a.png", "10/a.png", "2/a.png"), [0, 1, 2], ["0", "10", "2"], ""),
    "spaces and letters": (photos("ein Hund/0.png", "Äpfel/1.png"), [0, 1], ["ein Hund", "Äpfel"], ""),
    "flat": (photos("0.png", "1.png"), None, [], "no dataset.json"),
    "one folder": (photos("cats/0.png", "cats/1.png"), None, [], "no dataset.json"),
    "one outside": ({**CATS_DOGS, **photos("z.png")}, None, [], "z.png is in none"),
    "parts": (photos("train/a/0.png", "val/a/0.png"), None, [], "parts of a data set"),
    "FFHQ": (photos("00000/00000.png", "01000/01000.png"), None, [], "numbered parts"),
    "no labels by its table": ({**CATS_DOGS, "dataset.json": b'{"labels": null}'}, None, [], "has no labels"),
    "its table wins": (
        {**CATS_DOGS, "dataset.json": json.dumps({"labels": [[n, 4] for n in CATS_DOGS]}).encode()}, [4, 4, 4], [], "",
    ),
    "its table has names": (
        {**CATS_DOGS, "dataset.json": json.dumps(
            {"labels": [[n, i % 2] for i, n in enumerate(CATS_DOGS)], "classes": ["x", "y"]}).encode()},
        [0, 1, 0], ["x", "y"], "",
    ),
    "its table has names of some": (
        {**CATS_DOGS, "dataset.json": json.dumps(
            {"labels": [[n, 5 * i] for i, n in enumerate(CATS_DOGS)], "classes": ["x", "y"]}).encode()},
        [0, 5, 10], [], "",
    ),
    "line breaks and colours": (photos("a\nb/0.png", "c\x1b[31m/1.png"), [0, 1], ["a\nb", "c\x1b[31m"], ""),
    "one outside, with a line break": ({**CATS_DOGS, **photos("y\nz.png")}, None, [], "y z.png is in none"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_folders_are_classes_where_they_can_be(case: str, tmp_path: Path) -> None:
    files, labels, classes, why = LAYOUTS[case]
    for data in every_door(files, tmp_path):
        assert (None if data.labels is None else data.labels.tolist()) == labels
        assert data.about.get("classes", []) == classes and data.num_classes == max(labels or [-1]) + 1
    loose = open_files(tmp_path / "loose", "x")
    assert why in loose.unlabelled and bool(loose.unlabelled) == (labels is None)
    if case == "with what others leave":
        assert sum(loose.skipped.values()) == 6
        assert any(note.startswith("left out: 4 hidden files, 1 .db file, 1 .txt file") for note in loose.notes)
    said = [note for note in loose.notes if note.startswith("labels are the names of")]
    assert bool(said) == loose.by_folder
    assert all(text.isprintable() for text in (*loose.notes, loose.unlabelled))
    assert any("it names 2 of 11" in note for note in loose.notes) == (case == "its table has names of some")


def test_a_table_elsewhere_is_named_and_never_read_over(tmp_path: Path) -> None:
    """One where the top of a packed folder is was meant; one within a class is none of the whole."""
    table = json.dumps({"labels": [["cats/0.png", 0]]}).encode()
    mine = {f"mine/{n}": d for n, d in CATS_DOGS.items()}
    meant = open_files(write_zip(tmp_path / "a.zip", {**mine, "mine/dataset.json": table}), "x")
    assert meant.labels is None and "not used: mine/dataset.json" in meant.unlabelled
    within = open_files(write_zip(tmp_path / "b.zip", {**CATS_DOGS, "cats/dataset.json": table}), "x")
    assert within.classes == ("cats", "dogs") and any("not used: cats/dataset.json" in n for n in within.notes)


def test_a_set_of_before_keeps_its_identity_and_its_fingerprint(tmp_path: Path) -> None:
    """By what it is known: formats that were passed over beside a table still are, and for a trial that asks for no
    labels the names of folders are none."""
    folder = tmp_path / "set"
    table = json.dumps({"labels": [[n, 0] for n in CATS_DOGS]}).encode()
    for name, data in {**CATS_DOGS, "dataset.json": table}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    before = [identity.of(folder), identity.of(tmp_path / "packed.zip")]
    (folder / "cats" / "preview.gif").write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "packed.zip", "a") as z:
        z.writestr("cats/preview.gif", b"x")
    assert [identity.of(folder), identity.of(tmp_path / "packed.zip")] == before
    assert image_zip.load(image_zip.Options(folder)).about["skipped"] == {".gif file": 1}
    (folder / "dataset.json").unlink()
    (folder / "cats" / "preview.gif").unlink()

    trial = replace(tiny.trial(), dataset=Plugin("image_zip", image_zip.Options(folder, max_images=2, holdout=1)))
    plain, test = load_data(trial)
    named, _ = load_data(replace(trial, conditional=True))
    assert plain.labels is None and plain.num_classes == 0 and test is not None and test.labels is None
    assert plain.fingerprint == fingerprint(plain.images, None, "none") != named.fingerprint
    assert plain.whole.labels is None and named.labels is not None and named.whole.labels is not None
    assert np.array_equal(plain.images, named.images)


def test_arms_with_and_without_classes_stand_side_by_side(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", CATS_DOGS)
    trial = tiny.trial(eval={"metrics": {"disequilibrium": {"n": 2}}})
    trial = replace(trial, dataset=Plugin("image_zip", image_zip.Options(path, resolution=32)))
    notes = preflight([replace(trial, conditional=c) for c in (False, True, False)], "here")
    assert notes == (f"dataset.path: {path}: labels are the names of 2 folders: cats, dogs",)


# ── what shape they are of ───────────────────────────────────────────────────


def wide(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("width, height", [(24, 16), (16, 25), (17, 16)])
def test_cut_to_the_middle_or_padded_with_black(width: int, height: int, tmp_path: Path) -> None:
    pixels = wide(width, height)
    side, long = min(width, height), max(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    for data in every_door({"a.png": png(pixels)}, tmp_path / "cut", crop="centre"):
        assert np.array_equal(data.images[0].transpose(1, 2, 0), pixels[y : y + side, x : x + side])
    x, y = (long - width) // 2, (long - height) // 2
    padded = np.zeros((long, long, 3), np.uint8)
    padded[y : y + height, x : x + width] = pixels
    first, *others = every_door({"a.png": png(pixels)}, tmp_path / "pad", crop="pad")
    assert np.array_equal(first.images[0].transpose(1, 2, 0), padded) and first.about["crop"] == "pad"
    assert all(np.array_equal(first.images, other.images) for other in others)


def test_classes_that_are_cut_off_are_said(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", CATS_DOGS)
    notes = [prepare("folder", source, tmp_path / f"{n}.zip", max_images=n, workers=1).notes for n in (2, 3)]
    said = [any("1 of 2 classes are left" in note for note in of_call) for of_call in notes]
    assert said == [True, False]


def test_mixed_sizes_are_cropped_then_resized(tmp_path: Path) -> None:
    files = {f"{k}/{i}.jpg": png(wide(20 + 3 * i, 30 - i, i), format="JPEG") for k in "ab" for i in range(3)}
    first, *others = every_door(files, tmp_path, crop="centre", resolution=16)
    assert first.images.shape == (6, 3, 16, 16) and first.num_classes == 2
    assert all(np.array_equal(first.images, other.images) for other in others)
    for options, words in (
        ({}, "a/0.jpg: 20x30: must be square; dataset.crop: centre takes the middle"),
        ({"crop": "centre"}, "a/1.jpg: 23x23, but a/0.jpg is 20x20; set dataset.resolution"),
    ):
        with pytest.raises(UserError) as error:
            image_zip.load(image_zip.Options(tmp_path / "loose", **options))  # type: ignore[arg-type]
        one_line(error, words)


def test_what_is_padded_is_bounded_too() -> None:
    with pytest.raises(UserError) as error:
        square(Image.new("RGB", (9000, 1)), "pad", "here", "--crop")
    one_line(error, "here: 9000x1: 9000x9000 when padded")


def test_crops_share_no_kept_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHBOARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(image_zip, "IN_MEMORY_BYTES", 0)
    path = write_zip(tmp_path / "a.zip", {"a/0.png": png(wide(20, 30)), "b/1.png": png(wide(30, 20, 1))})
    for _ in range(2):
        cut, padded = (image_zip.load(image_zip.Options(path, resolution=8, crop=c)) for c in ("centre", "pad"))
        assert cut.fingerprint != padded.fingerprint and not np.array_equal(cut.images, padded.images)
        assert cut.without_folders.fingerprint == fingerprint(cut.images, None, "lanczos")


def test_a_new_user_gets_there_by_following_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photographs of mixed size in three folders: each refusal says what helps, and doing so is not refused."""
    for k, name in enumerate(("cats", "dogs", "fish")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(png(wide(40 + i + k, 30), format="JPEG"))
    (tmp_path / "photos" / "dogs" / "clip.mp4").write_bytes(b"")
    out = tmp_path / "photos" / "set.zip"  # among the photographs, as people do
    call = ["data", "prepare", "folder", "--source", str(tmp_path / "photos"), "--out", str(out), "--workers", "1"]
    assert cli.main(call) == 2
    assert "cats/0.jpg: 40x30: must be square; --crop centre takes the middle, --crop pad adds" in said(capsys)
    assert cli.main([*call, "--crop", "pad"]) == 2
    assert "cats/1.jpg: 41x41, but the first image is 40x40; give --resolution" in said(capsys)
    assert cli.main([*call, "--crop", "pad", "--resolution", "16"]) == 0
    told = said(capsys)
    assert "left out: 2 unfinished files, 1 .mp4 file" in told and "not used" not in told
    assert "labels are the names of 3 folders: cats, dogs, fish" in told and "9 images of 16x16" in told
    data = image_zip.load(image_zip.Options(out))
    assert data.labels is not None and data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert data.about["classes"] == ["cats", "dogs", "fish"] and data.about["prepared"]["crop"] == "pad"
    assert cli.main([*call[:-3], str(tmp_path / "b.zip"), "--crop", "center_crop"]) == 2
    assert "'center_crop' is not a choice" in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())
