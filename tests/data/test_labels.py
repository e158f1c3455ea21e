"""Names in a label table are names, not bytes; and what could hold labels but is not read, is named."""

import json
import os
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness.data.image_files import open_files
from harness.datasets import image_zip
from harness.errors import UserError
from harness.experiment.spec import Plugin
from harness.trial.preflight import preflight
from tests import tiny
from tests.image_files import noise, one_line, png, write_zip

NFC, NFD = (unicodedata.normalize(form, "Ångström/é.png") for form in ("NFC", "NFD"))
SAME = {
    "backslashes in the table": ("00000/0.png", "00000\\0.png"),
    "backslashes in the ZIP": ("00000\\0.png", "00000/0.png"),
    "both slashes": ("a/b/0.png", "a\\b/0.png"),
    "from here": ("00000/0.png", "./00000/0.png"),
    "from here, on Windows": ("00000/0.png", ".\\00000\\0.png"),
    "from the top": ("00000/0.png", "/00000/0.png"),
    "a slash twice": ("00000/0.png", "00000//0.png"),
    "a ZIP from here": ("./00000/0.png", "00000/0.png"),
    "composed in the table": (NFD, NFC),
    "composed in the ZIP": (NFC, NFD),
    "all of it": (NFD.replace("/", "\\"), f"./{NFC}"),
    "Hangul": (unicodedata.normalize("NFD", "한글.png"), "한글.png"),
}


@pytest.mark.parametrize("case", SAME)
def test_a_label_finds_its_file_by_name_not_by_bytes(case: str, tmp_path: Path) -> None:
    stored, written = SAME[case]
    files = {stored: png(noise(0)), "z.png": png(noise(1))}
    data = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", files, [["z.png", 0], [written, 1]])))
    assert data.labels is not None and data.num_classes == 2
    assert dict(zip(sorted(files), data.labels.tolist(), strict=True)) == {stored: 1, "z.png": 0}


def test_a_name_in_utf8_that_the_zip_does_not_call_so_is_found(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"xx.png": png(noise(0))}, [["é.png", 0]])
    path.write_bytes(path.read_bytes().replace(b"xx.png", "é.png".encode()))
    assert zipfile.ZipFile(path).namelist()[0] != "é.png"
    assert list((open_files(path, "x").labels or {}).values()) == [0]


def test_a_folder_as_a_mac_writes_it_meets_a_table_as_linux_writes_it(tmp_path: Path) -> None:
    file = tmp_path / NFD
    file.parent.mkdir()
    file.write_bytes(png(noise(0)))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [[NFC.replace("/", "\\"), 0]]}))
    assert open_files(tmp_path, "x").labels == {NFD: 0}


def test_a_name_that_could_mean_two_files_is_refused_unless_it_is_the_very_name_of_one(tmp_path: Path) -> None:
    files = {NFC: png(noise(0)), NFD: png(noise(1))}
    exact = open_files(write_zip(tmp_path / "a.zip", files, [[NFC, 0], [NFD, 1]]), "x")
    assert exact.labels == {NFC: 0, NFD: 1}
    loose = write_zip(tmp_path / "b.zip", files, [[f"./{NFC}", 0], [NFD, 1]])
    with pytest.raises(UserError) as error:
        open_files(loose, "x")
    one_line(error, "could be")
    with pytest.raises(UserError) as error:
        open_files(write_zip(tmp_path / "c.zip", {"a/0.png": b""}, [["a/0.png", 0], ["a\\0.png", 1]]), "x")
    one_line(error, "twice", "each file once")
    with pytest.raises(UserError) as error:
        open_files(write_zip(tmp_path / "d.zip", {"a/0.PNG": b""}, [["a/0.png", 0]]), "x")
    one_line(error, "has a label but is not there", "there is 'a/0.PNG'")


IMAGES = {f"cats/{i}.png": png(noise(i)) for i in range(2)} | {f"dogs/{i}.png": png(noise(9 + i)) for i in range(2)}
MINE = {f"mine/{n}": d for n, d in IMAGES.items()}
FLAT = {f"{i}.png": png(noise(i)) for i in range(4)}
SHARDS = {f"0000{i % 2}/img{i:08d}.png": png(noise(i)) for i in range(4)}
TABLE = json.dumps({"labels": [[f"{i}.png", 0] for i in range(2)]}).encode()
UNUSED = {
    "a folder that was zipped whole": ({**MINE, "mine/dataset.json": TABLE}, "mine/dataset.json"),
    "zipped whole on Windows": ({**MINE, "mine\\dataset.json": TABLE}, "not used: mine"),
    "two levels down": ({**FLAT, "a/b/dataset.json": TABLE}, "a/b/dataset.json"),
    "one in each folder": ({**SHARDS, "00000/dataset.json": TABLE, "00001/dataset.json": TABLE}, "00001/dataset.json"),
    "another case": ({**IMAGES, "Dataset.json": TABLE}, "Dataset.json"),
    "capitals": ({**IMAGES, "DATASET.JSON": TABLE}, "DATASET.JSON"),
    "a table of one's own": ({**FLAT, "labels.csv": b"a,0"}, "labels.csv"),
    "as of other libraries": ({**FLAT, "metadata.jsonl": b"{}"}, "metadata.jsonl"),
    "attributes": ({**FLAT, "list_attr_celeba.txt": b"a 1"}, "list_attr_celeba.txt"),
    "another key": ({**IMAGES, "dataset.json": b'{"label": [["cats/0.png", 0]]}'}, "label in dataset.json"),
    "an empty table": ({**IMAGES, "dataset.json": b'{"labels": null}'}, "dataset.json has no labels"),
    "an image beside the folders": ({**IMAGES, "a.png": png(noise(3))}, "no classes: a.png is in none"),
    "parts of a data set": ({f"{'train' if 'c' in n else 'Val'}/{n}": d for n, d in IMAGES.items()}, "parts of a data"),
    "numbered parts": (SHARDS, "no classes but numbered parts"),
    "no table": (FLAT, "no dataset.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSED)
def test_what_could_hold_labels_and_is_not_used_is_named(case: str, tmp_path: Path) -> None:
    files, words = UNUSED[case]
    path = write_zip(tmp_path / "a.zip", files)
    trial = tiny.trial(eval={"metrics": {"disequilibrium": {"n": 4}}})
    trial = replace(trial, dataset=Plugin("image_zip", image_zip.Options(path, resolution=32)))
    with pytest.raises(UserError) as error:
        preflight([replace(trial, conditional=True)], "here")
    one_line(error, "have no labels", words, "a.zip")
    notes = preflight([replace(trial, conditional=False)], "here")
    named = not any(word in words for word in ("has no labels", "no classes", "parts of", "no dataset.json"))
    assert any(words in note and "not used" in note for note in notes) == named


def test_prose_beside_the_images_is_counted_and_not_taken_for_labels(tmp_path: Path) -> None:
    files = {**IMAGES, "README.txt": b"", "LICENSE.txt": b"", "dataset.json": b'{"labels": null, "prepared": {}}'}
    data = image_zip.load(image_zip.Options(write_zip(tmp_path / "a.zip", files)))
    assert data.about["notes"] == ["left out: 2 .txt files"]


def test_links_in_a_zip_are_counted(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": png(noise(0))})
    with zipfile.ZipFile(path, "a") as z:
        for name in ("b.png", "cats"):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            z.writestr(info, "../store/cats")
    data = image_zip.load(image_zip.Options(path))
    assert len(data) == 1 and data.about["notes"] == ["left out: 2 links in the ZIP"]


def test_linked_folders_and_files_are_read_and_a_circle_ends(tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "set"
    for place in (store / "cats", folder / "dogs"):
        place.mkdir(parents=True)
        for i in range(3):
            (place / f"{i}.png").write_bytes(png(noise(i)))
    (store / "one.png").write_bytes(png(noise(7)))
    for link, to in (("cats", "../store/cats"), ("one.png", "../store/one.png"), ("back", "../set"), ("up", "..")):
        (folder / link).symlink_to(to)
    (store / "cats" / "round").symlink_to("../../set/cats")
    os.mkfifo(folder / "pipe.png")
    data = image_zip.load(image_zip.Options(folder))
    assert len(data) == 7
    assert data.about["notes"] == ["left out: 3 upward links, 1 special file"]
