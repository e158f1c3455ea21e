"""Broken data: image ZIPs and what they are made from, and CIFAR archives.

Those that the unit tests have are taken from there and met through the command line.
"""

import io
import pickle
import random
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests import cifar_files
from tests.datasets.test_cifar10 import BAD_ARCHIVES, GOOD, Evil, with_batch
from tests.datasets.test_image_zip import BAD_ZIPS
from tests.faults.bad_input import RAN, TOUCH, Case, experiment
from tests.image_files import noise, png, write_zip
from tests.weights.test_weights_refused import Call

Write = Callable[[Path], object]


def cut(data: bytes, seed: int) -> bytes:
    """Ends early."""
    return data[: int(len(data) * random.Random(seed).uniform(0.02, 0.98))]


def flipped(data: bytes, seed: int, within: slice = slice(None)) -> bytes:
    """One bit of `within` turned."""
    dice, broken = random.Random(seed), bytearray(data)
    broken[dice.choice(range(len(data))[within])] ^= 1 << dice.randrange(8)
    return bytes(broken)


def holding(name: str, make: Callable[[], bytes]) -> Write:
    """Writes a file of that name; its content is made no earlier, for most sessions only list the cases."""
    return lambda folder: (folder / name).write_bytes(make())


# ── image ZIPs ───────────────────────────────────────────────────────────────

IMAGES = {f"{i}.png": png(noise(i, 32)) for i in range(4)}


@cache
def good_zip() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_zip(Path(folder) / "a.zip", IMAGES, [[name, i % 2] for i, name in enumerate(IMAGES)]).read_bytes()


def zipped(images: dict[str, bytes], **how: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **how) as z:
        for name, data in images.items():
            z.writestr(name, data)
    return out.getvalue()


def patched(offset: int, value: bytes) -> bytes:
    """The good ZIP with bytes changed in the directory's first entry."""
    data = bytearray(good_zip())
    start = data.index(b"PK\1\2") + offset
    data[start : start + len(value)] = value
    return bytes(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def inflating(kind: bytes) -> bytes:
    """An image with a chunk of 70 MiB in a few KiB."""
    whole = IMAGES["0.png"]
    return whole[:33] + chunk(kind, b"a\0\0" + zlib.compress(bytes(70 * 2**20))) + whole[33:]


def zips() -> Iterator[tuple[str, Write, str]]:
    """(name, writes a.zip, what the message must say)"""
    for name, (write, says) in BAD_ZIPS.items():
        if "folder" not in name:  # those are of folders
            yield name, lambda folder, write=write: write(folder), says
    for i in range(12):
        yield f"cut {i}", holding("a.zip", lambda i=i: cut(good_zip(), i)), "a.zip"
        yield f"bit {i}", holding("a.zip", lambda i=i: flipped(good_zip(), i, slice(60, 2000))), "a.zip"
    whole = IMAGES["0.png"]
    images: dict[str, tuple[dict[str, bytes], str]] = {
        "a line break in a name": ({"a\nb.png": b"no image"}, "a b.png"),
        "an escape in a name": ({"\x1b[31m.png": b"no image"}, "png"),
        "a long name": ({"n" * 60_000 + ".png": b"no image"}, "nnn"),
        "a name not of this world": ({"\udcff.png".encode("utf-8", "surrogatepass").decode("latin-1"): b"x"}, "png"),
        "a climbing name behind a plain one": ({**IMAGES, "x/../../../etc/cron.d/a.png": whole}, "stay inside"),
        "a drive letter": ({**IMAGES, "C:\\a.png": whole}, "stay inside"),
        "an empty image": ({**IMAGES, "e.png": b""}, "e.png"),
        "a signature only": ({**IMAGES, "e.png": whole[:8]}, "e.png"),
        **{f"an image cut at {n}": ({**IMAGES, "e.png": whole[:n]}, "e.png") for n in (20, 33, 45, 200, 1500, 2500)},
        "an image with a broken sum": ({**IMAGES, "e.png": whole[:60] + b"\0\0" + whole[62:]}, "e.png"),
        "an image of no pixels": ({**IMAGES, "e.png": whole[:16] + bytes(8) + whole[24:]}, "e.png"),
        "a BMP": ({**IMAGES, "e.png": b"BM" + bytes(100)}, "e.png"),
        "PostScript": ({**IMAGES, "e.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "e.png"),
        "an SVG": ({**IMAGES, "e.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "e.png"),
        "a JPEG of zeros": ({**IMAGES, "e.jpg": b"\xff\xd8\xff\xe0" + bytes(500)}, "e.jpg"),
        "a WebP of zeros": ({**IMAGES, "e.webp": b"RIFF\0\1\0\0WEBPVP8 " + bytes(200)}, "e.webp"),
        "labels of nothing": ({**IMAGES, "dataset.json": b'{"labels": [["x.png", 0]]}'}, "x.png"),
        "labels of half": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", 0]]}'}, "no label"),
        "a label of half a class": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", 0.5]]}'}, "class number"),
        "a label that is true": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", true]]}'}, "class number"),
        "a label of 5000 digits": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", %s]]}' % (b"9" * 5000)}, "JSON"),
        "a label that is not finite": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", NaN]]}'}, "class number"),
        "labels by name": ({**IMAGES, "dataset.json": b'{"labels": {"0.png": 0}}'}, "labels"),
        "labels as text": ({**IMAGES, "dataset.json": b'{"labels": "0123"}'}, "labels"),
        "labels of three": ({**IMAGES, "dataset.json": b'{"labels": [["0.png", 0, 1]]}'}, "labels"),
        "a name that is a list": ({**IMAGES, "dataset.json": b'{"labels": [[["0.png"], 0]]}'}, "labels"),
    }  # fmt: skip
    for name, (content, says) in images.items():
        yield name, holding("a.zip", lambda content=content: zipped(content)), says
    yield "text that inflates", holding("a.zip", lambda: zipped({"e.png": inflating(b"zTXt")})), "e.png"
    yield "a file that inflates", lambda f: inflated_zip(f / "a.zip", "b.png"), "b.png"
    yield "a dataset.json that inflates", lambda f: inflated_zip(f / "a.zip", "dataset.json"), "dataset.json"
    yield "an unknown compression", holding("a.zip", lambda: patched(10, b"\x63\0")), "a.zip"
    yield "an encrypted entry", holding("a.zip", lambda: patched(8, b"\1\0")), "a.zip"
    yield "a size that lies", holding("a.zip", lambda: patched(20, struct.pack("<II", 9, 9))), "a.zip"
    yield "a huge size that lies", holding("a.zip", lambda: patched(24, b"\xf0\xff\xff\xff")), "at most"
    yield "an offset that lies", holding("a.zip", lambda: patched(42, b"\xff\xff\xff\x7f")), "a.zip"
    yield "LZMA of rubbish", holding("a.zip", lambda: patched(10, b"\x0e\0")), "a.zip"


def inflated_zip(path: Path, name: str) -> None:
    """300 MiB of zeros in a few hundred KiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for image, data in IMAGES.items():
            z.writestr(image, data)
        with z.open(name, "w") as f:
            for _ in range(300):
                f.write(bytes(2**20))


def zip_cases() -> Iterator[Case]:
    sets = (
        "--set",
        "dataset.name=image_zip",
        "--set",
        "dataset.path={}",
        "--set",
        "dataset.resolution=",
        "--set",
        "eval.metrics.disequilibrium.n=2",
    )
    for name, write, says in zips():

        def both(folder: Path, write: Write = write) -> None:
            experiment(folder)
            write(folder)

        file = {"no zip": "a.zip", "missing": "no.zip"}.get(name, "a.zip")
        words = ("matrix", "tiny.yaml", "--local", "--tracking-uri", "off", *(w.format(file) for w in sets))
        yield Case(f"image_zip: {name}", words, says, both)
        if name not in ("two sizes",):  # of which `prepare` tells in other words
            prepare = ("data", "prepare", "folder", "--source", file, "--out", "out.zip", "--workers", "1")
            yield Case(f"prepare: {name}", prepare, "" if says == "dataset.resolution" else says, both)


# ── CIFAR archives and emoji packages ────────────────────────────────────────


@cache
def good_archive() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar-10-python.tar.gz"
        cifar_files.write_archive(path, 20)
        return path.read_bytes()


def tarred(member: Callable[[tarfile.TarInfo], None], data: bytes = b"") -> Write:
    """An archive whose data_batch_1 is what `member` makes of it; test_batch is whole."""

    def write(folder: Path) -> None:
        with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz", compresslevel=1) as archive:
            cifar_files.add(archive, "cifar-10-batches-py/test_batch", cifar_files.batch(GOOD, [1]))
            info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            info.size = len(data)
            member(info)
            archive.addfile(info, io.BytesIO(data))

    return write


def _link(kind: bytes, target: str) -> Callable[[tarfile.TarInfo], None]:
    def member(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, target, 0

    return member


def _named(name: str) -> Callable[[tarfile.TarInfo], None]:
    return lambda info: setattr(info, "name", name)


def evil(protocol: int) -> bytes:
    return pickle.dumps({"data": Call(__import__("os").system, TOUCH), "labels": [1]}, protocol)


def archive_cases() -> Iterator[Case]:
    made: dict[str, tuple[Write, str]] = {
        name: (write, "dataset.path") for name, write in BAD_ARCHIVES.items() if "folder" not in name
    }
    whole = "cifar-10-python.tar.gz"
    made |= {f"cut {i}": (holding(whole, lambda i=i: cut(good_archive(), i)), "dataset.path") for i in range(12)}
    made |= {f"code, protocol {n}": (with_batch(evil(n)), "not run") for n in range(6)}
    made |= {
        f"code at the top, protocol {n}": (with_batch(pickle.dumps(Evil(Path(RAN)), n)), "not run") for n in (0, 2, 4)
    }
    for kind, word in ((tarfile.SYMTYPE, "symbolic"), (tarfile.LNKTYPE, "hard")):
        for target in ("/etc/passwd", "../../../../etc/passwd", "data_batch_1", "gone"):
            made[f"a {word} link to {target}"] = (tarred(_link(kind, target)), "dataset.path")
    for kind, word in ((tarfile.FIFOTYPE, "pipe"), (tarfile.CHRTYPE, "device"), (tarfile.DIRTYPE, "folder")):
        made[f"a {word}"] = (tarred(_link(kind, "")), "dataset.path")
    for name in ("/etc/data_batch_1", "../../data_batch_1", "a/\x1b[31m\n/data_batch_1"):
        made[f"code under the name {name!r}"] = (tarred(_named(name), evil(2)), "not run")
    made["no training batch"] = (tarred(_named("readme.html"), b"<html>"), "data_batch_1")
    made["a batch of one image where all are asked for"] = (
        tarred(lambda info: None, cifar_files.batch(GOOD, [1])),
        "10000",
    )
    for name, (write, says) in made.items():

        def both(folder: Path, write: Write = write) -> None:
            experiment(folder)
            write(folder)

        sets = ["dataset.name=cifar10", "dataset.path=cifar-10-python.tar.gz", "eval.metrics.disequilibrium.n=1"]
        if "all are asked" not in name:
            sets.append("dataset.expect_full=false")
        options = [word for s in sets for word in ("--set", s)]
        yield Case(
            f"cifar10: {name}", ("matrix", "tiny.yaml", "--local", "--tracking-uri", "off", *options), says, both
        )
    packages: dict[str, Callable[[], bytes]] = {
        "empty": bytes, "rubbish": lambda: random.Random(1).randbytes(500), "another": good_archive,
        **{f"cut {i}": lambda i=i: cut(good_archive(), i) for i in range(3)},
    }  # fmt: skip
    for name, make in packages.items():
        words: tuple[str, ...] = ("data", "prepare", "noto_emoji", "--source", "e.tgz", "--out", "o.zip")
        yield Case(f"emoji: {name}", words, "e.tgz", holding("e.tgz", make))
    for name, make in {"empty": bytes, "rubbish": lambda: random.Random(2).randbytes(9000)}.items():
        words = ("data", "prepare", "lsun_cat", "--source", ".", "--out", "o.zip", "--workers", "1")
        yield Case(f"lsun: {name}", words, "--source", holding("data.mdb", make))
